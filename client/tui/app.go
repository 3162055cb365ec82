package tui

import (
	"context"
	"fmt"
	"os/signal"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/grpcchatter/grpcchatter/client"
)

// parting is how long leaving waits for messages that are not stored yet.
const parting = 3 * time.Second

// framesPerSecond is how often the screen may change at most.
const framesPerSecond = 30

// app is the client on a terminal: a form to sign in with, then the rooms. It is a tea.Model: only its Update, and what
// that calls, touches it. What waits for the server runs beside it, and comes back by the feed.
type app struct {
	o       Options
	ctx     context.Context // of all calls to the server; ends when the program leaves
	others  sync.WaitGroup  // the goroutines of call and open
	feed    *feed
	memory  *memory
	display *display

	server, user string
	c            *client.Client // nil until somebody is logged in
	stay         bool           // the token may be kept in a file

	form     *form     // nil when logged in
	question *question // nil unless something is asked for in the place of the input
	input    composer
	rooms    []*room // by name
	entering []*room // joined by a code, and none of rooms yet
	waitList []*room // to be joined when the list of the user's rooms has come
	here     *room   // the one that is shown: one of rooms, or lobby
	lobby    *room   // where there is no room: notes only
	notified time.Time

	width, height int
	theme         theme
	blurred       bool // the terminal has said that it is not being looked at
	ticking       bool // for those who type
	drawnAt       time.Time
	drawing       bool  // it will be drawn again
	forgetful     bool  // it has been said that nothing can be remembered
	unforgotten   error // why a token could not be removed; to be said in the next room that is shown

	lookPause time.Duration
	looking   bool // it will be looked soon for what has changed about the rooms
	drops     int  // how many rooms have been over

	listed  bool     // the user's rooms are known
	away    error    // why they are not
	lost    []string // messages of rooms that are over, which perhaps were not sent
	warned  bool     // that logging out gives messages up
	leaving bool
	crash   crash     // what went wrong in Update
	cmds    []tea.Cmd // of this Update
}

func newApp(ctx context.Context, o Options) *app {
	a := &app{
		o: o, ctx: ctx, feed: newFeed(), memory: recall(o.Folder), display: newDisplay(o.Out),
		input: newComposer(), lobby: newRoom("", "", "", 0),
		width: 80, height: 24, theme: newTheme(true),
		lookPause: lookPause,
	}
	a.here = a.lobby
	a.form = newForm(a)
	return a
}

// runScreen chats on a terminal.
func runScreen(ctx context.Context, o Options) error {
	calls, cancel := context.WithCancel(ctx)
	defer cancel()
	a := newApp(calls, o)
	// The display draws: see there why. The renderer that is left writes nowhere, and may as well do it rarely.
	p := tea.NewProgram(a, tea.WithInput(o.In), tea.WithOutput(muted{terminal(o.Out)}), tea.WithoutSignalHandler(), tea.WithFPS(1))
	a.feed.send = p.Send
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGHUP) // the terminal is gone
	defer stop()
	defer context.AfterFunc(ctx, p.Quit)()
	_, err := p.Run()
	told := a.display.close() || terminal(o.Err) == nil // else Err is a terminal that takes nothing: to write to it is to hang
	a.remember()
	left := a.leftBehind()
	cancel()
	a.feed.close()
	if a.c != nil {
		a.c.Disconnect()
	}
	a.others.Wait()
	switch {
	case a.crash != "":
		err = a.crash
	case err != nil:
		err = fmt.Errorf("run the screen: %w", err)
	default:
		err = givenUp(len(left))
	}
	if !told && err != nil {
		return fmt.Errorf("%w: %w", ErrOutputClosed, err)
	}
	for _, body := range left {
		fmt.Fprintf(o.Err, "Perhaps not sent: %s\n", screenLine(body))
	}
	for _, draft := range a.unkept() {
		if told {
			fmt.Fprintf(o.Err, "Not sent to %s\n", screenLine(draft))
		}
	}
	return err
}

func (a *app) Init() tea.Cmd {
	a.display.open()
	a.display.write(ansi.RequestBackgroundColor)
	a.signInAtOnce()
	a.keepRemembering()
	a.draw()
	return tea.Batch(a.take()...)
}

// do has a command run after this Update.
func (a *app) do(cmd tea.Cmd) {
	if cmd != nil {
		a.cmds = append(a.cmds, cmd)
	}
}

