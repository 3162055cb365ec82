package tui

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/grpcchatter/grpcchatter/client"
)

// chatting is an app in a room with so many messages.
func chatting(b testing.TB, width, height, messages int) *app {
	b.Helper()
	a := newApp(b.Context(), Options{Out: io.Discard})
	a.feed.send = func(tea.Msg) {}
	a.form = nil
	a.user = "ann"
	r := newRoom("K7P2QX", "Lobby", "ann", 0)
	r.complete = true
	a.add(r)
	a.here = r
	for i := range messages {
		r.add(message(i), false, false)
	}
	_, _ = a.Update(tea.WindowSizeMsg{Width: width, Height: height})
	return a
}

func message(i int) client.Message {
	return client.Message{
		Seq: uint64(i + 1), UserName: fmt.Sprintf("user%d", i/7%5), SentAt: time.Unix(1_700_000_000+int64(i)*20, 0),
		Body: fmt.Sprintf("message %d of the room, which is long enough to be wrapped on most screens: %s", i, strings.Repeat("word ", i%20)),
	}
}

// A key and the screen that follows: it has 33 ms until the next picture (framesPerSecond).
func BenchmarkKey(b *testing.B) {
	for _, size := range []struct{ width, height int }{{80, 24}, {200, 60}} {
		for _, draft := range []int{0, 4000} {
			b.Run(fmt.Sprintf("%dx%d/draft=%d", size.width, size.height, draft), func(b *testing.B) {
				a := chatting(b, size.width, size.height, 5000)
				a.input.set(strings.Repeat("y", draft))
				b.ReportAllocs()
				for b.Loop() {
					a.Update(tea.KeyPressMsg{Code: 'x', Text: "x"})
					a.display.turnTo(a.picture())
					a.Update(tea.KeyPressMsg{Code: tea.KeyBackspace})
					a.display.turnTo(a.picture())
				}
			})
		}
	}
}

// A picture's worth of messages (2,000 a second) and the screen that follows.
func BenchmarkFlood(b *testing.B) {
	a := chatting(b, 120, 40, 5000)
	r := a.here
	n := 5000
	b.ReportAllocs()
	for b.Loop() {
		for range 2000 / framesPerSecond {
			r.add(message(n), false, false)
			n++
		}
		a.Update(fed{})
		a.display.turnTo(a.picture())
	}
}

// inLobby is an app that is logged in, with rooms that it does not connect.
func inLobby(t *testing.T, names ...string) *app {
	t.Helper()
	c, err := client.New("http://127.0.0.1:1") // nobody is logged in: every call fails at once
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Disconnect() })
	a := newApp(t.Context(), Options{Out: io.Discard})
	a.c = c
	a.feed.send = func(tea.Msg) {}
	a.form = nil
	for _, name := range names {
		r := newRoom(strings.ToUpper(name), name, "ann", 0)
		r.joining = true
		a.add(r)
	}
	return a
}

// alive is an app of somebody who is logged in, and run has it live until done reports true.
func alive(t *testing.T, c *client.Client) (a *app, run func(what string, done func() bool)) {
	t.Helper()
	a = newApp(t.Context(), Options{Out: io.Discard})
	a.c, a.user, a.form = c, c.UserName(), nil
	msgs := make(chan tea.Msg, 1000)
	a.feed.send = func(msg tea.Msg) { msgs <- msg }
	var cmds sync.WaitGroup
	var do func(tea.Cmd)
	do = func(cmd tea.Cmd) {
		if cmd == nil {
			return
		}
		cmds.Go(func() {
			switch msg := cmd().(type) {
			case nil:
			case tea.BatchMsg:
				for _, cmd := range msg {
					do(cmd)
				}
			default:
				msgs <- msg
			}
		})
	}
	t.Cleanup(func() {
		c.Disconnect()
		a.feed.close()
		a.others.Wait()
		cmds.Wait()
	})
	return a, func(what string, done func() bool) {
		t.Helper()
		late := time.After(patience)
		do(tea.Batch(a.take()...))
		for !done() {
			select {
			case msg := <-msgs:
				_, cmd := a.Update(msg)
				do(cmd)
			case <-late:
				t.Fatalf("it waits in vain for %s; the room says %q", what, bodies(a.here))
			}
		}
	}
}

