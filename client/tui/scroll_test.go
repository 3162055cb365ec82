package tui

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/charmbracelet/x/ansi"

	"github.com/grpcchatter/grpcchatter/client"
)

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
