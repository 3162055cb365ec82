package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// installed builds a command of another module, outside of ours, and returns its path.
func installed(t testing.TB, command string) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("go", "install", command)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOBIN="+dir, "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		if os.Getenv("CI") == "" {
			t.Skipf("SKIPPED: %s cannot be built here: %v: %s", command, err, out)
		}
		t.Fatalf("%s: %v: %s", command, err, out)
	}
	name, _, _ := strings.Cut(command, "@")
	return filepath.Join(dir, filepath.Base(name))
}

// authority is a running pebble, an ACME server, for which every name is 127.0.0.1.
type authority struct {
	*runningProgram
	directory string
	certFile  string // of its own https
	roots     *x509.CertPool
	client    *http.Client // that trusts it
}

// startAuthority starts one that looks for challenges at two ports, and whose certificates are valid for some seconds.
func startAuthority(t *testing.T, pebble, httpPort, tlsPort string, valid int) *authority {
	t.Helper()
	dir := t.TempDir()
	addr, manage := "127.0.0.1:"+freePort(t), "127.0.0.1:"+freePort(t)
	a := &authority{directory: "https://" + addr + "/dir", certFile: filepath.Join(dir, "cert.pem"), roots: x509.NewCertPool()}
	trusted := x509.NewCertPool()
	trusted.AddCert(writeCertificate(t, a.certFile, filepath.Join(dir, "key.pem"), 1))
	number := func(s string) int { n, _ := strconv.Atoi(s); return n }
	config, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": addr, "managementListenAddress": manage, "certificate": a.certFile, "privateKey": filepath.Join(dir, "key.pem"),
		"httpPort": number(httpPort), "tlsPort": number(tlsPort), "retryAfter": map[string]int{"authz": 1, "order": 1},
		"profiles": map[string]any{"default": map[string]any{"description": "the only one", "validityPeriod": valid}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "config.json"), config)
	cmd := exec.Command(pebble, "-config", filepath.Join(dir, "config.json"), "-dnsserver", serveNames(t))
	cmd.Env = []string{"PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=0", "HOME=" + dir} // nothing at random
	a.runningProgram = &runningProgram{cmd: cmd, done: make(chan struct{})}
	a.start(t)
	t.Cleanup(a.stop)
	a.client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trusted}, DisableKeepAlives: true}}
	eventually(t, patience, "pebble answers", func() bool {
		for _, url := range []string{a.directory, "https://" + manage + "/roots/0"} {
			resp, err := a.client.Get(url)
			if err != nil {
				return false
			}
			b, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			a.roots.AppendCertsFromPEM(b)
		}
		return true
	})
	return a
}

// orders counts the certificates that were asked for until now.
func (a *authority) orders(t *testing.T) int {
	t.Helper()
	// What it says comes in order: behind this call's line nothing from before is still to come.
	said := func() int { return strings.Count(a.stdout(), "GET /dir ") }
	before := said()
	resp, err := a.client.Get(a.directory)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	eventually(t, patience, "the authority says that it was called", func() bool { return said() > before })
	return strings.Count(a.stdout(), "/order-plz")
}

// serveNames answers questions of DNS, by TCP, until the end of the test: 127.0.0.1 to all.
func serveNames(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go answerName(conn)
		}
	}()
	return l.Addr().String()
}

// answerName answers one question (RFC 1035, section 4.2.2).
func answerName(conn net.Conn) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return
	}
	b := make([]byte, binary.BigEndian.Uint16(size[:]))
	var m dnsmessage.Message
	if _, err := io.ReadFull(conn, b); err != nil || m.Unpack(b) != nil || len(m.Questions) != 1 {
		return
	}
	m.Response, m.Additionals = true, nil
	if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
		m.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 1}, Body: &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}}}}
	}
	b, err := m.Pack()
	if err != nil {
		return
	}
	_, _ = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))
}