// What is being written is not lost: not by the first room that is shown, nor in one that is left for another, nor by signing out.
func TestDrafts(t *testing.T) {
	a := inLobby(t, "a", "b")
	holds := func(when, want string) {
		t.Helper()
		if got := a.input.value(); got != want {
			t.Errorf("%s the input holds %q, want %q", when, got, want)
		}
	}
	a.input.set("typed early")
	a.show(a.rooms[0])
	holds("in the first room", "typed early")
	a.show(a.rooms[0])
	holds("in the same room", "typed early")
	a.step(1)
	holds("in the second room", "")
	a.input.set("in b")
	a.step(1)
	holds("back in the first room", "typed early")
	a.enterRoom(a.rooms[1])
	holds("in a room that was just made", "typed early")
	a.input.recall(a.input.at - 1)
	holds("after Up", "in b")
	a.input.load("again in b")
	a.step(-1)
	a.signOut("")
	if !slices.Contains(a.input.history, "again in b") {
		t.Errorf("after signing out Up brings back %q", a.input.history)
	}
}

// A text that begins with a slash and is no command is not echoed whole, and Up has it back.
func TestNoCommand(t *testing.T) {
	a := inLobby(t, "a")
	a.show(a.rooms[0])
	text := "/etc/hosts\n" + strings.Repeat("127.0.0.1 localhost\n", 400) + "end"
	a.input.set(text)
	a.enter()
	if got := bodies(a.here); len(got) > 300 || strings.Contains(got, "\n") || !strings.HasPrefix(got, "·No such command") {
		t.Errorf("it says %q", got)
	}
	if a.input.recall(a.input.at - 1); a.input.value() != text {
		t.Errorf("Up brings back %q", a.input.value())
	}
}

// Whoever moves about in a draft does not write: the others are told of a text that changes.
func TestTyping(t *testing.T) {
	s := startServer(t)
	code, c := s.room(t, "ann", testPassword)
	a, _ := alive(t, c)
	r := newRoom(code, "Lobby", "ann", 0)
	r.live, r.stop = joined(t, c, code), func() {}
	a.add(r)
	a.here = r
	a.input.set("a draft")
	for _, key := range []rune{tea.KeyLeft, tea.KeyHome, tea.KeyEnd} {
		a.press(tea.KeyPressMsg{Code: key})
	}
	if !r.hinted.IsZero() {
		t.Error("moving is writing")
	}
	if a.press(tea.KeyPressMsg{Code: 'x', Text: "x"}); r.hinted.IsZero() {
		t.Error("writing is not told of")
	}
}

// The lobby stands before the first room.
func TestStepFromLobby(t *testing.T) {
	for n, want := range map[int]string{1: "a", -1: "c"} {
		a := inLobby(t, "a", "b", "c")
		if a.step(n); a.here.name != want {
			t.Errorf("a step of %d leads to %q, want %q", n, a.here.name, want)
		}
	}
}

