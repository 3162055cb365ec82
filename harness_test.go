package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
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
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/grpcchatter/grpcchatter/pb"
)

// asProgram makes the test binary be grpcchatter: so the program under test runs as a process of its own,
// which can be killed, with the race detector that the tests have.
const asProgram = "GRPCCHATTER_TEST_AS_PROGRAM"

// onDatabase chooses one of the two rounds.
var onDatabase = flag.String("database", "", "sqlite or postgres: run the tests on this one only")

// slow lets the tests run that are not worth their time at every run.
var slow = flag.Bool("slow", os.Getenv("SLOW_TESTS") != "", "run the tests that take long too; SLOW_TESTS=1 in the environment says the same")

// size is how much a test does: all that RELIABILITY.md names with -slow; less without, and with the race detector, which makes
// everything take five times as long.
func size(less, all int) int {
	if *slow && !raceDetector {
		return all
	}
	return less
}

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(runTests(m))
}

// program returns the command `grpcchatter args`, in a folder and an environment of its own.
func program(t testing.TB, dir string, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, args...)
	cmd.Dir = dir
	// A race in the program is a failure of the test: exit status 66.
	cmd.Env = []string{asProgram + "=1", "HOME=" + dir, "PATH=" + os.Getenv("PATH"), "TERM=dumb", "GORACE=atexit_sleep_ms=0", "GOCOVERDIR=" + os.Getenv("GOCOVERDIR")}
	if pgServer != nil {
		cmd.Env = append(cmd.Env, "DATABASE_URL="+databaseURL(t, dir))
	}
	return cmd
}

// serverProcess is a running `grpcchatter serve`.
type serverProcess struct {
	t    testing.TB
	dir  string
	args []string
	addr string // 127.0.0.1:PORT, kept over restarts
	cmd  *exec.Cmd
	exit chan error
	data string // the address of its PostgreSQL, if it is not that of all tests
	// command, if not nil, is what start runs, with the test binary's path.
	command func(exe string) *exec.Cmd

	mu  sync.Mutex // guards log
	log bytes.Buffer
}

// startServer starts a server on a port and a folder of its own. It is stopped at the end of the test, and
// its log shown if the test failed. More args come last, so they win. Loads may come by one connection.
func startServer(t testing.TB, args ...string) *serverProcess {
	t.Helper()
	p := &serverProcess{t: t, dir: t.TempDir(), addr: "127.0.0.1:" + freePort(t)}
	p.args = append([]string{"serve", "--rate-limits=off"}, args...)
	p.start()
	t.Cleanup(func() {
		if p.cmd != nil {
			p.stop()
		}
		if t.Failed() {
			t.Logf("log of the server:\n%s", p.logText())
		}
	})
	return p
}

var readyLine = regexp.MustCompile(`ready on https?://(\S+)`)

// start starts the server again, on the address and the data that it had.
func (p *serverProcess) start() {
	p.t.Helper()
	p.cmd = program(p.t, p.dir, append(append([]string{}, p.args...), "--listen-addr="+p.addr)...)
	if p.command != nil {
		p.cmd = p.command(p.cmd.Path)
	}
	p.cmd.Stderr = lockedWriter{p}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	ready := make(chan string, 1)
	p.exit = make(chan error, 1)
	go func() {
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if m := readyLine.FindStringSubmatch(lines.Text()); m != nil {
				select {
				case ready <- m[1]:
				default:
				}
			}
		}
		p.exit <- p.cmd.Wait()
	}()
	select {
	case p.addr = <-ready:
	case err := <-p.exit:
		p.t.Fatalf("the server ended at its start: %v\n%s", err, p.logText())
	case <-time.After(patience):
		p.t.Fatalf("the server is not ready after %s\n%s", patience, p.logText())
	}
}

// kill ends the server as a power failure would end the process.
func (p *serverProcess) kill() {
	p.t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Fatal(err)
	}
	<-p.exit
	p.cmd = nil
}

// stop ends the server as a person does, and returns its exit status.
func (p *serverProcess) stop() int {
	p.t.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exit:
	case <-time.After(patience):
		_ = p.cmd.Process.Signal(syscall.SIGQUIT) // for the stacks
		p.t.Errorf("the server did not end within %s of SIGTERM", patience)
		<-p.exit
	}
	code := p.cmd.ProcessState.ExitCode()
	p.cmd = nil
	if code == 66 {
		p.t.Errorf("the race detector found a race in the server")
	}
	return code
}

type lockedWriter struct{ p *serverProcess }

func (w lockedWriter) Write(b []byte) (int, error) {
	w.p.mu.Lock()
	defer w.p.mu.Unlock()
	return w.p.log.Write(b)
}

func (p *serverProcess) logText() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

func (p *serverProcess) database() string { return filepath.Join(p.dir, "grpcchatter.db") }

// rest makes a REST call and returns its status and its answer, which has to be JSON.
func (p *serverProcess) rest(method, path string, body any) (int, map[string]any) {
	p.t.Helper()
	text, ok := body.(string)
	if !ok {
		b, err := json.Marshal(body)
		if err != nil {
			p.t.Fatal(err)
		}
		text = string(b)
	}
	req, err := http.NewRequest(method, "http://"+p.addr+path, strings.NewReader(text))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	var answer map[string]any
	if err := json.Unmarshal(b, &answer); err != nil {
		p.t.Fatalf("%s %s: the answer is not JSON: %q", method, path, b)
	}
	return resp.StatusCode, answer
}

