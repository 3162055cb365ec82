//go:build !linux

package main

import "net"

// readBuffer is what grpc-go reads at once, in bytes. Here each connection has a buffer of its own.
const readBuffer = 4 << 10

func newReadyConn(c net.Conn, sniffed []byte) net.Conn { return &sniffedConn{c, sniffed} }
