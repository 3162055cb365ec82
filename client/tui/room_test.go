package tui

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"

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
