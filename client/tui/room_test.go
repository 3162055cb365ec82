package tui

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/grpcchatter/grpcchatter/client"
)

// bodies are a room's items from above to below: a pending message has "…" before it, a note "·".
func bodies(r *room) string {
	var list []string
	for _, it := range append(append([]*item(nil), r.items...), r.pending...) {
		list = append(list, [...]string{"", "…", "·", "·"}[it.kind]+it.body)
	}
	return strings.Join(list, " ")
}

// Whatever comes first of what the room, its history and the acknowledgement say of messages, each is shown once, in order.
func TestRoomOrders(t *testing.T) {
	m := func(seq uint64, user, body string) client.Message {
		return client.Message{Seq: seq, UserName: user, Body: body, SentAt: time.Unix(int64(seq), 0)}
	}
	own := func(body string) *item { return &item{kind: pending, name: "ann", body: body} }
	for _, test := range []struct {
		name string
		do   func(r *room, it *item)
		want string
	}{
		{"acknowledged, then here", func(r *room, it *item) {
			r.confirmed(it, 3)
			r.add(m(3, "ann", "ok"), true, false)
		}, "one two ok"},
		{"here, then acknowledged", func(r *room, it *item) {
			r.add(m(3, "ann", "ok"), true, false)
			r.confirmed(it, 3)
		}, "one two ok"},
		{"somebody else says the same", func(r *room, it *item) {
			r.add(m(3, "bob", "ok"), false, false)
		}, "one two ok …ok"},
		{"the user has said the same before", func(r *room, it *item) {
			r.items, r.oldest = nil, 0
			r.prepend([]client.Message{m(1, "ann", "ok"), m(2, "bob", "two")}, 0, "ann")
		}, "ok two …ok"},
		{"on its way while the list says that it is there", func(r *room, it *item) {
			r.newest = 4
			r.add(m(3, "bob", "three"), false, false)
			r.add(m(4, "bob", "four"), false, false)
		}, "one two three four …ok"},
		{"twice", func(r *room, it *item) {
			r.add(m(2, "bob", "two"), false, false)
		}, "one two …ok"},
		{"a page of the history that is late", func(r *room, it *item) {
			r.prepend([]client.Message{m(1, "bob", "other")}, 7, "ann")
		}, "one two …ok"},
		{"a page of the end, and messages meanwhile", func(r *room, it *item) {
			r.items, r.oldest, r.last = nil, 0, 6
			r.add(m(7, "bob", "seven"), false, false)
			r.prepend([]client.Message{m(7, "bob", "seven"), m(8, "bob", "eight")}, 0, "ann") // was asked for before
			r.prepend([]client.Message{m(6, "bob", "six")}, r.oldest, "ann")
			if r.complete {
				t.Error("there is said to be nothing before 6")
			}
		}, "six seven …ok"},
		{"a note meanwhile", func(r *room, it *item) {
			r.note(time.Unix(9, 0), "note")
			r.add(m(3, "bob", "three"), false, false)
		}, "one two three …ok ·note"},
		{"a note, then acknowledged", func(r *room, it *item) {
			r.note(time.Unix(9, 0), "note")
			r.add(m(3, "ann", "ok"), true, false)
			r.confirmed(it, 3)
		}, "one two ok ·note"},
		{"given up", func(r *room, it *item) {
			r.note(time.Unix(9, 0), "note")
			if lost := r.giveUp(); len(lost) != 1 || lost[0] != it {
				t.Errorf("given up is %v", lost)
			}
		}, "one two ·note"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRoom("K7P2QX", "Lobby", "ann", 0)
			r.add(m(1, "bob", "one"), false, false)
			r.add(m(2, "bob", "two"), false, false)
			it := own("ok")
			r.pending, r.unsaved = []*item{it}, []*item{it}
			test.do(r, it)
			if got := bodies(r); got != test.want {
				t.Errorf("it shows %q, want %q", got, test.want)
			}
		})
	}
}

