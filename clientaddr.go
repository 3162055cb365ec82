package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

// forwardedFor is the header, and the metadata, in which a proxy says whom it speaks for.
const forwardedFor = "X-Forwarded-For"

// proxies are the networks of TRUSTED_PROXIES, whose word about a client is taken.
type proxies []netip.Prefix

// parseProxies reads TRUSTED_PROXIES: addresses and networks (CIDR), by comma.
func parseProxies(text string) (p proxies, err error) {
	for entry := range strings.SplitSeq(text, ",") {
		entry = strings.TrimSpace(entry)
		network, err := netip.ParsePrefix(entry)
		if addr, addrErr := netip.ParseAddr(entry); addrErr == nil && addr.Zone() == "" {
			network, err = netip.PrefixFrom(addr, addr.BitLen()), nil
		}
		if addr := network.Addr(); err == nil && addr.Is4In6() {
			network, err = addr.Unmap().Prefix(network.Bits() - 96) // of less than 96 bits there is no IPv4 network
		}
		switch {
		case err != nil:
			return nil, fmt.Errorf("%q is no address and no network", entry)
		case network.Bits() == 0:
			return nil, fmt.Errorf("%q would trust everybody", entry)
		}
		p = append(p, network.Masked())
	}
	return p, nil
}

// trusts tells whether addr, which is plain, is a trusted proxy's.
func (p proxies) trusts(addr netip.Addr) bool {
	for _, network := range p {
		if network.Contains(addr) {
			return true
		}
	}
	return false
}

// client returns the address of who sent a request: the peer of the TCP connection, unless that is a trusted proxy. Then it
// is the last entry of X-Forwarded-For, which the proxy has added, or if that is a trusted proxy too, the one before, and so on.
// What is left of the first stranger, or of an entry that is no address, may be anybody's invention.
func (p proxies) client(addr netip.Addr, forwarded []string) netip.Addr {
	for i := len(forwarded) - 1; i >= 0; i-- {
		for rest, more := forwarded[i], true; more; {
			if !p.trusts(addr) {
				return addr
			}
			entry := rest
			comma := strings.LastIndexByte(rest, ',')
			if more = comma >= 0; more {
				rest, entry = rest[:comma], rest[comma+1:]
			}
			next, err := parseForwarded(entry)
			if err != nil {
				return addr
			}
			addr = next
		}
	}
	return addr
}

// clientOfCall is client for a gRPC call.
func (p proxies) clientOfCall(ctx context.Context) netip.Addr {
	return p.client(peerOfCall(ctx), metadata.ValueFromIncomingContext(ctx, forwardedFor))
}

// peerOfCall returns the plain address of the connection that a gRPC call comes by.
func peerOfCall(ctx context.Context) netip.Addr {
	from, ok := peer.FromContext(ctx)
	if !ok {
		return netip.Addr{}
	}
	return peerAddr(from.Addr.String())
}

// peerAddr returns the plain address of a TCP connection's other end, HOST:PORT. It is not valid if that is something else.
func peerAddr(hostPort string) netip.Addr {
	a, err := netip.ParseAddrPort(hostPort)
	if err != nil {
		return netip.Addr{}
	}
	return plainAddr(a.Addr())
}

// parseForwarded reads an entry of X-Forwarded-For: an address, to which some proxies add a port.
func parseForwarded(entry string) (netip.Addr, error) {
	entry = strings.Trim(entry, " \t")
	addr, err := netip.ParseAddr(entry)
	if err != nil {
		var withPort netip.AddrPort
		withPort, err = netip.ParseAddrPort(entry)
		addr = withPort.Addr()
	}
	if inner, ok := strings.CutPrefix(entry, "["); err != nil && ok && strings.HasSuffix(inner, "]") {
		if addr, err = netip.ParseAddr(strings.TrimSuffix(inner, "]")); addr.Is4() {
			err = errors.New("brackets are for IPv6")
		}
	}
	return plainAddr(addr), err
}

// plainAddr is addr as it is compared: IPv4 is IPv4, also where a socket for both calls it IPv6, and the zone, which only
// names our own network card, is nobody's.
func plainAddr(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

// subscriber is the network that one person has: an address of IPv4, the first 64 bits of one of IPv6.
func subscriber(addr netip.Addr) netip.Prefix {
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	network, _ := addr.Prefix(bits) // fails for no address, which then is one of its own
	return network
}

type clientAddrKey struct{}

// withClientAddr gives a request the address of its client.
func withClientAddr(ctx context.Context, addr netip.Addr) context.Context {
	return context.WithValue(ctx, clientAddrKey{}, addr)
}

// clientAddr returns the address of who sent the request that ctx belongs to, by REST, WebSocket or gRPC. Behind a proxy of
// TRUSTED_PROXIES it is what that says.
func clientAddr(ctx context.Context) netip.Addr {
	addr, _ := ctx.Value(clientAddrKey{}).(netip.Addr)
	return addr
}