// A real authority gives certificates by either challenge, which the one port serves beside all else; they stay in the database,
// and nobody else can make the server ask for one.
func TestAutocert(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("SKIPPED: SSL_CERT_FILE is Linux's")
	}
	pebble := installed(t, "github.com/letsencrypt/pebble/v2/cmd/pebble@v2.10.1")
	const ninetyDays = 90 * 24 * 3600
	for _, test := range []struct {
		name     string
		byHTTP   bool
		domains  string
		valid    int
		restarts bool
	}{
		{"tls-alpn-01", false, "chat.example.com, Tea.Example.COM.", ninetyDays, true},
		{"http-01", true, "chat.example.com", ninetyDays, false},
		{"renewal", false, "chat.example.com", 12, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			addr, httpAddr, metrics := "127.0.0.1:"+freePort(t), "127.0.0.1:"+freePort(t), "127.0.0.1:"+freePort(t)
			_, tlsPort, _ := net.SplitHostPort(addr)
			_, httpPort, _ := net.SplitHostPort(httpAddr)
			if test.byHTTP {
				tlsPort = freePort(t)
			} else {
				httpPort = freePort(t)
			}
			a := startAuthority(t, pebble, httpPort, tlsPort, test.valid)
			dir := t.TempDir()
			args := []string{"--listen-addr=" + addr, "--autocert-domain=" + test.domains, "--autocert-directory=" + a.directory, "--autocert-http-addr=" + httpAddr, "--autocert-email=ann@example.com", "--metrics-addr=" + metrics}
			p := startProgram(t, dir, []string{"SSL_CERT_FILE=" + a.certFile}, args...)
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("log of the server:\n%s\nof the authority:\n%s", p.log(), a.stdout())
				}
			})
			serial := func(name string) string {
				c, err := tls.Dial("tcp", addr, &tls.Config{ServerName: name, RootCAs: a.roots})
				if err != nil {
					return ""
				}
				defer c.Close()
				return c.ConnectionState().PeerCertificates[0].SerialNumber.String()
			}
			first := ""
			eventually(t, 2*patience, "there is a certificate", func() bool { first = serial("chat.example.com"); return first != "" })
			if test.name == "renewal" {
				eventually(t, 2*patience, "the certificate is renewed", func() bool { s := serial("chat.example.com"); return s != "" && s != first })
				return
			}
			if test.restarts {
				eventually(t, 2*patience, "there is a certificate of the second domain", func() bool { return serial("tea.example.com") != "" })
			}
			ends := int64(math.MaxInt64)
			for name := range strings.SplitSeq(strings.ToLower(test.domains), ", ") {
				c, err := tls.Dial("tcp", addr, &tls.Config{ServerName: strings.TrimSuffix(name, "."), RootCAs: a.roots})
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				ends = min(ends, c.ConnectionState().PeerCertificates[0].NotAfter.Unix())
			}
			if got, _ := scrape(t, metrics); got.value("grpcchatter_certificate_expires_seconds") != float64(ends) {
				t.Errorf("the first certificate ends at %f, want %d", got.value("grpcchatter_certificate_expires_seconds"), ends)
			}
			testAutocertServes(t, a, addr, httpAddr) // which has all its certificates: it asks for no more
			if !test.restarts {
				return
			}
			if second := serial("tea.example.com"); second == first {
				t.Error("both domains have one certificate")
			}
			p.stop()
			a.stop() // a new start needs no authority
			p = startProgram(t, dir, []string{"SSL_CERT_FILE=" + a.certFile}, args...)
			eventually(t, patience, "the certificate is there again", func() bool { return serial("chat.example.com") == first && serial("tea.example.com") != "" })
		})
	}
}

// testAutocertServes looks at what a server does that has its certificates.
func testAutocertServes(t *testing.T, a *authority, addr, httpAddr string) {
	t.Helper()
	config := &tls.Config{ServerName: "chat.example.com", RootCAs: a.roots}
	https := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
	resp, err := https.Get("https://" + addr + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 || resp.Header.Get("Strict-Transport-Security") == "" {
		t.Errorf("healthz: %d %v", resp.StatusCode, resp.Header)
	}
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := grpc_health_v1.NewHealthClient(conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}); err != nil {
		t.Error(err)
	}

	// Names that are not ours, and challenges that nobody has asked for, end the handshake and reach nobody.
	before := a.orders(t)
	for _, c := range []struct {
		name string
		alpn []string
	}{{"other.example.com", nil}, {"xchat.example.com", nil}, {"localhost", nil}, {"a..b", nil}, {"chat.example.com", []string{"acme-tls/1"}}, {"other.example.com", []string{"acme-tls/1"}}} {
		conn, err := tls.Dial("tcp", addr, &tls.Config{ServerName: c.name, NextProtos: c.alpn, InsecureSkipVerify: true})
		if err == nil {
			conn.Close()
			t.Errorf("a handshake with %q %v is answered", c.name, c.alpn)
		}
	}
	if n := a.orders(t); n != before {
		t.Errorf("the authority was asked %d times more", n-before)
	}
	old, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true}) // by address: no name
	if err != nil {
		t.Fatal(err)
	}
	if err := old.ConnectionState().PeerCertificates[0].VerifyHostname("chat.example.com"); err != nil {
		t.Error(err)
	}
	old.Close()

	for _, c := range []struct{ method, host, path, location, code string }{
		{"GET", "chat.example.com", "/", "https://chat.example.com/", ""},
		{"GET", "CHAT.example.com:80", "/a%2Fb?c=d&e", "https://chat.example.com/a%2Fb?c=d&e", ""},
		{"HEAD", "evil.example", "/x", "https://chat.example.com/x", ""},
		{"GET", "evil.example", "//evil.example/x", "https://chat.example.com//evil.example/x", ""},
		{"POST", "chat.example.com", "/login", "", "HTTPS_REQUIRED"},
		{"PUT", "evil.example", "/x", "", "HTTPS_REQUIRED"},
		{"GET", "chat.example.com", "/.well-known/acme-challenge/x", "", "NOT_FOUND"},
		{"GET", "evil.example", "/.well-known/acme-challenge/x", "", "NOT_FOUND"},
	} {
		resp, body, err := exchange(httpAddr, fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", c.method, c.path, c.host))
		if err != nil {
			t.Fatal(err)
		}
		var answer struct{ Error, Code string }
		_ = json.Unmarshal(body, &answer) // a redirect has none
		want := map[string]int{"": 301, "HTTPS_REQUIRED": 400, "NOT_FOUND": 404}[c.code]
		if resp.StatusCode != want || resp.Header.Get("Location") != c.location || answer.Code != c.code || resp.Header.Get("X-Request-Id") == "" {
			t.Errorf("%+v: %d %v %s", c, resp.StatusCode, resp.Header, body)
		}
	}
}

