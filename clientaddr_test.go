package main

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
)

// Whom a request is from: read from the right, as far as the proxies are trusted, and never left of what is no address.
func TestClientAddr(t *testing.T) {
	trusted, err := parseProxies("127.0.0.1, 10.0.0.0/8,::1,2001:db8:1::/48,::ffff:192.0.2.0/120")
	if err != nil {
		t.Fatal(err)
	}
	lines := func(lines ...string) []string { return lines }
	for _, test := range []struct {
		name, peer string
		forwarded  []string
		want       string
	}{
		{"no header", "127.0.0.1:1", nil, "127.0.0.1"},
		{"one entry", "127.0.0.1:1", lines("198.51.100.7"), "198.51.100.7"},
		{"a peer that is not trusted", "198.51.100.1:1", lines("198.51.100.7"), "198.51.100.1"},
		{"a peer beside the network", "11.0.0.1:1", lines("198.51.100.7"), "11.0.0.1"},
		{"a peer in a network", "10.255.0.1:1", lines("198.51.100.7"), "198.51.100.7"},
		{"what the client has invented", "127.0.0.1:1", lines("203.0.113.9, 198.51.100.7"), "198.51.100.7"},
		{"a trusted address that the client has invented", "127.0.0.1:1", lines("10.0.0.1, 198.51.100.7"), "198.51.100.7"},
		{"two proxies", "127.0.0.1:1", lines("198.51.100.7, 10.0.0.1"), "198.51.100.7"},
		{"all are proxies", "127.0.0.1:1", lines("10.0.0.3,10.0.0.2,10.0.0.1"), "10.0.0.3"},
		{"several lines", "127.0.0.1:1", lines("203.0.113.9", "198.51.100.7, 10.0.0.2", "10.0.0.1"), "198.51.100.7"},
		{"an entry that is none", "127.0.0.1:1", lines("198.51.100.7, unknown, 10.0.0.1"), "10.0.0.1"},
		{"the last entry is none", "127.0.0.1:1", lines("198.51.100.7, unknown"), "127.0.0.1"},
		{"an empty entry", "127.0.0.1:1", lines("198.51.100.7, , 10.0.0.1"), "10.0.0.1"},
		{"an empty line", "127.0.0.1:1", lines("198.51.100.7", ""), "127.0.0.1"},
		{"a comma at the end", "127.0.0.1:1", lines("198.51.100.7,"), "127.0.0.1"},
		{"a name", "127.0.0.1:1", lines("198.51.100.7, localhost"), "127.0.0.1"},
		{"a network", "127.0.0.1:1", lines("198.51.100.7, 10.0.0.0/8"), "127.0.0.1"},
		{"leading zeros", "127.0.0.1:1", lines("198.51.100.7, 010.0.0.1"), "127.0.0.1"},
		{"a port", "127.0.0.1:1", lines("198.51.100.7:4711"), "198.51.100.7"},
		{"a port that is none", "127.0.0.1:1", lines("198.51.100.7:x"), "127.0.0.1"},
		{"IPv6", "[::1]:1", lines("2001:db8::7"), "2001:db8::7"},
		{"IPv6 in brackets", "[::1]:1", lines("[2001:db8::7]"), "2001:db8::7"},
		{"IPv6 with a port", "[::1]:1", lines("[2001:db8::7]:4711"), "2001:db8::7"},
		{"IPv4 in brackets", "[::1]:1", lines("[198.51.100.7]"), "::1"},
		{"half a bracket", "[::1]:1", lines("[2001:db8::7"), "::1"},
		{"an IPv6 proxy", "[2001:db8:1:2::3]:1", lines("2001:db8:2::7, 2001:db8:1::1"), "2001:db8:2::7"},
		{"IPv4 as IPv6, the peer", "[::ffff:127.0.0.1]:1", lines("198.51.100.7"), "198.51.100.7"},
		{"IPv4 as IPv6, an entry", "127.0.0.1:1", lines("198.51.100.7, ::ffff:10.0.0.1"), "198.51.100.7"},
		{"IPv4 as IPv6, in TRUSTED_PROXIES", "192.0.2.200:1", lines("::ffff:198.51.100.7"), "198.51.100.7"},
		{"a zone, the peer", "[::1%lo]:1", lines("fe80::7%eth0"), "fe80::7"},
		{"a thousand entries, all proxies", "127.0.0.1:1", lines(strings.Repeat("10.0.0.1,", 999) + "10.0.0.2"), "10.0.0.1"},
		{"a thousand entries, a stranger in the middle", "127.0.0.1:1", lines(strings.Repeat("10.0.0.1,", 500) + "198.51.100.7" + strings.Repeat(",10.0.0.1", 499)), "198.51.100.7"},
		{"no peer", "@", lines("198.51.100.7"), "invalid IP"},
	} {
		if got := trusted.client(peerAddr(test.peer), test.forwarded).String(); got != test.want {
			t.Errorf("%s: %s with %.60q is from %s, want %s", test.name, test.peer, test.forwarded, got, test.want)
		}
		if got := (proxies)(nil).client(peerAddr(test.peer), test.forwarded); got != peerAddr(test.peer) {
			t.Errorf("%s: without trusted proxies it is from %s", test.name, got)
		}
	}
}

