package main

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	"github.com/grpcchatter/grpcchatter/client"
	"github.com/grpcchatter/grpcchatter/pb"
)

// isOpen tells whether a connection is still open after a moment: the server says nothing to who has said nothing.
func isOpen(c net.Conn) bool {
	_ = c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	_, err := c.Read(make([]byte, 1))
	ne, ok := err.(net.Error)
	return ok && ne.Timeout()
}

// dialFrom opens a connection from an address.
func dialFrom(t *testing.T, from, to string) net.Conn {
	t.Helper()
	c, err := tryFrom(from, to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func tryFrom(from, to string) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	return d.Dial("tcp", to)
}

// refuses tells whether a server closes one more connection from an address, as soon as it gets to it.
func refuses(from, to string) bool {
	c, err := tryFrom(from, to)
	if err != nil {
		return true // reset before the dialer has looked
	}
	defer c.Close()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	_, err = c.Read(make([]byte, 1))
	ne, ok := err.(net.Error)
	return err != nil && !(ok && ne.Timeout())
}

// admits tells whether a server keeps one more connection from an address, which is closed then.
func admits(from, to string) bool {
	c, err := tryFrom(from, to)
	if err != nil {
		return false // reset before the dialer has looked
	}
	defer c.Close()
	return isOpen(c)
}

// A connection that is one too many, from one address or in all, is closed at once, before TLS, and counted; the others live, and
// who goes makes room. Trusted proxies have as many as there are.
func TestConnectionLimits(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	certFile, keyFile := filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	writeCertificate(t, certFile, keyFile, 1)
	for _, secure := range []bool{false, true} {
		measured := "127.0.0.1:" + freePort(t)
		args := []string{"--rate-limits=on", "--max-connections=20", "--max-connections-per-address=5", "--trusted-proxies=127.0.0.9", "--metrics-addr=" + measured, "--handshake-timeout=1h"}
		if secure {
			args = append(args, "--tls-cert="+certFile, "--tls-key="+keyFile)
		}
		p := startServer(t, args...)
		if secure { // startServer's other methods speak HTTP
			p = &serverProcess{t: t, addr: p.addr}
		}
		var mine []net.Conn
		for range 5 {
			mine = append(mine, dialFrom(t, "127.0.0.1", p.addr))
		}
		for range 3 {
			if !refuses("127.0.0.1", p.addr) {
				t.Error("the 6th connection from one address is open")
			}
		}
		other := dialFrom(t, "127.0.0.2", p.addr)
		for _, c := range append(mine, other) {
			if !isOpen(c) {
				t.Error("one of the first connections is not open")
			}
		}
		_ = mine[0].Close()
		eventually(t, patience, "who goes makes room", func() bool { return admits("127.0.0.1", p.addr) })
		counted := func(n float64) func() bool {
			return func() bool {
				got, _ := scrape(t, measured)
				return got.value("grpcchatter_connections", "transport", "new") == n
			}
		}
		eventually(t, patience, "who tried is gone", counted(5))
		for range 15 {
			dialFrom(t, "127.0.0.9", p.addr)
		}
		eventually(t, patience, "all are counted", counted(20))
		for _, from := range []string{"127.0.0.2", "127.0.0.3", "127.0.0.9"} {
			if !refuses(from, p.addr) {
				t.Error("the 21st connection is open")
			}
		}
		got, _ := scrape(t, measured)
		if n := got.value("grpcchatter_connections_refused_total", "reason", "total"); n != 3 {
			t.Errorf("%v were refused of all", n)
		}
		if n := got.value("grpcchatter_connections_refused_total", "reason", "address"); n < 3 {
			t.Errorf("%v were refused of one address", n)
		}
	}
}

// What is refused is told in the log, once a second at most, with how many there were.
func TestRefusedLog(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	p := startServer(t, "--max-connections=1")
	first := dialFrom(t, "127.0.0.1", p.addr)
	began := time.Now()
	for range 300 {
		if c, err := net.Dial("tcp", p.addr); err == nil {
			_, _ = c.Read(make([]byte, 1))
			c.Close()
		}
	}
	told := func() int { return strings.Count(p.logText(), "connections were refused") }
	eventually(t, patience, "the log has come", func() bool { return told() > 0 })
	if n, most := told(), 2+int(time.Since(began)/time.Second); n > most {
		t.Errorf("%d lines within %s", n, time.Since(began))
	}
	first.Close()
	eventually(t, patience, "the next one is served", func() bool {
		resp, err := http.Get("http://" + p.addr + "/healthz")
		if err == nil {
			resp.Body.Close()
		}
		return err == nil
	})
}

// Without the limits by address there is none, and without a limit in all it is what the process may have of descriptors.
func TestConnectionCounts(t *testing.T) {
	for _, c := range []struct {
		descriptors uint64
		want        int
	}{{0, 20_000}, {1 << 40, 20_000}, {20_100, 20_000}, {20_099, 19_999}, {1024, 924}, {256, 156}, {150, 75}, {10, 5}} {
		if got := maxConnections(c.descriptors); got != c.want {
			t.Errorf("with %d descriptors: %d, want %d", c.descriptors, got, c.want)
		}
	}
	c := newConnections(config{MaxConnections: 1, MaxConnectionsPerAddress: 7}, nil, slog.New(slog.DiscardHandler))
	if c.max != 1 || c.maxPerSubscriber != 0 {
		t.Errorf("with RATE_LIMITS=off: %d and %d", c.max, c.maxPerSubscriber)
	}
	for addr, want := range map[string]string{"198.51.100.7": "198.51.100.7/32", "2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64"} {
		if got := subscriber(netip.MustParseAddr(addr)).String(); got != want {
			t.Errorf("%s: %s, want %s", addr, got, want)
		}
	}
	if subscriber(netip.Addr{}).IsValid() {
		t.Error("no address has a network")
	}
}

// Connections of every kind are counted as what they are, and are gone when they are closed, whoever closes them.
func TestConnectionsCounted(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	// A busy machine may take a second to say what it has connected for.
	p, measured := startMeasured(t, "--idle-timeout=3s", "--header-timeout=3s", "--request-timeout=3s", "--handshake-timeout=3s")
	want := func(what string, counts map[string]float64) {
		t.Helper()
		var got scraped
		began := time.Now()
		defer func() { t.Logf("%s: after %s", what, time.Since(began).Round(time.Millisecond)) }()
		eventually(t, patience, what, func() bool {
			got, _ = scrape(t, measured)
			for _, transport := range []string{"new", "grpc", "http", "websocket"} {
				if got.value("grpcchatter_connections", "transport", transport) != counts[transport] {
					return false
				}
			}
			return true
		})
	}
	want("none at first", nil)
	token := joinedToken(t, p)
	busy, idle := context.WithCancel(t.Context())
	defer idle()
	watch, err := grpc_health_v1.NewHealthClient(p.dial()).Watch(busy, &grpc_health_v1.HealthCheckRequest{})
	if err == nil {
		_, err = watch.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	d, _, err := websocket.Dial(t.Context(), "ws://"+p.addr+"/chat", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Write(t.Context(), websocket.MessageText, []byte(`{"token":"`+token+`"}`)); err != nil {
		t.Fatal(err)
	}
	want("a WebSocket and gRPC", map[string]float64{"websocket": 1, "grpc": 1})
	idle()
	want("gRPC is idle", map[string]float64{"websocket": 1})
	time.Sleep(4 * time.Second) // longer than all of them
	want("the WebSocket is still there", map[string]float64{"websocket": 1})
	_ = d.CloseNow()
	want("no WebSocket", nil)
	var closing sync.WaitGroup
	for name, begin := range map[string]string{"nothing": "", "half a preface": http2.ClientPreface[:5], "a preface": http2.ClientPreface,
		"half a header": "GET / HTTP/1.1\r\nHost:", "half a body": "POST /login HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"} {
		c := dialFrom(t, "127.0.0.1", p.addr)
		closing.Go(func() {
			_, _ = io.WriteString(c, begin)
			_ = c.SetReadDeadline(time.Now().Add(patience))
			began := time.Now()
			if _, err := io.Copy(io.Discard, c); err != nil && strings.Contains(err.Error(), "timeout") {
				t.Errorf("%s: it is not closed", name)
			}
			t.Logf("%s: closed after %s", name, time.Since(began).Round(time.Millisecond))
		})
	}
	closing.Wait()
	want("none at last", nil)
}

// A connection without a stream is closed after IDLE_TIMEOUT, and the clients of Go do not notice: calls at any moment, also
// that one, go through. A stream keeps its connection.
func TestIdleConnections(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	p := startServer(t, "--idle-timeout=300ms")
	conn := p.dial()
	api := grpc_health_v1.NewHealthClient(conn)
	staying := p.dial()
	token := p.login("ann")
	chat := pb.NewGRPCChatterClient(staying)
	code := createRoom(t, chat, token)
	s := openSession(t, chat, joinRoom(t, chat, token, code), -1)
	began := time.Now()
	var calls sync.WaitGroup
	idle := false
	// A busy machine needs longer pauses until it is seen to be closed.
	for pause := 250 * time.Millisecond; time.Since(began) < 4*time.Second || !idle && time.Since(began) < patience; pause += 5 * time.Millisecond {
		time.Sleep(pause)
		idle = idle || conn.GetState() == connectivity.Idle
		for range 3 {
			calls.Go(func() {
				if _, err := api.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}); err != nil {
					t.Errorf("after a pause of %s: %v", pause, err)
				}
			})
		}
	}
	calls.Wait()
	if !idle {
		t.Error("the connection was never closed")
	}
	if staying.GetState() != connectivity.Ready {
		t.Errorf("the connection with a stream is %s", staying.GetState())
	}
	s.send(&pb.ChatRequest{Body: "still here", ClientMessageId: "1"})
	s.wantMessage(1, "ann", "still here", "1")

	c, err := client.New("http://" + p.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Disconnect()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := c.Login(ctx, "ann", testPassword); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := c.JoinChatRoom(ctx, code, ""); err != nil {
			t.Error(err)
		}
		time.Sleep(500 * time.Millisecond)
	}
}

// A connection has as many streams as it may: what a client opens beyond is refused, and waits in grpc-go's.
func TestMaxStreams(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	p := startServer(t, "--max-streams-per-connection=3")
	api := grpc_health_v1.NewHealthClient(p.dial())
	var ends []context.CancelFunc
	for range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		ends = append(ends, cancel)
		s, err := api.Watch(ctx, &grpc_health_v1.HealthCheckRequest{})
		if err == nil {
			_, err = s.Recv()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := api.Check(ctx, &grpc_health_v1.HealthCheckRequest{}); err == nil {
		t.Error("a fourth stream is served")
	}
	ends[0]()
	if _, err := api.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}); err != nil {
		t.Error(err)
	}
}