// What stands in the way of a certificate is told in one sentence, and nothing has begun.
func TestAutocertErrors(t *testing.T) {
	onlySQLite(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	dir := t.TempDir()
	status, out, errOut := runProgram(t, dir, nil, "", "serve", "--listen-addr=127.0.0.1:0", "--autocert-domain=chat.example.com", "--autocert-http-addr="+taken.Addr().String())
	wantFailure(t, status, out, errOut, "AUTOCERT_HTTP_ADDR: "+taken.Addr().String()+" is in use by another program")
	wantFolder(t, dir, nil)

	// An authority that is not there is told in the log, at once; the server runs, and ends when it is told to.
	metrics := "127.0.0.1:" + freePort(t)
	p := startProgram(t, dir, nil, "--listen-addr=127.0.0.1:0", "--metrics-addr="+metrics, "--autocert-domain=chat.example.com", "--autocert-http-addr=Off", "--autocert-directory=https://127.0.0.1:"+freePort(t)+"/dir")
	addr := p.addrs(t, 1)[0]
	eventually(t, patience, "the log says so", func() bool {
		return strings.Contains(p.log(), "there is no certificate for a domain of AUTOCERT_DOMAIN") && strings.Contains(p.log(), "again_in=2m")
	})
	if conn, err := tls.Dial("tcp", addr, &tls.Config{ServerName: "chat.example.com", InsecureSkipVerify: true}); err == nil {
		conn.Close()
		t.Error("there is a certificate")
	}
	if got, _ := scrape(t, metrics); got["grpcchatter_certificate_expires_seconds"] == nil || got.value("grpcchatter_certificate_expires_seconds") != 0 {
		t.Errorf("without a certificate the metrics have %v", got["grpcchatter_certificate_expires_seconds"])
	}
}

// A certificate whose renewal fails is told in time: not while it is not to be renewed yet.
func TestRenewalLate(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		days, left int
		want       bool
	}{{90, 89, false}, {90, 30, false}, {90, 26, false}, {90, 20, true}, {90, -1, true}, {6, 3, false}, {6, 2, false}, {6, 1, true}, {365, 30, false}, {365, 24, true}} {
		end := now.Add(time.Duration(c.left) * 24 * time.Hour)
		cert := &tls.Certificate{Leaf: &x509.Certificate{NotBefore: end.Add(-time.Duration(c.days) * 24 * time.Hour), NotAfter: end}}
		if got := renewalLate(cert, now); got != c.want {
			t.Errorf("%d of %d days left: %t", c.left, c.days, got)
		}
	}
}

// What is kept for AUTOCERT_DOMAIN comes back as it was, replaced by what came later. After the end nothing is kept.
func TestCertificateCache(t *testing.T) {
	t.Parallel()
	s, err := openStore(t.Context(), storeOptions{URL: databaseURL(t, t.TempDir()), Create: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	ended, end := context.WithCancel(t.Context())
	defer end()
	c := certificateCache{s, ended}
	key := pem.EncodeToMemory(&pem.Block{Type: "X", Bytes: []byte{0, 1, 0xff}})
	for name, value := range map[string][]byte{"chat.example.com": key, "acme_account+key": []byte("\x00\xff\xfe"), strings.Repeat("a", 253): []byte("")} {
		if _, err := c.Get(t.Context(), name); fmt.Sprint(err) != "acme/autocert: certificate cache miss" {
			t.Errorf("%s before: %v", name, err)
		}
		for _, v := range [][]byte{[]byte("old"), value} {
			if err := c.Put(t.Context(), name, v); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := c.Get(t.Context(), name); err != nil || string(got) != string(value) {
			t.Errorf("%s: %q %v, want %q", name, got, err, value)
		}
		for range 2 {
			if err := c.Delete(t.Context(), name); err != nil {
				t.Error(err)
			}
		}
		if got, err := c.Get(t.Context(), name); err == nil {
			t.Errorf("%s after: %q", name, got)
		}
	}
	end()
	for what, err := range map[string]error{"put": c.Put(t.Context(), "late", key), "delete": c.Delete(t.Context(), "late")} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s after the end: %v", what, err)
		}
	}
	if _, err := s.certificate(t.Context(), "late"); !errors.Is(err, errNotFound) {
		t.Errorf("what was put after the end: %v", err)
	}
}
