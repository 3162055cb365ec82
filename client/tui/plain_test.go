package tui

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestPlainTwoPeople(t *testing.T) {
	s := startServer(t)
	alice := startBot(t, s, "--user", "alice", "--register", "--create", "Lobby", "--room-password", "open sesame")
	notes := alice.err.await(t, "connected\n")
	m := regexp.MustCompile(`^room (\w+)\nconnected\n$`).FindStringSubmatch(notes)
	if m == nil {
		t.Fatalf("on stderr stands %q", notes)
	}
	bob := startBot(t, s, "--user", "bob", "--register", "--room", strings.ToLower(m[1]), "--room-password", "open sesame")
	bob.err.await(t, "connected\n")

	alice.say("hello bob\n")
	bob.out.await(t, "hello bob")
	bob.say("hello alice\n\n/quit\r\n  two  spaces  \nno end")
	bob.in.Close()
	if status := bob.end(); status != 0 {
		t.Fatalf("bob ended with %d: %s", status, bob.err)
	}
	want := []string{"hello bob", "hello alice", "/quit", "  two  spaces  ", "no end"}
	if got := texts(t, bob.out.String()); !slices.Equal(got, want) {
		t.Errorf("bob saw %q", got)
	}
	if got := texts(t, alice.out.await(t, "no end\n")); !slices.Equal(got, want) {
		t.Errorf("alice saw %q", got)
	}
	if got := bob.err.String(); got != "connected\n" {
		t.Errorf("on bob's stderr stands %q", got)
	}
	if out := alice.out.String(); !strings.Contains(out, "Z alice: hello bob\n") || !strings.Contains(out, "Z bob: hello alice\n") {
		t.Errorf("alice saw %q", out)
	}
	alice.signal(syscall.SIGTERM)
	if status := alice.end(); status != 0 {
		t.Errorf("after SIGTERM alice ended with %d: %s", status, alice.err)
	}
}

// An escape sequence reaches nobody's terminal, and every text can be had back.
func TestPlainEscapes(t *testing.T) {
	s := startServer(t)
	code, c := s.room(t, "alice", testPassword)
	bob := startBot(t, s, "--user", "bob", "--register", "--room", code)
	bob.err.await(t, "connected\n")
	room, err := c.JoinChatRoom(t.Context(), code, "")
	if err != nil {
		t.Fatal(err)
	}
	const body = "two\nlines\ta\\nb \x1b[2J\u009b31m \u202eabc\r\x7f 你好 😀"
	if _, err := room.Send(t.Context(), body); err != nil {
		t.Fatal(err)
	}
	got := texts(t, bob.out.await(t, "😀\n"))
	want := []string{`two\nlines\ta\\nb \u001b[2J\u009b31m \u202eabc\r\u007f 你好 😀`}
	if !slices.Equal(got, want) {
		t.Fatalf("bob saw %q", got)
	}
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Log("no bash here to undo the escapes with")
		return
	}
	printf := exec.Command(bash, "-c", `printf %b "$1"`, "bash", got[0])
	printf.Env = environ("LC_ALL=C.UTF-8")
	if back, err := printf.Output(); err != nil || string(back) != body {
		t.Errorf("printf %%b made %q of it: %v", back, err)
	}
}

func TestPlainLinesThatCannotBeSent(t *testing.T) {
	s := startServer(t)
	code, _ := s.room(t, "alice", testPassword)
	alice := startBot(t, s, "--user", "alice", "--room", code)
	alice.say("one\n" + strings.Repeat("x", 3<<20) + "\nthree\n\xff\xfe\n" + strings.Repeat("y", 5000) + "\nsix\n")
	alice.in.Close()
	if status := alice.end(); status != 1 {
		t.Errorf("the status is %d", status)
	}
	if got := texts(t, alice.out.String()); !slices.Equal(got, []string{"one", "three", "six"}) {
		t.Errorf("it sent %q", got)
	}
	for _, want := range []string{"line 2 was not sent: ", "line 4 was not sent: ", "line 5 was not sent: ", "3 lines could not be sent\n"} {
		if !strings.Contains(alice.err.String(), want) {
			t.Errorf("on stderr stands %q, without %q", alice.err, want)
		}
	}
}

