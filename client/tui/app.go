package tui

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"charm.land/bubbles/v2/textinput"
	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/grpcchatter/grpcchatter/client"
)

// parting is how long leaving waits for messages that are not stored yet.
const parting = 3 * time.Second

// framesPerSecond is how often the screen may change. The program wakes up as often when nothing happens: at 30 that takes
// half a percent of a core, and a key is seen after 33 ms at most.
const framesPerSecond = 30

// app is the client on a terminal: a form to sign in with, then the rooms. It is a tea.Model: only its Update, and what
// that calls, touches it. What waits for the server runs beside it, and comes back by the feed.
type app struct {
	o      Options
	ctx    context.Context // of all calls to the server; ends when the program leaves
	others sync.WaitGroup  // the goroutines of call and open
	feed   *feed
	memory *memory

	server, user string
	c            *client.Client // nil until somebody is logged in
	stay         bool           // the token may be kept in a file

	form     *form     // nil when logged in
	question *question // nil unless something is asked for in the place of the input
	input    composer
	rooms    []*room // by name
	here     *room   // the one that is shown: one of rooms, or lobby
	lobby    *room   // where there is no room: notes only
	notified time.Time

	width, height int
	cells         ansi.Method
	dark          bool
	theme         theme
	blurred       bool // the terminal has said that it is not being looked at
	ticking       bool // for those who type
	forgetful     bool // it has been said that nothing can be remembered

	leaving bool
	result  error     // of Run
	cmds    []tea.Cmd // of this Update
}

func newApp(ctx context.Context, o Options) *app {
	a := &app{
		o: o, ctx: ctx, feed: newFeed(), memory: recall(o.Folder),
		input: newComposer(), lobby: newRoom("", "", "", 0),
		width: 80, height: 24, dark: true, theme: newTheme(true),
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
	p := tea.NewProgram(a, tea.WithInput(o.In), tea.WithOutput(o.Out), tea.WithoutSignalHandler(), tea.WithFPS(framesPerSecond))
	a.feed.send = p.Send
	stop := context.AfterFunc(ctx, p.Quit)
	defer stop()
	_, err := p.Run()
	a.remember()
	left := a.leftBehind()
	cancel()
	a.feed.close()
	if a.c != nil {
		a.c.Disconnect()
	}
	a.others.Wait()
	for _, body := range left {
		fmt.Fprintf(o.Err, "Perhaps not sent: %s\n", screenLine(body))
	}
	if err != nil {
		return fmt.Errorf("run the screen: %w", err)
	}
	if a.result != nil {
		return a.result
	}
	return givenUp(len(left))
}

func (a *app) Init() tea.Cmd {
	a.signInAtOnce()
	return tea.Batch(append(a.take(), tea.RequestBackgroundColor)...)
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

// call asks the server for something beside the app, and has done called with what came of it.
func (a *app) call(ask func(context.Context) error, done func(error)) {
	a.others.Go(func() {
		err := ask(a.ctx)
		a.feed.post(func() { done(err) })
	})
}

// after is a message: to call what it holds.
type after func()

// later has f called after some time.
func (a *app) later(d time.Duration, f func()) {
	a.do(tea.Tick(d, func(time.Time) tea.Msg { return after(f) }))
}

func (a *app) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case fed:
		for _, event := range a.feed.take() {
			event()
		}
	case after:
		msg()
	case tea.KeyPressMsg:
		a.press(msg)
	case tea.PasteMsg:
		a.paste(msg.Content)
	case tea.WindowSizeMsg:
		a.width, a.height = msg.Width, msg.Height
	case tea.BackgroundColorMsg:
		a.dark = msg.IsDark()
		a.theme = newTheme(a.dark)
	case tea.ModeReportMsg:
		if msg.Mode == ansi.ModeUnicodeCore && msg.Value != ansi.ModeNotRecognized && msg.Value != ansi.ModePermanentlyReset {
			a.cells = ansi.GraphemeWidth // as the renderer does
		}
	case tea.BlurMsg:
		a.blurred = true
		a.here.unreadLine = 0 // it has been seen
		a.remember()
	case tea.FocusMsg:
		a.blurred = false
	}
	a.settle()
	return a, tea.Batch(a.take()...)
}

