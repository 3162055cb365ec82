package tui

import (
	"io"
	"os"
	"strings"
	"sync"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/colorprofile"
	"github.com/charmbracelet/x/ansi"
)

// picture is what is to be seen: a row of text with its styles for each row of the screen, and the cursor, if there is one.
type picture struct {
	rows   []string
	cursor *tea.Cursor
	title  string // of the window
}

// display shows pictures on a terminal. A row that has changed is erased and written whole, from its first column on.
//
// Bubble Tea has a renderer for this. It models every cell, moves what has moved by scrolling regions, and writes only the
// cells that differ: on a screen of messages with wide characters that leaves rows behind that are doubled or shifted
// (charmbracelet/ultraviolet issues 137 and 164), and there is no option against it. A row that is written whole is right
// again whatever the terminal makes of a character's width.
//
// A goroutine writes, so that a terminal which is slower than the chat (a narrow line, a reader that is stopped) holds up
// nothing but itself: of the pictures that come meanwhile it gets the last.
type display struct {
	out    io.Writer     // with the colours that the terminal has; none with NO_COLOR. The writer's, as shown is
	shown  picture       // nil rows: nothing is known of the screen
	wake   chan struct{} // there is something to write; holds one
	opened bool

	mu      sync.Mutex // guards the fields below
	todo    work
	through time.Time // when the terminal has last taken something
}

// work is what a display's writer is to do.
type work struct {
	sequence string        // to write as it is, first
	left     chan struct{} // to be closed then, for with it the terminal is given back; nil: it is not
	last     bool          // the writer is to end then
	forget   bool          // all of the next picture is to be written
	picture  *picture      // to be shown; nil: none
}

// muted is a terminal to set up and to ask for its size, but not to write to.
type muted struct{ f *os.File }

func (m muted) Read(b []byte) (int, error)  { return m.f.Read(b) }
func (m muted) Write(b []byte) (int, error) { return len(b), nil }
func (m muted) Close() error                { return m.f.Close() }
func (m muted) Fd() uintptr                 { return m.f.Fd() }

func newDisplay(out io.Writer) *display {
	return &display{out: colorprofile.NewWriter(out, os.Environ()), wake: make(chan struct{}, 1)}
}

const (
	// Another screen than the shell's, no wrapping at its edge, pastes and a change of the focus told apart, Shift-Enter
	// told from Enter where the terminal can. The window's title is kept aside.
	enterScreen = pushTitle + ansi.SetModeAltScreenSaveCursor + ansi.ResetModeAutoWrap + ansi.SetModeBracketedPaste + ansi.SetModeFocusEvent +
		ansi.SetModifyOtherKeys2 + pushKittyKeyboard
	leaveScreen = ansi.ResetModeSynchronizedOutput + ansi.ResetStyle + popKittyKeyboard + ansi.ResetModifyOtherKeys + ansi.ResetModeFocusEvent + ansi.ResetModeBracketedPaste +
		ansi.SetModeAutoWrap + ansi.SetModeTextCursorEnable + ansi.ResetModeAltScreenSaveCursor + popTitle

	pushTitle, popTitle                 = "\x1b[22;2t", "\x1b[23;2t"
	pushKittyKeyboard, popKittyKeyboard = "\x1b[>1u", "\x1b[<1u"
)

// maxSequence is how many bytes of sequences wait for a terminal at most.
const maxSequence = 4096

// minPiece is how many bytes of a picture are written at a time, at least.
const minPiece = 256

// goodbye is how long a terminal that takes nothing is waited for when it is given back.
const goodbye = time.Second

// open takes the terminal.
func (d *display) open() {
	d.opened = true
	d.enter()
	go d.run()
}

// enter goes to the program's screen.
func (d *display) enter() {
	d.do(func(todo *work) { todo.sequence, todo.forget = todo.sequence+enterScreen, true })
}

// close gives the terminal back, and draws no more. It reports whether the terminal has taken that.
func (d *display) close() bool { return d.leave(true) }

