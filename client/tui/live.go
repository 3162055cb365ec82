package tui

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/grpcchatter/grpcchatter/client"
)

// receive posts every message of the room, and at last why there are no more.
func (ch *chat) receive(ctx context.Context) {
	for m, err := range ch.room.Messages(ctx) {
		ch.post(func() {
			if err != nil {
				ch.over = err
				return
			}
			ch.show(m)
		})
	}
}

// send sends what is put into bodies, one message after the other.
func (ch *chat) send(ctx context.Context) {
	for {
		select {
		case body := <-ch.bodies:
			_, err := ch.room.Send(ctx, body)
			ch.post(func() { ch.sent(err) })
		case <-ctx.Done():
			return
		}
	}
}

// say sends a message. It is shown when it comes back as part of the room.
func (ch *chat) say(body string) {
	select {
	case ch.bodies <- body:
		ch.unsent = append(ch.unsent, body)
	default:
		ch.s.note("Not sent: too many messages are waiting already. Up brings the text back.")
		return
	}
	if ch.link.away {
		ch.s.note("Will be sent when the server is back: %s", body)
	}
}

// sent takes the answer for the oldest message that was not acknowledged.
func (ch *chat) sent(err error) {
	if err != nil && !errors.Is(err, client.ErrRejected) {
		return // the room is over, and receive says why
	}
	ch.unsent = ch.unsent[1:]
	if err != nil {
		ch.s.note("Not sent: %s. Up brings the text back.", sentence(err))
	}
}

func (ch *chat) stateChanged(state client.ConnState, cause error) {
	switch ch.link.change(state) {
	case "away":
		ch.s.note("Away: %s. Trying again until it is back.", sentence(cause))
	case "back":
		ch.s.note("Back. Nothing was missed.")
	}
}

// happened shows who comes and goes; not the user's own coming, nor on another device.
func (ch *chat) happened(e client.Event) {
	if strings.EqualFold(e.UserName, ch.c.UserName()) {
		return
	}
	switch e.Kind {
	case client.UserJoined:
		ch.s.note("%s joined", e.UserName)
	case client.UserLeft:
		ch.s.note("%s left", e.UserName)
	}
}

// show shows the room's next message, unless it is on the screen already.
func (ch *chat) show(m client.Message) {
	if m.Seq <= ch.newest {
		return
	}
	ch.newest = m.Seq
	if ch.oldest == 0 {
		ch.oldest = m.Seq
	}
	ch.print(m, &ch.day)
}

// print prints a message, with the date before it when the day is another one.
func (ch *chat) print(m client.Message, day *string) {
	if d := dayOf(m.SentAt); d != *day {
		*day = d
		ch.s.print(dim("--- " + d + " ---"))
	}
	at, name := m.SentAt.Local().Format("15:04"), screenLine(m.UserName)
	ch.s.print(dim(at) + " " + bold(name+":") + " " + screenText(m.Body, columns(at+" "+name+": ")))
}

func dayOf(t time.Time) string { return t.Local().Format("Monday, 2 January 2006") }
