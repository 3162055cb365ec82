package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/grpcchatter/grpcchatter/pb"
)

// noPause ends a program with the race detector at once: it would wait a second for races of other threads.
const noPause = "GORACE=atexit_sleep_ms=0"

// runProgram runs a command to its end, with more environment and what stands in its pipe.
func runProgram(t testing.TB, dir string, env []string, in string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	cmd := program(t, dir, args...)
	return runCommand(t, cmd, env, in)
}

func runCommand(t testing.TB, cmd *exec.Cmd, env []string, in string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errOut bytes.Buffer
	cmd.Env = append(append(cmd.Env, noPause), env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(in), &out, &errOut
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errOut.String()
}

// mustRun runs a command that has to succeed, and returns what it prints.
func mustRun(t testing.TB, dir, in string, args ...string) string {
	t.Helper()
	status, out, errOut := runProgram(t, dir, nil, in, args...)
	if status != 0 {
		t.Fatalf("%v: status %d: %s", args, status, errOut)
	}
	return out
}

// wantFailure checks that a command has ended with status 1 and one line that names what is wrong.
func wantFailure(t testing.TB, status int, stdout, stderr, names string) {
	t.Helper()
	line, rest, _ := strings.Cut(stderr, "\n")
	if status != 1 || stdout != "" || rest != "" || !strings.HasPrefix(line, "grpcchatter: ") || !strings.Contains(line, names) {
		t.Errorf("status %d, stdout %q, stderr %q: want the status 1 and one line that names %s", status, stdout, stderr, names)
	}
}

// runningProgram is a server whose whole output is kept.
type runningProgram struct {
	cmd  *exec.Cmd
	done chan struct{}

	mu          sync.Mutex // guards the fields below
	out, errOut bytes.Buffer
}

// startProgram starts `grpcchatter serve` with more environment. It is stopped at the end of the test.
func startProgram(t testing.TB, dir string, env []string, args ...string) *runningProgram {
	t.Helper()
	p := &runningProgram{cmd: program(t, dir, append([]string{"serve"}, args...)...), done: make(chan struct{})}
	p.cmd.Env = append(p.cmd.Env, env...)
	p.start(t)
	t.Cleanup(func() {
		p.stop()
		if code := p.cmd.ProcessState.ExitCode(); code != 0 && !t.Failed() {
			t.Errorf("the server ended with the status %d: %s", code, p.log())
		}
	})
	return p
}

func (p *runningProgram) start(t testing.TB) {
	t.Helper()
	p.cmd.Env = append(p.cmd.Env, noPause)
	p.cmd.Stdout, p.cmd.Stderr = keptOutput{&p.mu, &p.out}, keptOutput{&p.mu, &p.errOut}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = p.cmd.Wait(); close(p.done) }()
}

// keptOutput is one of a program's two outputs, which share a lock.
type keptOutput struct {
	mu  *sync.Mutex
	buf *bytes.Buffer
}

func (o keptOutput) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

func (p *runningProgram) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(patience):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

func (p *runningProgram) stdout() string { p.mu.Lock(); defer p.mu.Unlock(); return p.out.String() }
func (p *runningProgram) log() string    { p.mu.Lock(); defer p.mu.Unlock(); return p.errOut.String() }

// addrs waits until the server says that it is ready on n addresses, and returns them.
func (p *runningProgram) addrs(t testing.TB, n int) (addrs []string) {
	t.Helper()
	eventually(t, patience, fmt.Sprintf("ready on %d addresses", n), func() bool {
		select {
		case <-p.done:
			t.Fatalf("the server has ended: %s", p.log())
		default:
		}
		said := p.stdout() // once: more may come between two looks
		addrs = nil
		for _, m := range readyLine.FindAllStringSubmatch(said, -1) {
			addrs = append(addrs, m[1])
		}
		return strings.Contains(said, "To stop")
	})
	if len(addrs) != n {
		t.Fatalf("ready on %v, want %d addresses", addrs, n)
	}
	return addrs
}

// runUntilReady starts a server, ends it when it is ready, and returns how it went.
func runUntilReady(t testing.TB, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	cmd := program(t, t.TempDir(), append([]string{"serve"}, args...)...)
	p := &runningProgram{cmd: cmd, done: make(chan struct{})}
	p.start(t)
	eventually(t, patience, "ready or over", func() bool {
		select {
		case <-p.done:
			return true
		default:
			return strings.Contains(p.stdout(), "To stop")
		}
	})
	p.stop()
	return cmd.ProcessState.ExitCode(), p.stdout(), p.log()
}

