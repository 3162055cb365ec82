package tui

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/grpcchatter/grpcchatter/client"
)

// program is the path of the real program, built by TestMain.
var program string

// patience is how long a test waits for what must come. A client that was away may take 20 s to try again, and ten thousand
// messages take a busy machine longer.
const patience = 2 * time.Minute

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "grpcchatter")
	if err != nil {
		panic(err)
	}
	program = filepath.Join(dir, "grpcchatter")
	build := exec.Command("go", "build", "-o", program)
	if raceDetector {
		build.Args = append(build.Args, "-race")
	}
	build.Args = append(build.Args, "github.com/grpcchatter/grpcchatter")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the program: %v\n%s", err, out)
		os.RemoveAll(dir)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(status int) {
		os.RemoveAll(dir)
		os.Exit(status)
	}))
}

// environ is the environment without what would configure the program.
func environ(more ...string) []string {
	var env []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "GRPCCHATTER_") && !strings.HasPrefix(e, "TMUX") {
			env = append(env, e)
		}
	}
	return append(env, more...)
}

// server is a running `grpcchatter serve` whose data and port survive a kill.
type server struct {
	addr string // host:port
	db   string
	cmd  *exec.Cmd
}

func startServer(t *testing.T) *server {
	t.Helper()
	s := &server{addr: "127.0.0.1:0", db: filepath.Join(t.TempDir(), "x.db")}
	s.start(t)
	t.Cleanup(s.kill)
	return s
}

func (s *server) url() string { return "http://" + s.addr }

// start starts the server, at the address of its first start.
func (s *server) start(t *testing.T) {
	t.Helper()
	s.cmd = exec.Command(program, "serve", "--listen-addr", s.addr, "--database-url", "sqlite:"+s.db, "--rate-limits", "off")
	s.cmd.Env = environ()
	var log bytes.Buffer
	s.cmd.Stderr = &log
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if m := regexp.MustCompile(`http://(127\.0\.0\.1:\d+)`).FindStringSubmatch(lines.Text()); m != nil {
			s.addr = m[1]
			return
		}
	}
	s.kill()
	t.Fatalf("the server did not start: %s", log.String())
}

// kill ends the server as a crash would.
func (s *server) kill() {
	s.cmd.Process.Kill()
	s.cmd.Wait()
}

// room registers a user and makes a room, and returns its code and the user's client.
func (s *server) room(t *testing.T, user, password string) (string, *client.Client) {
	t.Helper()
	c, err := client.New(s.url())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Disconnect() })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := c.Register(ctx, user, password); err != nil {
		t.Fatal(err)
	}
	if err := c.Login(ctx, user, password); err != nil {
		t.Fatal(err)
	}
	code, err := c.CreateChatRoom(ctx, "Lobby", "")
	if err != nil {
		t.Fatal(err)
	}
	return code, c
}

// rest makes a call that the Go client does not have, as its user.
func (s *server) rest(t *testing.T, c *client.Client, method, path string, body any) {
	t.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, s.url()+path, bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+c.Token())
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %s is answered by %s", method, path, resp.Status)
	}
}

// bot is a running `grpcchatter chat` on pipes.
type bot struct {
	t        *testing.T
	cmd      *exec.Cmd
	in       io.WriteCloser
	out, err *output
	ended    chan struct{} // closed when it has ended
}

// startBot starts `grpcchatter chat` with these flags.
func startBot(t *testing.T, s *server, flags ...string) *bot {
	t.Helper()
	b := &bot{t: t, out: new(output), err: new(output), ended: make(chan struct{})}
	b.cmd = exec.Command(program, append([]string{"chat"}, flags...)...)
	b.cmd.Env = environ("GRPCCHATTER_SERVER="+s.url(), "GRPCCHATTER_PASSWORD="+testPassword)
	b.cmd.Stdout, b.cmd.Stderr = b.out, b.err
	var err error
	if b.in, err = b.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(b.ended)
		b.cmd.Wait()
	}()
	t.Cleanup(func() {
		b.cmd.Process.Kill()
		<-b.ended
		if strings.Contains(b.err.String(), "DATA RACE") {
			t.Error(b.err)
		}
	})
	return b
}

const testPassword = "correct horse battery"

func (b *bot) say(lines string) {
	b.t.Helper()
	if _, err := io.WriteString(b.in, lines); err != nil {
		b.t.Fatal(err)
	}
}

// end waits for the end of the bot and returns its exit status.
func (b *bot) end() int {
	b.t.Helper()
	select {
	case <-b.ended:
	case <-time.After(patience):
		b.t.Fatalf("it does not end; it said\n%s%s", b.out, b.err)
	}
	return b.cmd.ProcessState.ExitCode()
}

func (b *bot) signal(sig syscall.Signal) {
	b.t.Helper()
	if err := b.cmd.Process.Signal(sig); err != nil {
		b.t.Fatal(err)
	}
}

// output collects what a program writes.
type output struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// await waits for a text and returns all that was written.
func (o *output) await(t *testing.T, text string) string {
	t.Helper()
	return eventually(t, o.String, func(s string) bool { return strings.Contains(s, text) }, text)
}

// eventually waits until what get returns is as wanted.
func eventually(t *testing.T, get func() string, ok func(string) bool, wanted string) string {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		s := get()
		if ok(s) {
			return s
		}
		if time.Now().After(end) {
			t.Fatalf("%q did not come; there is\n%s", wanted, s)
		}
	}
}

// texts returns the texts of the line protocol's lines, and fails where a line has another form.
func texts(t *testing.T, out string) []string {
	t.Helper()
	var texts []string
	for line := range strings.Lines(out) {
		m := regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ [^ :]+: (.*)\n$`).FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("a line out is not 'time name: text': %q", line)
		}
		texts = append(texts, m[1])
	}
	return texts
}
