package tui

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/grpcchatter/grpcchatter/client"
)

const (
	// historyPage is how many messages of the history are asked for at a time.
	historyPage = 100
	// retryPause is how long to wait before asking again what was not answered, at least.
	retryPause = 2 * time.Second
)

// pauseAfter is how long to wait before asking again what failed with err: longer than retryPause where the server says so.
func pauseAfter(err error) time.Duration {
	if e, ok := errors.AsType[*client.Error](err); ok {
		return max(retryPause, e.RetryAfter)
	}
	return retryPause
}

// add puts a room into the list.
func (a *app) add(r *room) {
	i, _ := slices.BinarySearchFunc(a.rooms, r, byName)
	a.rooms = slices.Insert(a.rooms, i, r)
}

// find returns the room of a code: of the list, or one that is being entered.
func (a *app) find(code string) *room {
	for _, list := range [][]*room{a.rooms, a.entering} {
		for _, r := range list {
			if strings.EqualFold(r.code, code) {
				return r
			}
		}
	}
	return nil
}

// show makes a room the one that is looked at. What is being written stays with the room before, but not in the lobby, to
// which no key leads back.
func (a *app) show(r *room) {
	if r != a.here && a.here != a.lobby {
		a.here.draft = a.input.take()
	}
	a.enterRoom(r)
}

// enterRoom makes a room the one that is looked at, and takes along what is being written.
func (a *app) enterRoom(r *room) {
	if r == a.here {
		return
	}
	a.here.unreadLine, a.here.seek = 0, 0
	a.here = r
	if a.input.value() == "" {
		a.input.load(r.draft)
	} else {
		a.input.keep(r.draft)
	}
	r.draft = ""
	r.enter()
	a.connect(r)
}

// step goes to the room n places further down the list.
func (a *app) step(n int) {
	if len(a.rooms) == 0 {
		return
	}
	i := slices.Index(a.rooms, a.here)
	if i < 0 && n < 0 { // from the lobby, which stands before the first
		i = 0
	}
	a.show(a.rooms[(i+n+len(a.rooms))%len(a.rooms)])
}

func (a *app) nextUnread() {
	at := slices.Index(a.rooms, a.here) + 1
	for i := range a.rooms {
		if r := a.rooms[(at+i)%len(a.rooms)]; r != a.here && r.unread() > 0 {
			a.show(r)
			return
		}
	}
}

// connect joins a room that the user is a member of, if that has not been done, until it is.
func (a *app) connect(r *room) {
	if r.code != "" && r.live == nil && !r.joining && !r.gone {
		a.readmit(r)
	}
}

// readmit connects a room if the user is a member of it still. Joining alone would make the user one, where no password is asked
// for. The list is asked for once for all the rooms that wait for it.
func (a *app) readmit(r *room) {
	r.joining = true // until it is: whoever shows the room meanwhile is not to begin once more
	a.waitList = append(a.waitList, r)
	if len(a.waitList) > 1 {
		return
	}
	a.askRooms(func(list []client.ChatRoom, err error) {
		waiting := a.waitList
		a.waitList = nil
		if a.ended(err) {
			return
		}
		for _, r := range waiting {
			switch {
			case r.gone:
			case err != nil:
				a.readmitLater(r, err)
			case !listed(list, r):
				a.dropUnlisted(r)
			default:
				a.admit(r)
			}
		}
	})
}

func (a *app) readmitLater(r *room, err error) {
	r.away, r.joining = err, true
	a.later(pauseAfter(err), func() { a.readmit(r) })
}

// admit joins a room of a list that has just come.
func (a *app) admit(r *room) {
	a.open(r, "", func(err error) {
		switch {
		case err == nil, a.ended(err):
		case isDenied(err):
			a.drop(r, "You can no longer enter %s (%s).", r.name, r.code)
		default:
			a.readmitLater(r, err)
		}
	})
}

// listed reports whether a room is one of a list.
func listed(list []client.ChatRoom, r *room) bool {
	return slices.ContainsFunc(list, func(info client.ChatRoom) bool { return info.ShortCode == r.code })
}

func (a *app) dropUnlisted(r *room) {
	a.drop(r, "You are no longer a member of %s (%s).", r.name, r.code)
}

// open joins a room and lets it bring what it has.
func (a *app) open(r *room, password string, done func(error)) {
	var live *client.Room
	r.joining = true
	a.call(func(ctx context.Context, c *client.Client) (err error) {
		live, err = c.JoinChatRoom(ctx, r.code, password,
			client.OnState(func(state client.ConnState, err error) {
				a.feed.post(func() { a.stateChanged(r, state, err) })
			}),
			client.OnEvent(func(e client.Event) {
				a.feed.post(func() { a.happened(r, e) })
			}))
		return err
	}, func(err error) {
		r.joining = false
		if r.gone {
			if err == nil {
				a.others.Go(func() { live.Disconnect() })
			}
			return
		}
		if err == nil {
			ctx, stop := context.WithCancel(a.ctx)
			r.live, r.stop = live, stop
			if !r.link.away {
				r.away = nil
			}
			a.others.Go(func() { a.receive(ctx, r, live) })
			outbox := r.outbox
			a.others.Go(func() { a.send(ctx, r, outbox, live) })
			a.attend(r)
		}
		done(err)
	})
}

// attend asks who is present in a room until that is known. While the room is away it does not: it is asked again when it
// is back.
func (a *app) attend(r *room) {
	live := r.live
	a.meet(r, func(err error) {
		if err == nil || a.ended(err) {
			return
		}
		a.later(pauseAfter(err), func() {
			if r.live == live && !r.link.away {
				a.attend(r)
			}
		})
	})
}