// The first start says where the server is, where its data is and what to type next, soon; and so does every
// later one.
func TestFirstStart(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	fastest := time.Hour
	dir := t.TempDir()
	const soon = 2 * time.Second
	for try := 0; try < 3 || try < 10 && fastest > soon; try++ { // a busy machine may disturb some tries, not each
		began := time.Now()
		p := startProgram(t, dir, nil, "--listen-addr=127.0.0.1:0")
		addr := p.addrs(t, 1)[0]
		fastest = min(fastest, time.Since(began))
		for _, want := range []string{"http://" + addr, "/grpcchatter.db\n", "To chat, open http://" + addr + " ", " chat --server http://" + addr + "\n", "Ctrl-C"} {
			if !strings.Contains(p.stdout(), want) {
				t.Errorf("no %q in:\n%s", want, p.stdout())
			}
		}
		p.stop()
		if !strings.Contains(p.log(), "listen=["+addr+"]") { // not the port 0 that was asked for
			t.Errorf("the log does not name %s:\n%s", addr, p.log())
		}
	}
	t.Logf("ready in %s", fastest)
	if fastest > soon {
		t.Errorf("ready in %s, want %s", fastest, soon)
	}
}

// Commands that only say something end well; what is no command ends with the status 1.
func TestHelpAndVersion(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if out := mustRun(t, dir, "", "version"); !regexp.MustCompile(`^grpcchatter \S+, commit \S+, go1\S+, [a-z]+/[a-z0-9]+\n$`).MatchString(out) {
		t.Errorf("version: %q", out)
	}
	help := mustRun(t, dir, "", "--help") + mustRun(t, dir, "", "serve", "--help")
	for _, key := range configKeys {
		if !strings.Contains(help, key) {
			t.Errorf("--help says nothing of %s", key)
		}
	}
	for _, says := range []string{"Default: 127.0.0.1:8080 ($LISTEN_ADDR).", "Default: sqlite:grpcchatter.db ($DATABASE_URL).", "Default: :80 ($AUTOCERT_HTTP_ADDR)."} {
		if !strings.Contains(strings.Join(strings.Fields(help), " "), says) {
			t.Errorf("--help does not say %q", says)
		}
	}
	for _, command := range []string{"serve", "chat", "user add", "user list", "user role", "user passwd", "user disable", "user enable", "backup", "restore", "export", "health", "version"} {
		if !strings.Contains(help, command) {
			t.Errorf("--help says nothing of %s", command)
		}
	}
	for _, c := range [][]string{{"nonsense"}, {"serve", "nonsense"}, {"user"}, {"user", "nonsense"}, {"user", "add"}, {"--nonsense"}, {"serve", "--nonsense=1"}, {"user", "role", "x"}} {
		status, out, errOut := runProgram(t, dir, nil, "", c...)
		wantFailure(t, status, out, errOut, "--help")
	}
	wantFolder(t, dir, nil)
}