// What stands left of the first stranger, seen from the right, or of what is no address, changes nothing; and who has no trusted
// proxy in front is what TCP says.
func FuzzClientAddr(f *testing.F) {
	trusted, err := parseProxies("127.0.0.1,10.0.0.0/8,2001:db8::/32")
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{"", ",", "198.51.100.7", "198.51.100.7, 10.0.0.1", "[2001:db8::7]:1, ::ffff:10.0.0.1\n10.0.0.2", "fe80::1%eth0,unknown", "10.0.0.1:70000", "[10.0.0.1]"} {
		f.Add(s, "203.0.113.9")
	}
	f.Fuzz(func(t *testing.T, text, invented string) {
		forwarded := strings.Split(text, "\n")
		proxy, stranger := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("198.51.100.1")
		got := trusted.client(proxy, forwarded)
		if !got.IsValid() || got.Zone() != "" || got.Is4In6() {
			t.Errorf("%q: %s", text, got)
		}
		if from := trusted.client(stranger, forwarded); from != stranger {
			t.Errorf("%q of a stranger: %s", text, from)
		}
		before := trusted.client(proxy, slices.Insert(slices.Clone(forwarded), 0, invented))
		if !trusted.trusts(got) && before != got {
			t.Errorf("%q: %s, with %q before it %s", text, got, invented, before)
		}
		// Added by a proxy at the right, the address of whoever it spoke with is the client's.
		if added := trusted.client(proxy, append(forwarded, stranger.String())); added != stranger {
			t.Errorf("%q and then %s: %s", text, stranger, added)
		}
	})
}