// What has not been seen is counted as such, and nothing else is: not by the user's other devices, nor after a restore.
func TestUnread(t *testing.T) {
	m := func(seq uint64, user, body string) client.Message {
		return client.Message{Seq: seq, UserName: user, Body: body, SentAt: time.Unix(int64(seq), 0)}
	}
	list := func(name string, last uint64) []client.ChatRoom {
		return []client.ChatRoom{{ShortCode: "A", Name: name, Owner: "ann", LastSeq: last}}
	}
	restore := func(a *app, r *room) {
		r.stop, r.mentions = func() {}, 1
		a.restart(r)
	}
	for _, test := range []struct {
		name string
		do   func(a *app, r *room)
		want string
	}{
		{"the first message", func(a *app, r *room) { a.received(r, m(1, "bob", "hi")) }, "1"},
		{"two, and who is meant", func(a *app, r *room) {
			a.received(r, m(1, "bob", "hi"))
			a.received(r, m(2, "bob", "hi ann"))
		}, "@2"},
		{"an answer from another device", func(a *app, r *room) {
			a.received(r, m(1, "bob", "hi ann"))
			a.received(r, m(2, "ann", "hi"))
			a.received(r, m(3, "bob", "again"))
		}, "1"},
		{"an own message from before the last one", func(a *app, r *room) {
			r.know(2)
			a.received(r, m(1, "ann", "hi"))
		}, "1"},
		{"the list knows of more", func(a *app, r *room) { a.merge(list("a", 3)) }, "3"},
		{"restored", restore, ""},
		{"restored, then a message", func(a *app, r *room) {
			a.received(r, m(700, "bob", "hi ann"))
			restore(a, r)
			a.received(r, m(501, "bob", "hi"))
		}, "1"},
		{"restored, then the list", func(a *app, r *room) {
			restore(a, r)
			a.merge(list("a", 500))
			a.received(r, m(501, "bob", "hi"))
		}, "1"},
		{"restored, then the history", func(a *app, r *room) {
			restore(a, r)
			r.prepend([]client.Message{m(500, "bob", "old")}, 0, "ann")
		}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := inLobby(t, "a")
			a.user = "ann"
			r := a.rooms[0]
			test.do(a, r)
			if got := badge(r.unread(), r.mentions); got != test.want {
				t.Errorf("the list says %q, want %q", got, test.want)
			}
		})
	}
}

// A room that has another name now stands at its place in the list, and so does one that comes after that.
func TestRoomRenamed(t *testing.T) {
	a := inLobby(t, "a", "b", "d")
	a.merge([]client.ChatRoom{{ShortCode: "A", Name: "z"}})
	a.add(newRoom("C", "c", "ann", 0))
	var names []string
	for _, r := range a.rooms {
		names = append(names, r.name)
	}
	if got := strings.Join(names, " "); got != "b c d z" {
		t.Errorf("the rooms are %s", got)
	}
}

// Rooms stand in the order of their names, and of the numbers in them.
func TestRoomOrder(t *testing.T) {
	for _, pair := range [][2]string{{"4", "39"}, {"Room 4", "room 39"}, {"a", "B"}, {"a", "a 1"}, {"a1b2", "a01b10"}, {"1", "a"}, {"", "a"}, {"a 0", "a 1"}, {"9", "é"}} {
		low, high := newRoom("B", pair[0], "", 0), newRoom("A", pair[1], "", 0)
		if byName(low, high) >= 0 || byName(high, low) <= 0 {
			t.Errorf("%q does not stand before %q", pair[0], pair[1])
		}
	}
}

// What the user wrote stands under the name as the server has it, whatever case it was given in at the log-in; and who is thrown
// out of an account hears that the password was right before.
func TestNameAndPassword(t *testing.T) {
	s := startServer(t)
	_, ann := s.room(t, "ann", testPassword)
	c, err := client.New(s.url())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Login(t.Context(), "ANN", testPassword); err != nil {
		t.Fatal(err)
	}
	a, run := alive(t, c)
	a.lookPause = 10 * time.Millisecond
	a.begin()
	run("the room", func() bool { return a.here.live != nil })
	a.say("mine")
	if name := a.here.pending[0].name; name != "ann" {
		t.Errorf("what is pending stands under %q", name)
	}
	run("the message", func() bool { return a.here.index(1) >= 0 })
	s.rest(t, ann, http.MethodPost, "/account/password", map[string]string{"password": testPassword, "new_password": "another " + testPassword})
	run("the form", func() bool { return a.form != nil })
	if !strings.HasPrefix(a.form.problem, "You have been logged out: your password has been changed") {
		t.Errorf("it says %q", a.form.problem)
	}
}