// Accounts are looked after beside the running server; what is changed holds at once
// (README: user).
func TestUserCommands(t *testing.T) {
	t.Parallel()
	r := newChatRoom(t, nil, "owner")
	login := func(name, password string) (int, string) {
		status, _, answer, err := post(r.addr, "/login", credentialsJSON(name, password))
		if err != nil {
			t.Error(err)
		}
		token, _ := answer["token"].(string)
		return status, token
	}
	wantLogin := func(name, password string, want int) string {
		t.Helper()
		status, token := login(name, password)
		if status != want {
			t.Errorf("log-in of %s with %q: %d, want %d", name, password, status, want)
		}
		return token
	}
	user := func(in string, args ...string) string {
		t.Helper()
		return mustRun(t, r.dir, in, append([]string{"user"}, args...)...)
	}
	user("a password\r\n", "add", "Ann")
	user(" spaces and é ", "add", "bob", "--role=admin") // no line break at all
	user("first line\nsecond line\n", "add", "carl")
	wantLogin("ann", "a password", 200)
	bob := wantLogin("bob", " spaces and é ", 200)
	wantLogin("carl", "first line", 200)

	list := user("", "list")
	for _, want := range []string{`(?m)^\d+ +Ann +USER +enabled +20\S+Z$`, `(?m)^\d+ +bob +ADMIN +enabled +20`, `(?m)^1 +owner +USER +enabled +20`} {
		if !regexp.MustCompile(want).MatchString(list) {
			t.Errorf("user list has no %s:\n%s", want, list)
		}
	}

	// An ADMIN may delete any room, of which it is no member; as an ADMIN, and not as a USER.
	conn := r.dial()
	_, err := rawCall(t, conn, bearerHeader(bob), current+"DeleteChatRoom", text(1, "333333"))
	wantError(t, err, codes.NotFound, "ROOM_NOT_FOUND")
	user("", "role", "bob", "user")
	_, err = rawCall(t, conn, bearerHeader(bob), current+"DeleteChatRoom", text(1, r.code))
	wantError(t, err, codes.Unauthenticated, "TOKEN_INVALID")
	_, err = rawCall(t, conn, bearerHeader(wantLogin("bob", " spaces and é ", 200)), current+"DeleteChatRoom", text(1, r.code))
	wantError(t, err, codes.NotFound, "ROOM_NOT_FOUND")
	user("", "role", "BOB", "ADMIN")
	code := createRoom(t, r.api, r.users["owner"])
	mustCall(t, conn, bearerHeader(wantLogin("bob", " spaces and é ", 200)), current+"DeleteChatRoom", text(1, code))

	// Each change ends the tokens and the streams of its account, and of no other.
	owner := openSession(t, r.api, r.tokens["owner"], -1)
	for _, c := range []struct {
		in, password string
		args         []string
		status       int // of a log-in afterwards
	}{
		{"another password\n", "another password", []string{"passwd", "ann"}, 200},
		{"", "another password", []string{"role", "ann", "ADMIN"}, 200},
		{"", "another password", []string{"disable", "ann"}, 403},
	} {
		what := strings.Join(c.args, " ")
		password := "another password"
		if c.args[0] == "passwd" {
			password = "a password"
		}
		token := wantLogin("ann", password, 200)
		room := joinRoom(t, r.api, token, r.code)
		live := openSession(t, r.api, room, -1)
		let := time.Now()
		pending := openRaw(t, conn, bearerHeader(room), current+"Chat") // has passed, and not begun
		_, _ = rawCall(t, conn, bearerHeader(room), current+"ListChatRoomUsers")
		user(c.in, c.args...)
		wantError(t, live.end(), codes.Unauthenticated, "TOKEN_INVALID")
		_ = pending.SendMsg([]byte{})
		if err := pending.end(); time.Since(let) < openTimeout { // or it has ended for that
			wantError(t, err, codes.Unauthenticated, "TOKEN_INVALID")
		}
		for header, method := range map[string]string{token: "ListChatRooms", room: "ListMessages"} {
			_, err := rawCall(t, conn, bearerHeader(header), current+method)
			wantError(t, err, codes.Unauthenticated, "TOKEN_INVALID")
		}
		status, fresh := login("ann", c.password)
		if status != c.status {
			t.Errorf("%s: then log-in %d, want %d", what, status, c.status)
		}
		if status == 200 { // what begins with a new token at once is not taken for old
			live := openSession(t, r.api, joinRoom(t, r.api, fresh, r.code), -1)
			time.Sleep(3 * watchPause)
			body := "after " + what
			live.send(&pb.ChatRequest{Body: body})
			for live.next().GetBody() != body {
			}
			live.cancel()
		}
	}
	wantLogin("ann", "a password", 401)
	if list := user("", "list"); !regexp.MustCompile(`Ann +ADMIN +disabled`).MatchString(list) {
		t.Errorf("user list:\n%s", list)
	}
	user("", "disable", "ann") // as she is
	user("", "enable", "ann")
	wantLogin("ann", "another password", 200)

	// What is so already stays, with its tokens and streams, and is nothing for the audit log: "USER to USER" was.
	user("", "role", "owner", "user")
	user("", "enable", "owner")
	mustCall(t, conn, bearerHeader(r.users["owner"]), current+"ListChatRooms")
	audit := r.must(200, "", "GET", "/admin/audit?limit=200", wantLogin("bob", " spaces and é ", 200), "")
	changes := map[string]int{}
	for i, target := range column(audit, "entries", "target") {
		changes[target+" "+column(audit, "entries", "action")[i]]++
	}
	if changes["owner user_role"] != 0 || changes["owner user_enabled"] != 0 || changes["Ann user_disabled"] != 1 || changes["Ann user_enabled"] != 1 {
		t.Errorf("the audit log has %v", changes)
	}
	owner.send(&pb.ChatRequest{Body: "still here", ClientMessageId: "x"})
	for e := owner.next(); e.GetClientMessageId() != "x"; e = owner.next() {
	}
}

