//go:build unix

package tui

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/grpcchatter/grpcchatter/client"
)

// member opens a window of a user who is registered, in a room.
func member(t *testing.T, s *server, kind terminalKind, user, code string, flags ...string) *window {
	t.Helper()
	w := openWindow(t, kind, append([]string{"--server", s.url(), "--user", user, "--password", testPassword, "--room", code}, flags...)...)
	w.await("● connected", code)
	return w
}

// sender is a room by the Go client, of a user who is made.
func sender(t *testing.T, s *server, user, code string) *client.Room {
	t.Helper()
	return joined(t, account(t, s, user), code)
}

func joined(t *testing.T, c *client.Client, code string) *client.Room {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	room, err := c.JoinChatRoom(ctx, code, "")
	if err != nil {
		t.Fatal(err)
	}
	return room
}

func account(t *testing.T, s *server, user string) *client.Client {
	t.Helper()
	c, err := client.New(s.url())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Disconnect() })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := c.Register(ctx, user, testPassword); err != nil {
		t.Fatal(err)
	}
	if err := c.Login(ctx, user, testPassword); err != nil {
		t.Fatal(err)
	}
	return c
}

func says(t *testing.T, room *client.Room, bodies ...string) {
	t.Helper()
	for _, body := range bodies {
		if _, err := room.Send(t.Context(), body); err != nil {
			t.Fatal(err)
		}
	}
}

// number sends "number 1" to "number n" with pauses, and waits until they are stored.
func number(t *testing.T, room *client.Room, n int, pause time.Duration) error {
	underWay := make(chan func() (uint64, error), 1000)
	sent := make(chan error, 1)
	go func() {
		defer close(underWay)
		for i := range n {
			stored, err := room.Queue(t.Context(), fmt.Sprintf("number %d", i+1))
			if err != nil {
				sent <- err
				return
			}
			underWay <- stored
			time.Sleep(pause)
		}
		sent <- nil
	}()
	var err error
	for stored := range underWay {
		if _, e := stored(); e != nil {
			err = e
		}
	}
	return errors.Join(err, <-sent)
}

// Two people from their first start to chatting.
func TestScreenTwoPeople(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	ann := openWindow(t, ordinary)
	ann.await("GRPCChatter", "Enter goes on")
	ann.golden("first-start", "")
	ann.resize(40, 15)
	ann.golden("first-start-narrow", "")
	ann.resize(80, 24)
	ann.keys("Up", "Up")
	ann.types(s.addr)
	ann.keys("Down", "Right")
	ann.await("(•) register", "Once more")
	ann.keys("Enter")
	ann.enter("ann")
	ann.enter("annas secret")
	ann.enter("annas secrte")
	ann.await("The two passwords differ.")
	ann.enter("annas secret")
	ann.await("You are in no room yet.")
	ann.types("/")
	ann.await("/join CODE", "/quit", "leave the program")
	ann.golden("commands", "")
	ann.types("cr")
	ann.awaitGone("/join CODE    enter")
	ann.keys("Tab")
	ann.awaitInput("/create")
	ann.enter(" The Lobby")
	ann.await("Password for The Lobby (Enter for none):")
	ann.enter("open sesame")
	itsCode := regexp.MustCompile(`Its code is (\w+):`)
	code := itsCode.FindStringSubmatch(eventually(t, ann.screen, itsCode.MatchString, "Its code is"))[1]
	ann.enter("/invite")
	ann.await("--room", "/join "+code, s.addr+"/#"+code)

	bob := openWindow(t, terminalKind{width: 120, height: 30}, "--server", s.url(), "--user", "bob", "--register")
	bob.await("(•) register")
	bob.enter("bobs secret")
	bob.enter("bobs secret")
	bob.await("You are in no room yet.")
	bob.enter("/join " + strings.ToLower(code))
	bob.await("Password of the room " + code)
	bob.enter("wrong")
	bob.await("There is no such room")
	bob.enter("/join " + code)
	bob.await("Password of the room " + code)
	bob.enter("open sesame")
	bob.await("The Lobby · "+code+" · 2 here", "│ ann", "│ bob")
	ann.await("bob joined", "2 here")

	shown := bob.record()
	ann.types("hello")
	bob.awaitIn(shown, " ann types … ")
	ann.keys("M-Enter")
	ann.types("all of you")
	ann.awaitInput("hello", "all of you")
	ann.keys("Enter")
	ann.awaitInput("")
	bob.await("  hello", "  all of you")
	bob.awaitGone("types …")
	bob.types("an")
	bob.keys("Tab")
	bob.awaitInput("ann:")
	bob.enter("hi, @an")
	bob.keys("Up")
	bob.awaitInput("ann: hi, @an")
	bob.keys("Tab")
	bob.awaitInput("ann: hi, @ann")
	bob.keys("Enter")
	ann.await("▌ ann: hi, @an", "▌ ann: hi, @ann")
	bob.enter("//slash")
	ann.await("  /slash")
	ann.undamaged()
	bob.undamaged()
	bob.golden("wide", code)
	if ann.count("hello") != 1 || bob.count("/slash") != 0 && bob.count("/slash │ bob") != 0 {
		t.Errorf("a message is shown twice")
	}
	for _, w := range []*window{ann, bob} {
		for _, secret := range []string{"annas", "bobs", "sesame"} {
			if strings.Contains(w.screen(), secret) {
				t.Errorf("a password is on the screen")
			}
		}
		w.enter("/quit")
		if out := w.ended(0); strings.Contains(out, "Lobby") {
			t.Errorf("the screen is not given back")
		}
	}
}

