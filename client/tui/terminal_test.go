//go:build unix

package tui

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// Two people from their first start to the end of their room.
func TestTerminalTwoPeople(t *testing.T) {
	s := startServer(t)
	ann := openWindow(t)
	ann.answer("Server [http://localhost:8080]:", s.addr)
	ann.answer("Account: [l]og in or [r]egister [l]:", "r")
	ann.answer("Name:", "ann")
	ann.answer("Password:", "annas secret")
	ann.answer("Password again:", "annas secrte")
	ann.await("* The two passwords differ.")
	ann.answer("Password:", "annas secret")
	ann.answer("Password again:", "annas secret")
	ann.await("* You are in no room yet")
	ann.answer("Room (a code, or new NAME):", "new The Lobby")
	ann.answer("Password for the room (Enter for none):", "open sesame")
	code := regexp.MustCompile(`Its code is (\w+):`).FindStringSubmatch(ann.await(": with it others can join."))[1]
	ann.await("* This is The Lobby (" + code + "). Nobody else is here. /help lists the commands.")
	ann.chats()

	for i := range 25 {
		ann.enter(fmt.Sprintf("message %d of ann", i))
	}
	ann.await("ann: message 24 of ann")

	bob := openWindow(t, "--server", s.url(), "--user", "bob", "--register")
	bob.answer("Password:", "bobs secret")
	bob.answer("Password again:", "bobs secret")
	bob.answer("Room (a code, or new NAME):", strings.ToLower(code))
	bob.answer("Password of the room (Enter if it has none):", "open sesame")
	bob.await("* This is The Lobby (" + code + "). Here now: ann. /help lists the commands.")
	bob.await("ann: message 24 of ann")
	bob.chats()
	if strings.Contains(bob.all(), "message 4 of ann") {
		t.Errorf("more than the last 20 messages are shown:\n%s", bob.all())
	}
	bob.once("ann: message 5 of ann")
	ann.await("* bob joined")

	bob.enter("hello ann")
	ann.await("bob: hello ann")
	ann.enter("//slash")
	bob.await("ann: /slash")
	for _, line := range []string{"bob: hello ann", "ann: /slash", "ann: message 24 of ann"} {
		ann.once(line)
		bob.once(line)
	}

	bob.enter("/users")
	bob.await("* Here now: ann, bob")
	bob.enter("/history")
	bob.await("* Earlier, 5 messages:")
	bob.await("ann: message 0 of ann")
	bob.await("ann: message 4 of ann")
	bob.await("* End of the earlier messages.")
	bob.enter("/history")
	bob.await("* There is nothing before what is on the screen.")
	bob.enter("/rooms")
	bob.await("    " + code + "  The Lobby  (of ann, 27 messages, you are here)")
	bob.enter("/help")
	bob.await("/delete CODE")
	bob.enter("/nonsense")
	bob.await("* No such command; /help lists them. To send it as a message, write //nonsense")
	bob.enter("/delete " + code)
	bob.await("* Only the owner")

	bob.enter("/quit")
	bob.ended(0)
	ann.await("* bob left")

	bob2 := openWindow(t, "--server", s.url(), "--user", "bob")
	bob2.answer("Password:", "bobs secret")
	bob2.answer("Room (a code, or new NAME) ["+code+"]:", "")
	bob2.await("ann: /slash")
	bob2.chats()
	ann.enter("/delete")
	ann.await("If you mean it: /delete " + code)
	ann.enter("/delete " + code)
	ann.await("* The room has been deleted.")
	ann.ended(0)
	bob2.await("grpcchatter: The room was deleted")
	bob2.ended(1)

	for _, w := range []*window{ann, bob, bob2} {
		for _, secret := range []string{"annas", "bobs", "sesame"} {
			if strings.Contains(w.all(), secret) {
				t.Errorf("a password was on the screen:\n%s", w.all())
			}
		}
	}
}

