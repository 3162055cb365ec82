package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/grpcchatter/grpcchatter/pb"
)

// writeCertificate makes a certificate for 127.0.0.1 and writes it and its key to two files.
func writeCertificate(t testing.TB, certFile, keyFile string, serial int64) *x509.Certificate {
	t.Helper()
	return writeCertificateOf(t, certFile, keyFile, serial, time.Now().Add(-time.Hour), time.Now().Add(90*24*time.Hour))
}

// writeCertificateOf makes one that is valid at another time.
func writeCertificateOf(t testing.TB, certFile, keyFile string, serial int64, from, until time.Time) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: from, NotAfter: until, IsCA: true, BasicConstraintsValid: true,
	}, &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "test"}}, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert
}

// One port speaks TLS with everybody: HTTP/1.1 with browsers, which offer HTTP/2 too, and HTTP/2 with gRPC's clients.
func TestTLS(t *testing.T) {
	t.Parallel()
	certFile, keyFile := filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	trusted := x509.NewCertPool()
	trusted.AddCert(writeCertificate(t, certFile, keyFile, 1))
	p := startServer(t, "--tls-cert="+certFile, "--tls-key="+keyFile)
	config := &tls.Config{RootCAs: trusted}
	https := &http.Client{Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}, Timeout: patience}
	defer https.CloseIdleConnections()
	post := func(path, body string) (int, string) {
		resp, err := https.Post("https://"+p.addr+path, "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if got := resp.Header.Get("Strict-Transport-Security"); got != "max-age=31536000" {
			t.Errorf("%s: Strict-Transport-Security %q", path, got)
		}
		if resp.ProtoMajor != 1 {
			t.Errorf("%s is answered with %s", path, resp.Proto)
		}
		b := make([]byte, 4096)
		n, _ := resp.Body.Read(b)
		return resp.StatusCode, string(b[:n])
	}
	account := credentialsJSON("ann", testPassword)
	if code, body := post("/register", account); code != 200 {
		t.Fatalf("register: %d %s", code, body)
	}
	_, body := post("/login", account)
	token := strings.TrimSuffix(strings.TrimPrefix(body, `{"token":"`), "\"}\n")

	conn, err := grpc.NewClient("passthrough:///"+p.addr, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	api := pb.NewGRPCChatterClient(conn)
	roomToken := joinRoom(t, api, token, createRoom(t, api, token))
	d := openDevice(t, api, roomToken, 0)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, "wss://"+p.addr+"/chat", &websocket.DialOptions{HTTPClient: https})
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	if err := ws.Write(ctx, websocket.MessageText, fmt.Appendf(nil, `{"token":%q,"body":"by wss","clientMessageId":"w"}`, roomToken)); err != nil {
		t.Fatal(err)
	}
	if got := d.awaitID(t, "w"); got[len(got)-1].Body != "by wss" {
		t.Errorf("got %v", got)
	}

	// Who speaks without TLS gets nothing, and harms nobody.
	if resp, err := http.Get("http://" + p.addr + "/healthz"); err == nil {
		resp.Body.Close()
		t.Errorf("plain HTTP is answered with %s", resp.Status)
	}

	// Half a new certificate changes nothing; a whole one is used soon, and connections of before go on.
	served := func() int64 {
		c, err := tls.Dial("tcp", p.addr, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	newCert, newKey := filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	trusted.AddCert(writeCertificate(t, newCert, newKey, 2))
	if err := os.Rename(newCert, certFile); err != nil {
		t.Fatal(err)
	}
	eventually(t, patience, "the certificate without its key is noticed", func() bool {
		if serial := served(); serial != 1 {
			t.Fatalf("the certificate is %d", serial)
		}
		return strings.Contains(p.logText(), "the old one is used")
	})
	if err := os.Rename(newKey, keyFile); err != nil {
		t.Fatal(err)
	}
	eventually(t, patience, "the new certificate is served", func() bool { return served() == 2 })
	d.say(t, "after", "the connection of before goes on")
	d.awaitID(t, "after")
}

// A certificate that cannot be used is told in one sentence, and nothing has begun.
func TestBadCertificates(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	writeCertificate(t, file("cert.pem"), file("key.pem"), 1)
	writeCertificate(t, file("other-cert.pem"), file("other-key.pem"), 2)
	whole, err := os.ReadFile(file("cert.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file("half.pem"), whole[:len(whole)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ name, cert, key, says string }{
		{"no key", file("cert.pem"), "", "needs its TLS_KEY"},
		{"no certificate", "", file("key.pem"), "needs its TLS_CERT"},
		{"no file", file("none.pem"), file("key.pem"), "no such file"},
		{"half a certificate", file("half.pem"), file("key.pem"), file("half.pem") + " and " + file("key.pem")},
		{"a key that does not fit", file("cert.pem"), file("other-key.pem"), "TLS_KEY"},
		{"a key for a certificate", file("key.pem"), file("key.pem"), "TLS_CERT"},
	} {
		data := t.TempDir()
		status, out, errOut := runProgram(t, data, nil, "", "serve", "--listen-addr=127.0.0.1:0", "--tls-cert="+test.cert, "--tls-key="+test.key)
		wantFailure(t, status, out, errOut, test.says)
		if left, _ := filepath.Glob(filepath.Join(data, "*.db*")); len(left) > 0 {
			t.Errorf("%s: it left %q", test.name, left)
		}
	}
}

// The log tells of a certificate that clients refuse, at the start and when another one is read, and the metrics tell of each
// when it ends: one that had expired was served without a word.
func TestCertificateEnds(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	certFile, keyFile := filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	now := time.Now()
	cert := writeCertificateOf(t, certFile, keyFile, 1, now.Add(-2*time.Hour), now.Add(-time.Hour))
	p, metrics := startMeasured(t, "--tls-cert="+certFile, "--tls-key="+keyFile)
	ends := func() float64 {
		got, _ := scrape(t, metrics)
		return got.value("grpcchatter_certificate_expires_seconds")
	}
	says := func(why string) {
		t.Helper()
		eventually(t, patience, "the log says "+why, func() bool { return strings.Contains(p.logText(), why) })
	}
	says(`level=WARN msg="the certificate has expired`)
	if got, want := ends(), float64(cert.NotAfter.Unix()); got != want {
		t.Errorf("the certificate ends at %f, want %f", got, want)
	}
	for serial, c := range []struct {
		from, until time.Duration
		why         string
	}{
		{time.Hour, 1000 * time.Hour, `level=WARN msg="the certificate is not valid yet`},
		{-time.Hour, 300 * time.Hour, `level=WARN msg="the certificate ends soon`},
	} {
		cert := writeCertificateOf(t, certFile, keyFile, int64(serial+2), now.Add(c.from), now.Add(c.until))
		if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		eventually(t, patience, "the metrics have the new certificate", func() bool { return ends() == float64(cert.NotAfter.Unix()) })
		says(c.why)
	}
}

// While a certificate ends soon, and when it has ended, the log says so once a day.
func TestCertificateEndsWhileServed(t *testing.T) {
	onlySQLite(t)
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	synctest.Test(t, func(t *testing.T) { // of more than a day, in a second
		valid := func(serial int64, d time.Duration) {
			writeCertificateOf(t, certFile, keyFile, serial, time.Now(), time.Now().Add(d))
		}
		valid(1, endsSoon+time.Hour)
		var mu sync.Mutex // guards log
		var log bytes.Buffer
		c, err := loadCertificate(certFile, keyFile, slog.New(slog.NewTextHandler(keptOutput{&mu, &log}, nil)))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer synctest.Wait()
		defer cancel()
		go c.tend(ctx)
		for _, stage := range []struct {
			during        time.Duration
			soon, expired int
		}{{30 * time.Minute, 0, 0}, {time.Hour, 1, 0}, {24 * time.Hour, 2, 0}, {time.Minute, 3, 0}, {time.Hour, 3, 1}} {
			if stage.during == time.Minute {
				valid(2, 30*time.Minute) // another one, which is told at once
				_ = c.reload()
			}
			time.Sleep(stage.during)
			synctest.Wait()
			mu.Lock()
			said := log.String()
			mu.Unlock()
			if soon, expired := strings.Count(said, "ends soon"), strings.Count(said, "has expired"); soon != stage.soon || expired != stage.expired {
				t.Fatalf("%s later: ends soon %d times, has expired %d, want %d and %d:\n%s", stage.during, soon, expired, stage.soon, stage.expired, said)
			}
		}
	})
}