// REST, WebSocket and gRPC all know the client behind a trusted proxy, and the limits that count by address count it, not the
// proxy. Without TRUSTED_PROXIES nobody can choose an address.
func TestTrustedProxies(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	const limit = "--limit-logins-per-account-and-address=10+1/1h" // none comes back meanwhile
	p := startServer(t, "--log-level=debug", "--rate-limits=on", limit, "--trusted-proxies=127.0.0.0/8")
	open := startServer(t, "--log-level=debug", "--rate-limits=on", limit)
	const from = "198.51.100.7"
	for _, server := range []*serverProcess{p, open} {
		want := map[bool]string{true: from, false: "127.0.0.1"}[server == p]
		logged := func(what string) {
			t.Helper()
			eventually(t, patience, fmt.Sprintf("the log has %s from %s", what, want), func() bool {
				for line := range strings.Lines(server.logText()) {
					if strings.Contains(line, what) && strings.Contains(line, "client="+want+" ") {
						return true
					}
				}
				return false
			})
		}
		server.call("GET", "/healthz", "", "", forwardedFor, "203.0.113.1", forwardedFor, from+", 127.0.0.9")
		logged("/healthz")
		conn := server.dial()
		md := metadata.Pairs("x-forwarded-for", "203.0.113.1, "+from)
		if _, err := rawCall(t, conn, md, "/grpc.health.v1.Health/Check"); err != nil {
			t.Error(err)
		}
		logged("Health/Check")
		s := openRaw(t, conn, md, current+"Chat")
		wantError(t, s.end(), codes.Unauthenticated, "TOKEN_MISSING")
		logged("GRPCChatter/Chat")
		token := joinedToken(t, server)
		ws, _, err := websocket.Dial(t.Context(), "ws://"+server.addr+"/chat", &websocket.DialOptions{HTTPHeader: http.Header{forwardedFor: {from}}})
		if err != nil {
			t.Fatal(err)
		}
		if err := ws.Write(t.Context(), websocket.MessageText, fmt.Appendf(nil, `{"token":%q}`, token)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := ws.Read(t.Context()); err != nil {
			t.Fatal(err)
		}
		_ = ws.Close(websocket.StatusNormalClosure, "")
		logged("msg=socket")
	}
	// Ten wrong passwords from one address are enough, and are another address's first.
	wrong := credentialsJSON("mallory", "wrong password")
	status := func(server *serverProcess, address string) int {
		return server.call("POST", "/login", "", wrong, forwardedFor, address).status
	}
	for i := range 10 {
		for _, server := range []*serverProcess{p, open} {
			if got := status(server, fmt.Sprint("203.0.113.200, ", from)); got != 401 {
				t.Fatalf("try %d: %d", i, got)
			}
		}
	}
	if got := status(p, "203.0.113.201, "+from); got != 429 {
		t.Errorf("the 11th try from one address: %d", got)
	}
	if got := status(p, "198.51.100.8"); got != 401 {
		t.Errorf("the first try from another address: %d", got)
	}
	if got := status(open, "198.51.100.8"); got != 429 {
		t.Errorf("the 11th try of who claims another address: %d", got)
	}
}

// Over TLS, also a trusted proxy's, a browser is told to come that way only.
func TestHSTS(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	p := startServer(t, "--trusted-proxies=127.0.0.1")
	untrusting := startServer(t)
	for _, test := range []struct {
		server  *serverProcess
		headers []string
		want    string
	}{
		{p, nil, ""},
		{p, []string{"X-Forwarded-Proto", "http"}, ""},
		{p, []string{"X-Forwarded-Proto", "https"}, "max-age=31536000"},
		{untrusting, []string{"X-Forwarded-Proto", "https"}, ""},
	} {
		for _, path := range []string{"/", "/healthz", "/nothing", "/chat"} {
			if got := test.server.call("GET", path, "", "", test.headers...).header.Get("Strict-Transport-Security"); got != test.want {
				t.Errorf("%s with %v: %q, want %q", path, test.headers, got, test.want)
			}
		}
	}
}

// Tens of thousands of entries are read once: by every pair of them it would take hours.
func TestManyForwarded(t *testing.T) {
	trusted, err := parseProxies(strings.TrimSuffix(strings.Repeat("192.0.2.1,", 100), ",") + ",10.0.0.0/8")
	if err != nil {
		t.Fatal(err)
	}
	forwarded := []string{strings.Repeat("10.0.0.1,", 1<<16) + "10.0.0.2"}
	began := time.Now()
	if got := trusted.client(netip.MustParseAddr("10.0.0.3"), forwarded); got != netip.MustParseAddr("10.0.0.1") {
		t.Error(got)
	}
	if d := time.Since(began); d > patience {
		t.Errorf("65,536 entries take %s", d)
	}
}