// restAnswer is an answer of REST as it came.
type restAnswer struct {
	status int
	header http.Header
	body   []byte
	json   map[string]any // nil: the body is no JSON object
}

func (a restAnswer) code() string { code, _ := a.json["code"].(string); return code }

// asItStands sends and gives what it is told to, without compression of its own.
var asItStands = &http.Transport{DisableCompression: true, DisableKeepAlives: true}

// call makes a REST call with a token, if it is not empty, and more headers, names and values by turns.
func (p *serverProcess) call(method, path, token, body string, headers ...string) (a restAnswer) {
	p.t.Helper()
	req, err := http.NewRequest(method, "http://"+p.addr+path, strings.NewReader(body))
	if err != nil {
		p.t.Error(err)
		return a
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	resp, err := asItStands.RoundTrip(req)
	if err != nil {
		p.t.Errorf("%s %s: %v", method, path, err)
		return a
	}
	defer resp.Body.Close()
	a = restAnswer{status: resp.StatusCode, header: resp.Header}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return a // what follows is no HTTP
	}
	if a.body, err = io.ReadAll(resp.Body); err != nil {
		p.t.Errorf("%s %s: %v", method, path, err)
	}
	_ = json.Unmarshal(a.body, &a.json) // an asset need not be JSON
	return a
}

const testPassword = "correct horse"

// login registers a user if need be, and returns a user token.
func (p *serverProcess) login(name string) string {
	p.t.Helper()
	c := map[string]string{"user_name": name, "password": testPassword}
	p.rest("POST", "/register", c)
	code, answer := p.rest("POST", "/login", c)
	token, _ := answer["token"].(string)
	if code != 200 || token == "" {
		p.t.Fatalf("login of %s: %d %v", name, code, answer)
	}
	return token
}

// dial opens a gRPC connection, closed at the end of the test.
func (p *serverProcess) dial() *grpc.ClientConn {
	p.t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+p.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func withToken(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

// createRoom makes a room with the password "room" and returns its short code.
func createRoom(t testing.TB, api pb.GRPCChatterClient, token string) string {
	t.Helper()
	resp, err := api.CreateChatRoom(withToken(t.Context(), token), &pb.CreateChatRoomRequest{RoomName: "a room", RoomPassword: "room"})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetShortCode()
}

// joinRoom returns a room token.
func joinRoom(t testing.TB, api pb.GRPCChatterClient, token, code string) string {
	t.Helper()
	resp, err := api.JoinChatRoom(withToken(t.Context(), token), &pb.JoinChatRoomRequest{ShortCode: code, RoomPassword: "room"})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetToken()
}

// openChat opens a session; a negative after leaves start out.
func openChat(t testing.TB, ctx context.Context, api pb.GRPCChatterClient, roomToken string, after int64) grpc.BidiStreamingClient[pb.ChatRequest, pb.ChatResponse] {
	t.Helper()
	stream, err := api.Chat(withToken(ctx, roomToken))
	if err != nil {
		t.Fatal(err)
	}
	req := &pb.ChatRequest{}
	if after >= 0 {
		seq := uint64(after)
		req.Start = &pb.ChatStart{AfterSeq: &seq}
	}
	if err := stream.Send(req); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Header(); err != nil {
		t.Fatal(err)
	}
	return stream
}

// present lists who is in the room.
func present(t testing.TB, api pb.GRPCChatterClient, roomToken string) []string {
	t.Helper()
	resp, err := api.ListChatRoomUsers(withToken(t.Context(), roomToken), &emptypb.Empty{})
	if err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for _, u := range resp.GetUsers() {
		names = append(names, u.GetUserName())
	}
	return names
}

// eventually waits until ok returns true, and fails after limit.
func eventually(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", limit, what)
		}
	}
}

func changed(t testing.TB, path string, statements ...string) {
	t.Helper()
	db := openSQL(t, path)
	execSQL(t, db, statements...)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

func writeFile(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func glob(t testing.TB, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// runTests runs the tests and then looks for goroutines that they left behind.
func runTests(m *testing.M) int {
	flag.Parse()
	code := 0
	switch *onDatabase {
	case "", "sqlite":
		code = m.Run()
	case "postgres":
	default:
		fmt.Println("FAIL: -database: want sqlite or postgres")
		return 1
	}
	if code == 0 && *onDatabase != "sqlite" {
		code = runOnPostgres(m)
	}
	if code == 0 {
		if err := leak(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return code
}

// leak returns an error that names the goroutines which are left, when they have had the time to end that they need on a busy
// machine.
func leak() (err error) {
	http.DefaultClient.CloseIdleConnections()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if err = goleak.Find(); err == nil { // waits for a second itself
			return nil
		}
	}
	return err
}

// runOnPostgres runs the tests a second time.
func runOnPostgres(m *testing.M) int {
	s, err := startPostgres()
	if errors.Is(err, errNoPostgres) && os.Getenv("CI") == "" && *onDatabase == "" {
		fmt.Println("SKIPPED on PostgreSQL:", err)
		return 0
	} else if err != nil {
		fmt.Println("FAIL: PostgreSQL:", err)
		return 1
	}
	defer s.close()
	fmt.Println("=== on PostgreSQL")
	pgServer = s
	return m.Run()
}