func TestPlainOrder(t *testing.T) {
	s := startServer(t)
	code, _ := s.room(t, "alice", testPassword)
	bob := startBot(t, s, "--user", "bob", "--register", "--room", code)
	bob.err.await(t, "connected\n")
	alice := startBot(t, s, "--user", "alice", "--room", code)
	const n = 10_000
	alice.say(numbers(1, n))
	alice.in.Close()
	if status := alice.end(); status != 0 {
		t.Fatalf("alice ended with %d: %s", status, alice.err)
	}
	if got := strings.Join(texts(t, alice.out.String()), "\n") + "\n"; got != numbers(1, n) {
		t.Errorf("alice saw %d bytes, not what she sent", len(got))
	}
	if got := strings.Join(texts(t, bob.out.await(t, fmt.Sprintf(": %d\n", n))), "\n") + "\n"; got != numbers(1, n) {
		t.Errorf("bob saw %d bytes, not what alice sent", len(got))
	}
}

// The server is killed while messages are on their way, and comes back: both are told, nothing is lost or
// doubled.
func TestPlainServerKilled(t *testing.T) {
	s := startServer(t)
	code, _ := s.room(t, "alice", testPassword)
	bob := startBot(t, s, "--user", "bob", "--register", "--room", code)
	bob.err.await(t, "connected\n")
	alice := startBot(t, s, "--user", "alice", "--room", code)
	away, last := make(chan struct{}), make(chan int, 1)
	go func() { // until both know that the server is away: so the input does not end before
		defer alice.in.Close()
		for n := 0; ; n += 100 {
			select {
			case <-away:
				last <- n
				return
			case <-time.After(20 * time.Millisecond):
				io.WriteString(alice.in, numbers(n+1, n+100))
			}
		}
	}()
	bob.out.await(t, ": 100\n")
	s.kill()
	alice.err.await(t, "away\n")
	bob.err.await(t, "away\n")
	close(away)
	s.start(t)
	alice.err.await(t, "back\n")
	bob.err.await(t, "back\n")
	if status := alice.end(); status != 0 {
		t.Fatalf("alice ended with %d: %s", status, alice.err)
	}
	n := <-last
	for name, b := range map[string]*bot{"alice": alice, "bob": bob} {
		got := strings.Join(texts(t, b.out.await(t, fmt.Sprintf(": %d\n", n))), "\n") + "\n"
		if got != numbers(1, n) {
			t.Errorf("%s did not see what was sent: %d bytes", name, len(got))
		}
		if got := b.err.String(); got != "connected\naway\nback\n" {
			t.Errorf("%s was told %q", name, got)
		}
	}
}

// Who ends a bot while the server is away is told which lines the server has not confirmed.
func TestPlainInterrupted(t *testing.T) {
	s := startServer(t)
	code, _ := s.room(t, "alice", testPassword)
	alice := startBot(t, s, "--user", "alice", "--room", code)
	alice.say("one\n")
	alice.out.await(t, "one\n")
	s.kill()
	alice.err.await(t, "away\n")
	alice.say("two\nthree\n" + strings.Repeat("x", 1<<18)) // what does not fit into the pipe is read when the lines before are under way
	alice.signal(syscall.SIGTERM)
	if status := alice.end(); status != 1 {
		t.Errorf("the status is %d", status)
	}
	for _, want := range []string{"line 2 was perhaps not sent\n", "line 3 was perhaps not sent\n", "2 messages had not been stored"} {
		if !strings.Contains(alice.err.String(), want) {
			t.Errorf("on stderr stands %q, without %q", alice.err, want)
		}
	}
	if strings.Contains(alice.err.String(), "line 1") {
		t.Errorf("on stderr stands %q, although line 1 was stored", alice.err)
	}
}

// numbers are the lines that seq prints.
func numbers(from, to int) string {
	var b strings.Builder
	for i := from; i <= to; i++ {
		fmt.Fprintln(&b, i)
	}
	return b.String()
}