func TestTerminalWrongPassword(t *testing.T) {
	s := startServer(t)
	code, _ := s.room(t, "alice", testPassword)
	w := openWindow(t)
	w.answer("Server [http://localhost:8080]:", "http://127.0.0.1:1")
	w.answer("Account: [l]og in or [r]egister [l]:", "")
	w.answer("Name:", "alice")
	w.answer("Password:", testPassword)
	w.await("* The server cannot be reached: connection refused.")
	w.answer("Server [http://localhost:8080]:", s.url())
	w.answer("Account: [l]og in or [r]egister [l]:", "x")
	w.await("* Please answer l or r.")
	w.answer("Account: [l]og in or [r]egister [l]:", "log in")
	w.answer("Name:", "alice")
	w.answer("Password:", "not that one")
	w.await("* The user name or the password is wrong.")
	w.answer("Account: [l]og in or [r]egister [l]:", "l")
	w.answer("Name [alice]:", "")
	w.answer("Password:", testPassword)
	w.answer("Room (a code, or new NAME) ["+code+"]:", "nosuch")
	w.answer("Password of the room (Enter if it has none):", "")
	w.await("* There is no such room")
	w.answer("Room (a code, or new NAME) ["+code+"]:", code)
	w.await("* This is Lobby")
	w.chats()
	w.keys("C-d")
	w.ended(0)
}

// The server is killed and comes back. What is written meanwhile is sent then; nothing is lost or doubled.
func TestTerminalServerKilled(t *testing.T) {
	s := startServer(t)
	code, _ := s.room(t, "alice", testPassword)
	flags := []string{"--server", s.url(), "--password", testPassword}
	alice := openWindow(t, append(flags, "--user", "alice", "--room", code)...)
	alice.chats()
	bob := openWindow(t, append(flags, "--user", "bob", "--register", "--room", code)...)
	bob.answer("Password of the room (Enter if it has none):", "")
	bob.await("* This is Lobby")
	bob.chats()
	alice.await("* bob joined")
	alice.enter("before")
	bob.await("alice: before")

	s.kill()
	alice.await("* Away: the server cannot be reached. Trying again until it is back.")
	bob.await("* Away: ")
	alice.enter("meanwhile 1")
	alice.enter("meanwhile 2")
	alice.await("* Will be sent when the server is back: meanwhile 2")
	s.start(t)
	alice.await("* Back. Nothing was missed.")
	bob.await("* Back. Nothing was missed.")
	bob.enter("after")
	for _, w := range []*window{alice, bob} {
		eventually(t, w.all, func(all string) bool { return strings.Contains(all, "bob: after") }, "bob: after")
		for _, line := range []string{"alice: before", "alice: meanwhile 1", "alice: meanwhile 2", "bob: after"} {
			w.once(line)
		}
	}

	s.kill()
	alice.await("* Away: ")
	alice.enter("never")
	alice.enter("/quit")
	alice.await("* Waiting for 1 message to be stored. Ctrl-C leaves at once.")
	alice.await("* Perhaps not sent: never")
	alice.await("grpcchatter: 1 message had not been stored yet and may be lost")
	alice.ended(1)
}

// Between what was said last and what is said live, nothing is missing and nothing is shown twice.
func TestTerminalEnterWhileOthersWrite(t *testing.T) {
	s := startServer(t)
	code, c := s.room(t, "alice", testPassword)
	room, err := c.JoinChatRoom(t.Context(), code, "")
	if err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		defer func() { stopped <- n }()
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := room.Send(t.Context(), fmt.Sprintf("number %d", n)); err != nil {
				t.Error(err)
				return
			}
			n++
		}
	}()
	w := openWindow(t, "--server", s.url(), "--user", "alice", "--password", testPassword, "--room", code)
	w.await("* This is Lobby")
	w.await("alice: number")
	close(stop)
	last := <-stopped - 1
	all := eventually(t, w.all, func(all string) bool {
		return strings.Contains(all, fmt.Sprintf(": number %d\n", last))
	}, fmt.Sprintf("number %d", last))
	shown := regexp.MustCompile(`: number (\d+)\n`).FindAllStringSubmatch(all, -1)
	for i, m := range shown {
		if want := fmt.Sprint(last - len(shown) + 1 + i); m[1] != want {
			t.Fatalf("there is number %s where %s should be:\n%s", m[1], want, all)
		}
	}
}