// leave gives the terminal back, and reports whether it has taken that: a slow one is waited for, and one that takes nothing
// is not. A picture that is being written is left unfinished.
func (d *display) leave(last bool) bool {
	if !d.opened {
		return true
	}
	left, since := make(chan struct{}), time.Now()
	d.do(func(todo *work) { *todo = work{sequence: todo.sequence + leaveScreen, left: left, last: last} })
	for {
		select {
		case <-left:
			return true
		case <-time.After(time.Until(since.Add(goodbye))):
		}
		d.mu.Lock()
		through := d.through
		d.mu.Unlock()
		if !through.After(since) {
			return false
		}
		since = through
	}
}

// write writes a sequence that is no part of a picture; not if too many are waiting.
func (d *display) write(sequence string) {
	d.do(func(todo *work) {
		if len(todo.sequence)+len(sequence) <= maxSequence {
			todo.sequence += sequence
		}
	})
}

// forget has all of the next picture written.
func (d *display) forget() { d.do(func(todo *work) { todo.forget = true }) }

// draw shows a picture.
func (d *display) draw(p picture) { d.do(func(todo *work) { todo.picture = &p }) }

func (d *display) do(change func(*work)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change(&d.todo)
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// run is the writer.
func (d *display) run() {
	for range d.wake {
		d.mu.Lock()
		todo := d.todo
		d.todo = work{}
		d.mu.Unlock()
		if todo.forget {
			d.shown = picture{}
		}
		d.put(todo.sequence)
		if todo.left != nil {
			close(todo.left)
		}
		if todo.last {
			return
		}
		if todo.picture != nil {
			d.show(*todo.picture)
		}
	}
}

// put writes a text, and reports whether that was done. A terminal that is gone ends the program by SIGHUP.
func (d *display) put(text string) bool {
	if text == "" {
		return true
	}
	_, err := io.WriteString(d.out, text)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.through = time.Now()
	return err == nil
}

// show writes a picture, in pieces, and stops between two of them if the terminal is to be given back.
func (d *display) show(p picture) {
	for _, piece := range d.turnTo(p) {
		d.mu.Lock()
		leaving := d.todo.left != nil
		d.mu.Unlock()
		if leaving || !d.put(piece) {
			d.shown = picture{}
			return
		}
	}
}

// turnTo returns what makes the picture that is shown another one, in pieces of whole rows.
func (d *display) turnTo(p picture) (pieces []string) {
	const start = ansi.SetModeSynchronizedOutput + ansi.ResetModeTextCursorEnable
	var b strings.Builder
	b.WriteString(start)
	for i, row := range p.rows {
		if d.shown.rows == nil || len(d.shown.rows) != len(p.rows) || d.shown.rows[i] != row {
			b.WriteString(ansi.CursorPosition(1, i+1) + ansi.ResetStyle + ansi.EraseEntireLine + row)
		}
		if b.Len() >= minPiece {
			pieces = append(pieces, b.String())
			b.Reset()
		}
	}
	if p.title != d.shown.title {
		b.WriteString(ansi.SetWindowTitle(p.title))
	}
	if pieces == nil && b.Len() == len(start) && sameCursor(p.cursor, d.shown.cursor) {
		return nil
	}
	if p.cursor != nil {
		b.WriteString(ansi.CursorPosition(p.cursor.X+1, p.cursor.Y+1) + ansi.SetModeTextCursorEnable)
	}
	b.WriteString(ansi.ResetModeSynchronizedOutput)
	d.shown = p
	return append(pieces, b.String())
}

func sameCursor(a, b *tea.Cursor) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.X == b.X && a.Y == b.Y
}

// resumed is the message that the program goes on.
type resumed struct{}

// suspend gives the terminal back and stops the program, as Ctrl-Z does where the terminal handles it, until the shell
// goes on with it. tea.Suspend would wait for ever where no shell can.
func (d *display) suspend() tea.Cmd {
	return tea.Exec(&stop{d}, func(error) tea.Msg { return resumed{} })
}

// stop is a tea.ExecCommand that only stops the process.
type stop struct{ d *display }

func (s *stop) Run() error {
	s.d.leave(false)
	stopProcess()
	s.d.enter()
	return nil
}

func (*stop) SetStdin(io.Reader)  {}
func (*stop) SetStdout(io.Writer) {}
func (*stop) SetStderr(io.Writer) {}