// settle does what follows from whatever has changed.
func (a *app) settle() {
	if a.form != nil {
		return
	}
	r := a.here
	if !a.blurred && !r.scroll.held {
		r.see()
	}
	a.fill(r)
	if !a.ticking && len(r.typing) > 0 {
		a.ticking = true
		a.later(time.Second, func() { a.ticking = false })
	}
	if a.leaving && a.waiting() == 0 {
		a.do(tea.Quit)
	}
}

// press takes a key.
func (a *app) press(msg tea.KeyPressMsg) {
	switch msg.String() {
	case "ctrl+z":
		a.do(suspend())
		return
	case "ctrl+l":
		a.do(tea.ClearScreen)
		return
	case "ctrl+c":
		a.interrupt()
		return
	}
	switch {
	case a.form != nil:
		a.form.press(msg)
	case a.question != nil:
		a.answer(msg)
	default:
		a.chatKey(msg)
	}
}

// interrupt leaves, but empties the input first if there is something in it.
func (a *app) interrupt() {
	switch {
	case a.question != nil:
		a.question = nil
	case a.form == nil && a.input.value() != "" && !a.leaving:
		a.input.remember(a.input.take())
	case a.leaving:
		a.do(tea.Quit)
	default:
		a.quit()
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

func (a *app) chatKey(msg tea.KeyPressMsg) {
	p := a.pane()
	page := max(1, p.height-1)
	switch key := msg.String(); key {
	case "enter":
		a.enter()
	case "tab":
		a.complete(1)
	case "shift+tab":
		a.complete(-1)
	case "pgup":
		p.up(page)
	case "pgdown":
		p.down(page)
	case "shift+pgup":
		p.up(1)
	case "shift+pgdown":
		p.down(1)
	case "ctrl+home":
		p.up(1 << 30)
	case "ctrl+end", "esc":
		a.here.scroll.toEnd()
	case "alt+up", "ctrl+p":
		a.step(-1)
	case "alt+down", "ctrl+n":
		a.step(1)
	case "alt+a":
		a.nextUnread()
	case "alt+1", "alt+2", "alt+3", "alt+4", "alt+5", "alt+6", "alt+7", "alt+8", "alt+9":
		if i := int(key[len(key)-1] - '1'); i < len(a.rooms) {
			a.show(a.rooms[i])
		}
	case "ctrl+d":
		if a.input.value() == "" {
			a.quit()
			return
		}
		a.input.press(msg)
	default:
		a.input.press(msg)
		a.typing()
	}
}

func (a *app) complete(step int) {
	line, first := a.input.before()
	if list := matching(line); first && !containsSpace(line) && (len(list) > 0 || a.input.choices != nil) {
		var names []string
		for _, c := range list {
			names = append(names, c.name)
		}
		word := line
		if a.input.choices != nil {
			word = a.input.stem
		}
		a.input.complete(word, names, func(s string) string { return s }, step)
		return
	}
	a.input.completeName(a.here.names(a.user), step)
}

func (a *app) paste(text string) {
	switch {
	case a.form != nil:
		a.form.paste(text)
	case a.question != nil:
		a.question.field, _ = a.question.field.Update(tea.PasteMsg{Content: text})
	case !a.input.paste(text):
		a.note("What was pasted is too long for a message, and was left out: the input holds %d characters.", maxDraft)
	}
}

// note tells something in the room that is shown.
func (a *app) note(format string, args ...any) { a.noteIn(a.here, format, args...) }

func (a *app) noteIn(r *room, format string, args ...any) {
	r.note(time.Now(), fmt.Sprintf(format, args...))
}

// question asks for a secret in the place of the input. Enter answers, Esc does not.
type question struct {
	label  string
	field  textinput.Model
	answer func(string)
}

func newQuestion(label string, answer func(string)) *question {
	return &question{label: label, field: newField(true), answer: answer}
}

func (a *app) answer(msg tea.KeyPressMsg) {
	q := a.question
	switch msg.String() {
	case "enter":
		a.question = nil
		q.answer(q.field.Value())
	case "esc":
		a.question = nil
	default:
		q.field, _ = q.field.Update(msg)
	}
}

// isDenied reports whether a room was not entered because there is none of this code, or its password is another one.
func isDenied(err error) bool { return errors.Is(err, client.ErrRoomAccessDenied) }