// What is refused says why, names it, and changes nothing.
func TestUserCommandErrors(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	p := startServer(t)
	p.login("ann")
	good := testPassword + "\n"
	for _, c := range []struct {
		in    string
		names string
		args  []string
	}{
		{good, "nobody", []string{"passwd", "nobody"}},
		{"", "nobody", []string{"role", "nobody", "ADMIN"}},
		{"", "nobody", []string{"disable", "nobody"}},
		{"", "nobody", []string{"enable", "nobody"}},
		{"", "KING", []string{"role", "ann", "KING"}},
		{good, "KING", []string{"add", "ben", "--role=KING"}},
		{good, "ann", []string{"add", "ann"}},
		{good, "ANN", []string{"add", "ANN"}},
		{good, "user name", []string{"add", "a b"}},
		{good, "user name", []string{"add", "x"}},
		{"1234567\n", "password", []string{"add", "ben"}},
		{"1234567\r\n", "password", []string{"add", "ben"}},
		{"", "password", []string{"add", "ben"}},
		{"\n" + good, "password", []string{"add", "ben"}},
		{strings.Repeat("x", 257) + "\n", "password", []string{"add", "ben"}},
		{"benjamin\n", "password", []string{"add", "Benjamin"}},
		{"1234567\n", "password", []string{"passwd", "ann"}},
		{"annannan\n", "--nonsense", []string{"passwd", "ann", "--nonsense"}},
	} {
		status, out, errOut := runProgram(t, p.dir, nil, c.in, append([]string{"user"}, c.args...)...)
		t.Run(strings.Join(c.args, " "), func(t *testing.T) { wantFailure(t, status, out, errOut, c.names) })
	}
	if status, _, answer, err := post(p.addr, "/login", credentialsJSON("ann", testPassword)); status != 200 {
		t.Errorf("ann: %d %v %v", status, answer, err)
	}
	if list := mustRun(t, p.dir, "", "user", "list"); strings.Count(list, "\n") != 2 {
		t.Errorf("user list, want ann alone:\n%s", list)
	}
	// Where there is no data, only `add` makes some.
	dir := t.TempDir()
	for _, c := range [][]string{{"list"}, {"role", "ann", "ADMIN"}, {"passwd", "ann"}, {"disable", "ann"}, {"enable", "ann"}} {
		status, out, errOut := runProgram(t, dir, nil, good, append([]string{"user"}, c...)...)
		wantFailure(t, status, out, errOut, dir)
	}
	wantFolder(t, dir, nil)
	mustRun(t, dir, good, "user", "add", "first", "--role=ADMIN")
	first := startProgram(t, dir, nil, "--listen-addr=127.0.0.1:0")
	if status, _, answer, err := post(first.addrs(t, 1)[0], "/login", credentialsJSON("first", testPassword)); status != 200 {
		t.Errorf("an account made before the first start: %d %v %v", status, answer, err)
	}
}

// The secret stays when the server is restarted, and with it every token (design: SECRET).
func TestTokensSurviveRestart(t *testing.T) {
	t.Parallel()
	r := newChatRoom(t, nil, "alice")
	if status := r.stop(); status != 0 {
		t.Errorf("status %d after SIGTERM", status)
	}
	r.start()
	conn := r.dial()
	mustCall(t, conn, bearerHeader(r.users["alice"]), current+"ListChatRooms")
	mustCall(t, conn, bearerHeader(r.tokens["alice"]), current+"ListMessages")
	r.stop()
	r.args = append(r.args, "--secret="+testSecret) // another one ends them
	r.start()
	_, err := rawCall(t, r.dial(), bearerHeader(r.users["alice"]), current+"ListChatRooms")
	wantError(t, err, codes.Unauthenticated, "TOKEN_INVALID")
}

// Accounts made at once in an empty folder are all made, the database too: a script does it so.
func TestUserAddAtOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var adding sync.WaitGroup
	var made atomic.Int32
	for i := range 8 {
		adding.Go(func() {
			began := time.Now()
			status, _, errOut := runProgram(t, dir, nil, testPassword, "user", "add", fmt.Sprint("user", i))
			switch waited := time.Since(began); {
			case status == 0:
				made.Add(1)
			case waited < writeWait || !strings.Contains(errOut, "locked"): // behind seven of a slow disk it may give up
				t.Errorf("user add: status %d after %s: %s", status, waited, errOut)
			}
		})
	}
	adding.Wait()
	if list := mustRun(t, dir, "", "user", "list"); strings.Count(list, "enabled") != int(made.Load()) || made.Load() == 0 {
		t.Errorf("%d were made, user list:\n%s", made.Load(), list)
	}
}

// A command that waits for a password ends when it is told to.
func TestUserCommandInterrupted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := &runningProgram{cmd: program(t, dir, "user", "add", "ann"), done: make(chan struct{})}
	out, in, err := os.Pipe() // stays open
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	p.cmd.Stdin = out
	p.start(t)
	_ = out.Close() // the program has its own
	_ = in.SetWriteDeadline(time.Now().Add(patience))
	if _, err := in.Write(bytes.Repeat([]byte("x"), 128<<10)); err != nil { // twice what a pipe holds: it reads
		t.Errorf("it does not read a password: %v", err)
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		wantFailure(t, p.cmd.ProcessState.ExitCode(), p.stdout(), p.log(), "interrupted")
	case <-time.After(patience):
		_ = p.cmd.Process.Kill()
		t.Error("it did not end")
	}
	wantFolder(t, dir, nil)
}