func TestPlainWhatIsMissingOrWrong(t *testing.T) {
	s := startServer(t)
	code, _ := s.room(t, "alice", testPassword)
	for _, test := range []struct {
		name  string
		flags []string
		want  string
	}{
		{"no user, no room", nil, "give --user, --room or --create"},
		{"wrong password", []string{"--user", "alice", "--room", code, "--password", "not that one"}, "wrong"},
		{"no such room", []string{"--user", "alice", "--room", "nosuch"}, "no such room"},
		{"name taken", []string{"--user", "alice", "--room", code, "--register"}, "taken"},
		{"no server", []string{"--user", "alice", "--room", code, "--server", "http://127.0.0.1:1"}, "cannot be reached: connection refused"},
		{"no address", []string{"--user", "alice", "--room", code, "--server", "::"}, "address"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := startBot(t, s, test.flags...)
			if status := b.end(); status != 1 {
				t.Errorf("the status is %d", status)
			}
			if got := b.err.String(); !strings.Contains(got, test.want) || strings.Count(got, "\n") != 1 {
				t.Errorf("on stderr stands %q, not one line with %q", got, test.want)
			}
			if got := b.out.String(); got != "" {
				t.Errorf("on stdout stands %q", got)
			}
		})
	}
}

func TestPlainRoomDeleted(t *testing.T) {
	s := startServer(t)
	code, c := s.room(t, "alice", testPassword)
	bob := startBot(t, s, "--user", "bob", "--register", "--room", code)
	bob.err.await(t, "connected\n")
	if err := c.DeleteChatRoom(t.Context(), code); err != nil {
		t.Fatal(err)
	}
	if status := bob.end(); status != 1 {
		t.Errorf("the status is %d", status)
	}
	if got := bob.err.String(); !strings.Contains(got, "deleted") {
		t.Errorf("on stderr stands %q", got)
	}
}

func TestPlainBanned(t *testing.T) {
	s := startServer(t)
	code, _ := s.room(t, "alice", testPassword)
	bob := startBot(t, s, "--user", "bob", "--register", "--room", code)
	bob.err.await(t, "connected\n")
	resp, err := http.Post(s.url()+"/login", "application/json", strings.NewReader(`{"user_name":"alice","password":"`+testPassword+`"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var alice struct{ Token string }
	if err := json.NewDecoder(resp.Body).Decode(&alice); err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequest("PUT", s.url()+"/rooms/"+code+"/bans/bob", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+alice.Token)
	banned, err := http.DefaultClient.Do(req)
	if err != nil || banned.StatusCode != 200 {
		t.Fatal(banned, err)
	}
	banned.Body.Close()
	if status := bob.end(); status != 1 {
		t.Errorf("the status is %d", status)
	}
	if got := bob.err.String(); !strings.HasSuffix(got, "grpcchatter: You are banned from this room, by its owner or an administrator\n") {
		t.Errorf("on stderr stands %q", got)
	}
	http.DefaultClient.CloseIdleConnections()
}

// Who reads the output may go away, as head does.
func TestPlainOutputClosed(t *testing.T) {
	s := startServer(t)
	code, _ := s.room(t, "alice", testPassword)
	cmd := exec.Command(program, "chat", "--user", "alice", "--room", code)
	cmd.Env = environ("GRPCCHATTER_SERVER="+s.url(), "GRPCCHATTER_PASSWORD="+testPassword)
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	read.Close()
	cmd.Stdout = write
	cmd.Stdin = strings.NewReader("hello\n")
	err = cmd.Run()
	write.Close()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("it ended with %v", err)
	}
}

// Run in this process leaves no goroutine behind (TestMain looks), whether the input ends or ctx does.
func TestRun(t *testing.T) {
	s := startServer(t)
	code, _ := s.room(t, "alice", testPassword)
	o := Options{Server: s.url(), User: "alice", Password: testPassword, Room: code}
	var out, notes bytes.Buffer
	o.In, o.Out, o.Err = strings.NewReader("one\ntwo\n"), &out, &notes
	if err := Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if got := texts(t, out.String()); !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("it wrote %q", got)
	}

	// It has written all up to the last message when it returns, however slow the output is.
	slow := new(slowWriter)
	o.In, o.Out = strings.NewReader(numbers(1, 20)), slow
	if err := Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if got := texts(t, slow.String()); strings.Join(got, "\n")+"\n" != numbers(1, 20) {
		t.Errorf("it wrote %q", got)
	}

	in, keepOpen := io.Pipe()
	defer keepOpen.Close()
	o.In, o.Out, o.Err = in, new(output), new(output)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := Run(ctx, o); err != nil {
		t.Errorf("after its context ended Run returned %v", err)
	}
}

type slowWriter struct{ output }

func (w *slowWriter) Write(p []byte) (int, error) {
	time.Sleep(20 * time.Millisecond)
	return w.output.Write(p)
}
