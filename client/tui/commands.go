package tui

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"github.com/grpcchatter/grpcchatter/client"
)

const help = `* What you type is sent to the room. Commands:
    /users         who is here now
    /history [N]   N (20) messages from before the oldest on the screen
    /rooms         the rooms that you are a member of
    /delete CODE   delete this room with all its messages, for everybody; its owner may
    /quit          leave; so does Ctrl-C, and Ctrl-D on an empty line
    /help          this list
    //text         send a message that begins with a slash
  Up and Down bring back what you have typed. Alt-Enter begins a new line.`

// maxHistoryPage is how many messages the server returns at a time.
const maxHistoryPage = 200

// entered handles a line: a command or a message.
func (ch *chat) entered(ctx context.Context, line string) {
	if strings.TrimSpace(line) == "" {
		return
	}
	ch.s.input.remember(line)
	switch {
	case strings.HasPrefix(line, "//"):
		ch.say(line[1:])
	case strings.HasPrefix(line, "/"):
		ch.command(ctx, line)
	default:
		ch.say(line)
	}
}

func (ch *chat) command(ctx context.Context, line string) {
	name, argument, _ := strings.Cut(strings.TrimSpace(line), " ")
	name, argument = strings.ToLower(name), strings.TrimSpace(argument)
	switch {
	case argument != "" && name != "/history" && name != "/delete":
		ch.unknown(line)
	case name == "/users":
		ch.users(ctx)
	case name == "/history":
		ch.history(ctx, argument)
	case name == "/rooms":
		ch.rooms(ctx)
	case name == "/delete":
		ch.delete(ctx, argument)
	case name == "/quit":
		ch.quit()
	case name == "/help":
		ch.s.print(dim(help))
	default:
		ch.unknown(line)
	}
}

// unknown answers what begins with a slash and is no command.
func (ch *chat) unknown(line string) {
	ch.s.note("No such command; /help lists them. To send it as a message, write /%s", line)
}

// call asks the server for something and shows the answer, while the chat goes on.
func (ch *chat) call(ctx context.Context, call func(context.Context) error, show func()) {
	ch.others.Go(func() {
		err := call(ctx)
		ch.post(func() {
			switch {
			case err == nil:
				show()
			case !errors.Is(err, client.ErrClosed):
				ch.s.note("%s", notice(err))
			}
		})
	})
}

func (ch *chat) users(ctx context.Context) {
	var names []string
	ch.call(ctx, func(ctx context.Context) (err error) {
		names, err = ch.room.ListChatRoomUsers(ctx)
		return err
	}, func() {
		ch.s.note("Here now: %s", strings.Join(names, ", "))
	})
}

func (ch *chat) rooms(ctx context.Context) {
	var rooms []client.ChatRoom
	ch.call(ctx, func(ctx context.Context) (err error) {
		rooms, err = ch.c.ListChatRooms(ctx)
		return err
	}, func() {
		ch.s.note("Your rooms:")
		listRooms(ch.s, rooms, ch.c.UserName(), ch.code)
	})
}

// history shows what was said before the oldest message on the screen, and each time more of it.
func (ch *chat) history(ctx context.Context, argument string) {
	n := firstMessages
	if argument != "" {
		var err error
		if n, err = strconv.Atoi(argument); err != nil || n < 1 || n > maxHistoryPage {
			ch.s.note("/history takes a number from 1 to %d.", maxHistoryPage)
			return
		}
	}
	if ch.oldest <= 1 {
		ch.s.note("There is nothing before what is on the screen.")
		return
	}
	before := ch.oldest
	var messages []client.Message
	ch.call(ctx, func(ctx context.Context) (err error) {
		messages, err = ch.room.ListMessages(ctx, before, n)
		return err
	}, func() {
		if len(messages) == 0 {
			ch.s.note("There is nothing before what is on the screen.")
			return
		}
		ch.oldest = min(ch.oldest, messages[0].Seq)
		ch.s.note("Earlier, %s:", count(len(messages), "message"))
		day := ""
		for _, m := range messages {
			ch.print(m, &day)
		}
		ch.s.note("End of the earlier messages.")
	})
}

// delete deletes the room if its code is given, so that a slip of the hand cannot.
func (ch *chat) delete(ctx context.Context, code string) {
	if !strings.EqualFold(code, ch.code) {
		ch.s.note("This deletes %s and its messages for everybody. If you mean it: /delete %s",
			ch.name, ch.code)
		return
	}
	ch.deleting = true
	ch.call(ctx, func(ctx context.Context) error {
		err := ch.c.DeleteChatRoom(ctx, ch.code)
		if err != nil {
			ch.post(func() { ch.deleting = false })
		}
		return err
	}, func() {
		ch.over = client.ErrRoomDeleted
	})
}
