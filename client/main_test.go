package client_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/grpcchatter/grpcchatter/client"
)

// program is the server's binary, built once. exampleAddr is a server for the example.
var program, exampleAddr string

func TestMain(m *testing.M) {
	code, err := runTests(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func runTests(m *testing.M) (code int, err error) {
	dir, err := os.MkdirTemp("", "grpcchatter")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "grpcchatter")
	build := exec.Command("go", "build", "-o", program, "github.com/grpcchatter/grpcchatter")
	if out, err := build.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("building the server: %w\n%s", err, out)
	}
	s := &server{file: filepath.Join(dir, "example.db"), listen: "127.0.0.1:0"}
	if err := s.run(); err != nil {
		return 0, err
	}
	exampleAddr = s.addr
	code = m.Run()
	s.stop()
	if code == 0 {
		err = goleak.Find()
	}
	return code, err
}

// server is the real server as a process of its own.
type server struct {
	file   string   // of the database
	listen string   // after the first start with the port
	flags  []string // beside those that every test needs
	addr   string   // http://…
	cmd    *exec.Cmd
	log    strings.Builder // of all its starts; to be read when it is stopped
}

// startServer starts a server that ends with the test.
func startServer(t *testing.T, flags ...string) *server {
	t.Helper()
	s := &server{file: filepath.Join(t.TempDir(), "chat.db"), listen: "127.0.0.1:0", flags: flags}
	s.start(t)
	t.Cleanup(func() {
		s.stop()
		if t.Failed() && testing.Verbose() {
			t.Logf("the server's log:\n%s", &s.log)
		}
	})
	return s
}

func (s *server) start(t *testing.T) {
	t.Helper()
	if err := s.run(); err != nil {
		t.Fatal(err)
	}
}

// run starts the process and waits until it says its address.
func (s *server) run() error {
	args := []string{"serve", "--listen-addr", s.listen, "--database-url", "sqlite:" + s.file, "--rate-limits", "off"}
	s.cmd = exec.Command(program, append(args, s.flags...)...)
	s.cmd.Stderr = &s.log
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := s.cmd.Start(); err != nil {
		return err
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if _, addr, ok := strings.Cut(lines.Text(), "http://"); ok {
			s.addr = "http://" + addr
			s.listen = addr
			go io.Copy(io.Discard, out)
			return nil
		}
	}
	s.cmd.Wait()
	return fmt.Errorf("the server did not start:\n%s", &s.log)
}

// kill ends the process as a crash does.
func (s *server) kill() {
	s.cmd.Process.Kill()
	s.cmd.Wait()
}

func (s *server) stop() {
	s.cmd.Process.Signal(os.Interrupt)
	s.cmd.Wait()
}

// command runs another command of the program, on the server's data.
func (s *server) command(t *testing.T, args ...string) {
	t.Helper()
	out, err := exec.Command(program, append(args, "--database-url", "sqlite:"+s.file)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
}

const password = "correct horse battery"

// newClient returns a Client that is disconnected with the test.
func newClient(t *testing.T, addr string, opts ...client.Option) *client.Client {
	t.Helper()
	c, err := client.New(addr, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Disconnect() })
	return c
}

// newUser returns a Client that is logged in as a new user.
func newUser(t *testing.T, addr, name string, opts ...client.Option) *client.Client {
	t.Helper()
	c := newClient(t, addr, opts...)
	if _, err := c.Register(patient(t), name, password); err != nil {
		t.Fatal(err)
	}
	login(t, c, name)
	return c
}

