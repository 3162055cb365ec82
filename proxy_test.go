package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/grpcchatter/grpcchatter/client"
	"github.com/grpcchatter/grpcchatter/pb"
)

// snippet returns the block of OPERATING.md in a language.
func snippet(t *testing.T, language string) string {
	t.Helper()
	text, err := os.ReadFile("OPERATING.md")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?s)```" + language + "\n(.*?)```").FindSubmatch(text)
	if m == nil {
		t.Fatalf("OPERATING.md has no %s", language)
	}
	return string(m[1])
}

// replaced replaces each of pairs, which has to be there.
func replaced(t *testing.T, text string, pairs ...string) string {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			t.Fatalf("OPERATING.md's block has no %q", pairs[i])
		}
		text = strings.ReplaceAll(text, pairs[i], pairs[i+1])
	}
	return text
}

// proxy is a program in front of a server, which speaks TLS at addr.
type proxy struct {
	t    *testing.T
	addr string
	args []string
	dir  string
	cmd  *exec.Cmd
	done chan error
	out  bytes.Buffer // of one process after another
}

func (p *proxy) start() {
	p.t.Helper()
	p.cmd = exec.Command(p.args[0], p.args[1:]...)
	p.cmd.Dir, p.cmd.Env = p.dir, []string{"HOME=" + p.dir, "PATH=" + os.Getenv("PATH")}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.done = make(chan error, 1)
	go func(cmd *exec.Cmd, done chan error) { done <- cmd.Wait() }(p.cmd, p.done)
	eventually(p.t, patience, "the proxy listens", func() bool {
		c, err := net.Dial("tcp", p.addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

func (p *proxy) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGKILL)
	<-p.done
}

// What OPERATING.md says about proxies, tried with the real ones: the page, REST, WebSocket and gRPC get through with the client's
// address, which it cannot choose; more streams than a connection may have, and as much in one as somebody has to say; and when
// the proxy ends, clients resume.
func TestProxies(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	for name, configure := range map[string]func(t *testing.T, p *proxy, exe, server, cert, key string){"caddy": configureCaddy, "nginx": configureNginx} {
		t.Run(name, func(t *testing.T) {
			exe, err := exec.LookPath(name)
			if _, statErr := os.Stat("/usr/sbin/" + name); err != nil && statErr == nil {
				exe, err = "/usr/sbin/"+name, nil
			}
			if err != nil && os.Getenv("CI") != "" {
				t.Fatal(name, " is not installed")
			} else if err != nil {
				t.Skipf("SKIPPED: %s is not installed: OPERATING.md's lines for it are not tested", name)
			}
			t.Parallel()
			dir := t.TempDir()
			certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
			trusted := x509.NewCertPool()
			trusted.AddCert(writeCertificate(t, certFile, keyFile, 1))
			server := startServer(t, "--log-level=debug", "--trusted-proxies=127.0.0.1")
			p := &proxy{t: t, addr: "127.0.0.1:" + freePort(t), dir: dir}
			configure(t, p, exe, server.addr, certFile, keyFile)
			p.start()
			t.Cleanup(func() {
				p.stop()
				if t.Failed() {
					t.Logf("output of %s:\n%s", name, p.out.String())
				}
			})
			testThroughProxy(t, server, p, &tls.Config{RootCAs: trusted})
		})
	}
}

func configureCaddy(t *testing.T, p *proxy, exe, server, cert, key string) {
	config := "{\n\tadmin off\n\tauto_https disable_redirects\n}\n" + replaced(t, snippet(t, "caddy"),
		"chat.example.com {", "https://"+p.addr+" {\n\ttls "+cert+" "+key, "127.0.0.1:8080", server)
	writeFile(t, filepath.Join(p.dir, "Caddyfile"), []byte(config))
	p.args = []string{exe, "run", "--adapter", "caddyfile", "--config", filepath.Join(p.dir, "Caddyfile")}
}

func configureNginx(t *testing.T, p *proxy, exe, server, cert, key string) {
	config := "daemon off; master_process off; pid nginx.pid; error_log stderr;\nevents {}\nhttp {\naccess_log off;\n"
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		config += kind + "_temp_path " + filepath.Join(p.dir, kind) + ";\n"
	}
	config += replaced(t, snippet(t, "nginx"), "listen 443", "listen "+p.addr, "fullchain.pem", cert, "privkey.pem", key, "127.0.0.1:8080", server) + "}\n"
	writeFile(t, filepath.Join(p.dir, "nginx.conf"), []byte(config))
	p.args = []string{exe, "-p", p.dir, "-c", "nginx.conf", "-e", "stderr"}
}

func testThroughProxy(t *testing.T, server *serverProcess, p *proxy, config *tls.Config) {
	ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
	defer cancel()
	// From an address of its own, and with a lie about it.
	const own, lie = "127.0.0.5", "203.0.113.9"
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(own)}}
	https := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DialContext: dialer.DialContext}, Timeout: patience}
	defer https.CloseIdleConnections()
	get := func(path string) (*http.Response, string) {
		req, err := http.NewRequestWithContext(ctx, "GET", "https://"+p.addr+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set(forwardedFor, lie)
		resp, err := https.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp, string(b)
	}
	if resp, page := get("/"); resp.StatusCode != 200 || !strings.Contains(page, "<!doctype html>") && !strings.Contains(page, "<!DOCTYPE html>") {
		t.Errorf("the page: %d %.100q", resp.StatusCode, page)
	}
	if resp, body := get("/healthz"); resp.StatusCode != 200 || resp.Header.Get("Strict-Transport-Security") == "" {
		t.Errorf("healthz: %d %s %v", resp.StatusCode, body, resp.Header)
	}
	c, err := client.New("https://"+p.addr, client.WithTLSConfig(config))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Disconnect()
	if _, err := c.Register(ctx, "ann", testPassword); err != nil {
		t.Fatal(err)
	}
	if err := c.Login(ctx, "ann", testPassword); err != nil {
		t.Fatal(err)
	}
	code, err := c.CreateChatRoom(ctx, "a room", "room")
	if err != nil {
		t.Fatal(err)
	}

	// gRPC: more streams than a connection to the server may have.
	inside, ann := pb.NewGRPCChatterClient(server.dial()), server.login("ann")
	token := joinRoom(t, inside, ann, code)
	longToken := joinRoom(t, inside, ann, createRoom(t, inside, ann))
	var devices, long []*device
	for range 2 {
		conn, err := grpc.NewClient("passthrough:///"+p.addr, grpc.WithTransportCredentials(credentials.NewTLS(config)),
			grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return dialer.DialContext(ctx, "tcp", addr) }))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for range 75 {
			devices = append(devices, openDevice(t, pb.NewGRPCChatterClient(conn), token, 0))
		}
		long = append(long, openDevice(t, pb.NewGRPCChatterClient(conn), longToken, 0))
	}
	for i, d := range devices {
		d.say(t, fmt.Sprint(i), "hello")
	}
	for _, d := range devices {
		d.await(t, len(devices))
	}
	// As much as somebody says in a long time: in a room of two, for 150 times that is more than a busy machine has time for.
	body := strings.Repeat("x", 4000)
	const n = 400
	for i := range n {
		long[0].say(t, fmt.Sprint("long ", i), body)
	}
	for i, d := range long {
		if got := d.await(t, n); got[n-1].Body != body {
			t.Errorf("device %d: the last message is %.20q", i, got[n-1].Body)
		}
	}

	ws, _, err := websocket.Dial(ctx, "wss://"+p.addr+"/chat", &websocket.DialOptions{HTTPClient: https, HTTPHeader: http.Header{forwardedFor: {lie}}})
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	if err := ws.Write(ctx, websocket.MessageText, fmt.Appendf(nil, `{"token":%q,"body":"by wss","clientMessageId":"w"}`, token)); err != nil {
		t.Fatal(err)
	}
	if got := devices[149].awaitID(t, "w"); got[len(got)-1].Body != "by wss" {
		t.Errorf("by wss: %v", got[len(got)-1])
	}

	// A client that the proxy leaves gets what was said meanwhile, once.
	room, err := c.JoinChatRoom(ctx, code, "")
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan client.Message, 100)
	go func() {
		defer close(got)
		for m, err := range room.Messages(ctx) {
			if err != nil {
				return
			}
			got <- m
		}
	}()
	if _, err := room.Send(ctx, "before"); err != nil {
		t.Fatal(err)
	}
	p.stop()
	direct := openDevice(t, pb.NewGRPCChatterClient(server.dial()), token, -1)
	direct.say(t, "meanwhile", "meanwhile")
	direct.awaitID(t, "meanwhile")
	p.start()
	if _, err := room.Send(ctx, "after"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"before", "meanwhile", "after"} {
		select {
		case m := <-got:
			if m.Body != want {
				t.Errorf("got %q, want %q", m.Body, want)
			}
		case <-time.After(patience):
			t.Fatalf("no %q", want)
		}
	}
	for _, d := range append(devices, long...) {
		d.leave()
	}
	cancel()
	for range got {
	}

	_ = ws.CloseNow()
	for _, what := range []string{"/healthz", "GRPCChatter/Chat", "msg=socket"} {
		eventually(t, patience, "the log has "+what+" from "+own, func() bool {
			for line := range strings.Lines(server.logText()) {
				if strings.Contains(line, what) && strings.Contains(line, "client="+own+" ") {
					return true
				}
			}
			return false
		})
	}
	if strings.Contains(server.logText(), "client="+lie) {
		t.Error("the client could choose its address")
	}
}