// A room that is not open is told to be over by the list alone; one that is being joined hears of it otherwise.
func TestRoomUnlisted(t *testing.T) {
	a := inLobby(t, "a", "b", "c")
	a.find("B").joining = false
	a.merge([]client.ChatRoom{{ShortCode: "A", Name: "a"}})
	if len(a.rooms) != 2 || a.find("B") != nil || bodies(a.here) != "·You are no longer a member of b (B)." {
		t.Errorf("there are %d rooms, and it is said %q", len(a.rooms), bodies(a.here))
	}
}

// A message that is written after a restore is none of those that are given up by it.
func TestOutboxAfterRestore(t *testing.T) {
	a := inLobby(t, "a")
	a.show(a.rooms[0])
	r := a.here
	a.say("before")
	ctx, stop := context.WithCancel(t.Context())
	r.stop = stop
	before := r.outbox
	a.restart(r)
	a.say("after")
	for range 100 { // as what ran until then may still do; it may take something each time
		a.send(ctx, r, before, nil)
	}
	if len(r.outbox) != 1 || len(r.unsaved) != 1 || fmt.Sprint(a.leftBehind()) != "[before after]" {
		t.Errorf("there are %d messages to send of %d; given up would be %v", len(r.outbox), len(r.unsaved), a.leftBehind())
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

// While a room is looked at further up, nothing moves: not by new messages, pending ones, more of the history, nor a resize there
// and back. What can be seen is always as high as the pane if there is enough.
func TestScrollHolds(t *testing.T) {
	for seed := range uint64(60) {
		random := rand.New(rand.NewPCG(seed, 0))
		a := chatting(t, 60, 20, 50+random.IntN(100))
		r := a.here
		oldest := uint64(1000)
		for _, it := range r.items { // there is a history before them
			it.seq += oldest
		}
		r.oldest, r.last, r.newest = oldest+1, oldest+uint64(len(r.items)), oldest+uint64(len(r.items))
		visible := func() string {
			rows, _ := a.pane().visible()
			return strings.Join(rows, "\n")
		}
		for range random.IntN(3) {
			it := &item{kind: pending, name: "ann", body: "pending", at: time.Unix(2e9, 0)}
			r.pending, r.unsaved = append(r.pending, it), append(r.unsaved, it)
		}
		a.pane().up(1 + random.IntN(60))
		for range 20 {
			before := visible()
			switch random.IntN(6) {
			case 0:
				r.add(client.Message{Seq: r.last + 1, UserName: "bob", Body: "new", SentAt: time.Unix(2e9, 0)}, false, false)
			case 1:
				first := r.oldest - 3
				r.prepend([]client.Message{message(int(first)), message(int(first + 1)), message(int(first + 2))}, r.oldest, "ann")
				// What stands above the first message may change with what comes before it.
				if strings.Contains(before, "─") {
					before = visible()
				}
			case 2:
				width := 30 + random.IntN(80)
				a.width = width
				_ = visible()
				a.width = 60
			case 3:
				a.pane().up(random.IntN(30))
				before = visible()
			case 4:
				a.pane().down(random.IntN(10))
				before = visible()
			case 5:
				if len(r.pending) > 0 {
					r.add(client.Message{Seq: r.last + 1, UserName: "ann", Body: "pending", SentAt: time.Unix(2e9, 0)}, true, false)
					before = visible() // it is shown otherwise than before
				}
			}
			if r.scroll.item >= a.pane().len() {
				t.Fatalf("seed %d: it is held at item %d of %d", seed, r.scroll.item, a.pane().len())
			}
			after := visible()
			if !r.scroll.held {
				a.pane().up(1 + random.IntN(30))
				continue
			}
			if len(r.pending) == 0 && after != before {
				t.Fatalf("seed %d: it has moved from\n%s\nto\n%s", seed, before, after)
			}
			if rows := strings.Count(after, "\n") + 1; rows != a.measure().body {
				t.Fatalf("seed %d: %d rows of %d are shown", seed, rows, a.measure().body)
			}
		}
	}
}

func TestMentions(t *testing.T) {
	for text, want := range map[string]bool{
		"ann": true, "hello Ann!": true, "@ann": true, "ann: hi": true, "ask ann.": true, "ann's": true, "(ann)": true, "ann\n": true,
		"anna": false, "mary-ann": false, "joann": false, "ann-marie": false, "ann.b": false, "ann_": false, "": false, "an n": false,
		"anna and ann": true, "annann": false, "ann-": true, "-ann": true, "你好ann": false,
	} {
		if got := mentions(text, "ann"); got != want {
			t.Errorf("mentions(%q) = %v", text, got)
		}
	}
	if mentions("anything", "") {
		t.Error("nobody is mentioned")
	}
}

// A message at the lower edge stays there when it is stored: the view jumped to the end, and then followed it while it said that
// it did not. Where nothing is hidden any more, it follows.
func TestScrollPending(t *testing.T) {
	const body = "line1\nline2\nline3\nline4\nline5\nline6"
	mine := func(seq uint64, body string) client.Message {
		return client.Message{Seq: seq, UserName: "ann", Body: body, SentAt: time.Unix(2e9, 0)}
	}
	theirs := client.Message{Seq: 31, UserName: "bob", Body: "new", SentAt: time.Unix(2e9, 0)}
	for _, test := range []struct {
		name       string
		do         func(r *room, it *item)
		last       string // the row that stands last
		held, more bool
		fresh      int
	}{
		{"stored", func(r *room, it *item) { r.add(mine(31, body), true, false) }, "line3", true, false, 0},
		{"confirmed, then stored", func(r *room, it *item) { r.confirmed(it, 31); r.add(mine(31, body), true, false) }, "line3", true, false, 0},
		{"stored behind another", func(r *room, it *item) { r.add(theirs, false, false); r.add(mine(32, body), true, false) }, "line3", true, false, 1},
		{"stored before another own one", func(r *room, it *item) { r.add(mine(31, body), true, false) }, "line3", true, true, 0},
		{"with the history", func(r *room, it *item) {
			r.items, r.oldest, r.last = nil, 0, 0
			r.scroll.item = 0
			r.confirmed(it, 31)
			r.prepend([]client.Message{mine(30, "thirty"), mine(31, body)}, 0, "ann")
		}, "line3", true, false, 0},
		{"not stored", func(r *room, it *item) { r.forget(it) }, "30", false, false, 0},
		{"not stored, before another own one", func(r *room, it *item) { r.forget(it) }, "30", true, true, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := chatting(t, 60, 14, 0)
			r := a.here
			for i := range 30 {
				r.add(mine(uint64(i+1), fmt.Sprint(i+1)), true, false)
			}
			a.say(body)
			it := r.pending[0]
			if test.more {
				a.say("another")
			}
			rows := 3
			if test.more {
				rows++
			}
			a.pane().up(rows)
			test.do(r, it)
			shown, _ := a.pane().visible()
			if last := ansi.Strip(shown[len(shown)-1]); !strings.HasSuffix(last, test.last) {
				t.Errorf("what stands last is %q, want %q", last, test.last)
			}
			if s := r.scroll; s.held != test.held || s.fresh != test.fresh || s.item >= a.pane().len() {
				t.Errorf("it is held: %v, with %d new, at item %d of %d", s.held, s.fresh, s.item, a.pane().len())
			}
		})
	}
}

// Two clients of one user, and one of another, lose nothing of each other.
func TestMemoryOfTwo(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "made", "when needed")
	one, two := recall(folder), recall(folder)
	save := func(m *memory, user string, rooms map[string]remembered) {
		t.Helper()
		if err := m.save("http://a", user, rooms); err != nil {
			t.Fatal(err)
		}
	}
	save(one, "ann", map[string]remembered{"A": {Read: 5}, "B": {Read: 1}})
	save(two, "bob", map[string]remembered{"A": {Read: 7}})
	save(two, "ANN", map[string]remembered{"A": {Read: 3}, "B": {Read: 2, Open: true}})
	save(one, "ann", nil)
	if got := fmt.Sprint(recall(folder).rooms("http://a", "Ann")); got != "map[A:{5 false  false } B:{2 true  false }]" {
		t.Errorf("ann's rooms are %s", got)
	}
	if got := recall(folder).rooms("http://a", "bob")["A"].Read; got != 7 {
		t.Errorf("bob has read up to %d", got)
	}
	save(one, "ann", map[string]remembered{"A": {Read: 1, anew: true}})
	if got := recall(folder).rooms("http://a", "ann")["A"].Read; got != 1 {
		t.Errorf("after a restore ann has read up to %d", got)
	}

	token := savedToken{"http://a", "ann", "secret"}
	if err := one.keep(token); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(one.forget("http://a", "bob"), one.forget("http://b", "ann")); err != nil || one.token != token || recall(folder).token != token {
		t.Errorf("the token of another account is gone: %v", err)
	}
	if err := recall(folder).forget("http://a/", "Ann"); err != nil {
		t.Fatal(err)
	}
	if err := one.keep(token); err != nil || recall(folder).token != (savedToken{}) {
		t.Errorf("a token that another client has removed came back, %v", err)
	}
	for _, name := range []string{memoryFile, tokenFile} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte("[]{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	save(recall(folder), "ann", map[string]remembered{"A": {Read: 9}})
	if got := recall(folder).rooms("http://a", "ann")["A"].Read; got != 9 {
		t.Errorf("after a file that makes no sense ann has read up to %d", got)
	}
}

// What is being written is there again at the next start, and is nobody else's; two clients do not bring back what one has sent.
func TestDraftsRemembered(t *testing.T) {
	folder := t.TempDir()
	list := []client.ChatRoom{{ShortCode: "A", Name: "a"}, {ShortCode: "B", Name: "b"}}
	start := func() *app {
		a := inLobby(t)
		a.server, a.user, a.listed, a.memory = "http://a", "ann", true, recall(folder)
		a.merge(list)
		a.show(a.rooms[0])
		return a
	}
	drafts := func(a *app) string { return fmt.Sprintf("%q", []string{a.draft(a.rooms[0]), a.draft(a.rooms[1])}) }
	first := start()
	first.input.set("in a")
	first.step(1)
	first.input.set("in\nb")
	first.remember()
	one, two := start(), start()
	if got := drafts(one); got != `["in a" "in\nb"]` {
		t.Errorf("after the start the drafts are %s", got)
	}
	one.input.take() // it has been sent
	one.remember()
	two.step(1)
	two.input.set("in b, and more")
	two.remember()
	one.remember()
	if got := drafts(start()); got != `["" "in b, and more"]` {
		t.Errorf("after two clients the drafts are %s", got)
	}
	if two.unkept() != nil {
		t.Error("what is remembered is said to be lost")
	}
	two.memory.folder = ""
	if got := fmt.Sprint(two.unkept()); got != "[a: in a b: in b, and more]" {
		t.Errorf("with no folder there are %s", got)
	}
	three := start()
	three.logoutCommand("")
	if got := drafts(start()); got != `["" ""]` {
		t.Errorf("after /logout the drafts are %s", got)
	}
	if three.input.recall(three.input.at - 1); three.input.value() != "in b, and more" {
		t.Errorf("after /logout Up brings back %q", three.input.value())
	}
}

// Nobody waits in a feed that is over, and all that was posted before is taken in its order.
func TestFeed(t *testing.T) {
	f := newFeed()
	taken := make(chan []func(), 1)
	f.send = func(tea.Msg) { taken <- f.take() }
	var got []int
	const events = maxEvents + 100
	go func() {
		for i := range events {
			f.post(func() { got = append(got, i) })
		}
	}()
	for len(got) < events {
		for _, event := range <-taken {
			event()
		}
	}
	for i, n := range got {
		if i != n {
			t.Fatalf("event %d is number %d", n, i)
		}
	}
	f.send = func(tea.Msg) {}
	over := make(chan struct{})
	go func() {
		defer close(over)
		for range 2 * maxEvents {
			f.post(func() {})
		}
	}()
	time.Sleep(10 * time.Millisecond)
	f.close()
	<-over
}

// A row does not begin with what belongs to the letter before: an accent of its own went to the next row, and stood nowhere.
func TestWrapKeepsAccents(t *testing.T) {
	for _, text := range []string{strings.Repeat("e\u0301", 50), strings.Repeat("word e\u0301e\u0301 ", 20), strings.Repeat("❤\uFE0F", 30), "  " + strings.Repeat("a\u0301\u0323", 40)} {
		for width := 8; width < 24; width++ {
			p := &pane{width: width}
			rows := p.wrap(text)
			for _, row := range rows {
				if trimmed := strings.TrimLeft(row, " "); trimmed != strings.TrimLeftFunc(trimmed, joins) || trimmed == "" || cells.StringWidth(row) > width-2 {
					t.Fatalf("in %d columns %q has the row %q", width, text, row)
				}
			}
			whole := func(s string) string { return strings.ReplaceAll(s, " ", "") }
			if got := whole(strings.Join(rows, "")); got != whole(text) {
				t.Fatalf("in %d columns %q becomes %q", width, text, got)
			}
		}
	}
}
