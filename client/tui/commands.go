package tui

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/charmbracelet/x/ansi"

	"github.com/grpcchatter/grpcchatter/client"
)

// command is what a line that begins with a slash does.
type command struct {
	name, args, does string
	run              func(a *app, argument string)
}

// commands are the commands, in the order in which they are listed.
func commands() []command {
	return []command{
		{"/join", "CODE", "enter a room by its code or by an invitation link", (*app).joinCommand},
		{"/create", "NAME", "make a room, and enter it", (*app).createCommand},
		{"/invite", "", "what to tell somebody who is to come to this room", (*app).inviteCommand},
		{"/users", "", "who is here now", (*app).usersCommand},
		{"/rooms", "", "your rooms, with their codes", (*app).roomsCommand},
		{"/leave", "", "be a member of this room no more", (*app).leaveCommand},
		{"/delete", "CODE", "delete this room and its messages, for everybody; its owner may", (*app).deleteCommand},
		{"/logout", "", "log in as somebody else; the token and drafts are forgotten", (*app).logoutCommand},
		{"/help", "", "the keys, and these commands", (*app).helpCommand},
		{"/quit", "", "leave the program", func(a *app, _ string) { a.quit() }},
	}
}

// enter takes the text that was entered: a command or a message.
func (a *app) enter() {
	text := a.input.take()
	if strings.TrimSpace(text) == "" {
		return
	}
	a.input.remember(text)
	switch {
	case strings.HasPrefix(text, "//"):
		a.say(text[1:])
	case strings.HasPrefix(text, "/"):
		a.command(text)
	default:
		a.say(text)
	}
}

func (a *app) command(line string) {
	name, argument, _ := strings.Cut(strings.TrimSpace(line), " ")
	argument = strings.TrimSpace(argument)
	for _, c := range commands() {
		if !strings.EqualFold(c.name, name) {
			continue
		}
		if c.args == "" && argument != "" {
			a.note("%s takes nothing behind it. %s", c.name, asMessage(line))
			return
		}
		c.run(a, argument)
		return
	}
	a.note("No such command; /help lists them. %s", asMessage(line))
}

// asMessage says how to send as a message what was taken for a command. Much of a text would push everything else away.
func asMessage(line string) string {
	if short := ansi.Truncate(screenLine(line), 60, "…"); short != line {
		return "To send it as a message, have it back by Up, and write one more slash before it: " + short
	}
	return "To send it as a message, write /" + line
}

// matching are the commands to be listed while a line is typed: those that begin like it.
func matching(line string) []command {
	var list []command
	if !strings.HasPrefix(line, "/") || strings.HasPrefix(line, "//") {
		return nil
	}
	name, _, argument := strings.Cut(line, " ")
	for _, c := range commands() {
		if strings.HasPrefix(c.name, strings.ToLower(name)) && (!argument || c.name == strings.ToLower(name)) {
			list = append(list, c)
		}
	}
	return list
}

func (a *app) joinCommand(code string) {
	if _, linked, ok := invitation(code); ok { // whatever name the server has there
		code = linked
	}
	if code == "" || strings.ContainsAny(code, " \n") {
		a.note("Write the code of the room behind it, such as: /join K7P2QX")
		return
	}
	a.join(code, "")
}

func (a *app) createCommand(name string) {
	if name == "" {
		a.note("Write the name of the room behind it, such as: /create Lobby")
		return
	}
	a.question = newQuestion("Password for "+name+" (Enter for none): ", func(password string) {
		a.create(name, password)
	})
}

func (a *app) inviteCommand(string) {
	r := a.here
	if r.code == "" {
		a.note("Here is no room to invite to: /join CODE or /create NAME.")
		return
	}
	a.note("To come to %s:\n  in the terminal: grpcchatter chat --server %s --room %s\n  in a browser: %s/#%s\n  here: /join %s\nWho joins for the first time has to know the room's password, if it has one.",
		r.name, a.server, r.code, a.server, r.code, r.code)
}

func (a *app) usersCommand(string) {
	r := a.here
	if r.live == nil {
		a.note("You are in no room.")
		return
	}
	a.meet(r, func(err error) {
		if err != nil {
			a.failed(r, "/users", err)
			return
		}
		a.noteIn(r, "Here now: %s", strings.Join(r.present, ", "))
	})
}

func (a *app) roomsCommand(string) {
	a.askRooms(func(list []client.ChatRoom, err error) {
		if err != nil {
			a.failed(a.here, "/rooms", err)
			return
		}
		a.merge(list)
		a.note("%s", a.listRooms())
	})
}

func (a *app) listRooms() string {
	if len(a.rooms) == 0 {
		return "You are in no room: /join CODE or /create NAME."
	}
	var b strings.Builder
	b.WriteString("Your rooms:")
	for _, r := range a.rooms {
		owner := "of " + r.owner
		if strings.EqualFold(r.owner, a.user) {
			owner = "yours"
		}
		fmt.Fprintf(&b, "\n  %s  %s (%s", r.code, r.name, owner)
		if n := r.unread(); n > 0 {
			fmt.Fprintf(&b, ", %d new", n)
		}
		if r == a.here {
			b.WriteString(", you are here")
		}
		b.WriteString(")")
	}
	return b.String()
}

