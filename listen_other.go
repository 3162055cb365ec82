//go:build !linux

package main

import (
	"net"
	"time"
)

// setAckTimeout does nothing here: gRPC's keepalive finds a dead peer, only later.
func setAckTimeout(*net.TCPConn, time.Duration) {}