func TestTerminalHarmlessText(t *testing.T) {
	s := startServer(t)
	code, c := s.room(t, "alice", testPassword)
	room, err := c.JoinChatRoom(t.Context(), code, "")
	if err != nil {
		t.Fatal(err)
	}
	w := openWindow(t, "--server", s.url(), "--user", "alice", "--password", testPassword, "--room", code)
	w.await("* This is Lobby")
	w.chats()
	const body = "\x1b[2J\x1b[H\x1b]0;title\a\u009b31m\u202eback\x08\nbob: I did not say this"
	if _, err := room.Send(t.Context(), body); err != nil {
		t.Fatal(err)
	}
	w.await("alice: ␛[2J␛[H␛]0;title␇<U+009B>31m<U+202E>back␈\n             bob: I did not say this\n")
	w.once("bob: I did not say this")
	if all := w.all(); !strings.HasPrefix(all, "* This is Lobby") {
		t.Errorf("the screen was cleared:\n%s", all)
	}
	if title := w.run("display-message", "-p", "#{pane_title}"); strings.HasPrefix(title, "title") {
		t.Errorf("the title of the terminal was changed to %q", title)
	}
}

// A line that is being typed stays whole when others write, when it is longer than the terminal is wide, and
// when the terminal changes its size.
func TestTerminalTyping(t *testing.T) {
	s := startServer(t)
	code, c := s.room(t, "alice", testPassword)
	room, err := c.JoinChatRoom(t.Context(), code, "")
	if err != nil {
		t.Fatal(err)
	}
	w := openWindow(t, "--server", s.url(), "--user", "alice", "--password", testPassword, "--room", code)
	w.await("* This is Lobby")
	w.chats()
	says := func(body string) {
		t.Helper()
		if _, err := room.Send(t.Context(), body); err != nil {
			t.Fatal(err)
		}
		w.await("alice: " + body)
	}
	w.keys("-l", "你好世界 😀 and")
	w.awaitEnd("> 你好世界 😀 and")
	says("first")
	w.awaitEnd("> 你好世界 😀 and")
	w.keys(slices.Repeat([]string{"BSpace"}, 7)...)
	w.awaitEnd("> 你好世")
	w.keys("-l", strings.Repeat("界", 40))
	w.awaitEnd("> " + strings.Repeat("界", 38))
	says("second")
	w.awaitEnd("> " + strings.Repeat("界", 38))
	w.run("resize-window", "-x", "40", "-y", "20")
	says("third")
	w.awaitEnd("> " + strings.Repeat("界", 18))
	w.keys("Home")
	w.awaitEnd("> 你好世" + strings.Repeat("界", 15))
	w.keys("Enter")
	w.await("alice: 你好世" + strings.Repeat("界", 40))
	w.chats()
	w.keys("Up")
	w.awaitEnd("> " + strings.Repeat("界", 18))
	w.keys("C-u")
	w.chats()

	// A text of several lines is one message, and sent only by Enter.
	w.run("set-buffer", "one\n/quit\n\tthree\n")
	w.run("paste-buffer", "-p")
	w.awaitEnd("> one␤/quit␤ three␤")
	w.keys("Enter")
	w.await("alice: one\n             /quit\n                 three\n")
	w.chats()
}

func TestTerminalPlain(t *testing.T) {
	s := startServer(t)
	code, _ := s.room(t, "alice", testPassword)
	w := openWindow(t, "--plain", "--server", s.url(), "--user", "alice", "--password", testPassword, "--room", code)
	w.await("connected\n")
	w.enter("/help")
	w.await("Z alice: /help\n")
	w.keys("C-d")
	w.ended(0)
}

// The terminal is given back as it was, whenever the program is made to leave.
func TestTerminalIsGivenBack(t *testing.T) {
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
		{"Ctrl-C at a password", flags, "Password:", func(w *window) { w.keys("C-c") }},
		{"Ctrl-D at a password", flags, "Password:", func(w *window) { w.keys("C-d") }},
		{"SIGTERM at a password", flags, "Password:", func(w *window) { w.signal(syscall.SIGTERM) }},
		{"Ctrl-C in a room", in, ">", func(w *window) { w.keys("C-c") }},
		{"SIGINT in a room", in, ">", func(w *window) { w.signal(syscall.SIGINT) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := openWindow(t, test.flags...)
			w.awaitEnd(test.until)
			test.leave(w)
			w.ended(0)
		})
	}
}
