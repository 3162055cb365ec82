package tui

import (
	"context"
	"errors"
	"time"

	"github.com/charmbracelet/x/ansi"

	"github.com/grpcchatter/grpcchatter/client"
)

// hintPause is the least time between two hints that one types.
const hintPause = 2 * time.Second

// say sends a message to the room that is shown.
func (a *app) say(body string) {
	r := a.here
	if r.code == "" {
		a.note("Here is nobody to read it: /join CODE or /create NAME first. Up brings the text back.")
		return
	}
	it := &item{kind: pending, name: a.user, body: body, at: time.Now()}
	if len(r.unsaved) >= maxPending {
		a.note("Not sent: %s are waiting already. Up brings the text back.", count(maxPending, "message"))
		return
	}
	r.outbox <- it // it has room for all that are unsaved
	r.pending, r.unsaved = append(r.pending, it), append(r.unsaved, it)
	r.unreadLine, r.hinted, a.warned = 0, time.Time{}, false
	r.scroll.toEnd()
}

// send sends what is put into a room's outbox of now, in its order.
func (a *app) send(ctx context.Context, r *room, outbox <-chan *item, live *client.Room) {
	for {
		select {
		case it := <-outbox:
			if ctx.Err() != nil { // it has been given up, with all that waited
				return
			}
			stored, err := live.Queue(ctx, it.body)
			if err != nil {
				stored = func() (uint64, error) { return 0, err }
			}
			a.others.Go(func() {
				seq, err := stored()
				a.feed.post(func() { a.sent(r, it, seq, err) })
			})
		case <-ctx.Done():
			return
		}
	}
}

// sent takes what became of a pending message. One whose room is over stays pending: see over.
func (a *app) sent(r *room, it *item, seq uint64, err error) {
	switch {
	case err == nil:
		r.confirmed(it, seq)
	case errors.Is(err, client.ErrRejected):
		r.forget(it)
		where := ""
		if r != a.here {
			where = " to " + r.name
		}
		a.note("Not sent%s: %s. Up brings it back: %s", where, sentence(err), ansi.Truncate(screenLine(it.body), 60, "…"))
	}
}

// typing tells the others that the user writes.
func (a *app) typing() {
	r, now := a.here, time.Now()
	text := a.input.value()
	if r.live == nil || text == "" || text[0] == '/' || now.Sub(r.hinted) < hintPause {
		return
	}
	r.hinted = now
	_ = r.live.Typing(a.ctx) // a hint that is lost is no loss
}

// lose tells of messages of a room that are given up, where it is seen, and when the program ends.
func (a *app) lose(r *room, unsaved []*item) {
	for _, it := range unsaved {
		a.lost = append(a.lost, it.body)
		a.note("Perhaps not sent to %s: %s", r.name, it.body)
	}
}

// waiting is how many messages are not stored yet.
func (a *app) waiting() int {
	n := 0
	for _, r := range a.rooms {
		n += len(r.unsaved)
	}
	return n
}

// leftBehind are the messages that are not stored.
func (a *app) leftBehind() []string {
	bodies := a.lost
	for _, r := range a.rooms {
		for _, it := range r.unsaved {
			bodies = append(bodies, it.body)
		}
	}
	return bodies
}
