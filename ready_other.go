//go:build !linux

package main

import "net"

// readBuffer is what grpc-go reads at once, in bytes. Here each connection has a buffer of its own.
const readBuffer = 4 << 10

// readyConn is a connection of which sniffed has been read already.
type readyConn struct {
	net.Conn
	sniffed []byte
}

func newReadyConn(c *net.TCPConn, sniffed []byte) net.Conn { return &readyConn{c, sniffed} }

func (c *readyConn) Read(b []byte) (int, error) {
	if len(c.sniffed) == 0 {
		return c.Conn.Read(b)
	}
	n := copy(b, c.sniffed)
	c.sniffed = c.sniffed[n:]
	return n, nil
}
