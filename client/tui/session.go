package tui

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/grpcchatter/grpcchatter/client"
)

// maxOpen is how many rooms are joined at the start. Others are when they are shown.
const maxOpen = 200

// lookPause is how often it is looked for what has changed about the user's rooms elsewhere: nothing tells of that.
const lookPause = time.Minute

// begin opens the user's rooms after a log-in.
func (a *app) begin() {
	a.askRooms(func(list []client.ChatRoom, err error) {
		switch {
		case a.ended(err):
			return
		case err != nil:
			a.away = err
			a.later(pauseAfter(err), a.begin)
			return
		}
		a.listed, a.away = true, nil
		a.keepLooking()
		open := a.merge(list)
		switch {
		case a.o.Create != "":
			a.create(a.o.Create, a.o.RoomPassword)
		case a.o.Room != "":
			a.join(a.o.Room, a.o.RoomPassword)
		case open != nil:
			a.show(open)
		case len(a.rooms) > 0:
			a.show(a.rooms[0])
		default:
			a.note("You are in no room yet. /join CODE enters one that you know the code of, /create NAME makes one. /help has the rest.")
		}
		a.o.Create, a.o.Room, a.o.RoomPassword = "", "", ""
	})
}

// askRooms asks for the list of the user's rooms. One that may still have a room that is over by now is asked for anew.
func (a *app) askRooms(done func([]client.ChatRoom, error)) {
	var list []client.ChatRoom
	drops := a.drops
	a.call(func(ctx context.Context, c *client.Client) (err error) {
		list, err = c.ListChatRooms(ctx)
		return err
	}, func(err error) {
		if err == nil && a.drops != drops {
			a.askRooms(done)
			return
		}
		done(list, err)
	})
}

// look looks for what has changed about the user's rooms.
func (a *app) look() {
	a.askRooms(func(list []client.ChatRoom, err error) {
		if err == nil {
			a.merge(list)
			return
		}
		a.ended(err) // what else went wrong may not the next time
	})
}

func (a *app) keepLooking() {
	a.later(a.lookPause, func() {
		a.look()
		a.keepLooking()
	})
}

// lookSoon looks once for all the rooms that are back at about the same time.
func (a *app) lookSoon() {
	if a.looking {
		return
	}
	a.looking = true
	a.later(time.Second, func() {
		a.looking = false
		a.look()
	})
}

// merge takes the list of the user's rooms, which has just come, and joins those that are new. A room that it does not have, and
// that no connection tells of, is over. It returns the one that was shown last time, or nil.
func (a *app) merge(list []client.ChatRoom) (open *room) {
	known := a.memory.rooms(a.server, a.user)
	for _, info := range list {
		a.isCalled(info.Owner)
		if r := a.find(info.ShortCode); r != nil {
			r.name, r.owner = info.Name, info.Owner
			r.know(info.LastSeq)
			continue
		}
		r := newRoom(info.ShortCode, info.Name, info.Owner, info.LastSeq)
		if k, ok := known[r.code]; ok {
			r.read, r.draft = min(k.Read, r.newest), k.Draft
			if k.Open {
				open = r
			}
		}
		a.rooms = append(a.rooms, r)
	}
	slices.SortFunc(a.rooms, byName) // one may have another name now
	for i, r := range slices.Clone(a.rooms) {
		switch {
		case r.live != nil, r.joining:
		case !listed(list, r):
			a.dropUnlisted(r)
		case i < maxOpen:
			a.admit(r)
		}
	}
	return open
}

// isCalled takes over how the server writes the user's name, if this is it: at the log-in case makes no difference.
func (a *app) isCalled(name string) {
	if strings.EqualFold(name, a.user) {
		a.user = name
	}
}

// ended signs out if err says that the server does not know the user any more, and reports whether it does.
func (a *app) ended(err error) bool {
	for _, reason := range []error{client.ErrTokenExpired, client.ErrTokenInvalid, client.ErrInvalidCredentials, client.ErrAccountDisabled} {
		if errors.Is(err, reason) {
			why := notice(err)
			if reason == client.ErrInvalidCredentials { // they were right before
				why = "You have been logged out: your password has been changed, or your account deleted."
			}
			a.signOut(why + unforgotten(a.forget(a.server, a.user)))
			return true
		}
	}
	return false
}

// signOut ends all rooms, and goes back to the form.
func (a *app) signOut(why string) {
	a.remember()
	lost := 0
	for _, r := range slices.Concat(a.rooms, a.entering) {
		for _, it := range r.giveUp() {
			a.lost = append(a.lost, it.body)
			lost++
		}
		a.input.keep(r.draft)
		r.gone = true
		if r.live != nil {
			r.leave()
		}
	}
	if c := a.c; c != nil {
		a.others.Go(func() { c.Disconnect() })
	}
	a.c, a.stay, a.listed, a.away, a.rooms, a.entering, a.waitList, a.question = nil, false, false, nil, nil, nil, nil, nil
	a.warned, a.leaving, a.ticking, a.looking = false, false, false, false
	a.here = a.lobby
	a.o.Server, a.o.User, a.o.Password, a.o.Register = a.server, a.user, "", false
	a.form = newForm(a)
	if lost > 0 {
		why = strings.TrimSpace(fmt.Sprintf("%s %s may not have been sent; Up brings back what you have entered.", why, count(lost, "message")))
	}
	a.form.problem = why
}

// forget removes the token that was kept of an account.
func (a *app) forget(server, user string) error {
	a.stay = false
	return a.memory.forget(server, user)
}

// unforgotten is what is said behind something else if a token could not be removed.
func unforgotten(err error) string {
	if err == nil {
		return ""
	}
	return " The token could not be removed: " + sentence(err) + "."
}

// remember keeps where the user is for the next start.
func (a *app) remember() {
	if a.c == nil {
		return
	}
	var rooms map[string]remembered // as they were while they are not known
	if a.listed {
		rooms = make(map[string]remembered, len(a.rooms))
		for _, r := range a.rooms {
			if !r.unknown() {
				rooms[r.code] = remembered{Read: r.read, Open: r == a.here, Draft: a.draft(r), anew: r.restored}
			}
		}
	}
	err := a.memory.save(a.server, a.user, rooms)
	if a.stay {
		err = errors.Join(err, a.memory.keep(savedToken{a.server, a.user, a.c.Token()}))
	}
	if err != nil && !a.forgetful {
		a.forgetful = true
		a.note("The server, your name, what you have read and what you are writing will not be remembered: %s", sentence(err))
	}
}

// draft is what is being written in a room.
func (a *app) draft(r *room) string {
	if r == a.here {
		return a.input.value()
	}
	return r.draft
}

// unkept are the drafts that the next start will not have.
func (a *app) unkept() (list []string) {
	for _, r := range a.rooms {
		if draft := a.draft(r); draft != "" && (a.forgetful || a.memory.folder == "") {
			list = append(list, r.name+": "+draft)
		}
	}
	return list
}
