package tui

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/grpcchatter/grpcchatter/client"
)

// door is a room that somebody wants to enter.
type door struct {
	code, password string
	name           string // of the room; empty if it is not known
	create         bool   // make it first, with this name
	asked          bool   // whether there is a password has been settled
}

// enter joins the room that o names, or one that is asked for, until the server lets the user in. It then
// shows who is there and what was said last.
func (ch *chat) enter(ctx context.Context, o Options) error {
	d := door{code: o.Room, password: o.RoomPassword, name: o.Create, create: o.Create != ""}
	d.asked = d.password != ""
	for {
		var mine []client.ChatRoom
		err := ch.s.wait(ctx, func(ctx context.Context) (err error) {
			mine, err = ch.c.ListChatRooms(ctx)
			return err
		})
		if err != nil {
			return err
		}
		if err := d.complete(ctx, ch.s, mine, ch.c.UserName()); err != nil {
			return err
		}
		err = ch.join(ctx, &d)
		if err == nil {
			return ch.arrive(ctx)
		}
		if errors.Is(err, errLeave) || unreachable(err) {
			return err
		}
		ch.s.note("%s", notice(err))
		d = door{}
	}
}

// complete asks for what d lacks: which room, and the password of one that the user is no member of.
func (d *door) complete(ctx context.Context, s *screen, mine []client.ChatRoom, userName string) error {
	if d.code == "" && !d.create {
		if err := d.choose(ctx, s, mine, userName); err != nil {
			return err
		}
	}
	if i := slices.IndexFunc(mine, func(r client.ChatRoom) bool { return strings.EqualFold(r.ShortCode, d.code) }); i >= 0 {
		d.code, d.name = mine[i].ShortCode, mine[i].Name
		return nil
	}
	if d.asked {
		return nil
	}
	question := "Password of the room (Enter if it has none): "
	if d.create {
		question = "Password for the room (Enter for none): "
	}
	var err error
	d.password, err = s.askSecret(ctx, question)
	return err
}

// choose asks for a room: the code of any, or a name for a new one.
func (d *door) choose(ctx context.Context, s *screen, mine []client.ChatRoom, userName string) error {
	question := "Room (a code, or new NAME): "
	switch len(mine) {
	case 0:
		s.note("You are in no room yet: enter the code of one, or new and a name to make one.")
	case 1:
		question = fmt.Sprintf("Room (a code, or new NAME) [%s]: ", mine[0].ShortCode)
		fallthrough
	default:
		s.note("Your rooms:")
		listRooms(s, mine, userName, "")
	}
	for {
		answer, err := s.ask(ctx, question)
		if err != nil {
			return err
		}
		first, rest, _ := strings.Cut(answer, " ")
		rest = strings.TrimSpace(rest)
		switch {
		case strings.EqualFold(first, "new") && rest != "":
			d.name, d.create = rest, true
			return nil
		case strings.EqualFold(first, "new"):
			s.note("Write the name of the room behind it, such as: new Lobby")
		case answer != "":
			d.code = answer
			return nil
		case len(mine) == 1:
			d.code = mine[0].ShortCode
			return nil
		}
	}
}

// listRooms prints a list of rooms. The one with the code here is marked.
func listRooms(s *screen, rooms []client.ChatRoom, userName, here string) {
	for _, r := range rooms {
		owner := "of " + r.Owner
		if strings.EqualFold(r.Owner, userName) {
			owner = "yours"
		}
		line := fmt.Sprintf("    %s  %s  (%s, %s", r.ShortCode, r.Name, owner, count(r.LastSeq, "message"))
		if r.ShortCode == here {
			line += ", you are here"
		}
		s.print(screenLine(line + ")"))
	}
}
