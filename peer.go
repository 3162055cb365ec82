package main

import (
	"context"
	"net"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// maxReading is how many requests of one connection are read at once, Chat aside: each may take maxRequest and
// MAX_MESSAGE_SIZE of memory before its end has come. Others wait.
const maxReading = 32

// connection is what the server knows of one gRPC connection. It is safe for concurrent use.
type connection struct {
	credentials.CommonAuthInfo
	reading chan struct{} // holds one for each request that is being read
}

func (*connection) AuthType() string { return "none" }

// read calls fn, which reads a request, when its turn has come.
func (c *connection) read(ctx context.Context, fn func() error) error {
	select {
	case c.reading <- struct{}{}:
		defer func() { <-c.reading }()
		return fn()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// peerOf returns the connection of a call.
func peerOf(ctx context.Context) *connection {
	p, _ := peer.FromContext(ctx)
	return p.AuthInfo.(*connection)
}

// peerCredentials gives each connection its state: grpc-go keeps what a handshake returns. There is none, TLS
// being the listener's.
type peerCredentials struct{}

func (peerCredentials) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return c, &connection{
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.NoSecurity},
		reading:        make(chan struct{}, maxReading),
	}, nil
}

func (peerCredentials) ClientHandshake(_ context.Context, _ string, c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return c, nil, nil
}

func (peerCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "none"}
}

func (p peerCredentials) Clone() credentials.TransportCredentials { return p }

func (peerCredentials) OverrideServerName(string) error { return nil }