func (a *app) leaveCommand(string) {
	r := a.here
	switch {
	case r.code == "":
		a.note("You are in no room.")
		return
	case r.live == nil:
		a.note("/leave: the room is not connected yet. Try again in a moment.")
		return
	}
	a.end(r, "/leave", (*client.Client).LeaveChatRoom, "You have left %s (%s). /join %s brings you back.", r.name, r.code, r.code)
}

// end has the server end a room for the user, in one way or another, and then says so.
func (a *app) end(r *room, command string, ask func(*client.Client, context.Context, string) error, format string, args ...any) {
	r.ending = true
	a.call(func(ctx context.Context, c *client.Client) error {
		return ask(c, ctx, r.code)
	}, func(err error) {
		r.ending = false
		if errors.Is(err, client.ErrOwnerStays) {
			err = fmt.Errorf("the owner cannot leave the room; /delete it, or hand it over in the browser (%s/#%s)", a.server, r.code)
		}
		if err != nil {
			a.failed(r, command, err)
			return
		}
		a.drop(r, format, args...)
	})
}

// deleteCommand deletes the room if its code is given, so that a slip of the hand cannot.
func (a *app) deleteCommand(code string) {
	r := a.here
	switch {
	case r.code == "":
		a.note("You are in no room.")
		return
	case !strings.EqualFold(code, r.code):
		a.note("This deletes %s and its messages for everybody. If you mean it: /delete %s", r.name, r.code)
		return
	}
	a.end(r, "/delete", (*client.Client).DeleteChatRoom, "The room %s has been deleted.", r.name)
}

func (a *app) logoutCommand(string) {
	if n := a.waiting(); n > 0 && !a.warned {
		a.warned = true
		a.note("Not stored yet: %s. Wait, or give up: /logout once more.", count(n, "message"))
		return
	}
	for _, r := range a.rooms { // whoever is here next is not to find what was being written
		a.input.keep(r.draft)
		r.draft = ""
	}
	a.input.keep(a.input.take())
	a.signOut(strings.TrimSpace(unforgotten(a.forget(a.server, a.user))))
}

func (a *app) helpCommand(string) {
	var b strings.Builder
	b.WriteString("Commands:")
	for _, c := range commands() {
		fmt.Fprintf(&b, "\n  %-15s %s", strings.TrimSpace(c.name+" "+c.args), c.does)
	}
	b.WriteString("\nKeys:\n  " + strings.ReplaceAll(keysHelp, "\n", "\n  "))
	a.note("%s", b.String())
}

// join enters a room by its code. The password is asked for when the server does not let the user in without.
func (a *app) join(code, password string) {
	if r := a.find(code); r != nil {
		if r.name != "" { // else it is being entered
			a.show(r)
		}
		return
	}
	r := newRoom(strings.ToUpper(code), "", "", 0)
	a.entering = append(a.entering, r)
	a.open(r, password, func(err error) {
		if err != nil {
			a.entered(r)
		}
		if isDenied(err) && password == "" {
			if a.input.value() != "" || a.question != nil { // something else is being written by now
				a.note("%s is no room, or has a password: /join %s asks for it.", r.code, code)
				return
			}
			a.question = newQuestion("Password of the room "+r.code+": ", func(password string) {
				if password != "" {
					a.join(code, password)
				}
			})
			return
		}
		if err != nil {
			a.failed(a.here, "/join", err)
			return
		}
		a.joined(r)
	})
}

func (a *app) create(name, password string) {
	var code string
	a.call(func(ctx context.Context, c *client.Client) (err error) {
		code, err = c.CreateChatRoom(ctx, name, password)
		return err
	}, func(err error) {
		if err != nil {
			a.failed(a.here, "/create", err)
			return
		}
		created := func(r *room) {
			a.enterRoom(r)
			a.note("The room %s has been created. Its code is %s: /invite says how others come here.", name, code)
		}
		if r := a.find(code); r != nil { // the list was faster
			created(r)
			return
		}
		r := newRoom(code, name, a.user, 0)
		a.entering = append(a.entering, r)
		a.open(r, "", func(err error) {
			a.entered(r)
			if err != nil {
				a.failed(a.here, "/create", err)
				return
			}
			a.add(r)
			created(r)
		})
	})
}

// joined looks up what the server calls a room that was joined by its code, and shows it.
func (a *app) joined(r *room) {
	a.askRooms(func(rooms []client.ChatRoom, _ error) {
		for _, info := range rooms {
			if strings.EqualFold(info.ShortCode, r.code) {
				r.code, r.name, r.owner = info.ShortCode, info.Name, info.Owner
				r.newest = max(r.newest, info.LastSeq)
			}
		}
		if r.name == "" {
			r.name = r.code // the server did not answer
		}
		r.read = r.newest // what was said before is no news
		a.entered(r)
		if r.gone {
			return
		}
		a.add(r)
		a.enterRoom(r)
	})
}

// entered takes a room out of those that are being entered.
func (a *app) entered(r *room) {
	a.entering = without(a.entering, r)
}