// patient returns a context for what is no more than the beginning of a test: on a busy machine it may take longer than the
// Client's own timeout, which a test may have made short.
func patient(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func login(t *testing.T, c *client.Client, name string) {
	t.Helper()
	if err := c.Login(patient(t), name, password); err != nil {
		t.Fatal(err)
	}
}

func createRoom(t *testing.T, c *client.Client) (shortCode string) {
	t.Helper()
	code, err := c.CreateChatRoom(patient(t), "A room", "")
	if err != nil {
		t.Fatal(err)
	}
	return code
}

func join(t *testing.T, c *client.Client, shortCode string, opts ...client.JoinOption) *client.Room {
	t.Helper()
	r, err := c.JoinChatRoom(patient(t), shortCode, "", opts...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func send(t *testing.T, r *client.Room, body string) uint64 {
	t.Helper()
	seq, err := r.Send(t.Context(), body)
	if err != nil {
		t.Fatal(err)
	}
	return seq
}

// receive returns n messages, and checks that they follow the one with the seq after.
func receive(t *testing.T, r *client.Room, after uint64, n int) []client.Message {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	messages := make([]client.Message, 0, n)
	for len(messages) < n {
		m, err := r.Receive(ctx)
		if err != nil {
			t.Fatalf("after %d of %d messages: %v", len(messages), n, err)
		}
		if after++; m.Seq != after {
			t.Fatalf("received seq %d, want %d", m.Seq, after)
		}
		messages = append(messages, m)
	}
	return messages
}

// eventually waits until done, which is asked again and again.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still not: %s", what)
		}
	}
}

// proxy stands between clients and a server, and makes the faults of a network.
type proxy struct {
	listener net.Listener
	target   string
	wait     sync.WaitGroup

	mu      sync.Mutex // guards the fields below
	conns   map[net.Conn]struct{}
	stalled bool // nothing goes to either side
	deaf    bool // nothing goes to the clients
	changed chan struct{}
}

func startProxy(t *testing.T, s *server) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return proxyOn(t, l, s)
}

// proxyOn starts a proxy on a listener. Both end with the test.
func proxyOn(t *testing.T, l net.Listener, s *server) *proxy {
	p := &proxy{listener: l, target: s.listen, conns: map[net.Conn]struct{}{}, changed: make(chan struct{})}
	p.wait.Go(p.accept)
	t.Cleanup(func() {
		l.Close()
		p.set(false, false)
		p.cut()
		p.wait.Wait()
	})
	return p
}

func (p *proxy) addr() string { return "http://" + p.listener.Addr().String() }

func (p *proxy) accept() {
	for {
		near, err := p.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", p.target)
		if err != nil {
			near.Close()
			continue
		}
		p.mu.Lock()
		p.conns[near], p.conns[far] = struct{}{}, struct{}{}
		p.mu.Unlock()
		p.wait.Go(func() { p.copy(far, near, true) })
		p.wait.Go(func() { p.copy(near, far, false) })
	}
}

// copy carries bytes until one side closes, and then closes both.
func (p *proxy) copy(to, from net.Conn, toServer bool) {
	defer p.close(to)
	defer p.close(from)
	buf := make([]byte, 4096)
	for {
		n, err := from.Read(buf)
		if err != nil || !p.pass(from, toServer) {
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// pass waits while the proxy stalls that direction. It returns false when the connection is gone.
func (p *proxy) pass(conn net.Conn, toServer bool) bool {
	for {
		p.mu.Lock()
		blocked, changed := p.stalled || p.deaf && !toServer, p.changed
		_, alive := p.conns[conn]
		p.mu.Unlock()
		if !blocked || !alive {
			return alive
		}
		<-changed
	}
}

func (p *proxy) close(conn net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	conn.Close()
	delete(p.conns, conn)
}

// set makes the network stall, or carry nothing to the clients.
func (p *proxy) set(stalled, deaf bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stalled, p.deaf = stalled, deaf
	close(p.changed)
	p.changed = make(chan struct{})
}

// cut resets all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.conns {
		if tcp, ok := conn.(*net.TCPConn); ok {
			tcp.SetLinger(0)
		}
		conn.Close()
		delete(p.conns, conn)
	}
	close(p.changed)
	p.changed = make(chan struct{})
}

// testLog is a log that a test can read while it is written.
type testLog struct {
	mu   sync.Mutex // guards text
	text strings.Builder
}

func (l *testLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *testLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *testLog) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// freeze makes the process hang until the test ends. Until one of its threads has taken the signal, the others go on.
func (s *server) freeze(t *testing.T) {
	t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.cmd.Process.Signal(syscall.SIGCONT) })
	for {
		switch _, err := syscall.Wait4(s.cmd.Process.Pid, nil, syscall.WUNTRACED, nil); err {
		case nil:
			return
		case syscall.EINTR:
		default:
			t.Fatal(err)
		}
	}
}
