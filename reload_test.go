package main

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/grpcchatter/grpcchatter/pb"
)

// SIGHUP takes over the log level and the certificate, names what waits for the next start, and ends no stream. What
// cannot be used changes nothing.
func TestReload(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	dir := t.TempDir()
	certFile, keyFile, file := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), filepath.Join(dir, "config.env")
	writeCertificate(t, certFile, keyFile, 1)
	configure := func(lines string) {
		if err := os.WriteFile(file, []byte(lines), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	configure("LOG_LEVEL=warn\nTOKEN_DURATION=1h\n")
	secretFile := filepath.Join(dir, "secret")
	writeFile(t, secretFile, []byte(testSecret))
	p := startServer(t, "--config="+file, "--tls-cert="+certFile, "--tls-key="+keyFile, "--secret-file="+secretFile)
	// hangUp sends SIGHUP and waits until the log says so, and returns what the log has more.
	hangUp := func(says string) string {
		t.Helper()
		before := len(p.logText())
		if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		eventually(t, patience, "after SIGHUP the log says "+says, func() bool { return strings.Contains(p.logText()[before:], says) })
		return p.logText()[before:]
	}
	insecure := &tls.Config{InsecureSkipVerify: true}
	open, err := tls.Dial("tcp", p.addr, insecure) // a connection of before
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	answers := bufio.NewReader(open)
	alive := func() {
		t.Helper()
		fmt.Fprint(open, "GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
		resp, err := http.ReadResponse(answers, nil)
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
		}
		if err != nil || resp.StatusCode != 200 {
			t.Errorf("the connection of before: %v, %v", resp, err)
		}
	}
	alive() // or it would be cut where the reloads take longer than HANDSHAKE_TIMEOUT and HEADER_TIMEOUT

	const bad, good = "nothing has changed", "was read again"
	for _, c := range []struct{ lines, names string }{
		{"LOG_LEVEL=loud\n", "LOG_LEVEL"},
		{"LOG_LEVEL=debug\nNONSENSE=1\n", "NONSENSE"},
		{"LOG_LEVEL=debug\nTOKEN_DURATION=hunter2 hunter2", "TOKEN_DURATION"},
		{"LOG_LEVEL=debug\nSECRET='hunter2", "config.env"},
	} {
		configure(c.lines)
		if got := hangUp(bad); strings.Count(got, "\n") != 1 || !strings.Contains(got, "level=ERROR") || !strings.Contains(got, c.names) {
			t.Errorf("%q: the log says %q, want one line with an error that names %s", c.lines, got, c.names)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	hangUp(bad)
	configure("LOG_LEVEL=debug\nTOKEN_DURATION=1h\n")
	key, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(keyFile, key[:len(key)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	if got := hangUp(bad); !strings.Contains(got, "TLS_KEY") {
		t.Errorf("half a key: the log says %q", got)
	}
	if strings.Contains(p.logText(), "level=DEBUG") || strings.Contains(p.logText(), "level=INFO") {
		t.Errorf("the log level has changed with a configuration that was refused:\n%s", p.logText())
	}

	// A certificate with the time and the size of the old one is not noticed without SIGHUP.
	was := stamp(t, certFile)
	writeCertificate(t, certFile, keyFile, 2)
	if err := errors.Join(os.Chtimes(certFile, was, was), os.Chtimes(keyFile, was, was)); err != nil {
		t.Fatal(err)
	}
	configure("LOG_LEVEL=debug\nTOKEN_DURATION=2h\nRATE_LIMITS=on\nREGISTRATION=closed\n")
	if got := hangUp("next start"); !strings.Contains(got, good) || !strings.Contains(got, "[REGISTRATION TOKEN_DURATION]") {
		t.Errorf("the log says %q, want it to name the two keys that wait", got)
	}
	conn, err := tls.Dial("tcp", p.addr, insecure)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if serial := conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64(); serial != 2 {
		t.Errorf("the certificate is %d", serial)
	}
	alive()
	eventually(t, patience, "requests are logged", func() bool { return strings.Contains(p.logText(), "level=DEBUG") })
	configure("LOG_LEVEL=info\nTOKEN_DURATION=1h\n") // nothing waits any more
	if got := hangUp(good); strings.Contains(got, "next start") {
		t.Errorf("the log says %q", got)
	}
	const another = "another secret, of forty bytes or so ...."
	writeFile(t, secretFile, []byte(another)) // by its path nothing has changed: nothing was said
	if got := hangUp("next start"); !strings.Contains(got, "[SECRET_FILE]") || strings.Contains(got, another) {
		t.Errorf("another secret: the log says %q", got)
	}
	writeFile(t, secretFile, []byte(testSecret+"\n"))
	if got := hangUp(good); strings.Contains(got, "next start") {
		t.Errorf("the old secret: the log says %q", got)
	}
	_, _ = open.Close(), conn.Close() // else the server waits for them
	if code := p.stop(); code != 0 {
		t.Errorf("status %d after SIGTERM", code)
	}
}

func stamp(t *testing.T, file string) time.Time {
	t.Helper()
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	return info.ModTime()
}

// A server that has nothing to reload lives through SIGHUP, and its streams too.
func TestReloadNothing(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	p := startServer(t)
	token := p.login("ann")
	api := pb.NewGRPCChatterClient(p.connect())
	d := openDevice(t, api, joinRoom(t, api, token, createRoom(t, api, token)), 0)
	for i := range 3 {
		if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		eventually(t, patience, "SIGHUP is in the log", func() bool { return strings.Count(p.logText(), "was read again") == i+1 })
	}
	d.say(t, "x", "still here")
	d.awaitID(t, "x")
}

// The closing of the terminal ends a server that was started in it, and gently; `kill -HUP` there reloads, and so does
// everything where SIGHUP was ignored, as by nohup.
func TestTerminalCloses(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	if _, err := exec.LookPath("tmux"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("tmux is missing")
		}
		t.Skip("SKIPPED: there is no tmux to open a terminal with")
	}
	for name, c := range map[string]struct {
		before string
		ends   bool
	}{"foreground": {"", true}, "ignored": {"trap '' HUP; ", false}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, err := os.MkdirTemp("", "tmux") // t.TempDir is too long for a socket's name
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(dir)
			cmd := program(t, dir)
			tmux := func(args ...string) {
				t.Helper()
				if out, err := exec.Command("tmux", append([]string{"-S", filepath.Join(dir, "s"), "-f", os.DevNull}, args...)...).CombinedOutput(); err != nil {
					t.Fatalf("tmux %v: %v: %s", args, err, out)
				}
			}
			read := func(name string) string {
				b, _ := os.ReadFile(filepath.Join(dir, name)) // there is none yet
				return string(b)
			}
			tmux("new-session", "-d", "-c", dir, c.before+"echo $$ > pid; exec env "+asProgram+"=1 "+noPause+" "+cmd.Path+" serve --listen-addr=127.0.0.1:0 2> log > out")
			eventually(t, patience, "ready", func() bool { return strings.Contains(read("log"), "msg=ready") })
			pid, err := strconv.Atoi(strings.TrimSpace(read("pid")))
			if err != nil {
				t.Fatal(err)
			}
			defer syscall.Kill(pid, syscall.SIGKILL) // if the test fails
			reloads := func() int { return strings.Count(read("log"), "was read again") }
			if err := syscall.Kill(pid, syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
			eventually(t, patience, "reloaded", func() bool { return reloads() == 1 })
			tmux("kill-server")
			if !c.ends {
				eventually(t, patience, "reloaded once more", func() bool { return reloads() >= 2 })
				if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
					t.Fatal(err)
				}
			}
			eventually(t, patience, "ended as by SIGTERM", func() bool { return strings.Contains(read("log"), "msg=stopped") })
			eventually(t, patience, "gone", func() bool { return syscall.Kill(pid, 0) != nil })
		})
	}
}

// A second SIGTERM or SIGINT does not wait for connections; after the first alone the status is 0.
func TestSecondSignal(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	p := startServer(t)
	for _, c := range []struct{ first, second syscall.Signal }{
		{syscall.SIGTERM, syscall.SIGTERM}, {syscall.SIGINT, syscall.SIGINT}, {syscall.SIGTERM, syscall.SIGINT},
	} {
		before := len(p.logText())
		conn, err := net.Dial("tcp", p.addr) // a request half sent: the server waits for the rest
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, "POST /login HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n")
		if line, err := bufio.NewReader(conn).ReadString('\n'); !strings.Contains(line, "100") {
			t.Fatalf("%q %v, want to go on", line, err)
		}
		if err := p.cmd.Process.Signal(c.first); err != nil {
			t.Fatal(err)
		}
		eventually(t, patience, "it is stopping", func() bool { return strings.Contains(p.logText()[before:], "msg=stopping") })
		if err := p.cmd.Process.Signal(c.second); err != nil {
			t.Fatal(err)
		}
		<-p.exit
		status, _ := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
		if !status.Signaled() || status.Signal() != c.second || strings.Contains(p.logText()[before:], "msg=stopped") {
			t.Errorf("%s and %s: %s; want it to end by the second", c.first, c.second, p.cmd.ProcessState)
		}
		p.start()
	}
	_ = p.cmd.Process.Signal(syscall.SIGINT)
	if err := <-p.exit; err != nil {
		t.Errorf("after one SIGINT: %v", err)
	}
	p.start()
	if code := p.stop(); code != 0 {
		t.Errorf("the status after one SIGTERM is %d", code)
	}
}

// The service manager is told when the server is ready, reloads and stops, at a path and in the abstract namespace.
func TestNotify(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	dir, err := os.MkdirTemp("", "notify") // t.TempDir is too long for a socket's name
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	for _, name := range []string{filepath.Join(dir, "s"), "@" + dir} {
		manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		defer manager.Close()
		want := func(state string) {
			t.Helper()
			b := make([]byte, 100)
			_ = manager.SetReadDeadline(time.Now().Add(patience))
			n, err := manager.Read(b)
			if err != nil || string(b[:n]) != state {
				t.Fatalf("%s: told %q, %v; want %s", name, b[:n], err, state)
			}
		}
		p := startProgram(t, dir, []string{"NOTIFY_SOCKET=" + name}, "--listen-addr=127.0.0.1:0")
		want("READY=1")
		p.addrs(t, 1) // ready means that its addresses answer
		_ = p.cmd.Process.Signal(syscall.SIGHUP)
		want("RELOADING=1")
		want("READY=1")
		p.stop()
		want("STOPPING=1")
	}
	// A manager that is gone, or does not read, keeps nobody from chatting.
	p := startProgram(t, dir, []string{"NOTIFY_SOCKET=" + filepath.Join(dir, "missing")}, "--listen-addr=127.0.0.1:0")
	p.addrs(t, 1)
	p.stop()
	if got := p.log(); strings.Count(got, "service manager") != 2 {
		t.Errorf("the log says %q, want a warning for the start and one for the end", got)
	}
}
