package tui

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/grpcchatter/grpcchatter/client"
)

const (
	// firstMessages is how many messages are shown on entering a room.
	firstMessages = 20
	// parting is how long leaving waits for messages that are not stored yet.
	parting = 3 * time.Second
)

// chat is one room on a terminal. All that is shown is shown by the goroutine of enter and run; others
// hand it what to do through post.
type chat struct {
	s    *screen
	c    *client.Client
	room *client.Room
	code string
	name string // of the room

	posts  chan func()
	done   chan struct{} // closed by leave
	others sync.WaitGroup
	bodies chan string // to the goroutine that sends

	link     link
	day      string // of the newest message on the screen
	oldest   uint64 // the seq of the oldest message on the screen; 0 when there is none
	newest   uint64
	unsent   []string // given to bodies and not acknowledged, oldest first
	leaving  <-chan time.Time
	deleting bool
	over     error // why the room is over
}

func newChat(s *screen, c *client.Client) *chat {
	return &chat{
		s: s, c: c,
		posts:  make(chan func()),
		done:   make(chan struct{}),
		bodies: make(chan string, 1024),
		day:    dayOf(time.Now()),
	}
}

// post has f called by the goroutine that shows things. It waits for it to take f, unless the chat is over.
func (ch *chat) post(f func()) {
	select {
	case ch.posts <- f:
	case <-ch.done:
	}
}

// join joins the room behind d, making it before if that is wanted.
func (ch *chat) join(ctx context.Context, d *door) error {
	if d.create {
		err := ch.s.wait(ctx, func(ctx context.Context) (err error) {
			d.code, err = ch.c.CreateChatRoom(ctx, d.name, d.password)
			return err
		})
		if err != nil {
			return err
		}
		ch.s.note("The room %s has been created. Its code is %s: with it others can join.", d.name, d.code)
	}
	return ch.s.wait(ctx, func(ctx context.Context) (err error) {
		ch.room, err = ch.c.JoinChatRoom(ctx, d.code, d.password,
			client.OnState(func(state client.ConnState, err error) {
				ch.post(func() { ch.stateChanged(state, err) })
			}),
			client.OnEvent(func(e client.Event) {
				ch.post(func() { ch.happened(e) })
			}))
		ch.code, ch.name = d.code, d.name
		return err
	})
}

// arrive shows the room that was joined: who is there, and what was said last. What comes after that, or
// came meanwhile, is received live.
func (ch *chat) arrive(ctx context.Context) error {
	var here []string
	var history []client.Message
	err := ch.s.wait(ctx, func(ctx context.Context) (err error) {
		if here, err = ch.room.ListChatRoomUsers(ctx); err != nil {
			return err
		}
		if ch.name == "" {
			ch.findName(ctx)
		}
		history, err = ch.room.ListMessages(ctx, 0, firstMessages)
		return err
	})
	if err != nil {
		return err
	}
	ch.s.note("This is %s (%s). %s /help lists the commands.", ch.name, ch.code, ch.whoElse(here))
	for _, m := range history {
		ch.show(m)
	}
	return nil
}

// findName looks the room's name up: who joins by a code does not know it.
func (ch *chat) findName(ctx context.Context) {
	ch.name = "the room"
	rooms, err := ch.c.ListChatRooms(ctx)
	if err != nil {
		return
	}
	for _, r := range rooms {
		if strings.EqualFold(r.ShortCode, ch.code) {
			ch.code, ch.name = r.ShortCode, r.Name
		}
	}
}

func (ch *chat) whoElse(names []string) string {
	var others []string
	for _, name := range names {
		if !strings.EqualFold(name, ch.c.UserName()) {
			others = append(others, name)
		}
	}
	if len(others) == 0 {
		return "Nobody else is here."
	}
	return "Here now: " + strings.Join(others, ", ") + "."
}

// run shows the room and takes what is typed until one of the two is over.
func (ch *chat) run(ctx context.Context) error {
	ch.s.input = editor{prompt: "> "}
	ch.s.prompt = true
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ch.others.Go(func() { ch.receive(ctx) })
	ch.others.Go(func() { ch.send(ctx) })
	for {
		if over, err := ch.typed(ctx); over {
			return err
		}
		ch.s.draw()
		select {
		case b, ok := <-ch.s.chunks:
			ch.s.fed(b, ok)
		case <-ch.s.escape:
			ch.s.keyboard.flush()
		case <-ch.s.resized:
		case f := <-ch.posts:
			f()
			ch.catchUp()
		case <-ch.leaving:
			return ch.leftBehind()
		case <-ctx.Done():
			return ch.leftBehind()
		}
	}
}

// catchUp does what else is waiting to be shown, so that many messages are drawn at once.
func (ch *chat) catchUp() {
	for range 100 {
		select {
		case f := <-ch.posts:
			f()
		default:
			return
		}
	}
}

// typed handles the lines that have been entered. It reports whether the chat is over, and with what.
func (ch *chat) typed(ctx context.Context) (over bool, err error) {
	for ch.over == nil {
		if ch.leaving != nil && len(ch.unsent) == 0 {
			return true, nil
		}
		line, ok, err := ch.s.enter()
		switch {
		case err != nil && ch.leaving != nil:
			return true, ch.leftBehind()
		case err != nil:
			ch.quit()
			continue
		case !ok:
			return false, nil
		}
		ch.entered(ctx, strings.TrimRight(line, "\n"))
	}
	if ch.deleting && errors.Is(ch.over, client.ErrRoomDeleted) {
		ch.s.note("The room has been deleted.")
		return true, nil
	}
	ch.leftBehind()
	return true, ch.over
}

// quit begins to leave: as soon as every message is stored, or after a moment without that.
func (ch *chat) quit() {
	ch.leaving = time.After(parting)
	if n := len(ch.unsent); n > 0 {
		ch.s.note("Waiting for %s to be stored. Ctrl-C leaves at once.", count(n, "message"))
	}
}

// leftBehind shows the messages that are given up, and returns an error if there are any.
func (ch *chat) leftBehind() error {
	for _, body := range ch.unsent {
		ch.s.note("Perhaps not sent: %s", body)
	}
	return givenUp(len(ch.unsent))
}

// leave ends the room, and waits for the goroutines of run, whose context is over.
func (ch *chat) leave() {
	close(ch.done)
	if ch.room != nil {
		ch.room.Disconnect()
	}
	ch.others.Wait()
}
