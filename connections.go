package main

import (
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	// defaultConnections is MAX_CONNECTIONS, where the process may have so many descriptors.
	defaultConnections = 20_000
	// otherDescriptors is how many descriptors are for what is no client: listeners, the database, the metrics.
	otherDescriptors = 100
)

// maxConnections returns how many connections the process can have with as many descriptors as it may, 0 if it may have
// any number, or that is not known.
func maxConnections(descriptors uint64) int {
	if descriptors == 0 {
		return defaultConnections
	}
	return int(min(defaultConnections, max(descriptors/2, descriptors-min(descriptors, otherDescriptors))))
}

// connections are the clients' TCP connections, of all listeners. It is safe for concurrent use.
type connections struct {
	max              int // in all
	maxPerSubscriber int // of one subscriber that is no trusted proxy; 0: any number
	trusted          proxies
	log              *slog.Logger
	metrics          *metrics // nil: none

	mu           sync.Mutex // guards the fields below, and those of each clientConn
	open         int
	bySubscriber map[netip.Prefix]int
	refused      int // since the last line of the log
	logged       time.Time
}

// The label transport of a connection, beside those of sessions.
const (
	transportNew  = "new" // it has not said yet what it speaks
	transportHTTP = "http"
)

// clientConn is a TCP connection that counts for the limits until it is closed.
type clientConn struct {
	*net.TCPConn
	in         *connections
	subscriber netip.Prefix // not valid: not counted by address
	transport  string       // empty: closed
}

// admit counts a connection, or closes it at once and returns nil.
func (c *connections) admit(tcp *net.TCPConn) *clientConn {
	addr := peerAddr(tcp.RemoteAddr().String())
	conn := &clientConn{TCPConn: tcp, in: c, transport: transportNew}
	if c.maxPerSubscriber > 0 && !c.trusted.trusts(addr) {
		conn.subscriber = subscriber(addr)
	}
	reason := c.count(conn)
	if reason == "" {
		return conn
	}
	c.metrics.connectionRefused(reason)
	if n := c.sinceLogged(); n > 0 {
		c.log.Warn("connections were refused: there are too many", "of", reason, "last", addr, "refused", n)
	}
	_ = tcp.SetLinger(0) // nothing is left of it, not even in the kernel
	_ = tcp.Close()
	return nil
}

// The label reason of a connection that was refused.
const (
	refusedTotal   = "total"   // MAX_CONNECTIONS
	refusedAddress = "address" // MAX_CONNECTIONS_PER_ADDRESS
)

// count returns the reason why a connection is one too many, or empty.
func (c *connections) count(conn *clientConn) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open >= c.max {
		c.refused++
		return refusedTotal
	}
	if conn.subscriber.IsValid() {
		if c.bySubscriber[conn.subscriber] >= c.maxPerSubscriber {
			c.refused++
			return refusedAddress
		}
		c.bySubscriber[conn.subscriber]++
	}
	c.open++
	c.metrics.connected("", conn.transport)
	return ""
}

// sinceLogged returns how many connections were refused since it last did so, or 0 if that was less than a second ago.
func (c *connections) sinceLogged() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.Sub(c.logged) >= time.Second {
		n, c.refused, c.logged = c.refused, 0, now
	}
	return n
}

// speaks tells by what a connection is used.
func (c *clientConn) speaks(transport string) {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	if c.transport != "" {
		c.in.metrics.connected(c.transport, transport)
		c.transport = transport
	}
}

func (c *clientConn) Close() error {
	c.in.forget(c)
	return c.TCPConn.Close()
}

func (c *connections) forget(conn *clientConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if conn.transport == "" {
		return
	}
	c.metrics.connected(conn.transport, "")
	conn.transport = ""
	c.open--
	if !conn.subscriber.IsValid() {
		return
	}
	if c.bySubscriber[conn.subscriber]--; c.bySubscriber[conn.subscriber] == 0 {
		delete(c.bySubscriber, conn.subscriber)
	}
}

// newConnections warns if the process may not have as many descriptors as MAX_CONNECTIONS needs: when they run out, nothing can
// be opened, not the database either.
func newConnections(cfg config, m *metrics, log *slog.Logger) *connections {
	descriptors := descriptorLimit()
	c := &connections{max: cfg.MaxConnections, maxPerSubscriber: cfg.MaxConnectionsPerAddress, trusted: cfg.Proxies, log: log, metrics: m, bySubscriber: map[netip.Prefix]int{}}
	if c.max == 0 {
		c.max = maxConnections(descriptors)
	}
	if descriptors > 0 && uint64(c.max)+otherDescriptors > descriptors && cfg.MaxConnections > 0 {
		log.Warn("the process may not have enough descriptors for MAX_CONNECTIONS: raise its limit (ulimit -n)", "may", descriptors, "needs", c.max+otherDescriptors)
	}
	if !cfg.RateLimits {
		c.maxPerSubscriber = 0
	}
	return c
}