func (a *app) take() []tea.Cmd {
	cmds := a.cmds
	a.cmds = nil
	return cmds
}

// call asks the server for something beside the app, and has done called with what came of it; not if somebody has
// logged in or out meanwhile.
func (a *app) call(ask func(context.Context, *client.Client) error, done func(error)) {
	c := a.c
	a.others.Go(func() {
		err := ask(a.ctx, c)
		a.feed.post(func() {
			if a.c == c {
				done(err)
			}
		})
	})
}

// after is a message: to call what it holds.
type after func()

// later has f called after some time; not if somebody has logged in or out meanwhile.
func (a *app) later(d time.Duration, f func()) {
	c := a.c
	a.do(tea.Tick(d, func(time.Time) tea.Msg {
		return after(func() {
			if a.c == c {
				f()
			}
		})
	}))
}

func (a *app) Update(msg tea.Msg) (m tea.Model, cmd tea.Cmd) {
	defer func() { // a fault of ours: the terminal is given back before it is told
		if r := recover(); r != nil {
			a.crash = crash(fmt.Sprintf("%s\n%s", screenLine(fmt.Sprint(r)), debug.Stack()))
			m, cmd = a, tea.Quit
		}
	}()
	switch msg := msg.(type) {
	case fed:
		for _, event := range a.feed.take() {
			event()
		}
	case after:
		msg()
	case drawn:
		a.drawing = false
	case resumed: // only now would the answer not be echoed; the colour may be another one
		a.display.write(ansi.RequestBackgroundColor)
	case tea.KeyPressMsg:
		a.press(msg)
	case tea.PasteMsg:
		a.paste(msg.Content)
	case tea.WindowSizeMsg:
		a.width, a.height = msg.Width, msg.Height
		a.fit()
		a.display.forget()
	case tea.BackgroundColorMsg:
		a.theme = newTheme(msg.IsDark())
	case tea.BlurMsg:
		a.blurred = true
		if !a.here.scroll.held {
			a.here.unreadLine = 0 // it has been seen
		}
		a.remember()
	case tea.FocusMsg:
		a.blurred = false
	}
	a.settle()
	a.draw()
	return a, tea.Batch(a.take()...)
}

// fit gives the input its size.
func (a *app) fit() { a.input.setSize(a.width, min(6, a.height-5)) }

// View shows nothing: the display draws.
func (a *app) View() tea.View { return tea.View{} }

// drawn is the message that it is time to draw what has changed.
type drawn struct{}

// draw draws the screen, at once if that has not just been done.
func (a *app) draw() {
	wait := frame - time.Since(a.drawnAt)
	switch {
	case wait <= 0:
		a.drawnAt = time.Now()
		a.display.draw(a.picture())
	case !a.drawing:
		a.drawing = true
		a.do(tea.Tick(wait, func(time.Time) tea.Msg { return drawn{} }))
	}
}

// settle does what follows from whatever has changed.
func (a *app) settle() {
	if a.form != nil {
		return
	}
	r := a.here
	if a.unforgotten != nil && r != a.lobby {
		a.note("%s", strings.TrimSpace(unforgotten(a.unforgotten)))
		a.unforgotten = nil
	}
	if !a.blurred && !r.scroll.held {
		r.see()
	}
	a.reach()
	a.fill()
	if !a.ticking && len(r.typing) > 0 {
		a.ticking = true
		a.later(time.Second, func() { a.ticking = false })
	}
	if a.leaving && a.waiting() == 0 {
		a.do(tea.Quit)
	}
}

// quit leaves as soon as every message is stored, or after a moment without that.
func (a *app) quit() {
	if n := a.waiting(); n > 0 && !a.leaving {
		a.leaving = true
		a.note("Waiting for %s to be stored. Ctrl-C leaves at once.", count(n, "message"))
		a.later(parting, func() { a.do(tea.Quit) })
		return
	}
	a.do(tea.Quit)
}

// keepRemembering remembers from time to time where the user is, for the program may be killed.
func (a *app) keepRemembering() {
	const often = 20 * time.Second
	a.do(tea.Tick(often, func(time.Time) tea.Msg {
		return after(func() {
			a.remember()
			a.keepRemembering()
		})
	}))
}

// note tells something in the room that is shown.
func (a *app) note(format string, args ...any) { a.noteIn(a.here, format, args...) }

func (a *app) noteIn(r *room, format string, args ...any) {
	r.note(time.Now(), fmt.Sprintf(format, args...))
}