// Every command, and what is said when it cannot be.
func TestScreenCommands(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	code, c := s.room(t, "alice", testPassword)
	says(t, sender(t, s, "bob", code), "from bob")
	w := openWindow(t, terminalKind{width: 140, height: 50}, "--server", s.url(), "--user", "alice", "--password", testPassword)
	w.await("from bob", "bob")
	for _, step := range []struct{ enter, await string }{
		{"/users", "Here now: alice, bob"},
		{"/rooms", code + "  Lobby (yours, you are here)"},
		{"/USERS", "Here now: alice, bob"},
		{"/join", "Write the code of the room behind it"},
		{"/create", "Write the name of the room behind it"},
		{"/users now", "/users takes nothing behind it."},
		{"/nonsense", "No such command; /help lists them. To send it as a message, write //nonsense"},
		{"/join NOSUCH", "Password of the room NOSUCH"},
		{"not this", "There is no such room"},
		{"/leave", "/leave: The owner cannot leave the room; /delete it, or hand it over in the browser"},
		{"/delete", "If you mean it: /delete " + code},
		{"/help", "Alt-Up and Alt-Down"},
	} {
		w.enter(step.enter)
		w.await(step.await)
	}
	other, err := c.CreateChatRoom(t.Context(), "Another", "")
	if err != nil {
		t.Fatal(err)
	}
	w.enter("/rooms")
	w.await(other + "  Another")
	w.keys("M-1")
	w.await("Another · " + other + " · ")
	w.keys("M-Down")
	w.await("Lobby · " + code)
	w.enter("/delete " + code)
	w.await("The room Lobby has been deleted.")

	bob := openWindow(t, ordinary, "--server", s.url(), "--user", "bob", "--password", testPassword)
	bob.await("You are in no room yet.")
	bob.enter("hello?")
	bob.await("Here is nobody to read it")
	bob.enter("/join " + other)
	bob.await("Another · " + other)
	bob.enter("/leave")
	bob.await("You have left Another (" + other + "). /join " + other + " brings you back.")
	bob.enter("/leave")
	bob.await("You are in no room.")
	if rooms, err := bobRooms(t, s); err != nil || len(rooms) != 0 {
		t.Errorf("bob is still a member: %v %v", rooms, err)
	}
	bob.enter("/join " + other)
	bob.await("Another · " + other)
	if err := c.DeleteChatRoom(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	bob.await("Another (" + other + "): ")
	bob.enter("/logout")
	bob.await("Account", "bob")
	bob.keys("C-c")
	bob.ended(0)
}

func bobRooms(t *testing.T, s *server) ([]client.ChatRoom, error) {
	c, err := client.New(s.url())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Disconnect()
	if err := c.Login(t.Context(), "bob", testPassword); err != nil {
		t.Fatal(err)
	}
	return c.ListChatRooms(t.Context())
}

// What is wrong in the form is said where it can be mended.
func TestScreenForm(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	s.room(t, "alice", testPassword)
	w := openWindow(t, ordinary, "--server", "http://127.0.0.1:1")
	w.await("GRPCChatter")
	w.enter("alice")
	w.enter("not that one")
	w.await("The server cannot be reached: connection refused.")
	w.keys("C-u")
	w.types(s.url())
	w.keys("Enter")
	w.await("The user name or the password is wrong.")
	w.paste(testPassword + "\n")
	w.keys("Enter")
	w.await("Lobby", "● connected")
	w.enter("/logout")
	w.await("Password")
	w.keys("Up", "Up", "Right")
	w.await("(•) register")
	w.keys("Enter")
	w.enter(testPassword)
	w.enter(testPassword)
	w.await("This user name is taken")
	w.keys("C-d")
	w.ended(0)
}

// 5,000 messages of history: back to the first, without a jump; what comes meanwhile is counted and moves nothing.
func TestScreenHistory(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	code, c := s.room(t, "alice", testPassword)
	room := joined(t, c, code)
	if err := number(t, room, 5000, 0); err != nil {
		t.Fatal(err)
	}
	w := member(t, s, ordinary, "alice", code)
	w.await("number 5000")
	w.keys("PageUp")
	w.await("number 4981", " ↓ ")
	w.await("number 4963\n")
	top := w.settled()
	says(t, room, "news 1", "news 2")
	w.await("↓ 2 new")
	w.golden("scrolled", code)
	if now := strings.Split(w.settled(), "\n"); strings.Join(now[1:20], "\n") != strings.Join(strings.Split(top, "\n")[1:20], "\n") {
		t.Errorf("the screen has jumped from\n%s", top)
	}
	w.resize(80, 110)
	eventually(t, func() string { return w.rows()[1] }, func(s string) bool { return strings.Contains(s, "number") }, "a screen that is full")
	numbers := regexp.MustCompile(`number (\d+)`)
	first := func() (n int) { // of the screen, on which they follow one another; it may be half drawn when it is looked at
		eventually(t, w.screen, func(screen string) bool {
			shown := numbers.FindAllStringSubmatch(screen, -1)
			for i, m := range shown {
				if next, _ := strconv.Atoi(m[1]); i == 0 {
					n = next
				} else if next != n+i {
					return false
				}
			}
			return len(shown) > 0
		}, "numbers without a gap")
		return n
	}
	began, pages := first(), 0
	for at := began; at > 1; {
		var now int
		eventually(t, func() string { // where the history has not come yet, PageUp does nothing
			w.keys("PageUp")
			pages++
			w.settled()
			now = first()
			return strconv.Itoa(now)
		}, func(string) bool { return now < at }, "more of the history")
		if now < began-110*pages {
			t.Fatalf("%d pages go from number %d to %d", pages, began, now)
		}
		at = now
	}
	w.keys("C-End")
	w.await("news 2")
	w.keys("C-Home")
	w.await("number 1\n")
	w.resize(80, 24)
	w.keys("C-Home")
	w.await("number 1\n")
	w.resize(60, 20)
	w.await("number 18\n") // what stood last stands last
	w.resize(80, 24)
	w.await("number 1\n")
	w.undamaged()
	w.keys("C-End")
	w.await("news 2")
	w.awaitGone("↓")
	w.undamaged()
}

// Unread counts and the unread line, in a room that is not shown, and over a restart.
func TestScreenUnread(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	code, c := s.room(t, "alice", testPassword)
	other, err := c.CreateChatRoom(t.Context(), "Another", "")
	if err != nil {
		t.Fatal(err)
	}
	bob := sender(t, s, "bob", other)
	says(t, bob, "old")
	w := member(t, s, ordinary, "alice", code)
	w.keys("M-Up")
	w.await("Another · "+other, "  old")
	w.keys("M-Up")
	w.await("Lobby · " + code)
	w.types("a draft")
	says(t, bob, "one", "two", "hello alice")
	eventually(t, w.screen, func(s string) bool { return regexp.MustCompile(`(?m)^ Another +@3 │`).MatchString(s) }, "@3")
	w.golden("unread", code)
	w.resize(40, 15)
	w.await("elsewhere @3")
	w.golden("narrow", code)
	w.resize(80, 24)
	w.keys("M-a")
	w.await("Another · "+other, "─ new ─", "▌ hello alice")
	w.awaitInput("")
	w.golden("unread-line", other)
	w.keys("M-Up")
	w.awaitInput("a draft")
	w.keys("C-c")
	w.awaitInput("")
	w.enter("/quit")
	w.ended(0)
	says(t, bob, "meanwhile")
	again := openWindow(t, terminalKind{width: 80, height: 24, config: w.config}, "--password", testPassword)
	again.await("Lobby · " + code)
	eventually(t, again.screen, func(s string) bool { return regexp.MustCompile(`(?m)^ Another +1 │`).MatchString(s) }, "1")
	again.keys("M-a")
	again.await("─ new ─", "meanwhile")
	if screen := again.settled(); strings.Index(screen, "─ new ─") < strings.Index(screen, "hello alice") {
		t.Error("the unread line stands too high")
	}
	again.types("left here")
	again.awaitInput("left here")
	again.keys("M-Up")
	again.await("Lobby · " + code)
	again.enter("/quit")
	again.ended(0)
	third := openWindow(t, terminalKind{width: 80, height: 24, config: w.config}, "--password", testPassword)
	third.await("Lobby · " + code)
	third.keys("M-Up")
	third.await("Another · " + other)
	third.awaitInput("left here")
}

// A token is kept if the person says so, in a file of mode 0600; a password never is.
func TestScreenStay(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	code, _ := s.room(t, "alice", testPassword)
	w := openWindow(t, ordinary, "--server", s.url(), "--user", "alice")
	w.await("Password")
	w.types(testPassword)
	w.keys("Down", "Down", "Space")
	w.await("[x] yes", "token.json")
	w.keys("Enter")
	w.await("Lobby · " + code)
	w.enter("/quit")
	w.ended(0)
	folder := filepath.Join(w.config, "grpcchatter")
	files, err := os.ReadDir(folder)
	if err != nil || len(files) != 2 {
		t.Fatalf("the folder has %v, %v", files, err)
	}
	for _, f := range files {
		info, _ := f.Info()
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has the mode %v", f.Name(), info.Mode())
		}
		b, err := os.ReadFile(filepath.Join(folder, f.Name()))
		if err != nil || strings.Contains(string(b), testPassword) {
			t.Errorf("%s holds a password, or cannot be read: %v", f.Name(), err)
		}
	}
	again := openWindow(t, terminalKind{width: 80, height: 24, config: w.config})
	again.await("Lobby · "+code, "alice@")
	again.enter("by the token")
	again.await("  by the token")
	again.awaitGone(" waiting") // it may be here before it is known to be stored
	again.enter("/logout")
	again.await("Password", "[ ] no")
	again.keys("C-c")
	again.ended(0)
	if _, err := os.Stat(filepath.Join(folder, tokenFile)); !os.IsNotExist(err) {
		t.Errorf("the token is still there: %v", err)
	}
	// A token that the server does not take leads back to the form, as files that make no sense do.
	for name, content := range map[string]string{tokenFile: `{"server":"` + s.url() + `","user":"alice","token":"x.y.z"}`, memoryFile: "{"} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	refused := openWindow(t, terminalKind{width: 80, height: 24, config: w.config})
	refused.await("Password", "alice", "token")
	refused.enter(testPassword)
	refused.await("Lobby · " + code)
}