// An invitation link is as good as the code, wherever a room is asked for.
func TestInvitation(t *testing.T) {
	for _, test := range []struct{ server, room, wantServer, wantRoom string }{
		{"", "K7P2QX", "", "K7P2QX"},
		{"", " http://localhost:8080/#K7P2QX ", "http://localhost:8080", "K7P2QX"},
		{"http://10.0.0.1:8080", "http://localhost:8080/#K7P2QX", "http://10.0.0.1:8080", "K7P2QX"},
		{"https://chat.example.com/#K7P2QX", "", "https://chat.example.com", "K7P2QX"},
		{"https://chat.example.com/#K7P2QX", "OLD", "https://chat.example.com", "K7P2QX"},
		{"https://chat.example.com/#", "OLD", "https://chat.example.com", "OLD"},
		{"", "#K7P2QX", "", "K7P2QX"},
	} {
		f := newForm(newApp(t.Context(), Options{Out: io.Discard}))
		f.server.SetValue(test.server)
		f.room.SetValue(test.room)
		f.press(tea.KeyPressMsg{Code: tea.KeyEnter})
		if server, room := f.server.Value(), f.room.Value(); server != test.wantServer || room != test.wantRoom {
			t.Errorf("%q and %q in the form are the server %q and the room %q", test.server, test.room, server, room)
		}
	}
	o := Options{Room: "https://chat.example.com/#K7P2QX"}
	if o.setDefaults(); o.Server != "https://chat.example.com" || o.Room != "K7P2QX" {
		t.Errorf("as a flag it is the server %q and the room %q", o.Server, o.Room)
	}
	a := inLobby(t, "a")
	a.command("/join http://127.0.0.1:18087/#A")
	if a.here.name != "a" {
		t.Errorf("/join with a link says %q", bodies(a.here))
	}
}

// A server without a port has a certificate; nothing said that it has to be given as https://.
func TestFullAddress(t *testing.T) {
	for server, want := range map[string]string{
		"chat.example.com": "https://chat.example.com", "chat.example.com/": "https://chat.example.com", "[::1]": "https://[::1]",
		"localhost:8080": "http://localhost:8080", " http://a/ ": "http://a", "https://a": "https://a", "": "",
		"a/b": "http://a/b", "ann@a": "http://ann@a", // which the client says is wrong
	} {
		if got := fullAddress(server); got != want {
			t.Errorf("%q is taken for %q, want %q", server, got, want)
		}
	}
}

// A password that is refused is typed anew, and not behind the name.
func TestPasswordRefused(t *testing.T) {
	s := startServer(t)
	c, err := client.New(s.url())
	if err != nil {
		t.Fatal(err)
	}
	a, run := alive(t, c)
	for _, test := range []struct {
		name, password string
		at             place
	}{{"ann", "abc", placePassword}, {"annann1234", "annann1234", placePassword}, {"a", testPassword, placeName}, {"ann b", testPassword, placeName}} {
		a.c = nil
		a.o.Server, a.o.User, a.o.Password, a.o.Register = s.url(), test.name, test.password, true
		f := newForm(a)
		a.form = f
		f.submit()
		run("an answer", func() bool { return !f.asking })
		if f.problem == "" || f.at != test.at {
			t.Errorf("after %q and %q the cursor is at %v, and it says %q", test.name, test.password, f.at, f.problem)
		}
		if f.at == placePassword && f.password.Value()+f.again.Value() != "" {
			t.Errorf("what is typed comes behind %q", f.password.Value())
		}
	}
}

// That a token could not be removed is said where it is seen.
func TestTokenStays(t *testing.T) {
	a := inLobby(t, "a")
	a.memory.folder = t.TempDir()
	if err := os.MkdirAll(filepath.Join(a.memory.tokenPath(), "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	const want = "The token could not be removed: "
	a.unforgotten = a.forget("http://a", "ann")
	a.show(a.rooms[0])
	a.settle()
	if got := bodies(a.here); !strings.Contains(got, want) {
		t.Errorf("the room says %q", got)
	}
	a.logoutCommand("")
	if a.form == nil || !strings.HasPrefix(a.form.problem, want) {
		t.Error("the form does not say it")
	}
}

// A terminal that does not say what it is can do nothing.
func TestDumb(t *testing.T) {
	for term, want := range map[string]bool{"dumb": true, "": runtime.GOOS != "windows", "xterm": false} {
		t.Setenv("TERM", term)
		if dumb() != want {
			t.Errorf("TERM=%q is taken wrongly", term)
		}
	}
}

// The README has every command as /help has it.
func TestCommandsInReadme(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range commands() {
		if row := "| `" + strings.TrimSpace(c.name+" "+c.args) + "` | " + c.does + " |\n"; !strings.Contains(string(readme), row) {
			t.Errorf("the README lacks %q", row)
		}
	}
}