// meet asks who is present in a room, and again, after a moment, if somebody came or went meanwhile.
func (a *app) meet(r *room, done func(error)) {
	live, moves := r.live, r.moves
	if live == nil {
		return
	}
	var present []string
	a.call(func(ctx context.Context, _ *client.Client) (err error) {
		present, err = live.ListChatRoomUsers(ctx)
		return err
	}, func(err error) {
		switch {
		case r.live != live:
			return
		case err == nil && r.moves != moves:
			a.later(time.Second, func() { a.meet(r, done) })
			return
		case err == nil:
			r.present = present
			for _, name := range present {
				a.isCalled(name)
			}
		}
		done(err)
	})
}

// receive hands over every message of a room, and at last why there are no more.
func (a *app) receive(ctx context.Context, r *room, live *client.Room) {
	for m, err := range live.Messages(ctx) {
		a.feed.post(func() {
			switch {
			case r.live != live:
			case err != nil:
				a.over(r, err)
			default:
				a.received(r, m)
			}
		})
	}
}

func (a *app) received(r *room, m client.Message) {
	a.isCalled(m.UserName)
	mine := m.UserName == a.user
	mention := !mine && mentions(m.Body, a.user)
	if !r.add(m, mine, mention) {
		return
	}
	if mention {
		r.mentions++
		a.notify(r, m)
	}
	if a.blurred && r == a.here && r.unreadLine == 0 && !mine {
		r.unreadLine = m.Seq
	}
}

func (a *app) notify(r *room, m client.Message) {
	if now := time.Now(); now.Sub(a.notified) >= notifyPause {
		a.notified = now
		a.display.write(notification(a.o.Notify, "grpcchatter: "+m.UserName+" in "+r.name+": "+m.Body))
	}
}

// reach goes to the message that is sought in the room that is shown, once it is there.
func (a *app) reach() {
	r := a.here
	if r.seek == 0 || !r.complete && (r.oldest == 0 || r.oldest > r.seek) {
		return
	}
	a.pane().reach(r.seek)
	r.seek = 0
}

// fill asks for more of the history of the room that is shown if what is above the screen is less than a page.
func (a *app) fill() {
	r := a.here
	if r.live == nil || r.loading || r.complete {
		return
	}
	p := a.pane()
	p.height *= 2
	if rows, above := p.visible(); r.seek == 0 && (above > 0 || len(rows) >= p.height) {
		return
	}
	r.loading = true
	live, before := r.live, r.oldest
	var page []client.Message
	a.call(func(ctx context.Context, c *client.Client) (err error) {
		page, err = live.ListMessages(ctx, before, historyPage)
		return err
	}, func(err error) {
		switch {
		case r.live != live:
			r.loading = false
		case a.ended(err): // else it would look as if there were nothing before
		case err != nil:
			a.later(pauseAfter(err), func() { r.loading = false })
		default:
			r.loading = false
			r.prepend(page, before, a.user)
		}
	})
}

// stateChanged follows a room's connection.
func (a *app) stateChanged(r *room, state client.ConnState, cause error) {
	switch r.link.change(state) {
	case "away":
		r.away = cause
		r.typing = make(map[string]time.Time)
	case "back":
		r.away = nil
		a.attend(r)
		a.lookSoon()
	}
}

// happened follows who comes, goes and types.
func (a *app) happened(r *room, e client.Event) {
	if strings.EqualFold(e.UserName, a.user) {
		return
	}
	now := time.Now()
	switch e.Kind {
	case client.UserJoined:
		r.came(e.UserName, now)
	case client.UserLeft:
		r.left(e.UserName, now)
	case client.Typing:
		r.typing[e.UserName] = now.Add(typingTime)
	}
}

// over takes the end of a room, whatever the reason.
func (a *app) over(r *room, err error) {
	switch {
	case r.ending:
		r.ended = err
	case errors.Is(err, client.ErrClosed), a.ctx.Err() != nil, a.ended(err):
	case errors.Is(err, client.ErrHistoryRestored):
		a.restart(r)
	default:
		a.drop(r, "%s (%s): %s.", r.name, r.code, sentence(err))
	}
}

// restart begins a room anew whose messages are others now.
func (a *app) restart(r *room) {
	unsaved := r.giveUp()
	r.leave()
	r.items, r.oldest, r.last, r.newest, r.read, r.mentions, r.complete = nil, 0, 0, 0, 0, 0, false
	r.unreadLine, r.seek, r.restored = 0, 0, true
	r.scroll.toEnd()
	a.noteIn(r, "The server's data has been restored from a backup: this is the room as it is now.")
	a.lose(r, unsaved)
	a.readmit(r)
}

// drop takes a room away, and says why.
func (a *app) drop(r *room, format string, args ...any) {
	if r.gone {
		return
	}
	r.gone = true
	a.drops++
	if live := r.live; live != nil {
		r.leave()
		a.others.Go(func() { live.Disconnect() })
	}
	a.rooms, a.entering = without(a.rooms, r), without(a.entering, r)
	if r == a.here {
		a.enterRoom(a.lobby)
	} else {
		a.input.keep(r.draft)
	}
	a.note(format, args...)
	a.lose(r, r.giveUp())
}

// failed tells that a command was not done. A room that has ended meanwhile ends now.
func (a *app) failed(r *room, command string, err error) {
	if a.ended(err) {
		return
	}
	a.noteIn(r, "%s: %s", command, notice(err))
	if end := r.ended; end != nil {
		r.ended = nil
		a.over(r, end)
	}
}
