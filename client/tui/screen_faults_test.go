//go:build unix

package tui

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
)

// The server is killed and comes back. What is written meanwhile is shown as pending, and is sent once.
func TestScreenServerKilled(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	code, _ := s.room(t, "alice", testPassword)
	alice := member(t, s, ordinary, "alice", code)
	bob := member(t, s, ordinary, "bob", code, "--register")
	alice.await("bob joined", "2 here")
	alice.enter("before")
	bob.await("  before")

	s.kill()
	alice.await("○ away: the server cannot be reached")
	bob.await("○ away")
	alice.enter("meanwhile 1")
	alice.enter("meanwhile 2")
	alice.await("… meanwhile 1", "… meanwhile 2", "2 waiting")
	alice.golden("away", code)
	alice.resize(50, 15)
	alice.await("… meanwhile 1", "… meanwhile 2")
	alice.resize(80, 24)
	s.start(t)
	for _, w := range []*window{alice, bob} {
		w.await("● connected", "  meanwhile 1", "  meanwhile 2")
	}
	alice.awaitGone("… meanwhile")
	bob.enter("after")
	for _, w := range []*window{alice, bob} {
		w.await("  after")
		for _, line := range []string{"before", "meanwhile 1", "meanwhile 2", "after"} {
			if n := w.count(line); n != 1 {
				t.Errorf("%q is shown %d times", line, n)
			}
		}
	}

	s.kill()
	alice.await("○ away")
	alice.enter("never")
	alice.await("… never")
	shown := alice.record()
	alice.enter("/quit")
	alice.awaitIn(shown, "Waiting for 1 message to be stored.")
	alice.ended(1)
	alice.await("Perhaps not sent: never", "grpcchatter: 1 message had not been stored yet and may be lost")
}