// TLS is what the internet has now: no old version, no weak cipher, no way down.
func TestTLSVersions(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	certFile, keyFile := filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	writeCertificate(t, certFile, keyFile, 1)
	p := startServer(t, "--tls-cert="+certFile, "--tls-key="+keyFile)
	for version, want := range map[uint16]bool{tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		c, err := tls.Dial("tcp", p.addr, &tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version})
		if err == nil {
			c.Close()
		}
		if (err == nil) != want {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
	}
	for _, suite := range append(tls.InsecureCipherSuites(), tls.CipherSuites()...) {
		c, err := tls.Dial("tcp", p.addr, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{suite.ID}})
		if err == nil {
			c.Close()
		}
		if err == nil && (suite.Insecure || !strings.Contains(suite.Name, "ECDHE") || strings.Contains(suite.Name, "CBC")) {
			t.Errorf("%s is taken", suite.Name)
		}
	}
}

// Behind a proxy of TRUSTED_PROXIES, whose connections are not counted by address, its clients' streams are: each of them has
// as many as it could have connections, and takes nothing from the others.
func TestStreamsThroughProxy(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	p := startServer(t, "--rate-limits=on", "--trusted-proxies=127.0.0.1", "--max-connections-per-address=3")
	api := pb.NewGRPCChatterClient(p.dial())
	user := p.login("ann") // before the sockets, which have to say something soon
	room := joinRoom(t, api, user, createRoom(t, api, user))
	socket := func(client string) (*websocket.Conn, int) {
		t.Helper()
		conn, resp, err := websocket.Dial(t.Context(), "ws://"+p.addr+"/chat", &websocket.DialOptions{HTTPHeader: http.Header{"X-Forwarded-For": {client}}})
		if err != nil {
			return nil, resp.StatusCode
		}
		t.Cleanup(func() { _ = conn.CloseNow() })
		return conn, resp.StatusCode
	}
	first, _ := socket("192.0.2.1")
	for range 2 {
		if _, status := socket("192.0.2.1"); status != http.StatusSwitchingProtocols {
			t.Errorf("one of the first three: %d", status)
		}
	}
	if _, status := socket("192.0.2.1"); status != http.StatusTooManyRequests {
		t.Errorf("the fourth: %d, want 429", status)
	}
	if _, status := socket("192.0.2.2"); status != http.StatusSwitchingProtocols {
		t.Errorf("another client: %d", status)
	}
	_ = first.CloseNow()
	eventually(t, patience, "who goes makes room", func() bool {
		_, status := socket("192.0.2.1")
		return status == http.StatusSwitchingProtocols
	})
	// gRPC counts with them.
	ctx := metadata.AppendToOutgoingContext(withToken(t.Context(), user), "x-forwarded-for", "192.0.2.1")
	stream, err := api.Chat(ctx)
	if err == nil {
		_, err = stream.Recv()
	}
	if reason, _ := reasonOf(err); reason != "TOKEN_INVALID" { // a stranger is told that first
		t.Errorf("a stream with a user token: %v", err)
	}
	ctx = metadata.AppendToOutgoingContext(withToken(t.Context(), room), "x-forwarded-for", "192.0.2.1")
	if stream, err = api.Chat(ctx); err == nil {
		_, err = stream.Recv()
	}
	wantError(t, err, codes.ResourceExhausted, "RATE_LIMITED")
}
