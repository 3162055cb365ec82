package tui

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/grpcchatter/grpcchatter/client"
)

// A room that is not open is told to be over by the list alone; one that is being joined hears of it otherwise.
func TestRoomUnlisted(t *testing.T) {
	a := inLobby(t, "a", "b", "c")
	a.find("B").joining = false
	a.merge([]client.ChatRoom{{ShortCode: "A", Name: "a"}})
	if len(a.rooms) != 2 || a.find("B") != nil || bodies(a.here) != "·You are no longer a member of b (B)." {
		t.Errorf("there are %d rooms, and it is said %q", len(a.rooms), bodies(a.here))
	}
}

// After a restore a room is gone on with by its members alone: joining would make one a member anew who is none any more,
// where no password is asked for.
func TestReadmit(t *testing.T) {
	s := startServer(t)
	code, _ := s.room(t, "ann", testPassword)
	bob := account(t, s, "bob")
	for _, member := range []bool{true, false} {
		joined(t, bob, code).Disconnect()
		if !member {
			if err := bob.LeaveChatRoom(t.Context(), code); err != nil {
				t.Fatal(err)
			}
		}
		a := inLobby(t, code)
		a.c = bob
		fed := make(chan []func(), 10)
		a.feed.send = func(tea.Msg) { fed <- a.feed.take() }
		r := a.rooms[0]
		r.stop = func() {}
		a.restart(r)
		for r.live == nil && !r.gone {
			for _, event := range <-fed {
				event()
			}
		}
		if member != (r.live != nil) || member == r.gone {
			t.Errorf("a member: %v, connected: %v, dropped: %v", member, r.live != nil, r.gone)
		}
		if list, err := bob.ListChatRooms(t.Context()); err != nil || member != (len(list) == 1) {
			t.Errorf("bob is in %v, %v", list, err)
		}
		if live := r.live; live != nil {
			r.leave()
			live.Disconnect()
		}
		a.feed.close()
		a.others.Wait()
	}
}

// A room that could not be joined at first is joined later by its members alone, as one that had not been joined yet when it is
// shown: whoever had been removed meanwhile was a member again.
func TestConnectLooksFirst(t *testing.T) {
	s := startServer(t)
	code, _ := s.room(t, "ann", testPassword)
	for _, test := range []struct {
		name   string
		member bool
		away   bool
	}{{"ann", true, true}, {"bob", false, true}, {"dan", false, false}} {
		t.Run(test.name, func(t *testing.T) {
			var c *client.Client
			if test.name == "ann" {
				_, c = s.room(t, "eve", testPassword)
			} else {
				c = account(t, s, test.name)
			}
			joined(t, c, code).Disconnect()
			a, run := alive(t, c)
			r := newRoom(code, "Lobby", "ann", 0)
			a.add(r)
			if test.away {
				s.kill()
				a.admit(r)
				run("a failure", func() bool { return r.away != nil })
				s.start(t)
			}
			if !test.member {
				if err := c.LeaveChatRoom(t.Context(), code); err != nil {
					t.Fatal(err)
				}
			}
			a.show(r)
			run("an end", func() bool { return r.live != nil || r.gone })
			if test.member != (r.live != nil) {
				t.Errorf("connected: %v", r.live != nil)
			}
			list, err := c.ListChatRooms(t.Context())
			if err != nil || test.member != slices.ContainsFunc(list, func(info client.ChatRoom) bool { return info.ShortCode == code }) {
				t.Errorf("%s is in %v, %v", test.name, list, err)
			}
		})
	}
}

// What the same user does on another device arrives: rooms that are new or have another name.
func TestRoomsChangeElsewhere(t *testing.T) {
	s := startServer(t)
	code, c := s.room(t, "ann", testPassword)
	bob := account(t, s, "bob")
	joined(t, bob, code)
	a, run := alive(t, bob)
	a.lookPause = 10 * time.Millisecond
	a.begin()
	run("the first room", func() bool { return a.here.live != nil })

	s.rest(t, c, http.MethodPatch, "/rooms/"+code, map[string]string{"room_name": "Another name"})
	run("the other name", func() bool { return a.here.name == "Another name" })

	other, err := c.CreateChatRoom(t.Context(), "New", "")
	if err != nil {
		t.Fatal(err)
	}
	joined(t, bob, other)
	var r *room
	run("the new room", func() bool { r = a.find(other); return r != nil && r.live != nil })
	says(t, joined(t, c, other), "hello bob")
	run("its message", func() bool { return badge(r.unread(), r.mentions) == "@1" })
	http.DefaultClient.CloseIdleConnections()
}