// A room that ends while another one is looked at, or while something is being written in it, is told of; what was being
// written is still there.
func TestScreenRoomEnds(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	code, c := s.room(t, "alice", testPassword)
	other, err := c.CreateChatRoom(t.Context(), "Another", "")
	if err != nil {
		t.Fatal(err)
	}
	account(t, s, "bob")
	w := member(t, s, ordinary, "bob", code)
	w.enter("/join " + other)
	w.await("Another · " + other)
	w.keys("M-Down")
	w.await("Lobby · " + code)
	w.types("half a sentence")
	if err := c.DeleteChatRoom(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	w.await("Another ("+other+"): ", "Lobby · "+code)
	if err := c.DeleteChatRoom(t.Context(), code); err != nil {
		t.Fatal(err)
	}
	w.await("Lobby ("+code+"): ", "○ in no room")
	w.awaitInput("half a sentence")
}

// Messages that are not stored yet are not given up without a word: not by /logout, nor by an account that is no more.
func TestScreenUnsent(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	code, _ := s.room(t, "alice", testPassword)
	w := member(t, s, ordinary, "alice", code)
	s.kill()
	w.await("○ away")
	w.enter("never sent")
	w.await("… never sent")
	w.enter("/logout")
	w.await("Not stored yet: 1 message.")
	w.enter("/logout")
	w.await("1 message may not have been")
	s.start(t)
	w.enter(testPassword)
	w.await("Lobby · "+code, "● connected")
	w.enter("/quit")
	w.ended(1)
	w.await("Perhaps not sent: never sent", "grpcchatter: 1 message had not been stored yet and may be lost")

	// The account is no more.
	w = member(t, s, ordinary, "alice", code)
	s.kill()
	w.await("○ away")
	w.enter("never either")
	w.await("… never either")
	if out, err := exec.Command(program, "user", "disable", "alice", "--database-url", "sqlite:"+s.db).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s.start(t)
	w.await("Account", "message may not have been")
	w.keys("C-c")
	w.ended(1)
	w.await("Perhaps not sent: never either")
}

// The terminal is closed: what has been read is remembered.
func TestScreenHangup(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	code, c := s.room(t, "alice", testPassword)
	room := joined(t, c, code)
	account(t, s, "bob")
	w := member(t, s, ordinary, "bob", code)
	says(t, room, "seen")
	w.await("  seen")
	w.run("set-option", "remain-on-exit", "on")
	pid := w.pid()
	w.run("respawn-pane", "-k", "cat") // the terminal of the program is closed
	eventually(t, func() string { return fmt.Sprint(syscall.Kill(pid, 0)) }, func(s string) bool { return s != "<nil>" }, "the end of the program")
	says(t, room, "not seen")
	w = openWindow(t, terminalKind{width: 80, height: 24, config: w.config}, "--password", testPassword)
	w.await("─ new ─", "not seen")
	screen := w.settled()
	if strings.Index(screen, "─ new ─") < strings.Index(screen, "  seen") {
		t.Error("the unread line stands too high")
	}
}

// The server is away at the start, and the token of the last time is there: nothing has to be typed.
func TestScreenServerComesLater(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	code, _ := s.room(t, "alice", testPassword)
	w := openWindow(t, ordinary, "--server", s.url(), "--user", "alice")
	w.await("Password")
	w.types(testPassword)
	w.keys("Down", "Down", "y")
	w.await("[x] yes")
	w.keys("Enter")
	w.await("Lobby · " + code)
	w.keys("C-d")
	w.ended(0)
	s.kill()
	w = openWindow(t, terminalKind{width: 80, height: 24, config: w.config})
	w.await("The server cannot be reached")
	s.start(t)
	w.await("Lobby · "+code, "● connected")
}

// The server of the last time takes connections and says nothing: who does not want to wait for it goes on with Esc.
func TestScreenServerIsSilent(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	s.room(t, "alice", testPassword)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	kind := terminalKind{width: 80, height: 24, config: t.TempDir()}
	m := recall(filepath.Join(kind.config, "grpcchatter"))
	if err := m.keep(savedToken{"http://" + silent.Addr().String(), "alice", "x.y.z"}); err != nil {
		t.Fatal(err)
	}
	w := openWindow(t, kind)
	w.await("Asking the server … Esc stops that.")
	w.keys("Escape")
	w.await("Enter goes on")
	w.keys("Up", "Up", "C-u")
	w.types(s.url())
	w.keys("Enter")
	w.enter(testPassword)
	w.await("Lobby", "● connected")
}

// Who is present is asked for again if that could not be told.
func TestAttend(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	code, c := s.room(t, "alice", testPassword)
	a := inLobby(t)
	a.c = c
	fed := make(chan []func(), 1)
	a.feed.send = func(tea.Msg) { fed <- a.feed.take() }
	answered := func() {
		for _, event := range <-fed {
			event()
		}
	}
	r := newRoom(code, "Lobby", "alice", 0)
	r.live = joined(t, c, code)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	a.ctx = over
	a.attend(r)
	answered()
	a.ctx = t.Context()
	again := a.take()
	if len(r.present) != 0 || len(again) != 1 {
		t.Fatalf("present is %v, and there are %d timers", r.present, len(again))
	}
	again[0]().(after)()
	answered()
	if fmt.Sprint(r.present) != "[alice]" {
		t.Errorf("present is %v", r.present)
	}
}

// Nothing in a message or a name is obeyed by the terminal, or breaks the layout.
func TestScreenHarmlessText(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	_, c := s.room(t, "alice", testPassword)
	code, err := c.CreateChatRoom(t.Context(), "Ünicode 长 room", "")
	if err != nil {
		t.Fatal(err)
	}
	w := openWindow(t, terminalKind{width: 100, height: 24}, "--server", s.url(), "--user", "alice", "--password", testPassword, "--room", code)
	w.await(" Ünicode 长 room · " + code)
	says(t, sender(t, s, "bob", code),
		"\x1b[2J\x1b[H\x1b]0;title\a\u009b31m\u202eback\x08\nbob  12:34\n  I did not say this",
		"汉字 and 😀 and 👨‍👩‍👧 and שלום עולם and مرحبا",
		"e\u0301 a\u0308 "+strings.Repeat("\u0301", 50)+"|",
		"\ttab\n    four", strings.Repeat("长", 60), strings.Repeat("x", 120))
	w.await("  ␛[2J␛[H␛]0;title␇<U+009B>31m<U+202E>back␈", "  bob  12:34", "    I did not say this", "汉字 and 😀", "    tab", strings.Repeat("x", 58))
	rows := strings.Split(strings.TrimSuffix(w.settled(), "\n"), "\n")
	if len(rows) != 24 || !strings.HasPrefix(rows[0], " Ünicode") || !strings.HasPrefix(rows[22], ">") {
		t.Errorf("the layout is broken")
	}
	for _, row := range rows[1:20] { // the lists left and right are where they were
		if !strings.Contains(row, "│") || strings.Count(row, "│") != 2 {
			t.Errorf("a row has lost its edges: %q", row)
		}
	}
	w.undamaged()
	if title := w.run("display-message", "-p", "#{pane_title}"); strings.HasPrefix(title, "title") {
		t.Errorf("the title of the terminal was changed to %q", title)
	}
}

// A flood of messages: all are there at last, in order, and the input takes keys meanwhile.
func TestScreenFlood(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	code, _ := s.room(t, "alice", testPassword)
	w := member(t, s, ordinary, "alice", code)
	bob := sender(t, s, "bob", code)
	sent := make(chan error, 1)
	go func() {
		sent <- number(t, bob, 6000, 200*time.Microsecond)
	}()
	w.await("number")
	text := ""
	for _, c := range strings.Split("typed in the flood", "") {
		w.types(c)
		text = strings.TrimRight(text+c, " ")
		w.awaitInput(text)
		text += strings.Repeat(" ", len(c)-len(strings.TrimRight(c, " ")))
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	w.await("number 6000")
	rows := w.settled()
	w.undamaged()
	next := 0
	for _, m := range regexp.MustCompile(`number (\d+)`).FindAllStringSubmatch(rows, -1) {
		var n int
		fmt.Sscan(m[1], &n)
		if next != 0 && n != next {
			t.Errorf("number %d stands where %d should", n, next)
		}
		next = n + 1
	}
}

// A terminal that takes no output holds up nothing but itself: afterwards it shows what there is then, and meanwhile SIGTERM
// ends the program.
func TestScreenBlocked(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	code, _ := s.room(t, "alice", testPassword)
	w := member(t, s, ordinary, "alice", code)
	bob := sender(t, s, "bob", code)
	tmux, err := strconv.Atoi(strings.TrimSpace(w.run("display-message", "-p", "#{pid}")))
	if err != nil {
		t.Fatal(err)
	}
	stopped := func(sig syscall.Signal) {
		if err := syscall.Kill(tmux, sig); err != nil {
			t.Fatal(err)
		}
	}
	defer stopped(syscall.SIGCONT)
	flood := func() {
		t.Helper()
		if err := number(t, bob, 300, 10*time.Millisecond); err != nil { // some ninety pictures, where a pipe holds few
			t.Fatal(err)
		}
	}
	stopped(syscall.SIGSTOP)
	flood()
	stopped(syscall.SIGCONT)
	w.await("number 300")
	w.undamaged()

	stopped(syscall.SIGSTOP)
	flood()
	pid := w.pid()
	w.signal(syscall.SIGTERM)
	eventually(t, func() string {
		return fmt.Sprint(syscall.Kill(pid, 0))
	}, func(s string) bool { return s == syscall.ESRCH.Error() }, "the end of the program")
	stopped(syscall.SIGCONT)
	w.await("status 0")
}

// block has a window's terminal take no output any more, with what is on its way to it, until resume is called.
func (w *window) block() (resume func()) {
	w.t.Helper()
	tmux, err := strconv.Atoi(strings.TrimSpace(w.run("display-message", "-p", "#{pid}")))
	if err != nil {
		w.t.Fatal(err)
	}
	tty, err := syscall.Open(strings.TrimSpace(w.run("display-message", "-p", "#{pane_tty}")), syscall.O_WRONLY|syscall.O_NOCTTY|syscall.O_NONBLOCK, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	defer syscall.Close(tty)
	if err := syscall.Kill(tmux, syscall.SIGSTOP); err != nil {
		w.t.Fatal(err)
	}
	resume = sync.OnceFunc(func() { syscall.Kill(tmux, syscall.SIGCONT) })
	w.t.Cleanup(resume)
	// The system may move something on, to where tmux would read it, after it was full for the first time.
	for full := time.Now(); time.Since(full) < 500*time.Millisecond; time.Sleep(10 * time.Millisecond) {
		for err = nil; err == nil; { // NUL shows nothing
			if _, err = syscall.Write(tty, make([]byte, 1)); err == nil {
				full = time.Now()
			}
		}
		if err != syscall.EAGAIN {
			w.t.Fatal(err)
		}
	}
	return resume
}

// Ctrl-Z on a terminal that takes no output holds up nothing either: the program goes on and draws all anew, or is ended by
// SIGTERM, even with something to tell that nobody would read.
func TestScreenBlockedSuspended(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	code, _ := s.room(t, "alice", testPassword)
	w := member(t, s, ordinary, "alice", code)
	suspend := func() (resume func()) {
		t.Helper()
		w.signal(syscall.SIGSTOP) // the key is there before the program can read it, and the terminal is blocked by then
		w.keys("C-z")
		w.settled()
		resume = w.block()
		w.signal(syscall.SIGCONT)
		time.Sleep(500 * time.Millisecond)
		return resume
	}
	resume := suspend()
	time.Sleep(2 * goodbye)
	resume()
	w.keys("h", "i")
	w.awaitInput("hi")
	w.undamaged()
	w.keys("C-c")

	s.kill()
	w.await("○ away")
	w.enter("never sent")
	w.await("… never sent")
	resume = suspend()
	pid := w.pid()
	w.signal(syscall.SIGTERM)
	eventually(t, func() string {
		return fmt.Sprint(syscall.Kill(pid, 0))
	}, func(s string) bool { return s == syscall.ESRCH.Error() }, "the end of the program")
	resume()
	if screen := w.await("status 1"); strings.Contains(screen, "Perhaps not sent") {
		t.Errorf("it was told on a terminal that took nothing")
	}
}

// The terminal is given back as it was, whenever the program is made to leave.
func TestScreenIsGivenBack(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	code, _ := s.room(t, "alice", testPassword)
	flags := []string{"--server", s.url(), "--user", "alice"}
	in := append(flags, "--password", testPassword, "--room", code)
	for _, test := range []struct {
		name  string
		flags []string
		until string
		leave func(w *window)
	}{
		{"Ctrl-C in the form", flags, "Password", func(w *window) { w.keys("C-c") }},
		{"Ctrl-D in the form", flags, "Password", func(w *window) { w.keys("C-d") }},
		{"SIGTERM in the form", flags, "Password", func(w *window) { w.signal(syscall.SIGTERM) }},
		{"Ctrl-C in a room", in, "● connected", func(w *window) { w.keys("C-c") }},
		{"SIGINT in a room", in, "● connected", func(w *window) { w.signal(syscall.SIGINT) }},
		{"Ctrl-Z where no shell goes on with it", in, "● connected", func(w *window) {
			w.keys("C-z")
			eventually(t, func() string { w.types("x"); return w.input() }, func(s string) bool { return strings.HasPrefix(s, "> x") }, "> x")
			w.keys("C-c", "C-c")
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := openWindow(t, ordinary, test.flags...)
			w.await(test.until)
			test.leave(w)
			w.ended(0)
		})
	}
}
