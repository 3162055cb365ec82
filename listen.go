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

// ackTimeout is how long sent data may stay without an acknowledgement of the peer's TCP.
const ackTimeout = 20 * time.Second

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

// listen opens an address, which speaks TLS if secure is not nil. A new connection may take as long as handshake to show what
// it speaks.
func listen(key, addr string, secure *tls.Config, conns *connections, handshake time.Duration) (*listener, error) {
	l, err := listenTCP(key, addr)
	if err != nil {
		return nil, err
	}
	root := net.Listener(patientListener{l, conns})
	if secure != nil {
		root = tls.NewListener(root, secure) // the handshake is part of the sniffing, and of its timeout
	}
	m := cmux.New(root)
	m.SetReadTimeout(handshake)
	// By the preface alone: plainCredentials relies on no more being read, and grpc-go's clients would wait for SETTINGS if it
	// were by content type (cmux #64).
	return &listener{Listener: root, secure: secure != nil, mux: m, grpc: m.Match(cmux.HTTP2()), http: m.Match(cmux.Any())}, nil
}

// plainCredentials takes each connection out of cmux, which has read its HTTP/2 preface: cmux would keep a buffer,
// and hide what grpc-go can do with a TCP connection.
type plainCredentials struct {
	credentials.TransportCredentials
}

func (p plainCredentials) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if conn := clientConnOf(c); conn != nil {
		conn.speaks(transportGRPC)
	}
	if muxed, ok := c.(*cmux.MuxConn); ok {
		preface := make([]byte, len(http2.ClientPreface))
		if _, err := io.ReadFull(muxed, preface); err != nil {
			return nil, nil, err
		}
		c = newReadyConn(muxed.Conn, preface)
	}
	return p.TransportCredentials.ServerHandshake(c)
}

// clientConnOf returns the TCP connection below what cmux and TLS make of it, or nil.
func clientConnOf(c net.Conn) *clientConn {
	if muxed, ok := c.(*cmux.MuxConn); ok {
		c = muxed.Conn
	}
	if secure, ok := c.(*tls.Conn); ok {
		c = secure.NetConn()
	}
	conn, _ := c.(*clientConn)
	return conn
}

// overTLS tells whether a connection, as cmux makes it, speaks TLS.
func overTLS(c net.Conn) bool {
	muxed, ok := c.(*cmux.MuxConn)
	if ok {
		_, ok = muxed.Conn.(*tls.Conn)
	}
	return ok
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
// again at once, with all of a processor. It returns only what the limits of connections admit.
type patientListener struct {
	net.Listener
	conns *connections
}

func (l patientListener) Accept() (net.Conn, error) {
	const least, most = 5 * time.Millisecond, time.Second
	for pause := least; ; {
		conn, err := l.Listener.Accept()
		var ne net.Error
		switch {
		case err == nil:
			pause = least
			if admitted := l.conns.admit(conn.(*net.TCPConn)); admitted != nil { // as those of listenTCP are
				setAckTimeout(admitted.TCPConn, ackTimeout)
				return admitted, nil
			}
		//lint:ignore SA1019 net/http and grpc-go ask it too: it tells what passes from what does not
		case errors.As(err, &ne) && ne.Temporary():
			time.Sleep(pause)
			pause = min(2*pause, most)
		default:
			return nil, err
		}
	}
}
