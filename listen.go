package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/soheilhy/cmux"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/credentials"
)

const (
	// sniffTimeout is how long a new connection may take to show what it speaks.
	sniffTimeout = 4 * time.Second
	// ackTimeout is how long sent data may stay without an acknowledgement of the peer's TCP.
	ackTimeout = 20 * time.Second
)

// listener is one address that speaks gRPC and HTTP/1.
type listener struct {
	net.Listener
	secure     bool
	mux        cmux.CMux
	grpc, http net.Listener
}

// listenTCP opens the address of a key.
func listenTCP(key, addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s: %s is in use by another program", key, addr)
	case err != nil:
		return nil, fmt.Errorf("%s: cannot listen on %s: %w", key, addr, err)
	}
	return l, nil
}

// listen opens an address, which speaks TLS if secure is not nil.
func listen(key, addr string, secure *tls.Config) (*listener, error) {
	l, err := listenTCP(key, addr)
	if err != nil {
		return nil, err
	}
	root := net.Listener(patientListener{l})
	if secure != nil {
		root = tls.NewListener(root, secure) // the handshake is part of the sniffing, and of its timeout
	}
	m := cmux.New(root)
	m.SetReadTimeout(sniffTimeout)
	// By the preface alone, of which plainCredentials relies on it that no more is read here. By the content type, grpc-go's clients would wait for SETTINGS that do not come
	// before the match (cmux #64).
	return &listener{Listener: root, secure: secure != nil, mux: m, grpc: m.Match(cmux.HTTP2()), http: m.Match(cmux.Any())}, nil
}

// plainCredentials takes each connection out of cmux, which has read its HTTP/2 preface: cmux would keep a buffer,
// and hide what grpc-go can do with a TCP connection.
type plainCredentials struct {
	credentials.TransportCredentials
}

func (p plainCredentials) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if muxed, ok := c.(*cmux.MuxConn); ok {
		if tcp, ok := muxed.Conn.(*net.TCPConn); ok {
			preface := make([]byte, len(http2.ClientPreface))
			if _, err := io.ReadFull(muxed, preface); err != nil {
				return nil, nil, err
			}
			c = newReadyConn(tcp, preface)
		}
	}
	return p.TransportCredentials.ServerHandshake(c)
}

// tcpOf returns the TCP connection below what cmux and TLS make of it, or nil.
func tcpOf(c net.Conn) *net.TCPConn {
	if muxed, ok := c.(*cmux.MuxConn); ok {
		c = muxed.Conn
	}
	if secure, ok := c.(*tls.Conn); ok {
		c = secure.NetConn()
	}
	tcp, _ := c.(*net.TCPConn)
	return tcp
}

// sniffedConn is a connection of which something has been read already, which comes first.
type sniffedConn struct {
	net.Conn
	sniffed []byte
}

func (c *sniffedConn) Read(b []byte) (int, error) {
	if len(c.sniffed) == 0 {
		return c.Conn.Read(b)
	}
	n := copy(b, c.sniffed)
	c.sniffed = c.sniffed[n:]
	return n, nil
}

func (p plainCredentials) Clone() credentials.TransportCredentials { return p }

// url is the address as a person types it.
func (l *listener) url() string {
	host, port, _ := net.SplitHostPort(l.Addr().String())
	if isWildcard(host) {
		host = "localhost"
	}
	scheme := "http"
	if l.secure {
		scheme = "https"
	}
	return scheme + "://" + net.JoinHostPort(host, port)
}

// patientListener waits where Accept fails for a while, as it does when descriptors run out: cmux would try
// again at once, with all of a processor.
type patientListener struct{ net.Listener }

func (l patientListener) Accept() (net.Conn, error) {
	const least, most = 5 * time.Millisecond, time.Second
	for pause := least; ; pause = min(2*pause, most) {
		conn, err := l.Listener.Accept()
		var ne net.Error
		switch {
		case err == nil:
			if tcp, ok := conn.(*net.TCPConn); ok {
				setAckTimeout(tcp, ackTimeout)
			}
			return conn, nil
		//lint:ignore SA1019 net/http and grpc-go ask it too: it tells what passes from what does not
		case errors.As(err, &ne) && ne.Temporary():
			time.Sleep(pause)
		default:
			return nil, err
		}
	}
}