// Who is not known to the server any more hears of it, whatever was asked for: the history stopped as if it began there, under
// "connected", and was asked for every two seconds.
func TestTokenEnds(t *testing.T) {
	s := startServer(t)
	code, c := s.room(t, "ann", testPassword)
	says(t, joined(t, c, code), "hello")
	for _, test := range []struct {
		name string
		ask  func(a *app, r *room)
	}{
		{"history", func(a *app, r *room) { a.fill() }},
		{"users", func(a *app, r *room) { a.attend(r) }},
		{"rooms", func(a *app, r *room) { a.look() }},
	} {
		t.Run(test.name, func(t *testing.T) {
			byToken, err := client.New(s.url())
			if err != nil {
				t.Fatal(err)
			}
			a, run := alive(t, byToken)
			if _, err := byToken.LoginWithToken(t.Context(), c.Token()); err != nil {
				t.Fatal(err)
			}
			r := newRoom(code, "Lobby", "ann", 0)
			r.live, r.stop = joined(t, byToken, code), func() {}
			a.add(r)
			a.here = r
			s.rest(t, c, http.MethodPost, "/account/password", map[string]string{"password": testPassword, "new_password": testPassword})
			if err := c.Login(t.Context(), "ann", testPassword); err != nil {
				t.Fatal(err)
			}
			test.ask(a, r)
			run("the form", func() bool { return a.form != nil })
			if !strings.Contains(strings.ToLower(a.form.problem), "token") {
				t.Errorf("it says %q", a.form.problem)
			}
		})
	}
}

// When rooms are back, it is looked once for what has changed meanwhile.
func TestRoomsChangeWhileAway(t *testing.T) {
	s := startServer(t)
	code, c := s.room(t, "ann", testPassword)
	a, run := alive(t, c)
	for _, r := range []*room{newRoom(code, "Old name", "ann", 0), newRoom("OTHER", "", "ann", 0)} {
		r.joining, r.link = true, link{opened: true, away: true}
		a.add(r)
		a.stateChanged(r, client.Connected, nil)
	}
	if n := len(a.cmds); n != 1 {
		t.Errorf("it looks %d times", n)
	}
	run("the other name", func() bool { return a.find(code).name == "Lobby" })
}

// A list that was asked for before a room was left does not bring it back.
func TestListIsLate(t *testing.T) {
	s := startServer(t)
	code, _ := s.room(t, "ann", testPassword)
	bob := account(t, s, "bob")
	joined(t, bob, code).Disconnect()
	a, run := alive(t, bob)
	r := newRoom(code, "Lobby", "ann", 0)
	a.add(r)
	r.joining = true
	a.roomsCommand("")
	a.others.Wait() // the answer has come, but has not been looked at
	if err := bob.LeaveChatRoom(t.Context(), code); err != nil {
		t.Fatal(err)
	}
	a.drop(r, "left")
	run("the list", func() bool { return strings.Contains(bodies(a.here), "You are in no room") || a.find(code) != nil })
	if a.find(code) != nil {
		t.Error("the room is back")
	}
}

// However often a room is shown that cannot be joined, it is tried again by one timer; which waits as the server says.
func TestConnectAgain(t *testing.T) {
	a := inLobby(t, "a", "b")
	fed := make(chan []func(), 1)
	a.feed.send = func(tea.Msg) { fed <- a.feed.take() }
	r := a.rooms[0]
	r.joining = false
	a.show(r)
	for r.away == nil {
		for _, event := range <-fed {
			event()
		}
	}
	a.step(1)
	a.step(1)
	a.merge(nil)
	if n := len(a.take()); n != 1 || a.here != r {
		t.Errorf("%d timers are to try again", n)
	}
	a.others.Wait()
	if late := a.feed.take(); len(late) > 0 {
		t.Error("it was tried once more")
	}
	select {
	case <-fed:
		t.Error("it was tried once more")
	default:
	}
	for err, want := range map[error]time.Duration{
		io.EOF: retryPause, &client.Error{RetryAfter: time.Second}: retryPause, &client.Error{RetryAfter: time.Minute}: time.Minute,
	} {
		if got := pauseAfter(err); got != want {
			t.Errorf("after %v it waits for %v", err, got)
		}
	}
}