// What is typed stays whole when others write, when it is longer than the terminal is wide, when it is pasted, and when
// the terminal changes its size.
func TestScreenInput(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	code, c := s.room(t, "alice", testPassword)
	room := joined(t, c, code)
	w := member(t, s, ordinary, "alice", code)
	w.types("你好世界 😀 and")
	w.awaitInput("你好世界 😀 and")
	says(t, room, "first")
	w.await("  first")
	w.awaitInput("你好世界 😀 and")
	w.keys("C-w", "C-w", "BSpace", "BSpace")
	w.awaitInput("你好世")
	w.types(strings.Repeat("界", 60))
	w.awaitInput("你好世"+strings.Repeat("界", 36), strings.Repeat("界", 24))
	w.resize(40, 20)
	says(t, room, "second")
	w.await("  second", "  first")
	eventually(t, w.input, func(s string) bool { return strings.Count(s, "界") == 60 }, "60 times 界")
	w.resize(80, 24)
	w.keys("Enter")
	w.await("  你好世" + strings.Repeat("界", 25)) // in the column beside the rooms
	w.awaitInput("")
	w.keys("Up")
	w.awaitInput("你好世"+strings.Repeat("界", 36), strings.Repeat("界", 24))
	w.keys("C-c")
	w.awaitInput("")

	// A text of several lines is one message, and sent only by Enter.
	w.paste("one\n/quit\r\n  three")
	w.awaitInput("one", "/quit", "  three")
	w.keys("Enter")
	w.await("  one", "  /quit", "    three")
	w.paste(strings.Repeat("0123456789", maxDraft/10+1))
	w.await("What was pasted is too long")
	w.awaitInput("")
	w.paste(strings.Repeat("y", 5000))
	w.keys("Enter")
	w.await("Not sent: ")
	w.keys("Up")
	eventually(t, w.input, func(s string) bool { return strings.HasSuffix(s, "y\n  yyyyyyyy") }, "the end of the text")
	w.undamaged()
	w.keys("C-c")
	w.awaitInput("")
	w.undamaged()
}

