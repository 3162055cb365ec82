package main

import (
	"cmp"
	"io"
	"net"
	"syscall"

	"google.golang.org/grpc/mem"
)

// readBuffer is what grpc-go reads at once, in bytes. Only a connection that is being read has a buffer.
const readBuffer = 32 << 10

// readyConn is a connection that takes a buffer only when there is something to read into it. grpc-go does so by
// itself on a bare *net.TCPConn, of which nothing has been read; it asks others for the method ReadOnReady. Only one
// goroutine may read.
type readyConn struct {
	sniffedConn
	raw syscall.RawConn

	// Of one ReadOnReady.
	pool mem.BufferPool
	size int
	buf  *[]byte
	n    int
	err  error
	try  func(fd uintptr) bool // tryRead, made once
}

func newReadyConn(c net.Conn, sniffed []byte) net.Conn {
	tcp, ok := c.(*clientConn)
	if !ok {
		return &secureConn{sniffedConn: sniffedConn{c, sniffed}}
	}
	raw, _ := tcp.SyscallConn() // fails for nil only
	r := &readyConn{sniffedConn: sniffedConn{c, sniffed}, raw: raw}
	r.try = r.tryRead
	return r
}

// ReadOnReady waits for data and reads it into a buffer of size from pool, which is the caller's to give back.
func (c *readyConn) ReadOnReady(size int, pool mem.BufferPool) (buf *[]byte, n int, err error) {
	if len(c.sniffed) > 0 {
		buf = pool.Get(size)
		n, err = c.Read(*buf)
		return buf, n, err
	}
	c.sniffed, c.pool, c.size = nil, pool, size
	err = c.raw.Read(c.try)
	buf, n, err = c.buf, c.n, cmp.Or(err, c.err)
	c.pool, c.buf, c.n, c.err = nil, nil, 0, nil
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err != nil && buf != nil {
		pool.Put(buf)
		return nil, 0, err
	}
	return buf, n, err
}

// tryRead returns false if there is nothing to read yet.
func (c *readyConn) tryRead(fd uintptr) bool {
	c.buf = c.pool.Get(c.size)
	for {
		n, err := syscall.Read(int(fd), *c.buf)
		switch err {
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			c.pool.Put(c.buf)
			c.buf = nil
			return false
		}
		c.n, c.err = max(n, 0), err
		return true
	}
}

// secureConn is readyConn for TLS, which does not tell whether there is something to read. It waits with a small buffer, and
// takes a large one when that was not enough for what came. Only one goroutine may read.
type secureConn struct {
	sniffedConn
	more  bool // the last read has filled its buffer
	small [512]byte
}

// ReadOnReady is like readyConn's.
func (c *secureConn) ReadOnReady(size int, pool mem.BufferPool) (buf *[]byte, n int, err error) {
	into := c.small[:min(size, len(c.small))]
	if c.more {
		buf = pool.Get(size)
		into = *buf
	}
	n, err = c.Read(into)
	if n > 0 && buf == nil {
		buf = pool.Get(size)
		copy(*buf, into[:n])
	}
	c.more = n == len(into)
	if n == 0 && buf != nil {
		pool.Put(buf)
		buf = nil
	}
	return buf, n, err
}