// On a light and a dark background, with sixteen colours and with none, it says the same; and with NO_COLOR no colour.
func TestScreenColours(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	code, _ := s.room(t, "alice", testPassword)
	says(t, sender(t, s, "bob", code), "hello alice")
	colour := regexp.MustCompile(`\x1b\[[0-9;]*(3[0-7]|9[0-7]|38)[0-9;]*m`)
	rich := regexp.MustCompile(`\x1b\[[0-9;]*[34]8[;:][25]`)
	bright := regexp.MustCompile(`\x1b\[[0-9;]*9[0-7]m`)
	for _, test := range []struct {
		name         string
		kind         terminalKind
		none, bright bool
	}{
		{"plain", terminalKind{}, false, true},
		{"16 colours", terminalKind{env: []string{"TERM=xterm"}}, false, true},
		{"dark", terminalKind{background: "#101010"}, false, true},
		{"light", terminalKind{background: "#ffffff"}, false, false},
		{"NO_COLOR", terminalKind{env: []string{"NO_COLOR=1"}}, true, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.kind.width, test.kind.height = 80, 24
			w := member(t, s, test.kind, "alice", code)
			w.await("▌ hello alice")
			w.settled()
			screen := eventually(t, func() string { // the terminal may tell its background late
				return w.run("capture-pane", "-p", "-e")
			}, func(s string) bool {
				return colour.MatchString(s) != test.none && bright.MatchString(s) == test.bright && !rich.MatchString(s)
			}, "the right colours")
			if !strings.Contains(screen, "\x1b[7m") {
				t.Errorf("nothing is reversed: %q", screen)
			}
		})
	}
}

// A mention rings the bell or shows a notification, of which a message cannot make anything else.
func TestScreenNotify(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	code, _ := s.room(t, "alice", testPassword)
	bob := sender(t, s, "bob", code)
	for _, test := range []struct{ how, want string }{
		{"bell", "\a"},
		{"osc9", "\x1b]9;grpcchatter: bob in Lobby: hello alice, ␛]0;x␇\a"},
	} {
		w := member(t, s, ordinary, "alice", code, "--notify", test.how)
		written := w.record()
		says(t, bob, "nobody is meant")
		w.await("nobody is meant")
		says(t, bob, "hello alice, \x1b]0;x\a")
		w.awaitIn(written, test.want)
		if n := strings.Count(written(), "\a"); test.how == "bell" && n != 1 {
			t.Errorf("it rang %d times", n)
		}
		w.keys("C-c")
		w.ended(0)
	}
}

func TestScreenPlain(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	code, _ := s.room(t, "alice", testPassword)
	w := openWindow(t, ordinary, "--plain", "--server", s.url(), "--user", "alice", "--password", testPassword, "--room", code)
	w.await("connected\n")
	w.enter("/help")
	w.await("Z alice: /help\n")
	w.keys("C-d")
	w.ended(0)
}
