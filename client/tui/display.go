package tui

import (
	"bytes"
	"io"
	"os"

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

// display writes pictures to a terminal. A row that has changed is erased and written whole, from its first column on.
//
// Bubble Tea has a renderer for this. It models every cell, moves what has moved by scrolling regions, and writes only the
// cells that differ: on a screen of messages with wide characters that leaves rows behind that are doubled or shifted
// (charmbracelet/ultraviolet issues 137 and 164), and there is no option against it. A row that is written whole is right
// again whatever the terminal makes of a character's width.
type display struct {
	out   io.Writer // with the colours that the terminal has; none with NO_COLOR
	shown picture   // nil rows: nothing is known of the screen
	taken bool
}

// muted is a terminal to set up and to ask for its size, but not to write to.
type muted struct{ f *os.File }

func (m muted) Read(b []byte) (int, error)  { return m.f.Read(b) }
func (m muted) Write(b []byte) (int, error) { return len(b), nil }
func (m muted) Close() error                { return m.f.Close() }
func (m muted) Fd() uintptr                 { return m.f.Fd() }

func newDisplay(out io.Writer) *display {
	return &display{out: colorprofile.NewWriter(out, os.Environ())}
}

const (
	// Another screen than the shell's, no wrapping at its edge, pastes and a change of the focus told apart, Shift-Enter
	// told from Enter where the terminal can. The window's title is kept aside.
	enterScreen = pushTitle + ansi.SetModeAltScreenSaveCursor + ansi.ResetModeAutoWrap + ansi.SetModeBracketedPaste + ansi.SetModeFocusEvent +
		ansi.SetModifyOtherKeys2 + pushKittyKeyboard
	leaveScreen = popKittyKeyboard + ansi.ResetModifyOtherKeys + ansi.ResetModeFocusEvent + ansi.ResetModeBracketedPaste +
		ansi.SetModeAutoWrap + ansi.SetModeTextCursorEnable + ansi.ResetModeAltScreenSaveCursor + popTitle

	pushTitle, popTitle                 = "\x1b[22;2t", "\x1b[23;2t"
	pushKittyKeyboard, popKittyKeyboard = "\x1b[>1u", "\x1b[<1u"
)

// open takes the terminal, and asks it for its background colour.
func (d *display) open() {
	d.taken = true
	d.write(enterScreen + ansi.RequestBackgroundColor)
}

// close gives the terminal back.
func (d *display) close() {
	if d.taken {
		d.taken = false
		d.write(leaveScreen)
	}
}

// write writes a sequence that is no part of a picture.
func (d *display) write(sequence string) {
	_, _ = io.WriteString(d.out, sequence) // a terminal that is gone ends the program by SIGHUP
}

// forget has all of the next picture drawn.
func (d *display) forget() { d.shown = picture{} }

// draw shows a picture, and keeps it.
func (d *display) draw(p picture) {
	var b bytes.Buffer
	for i, row := range p.rows {
		if d.shown.rows == nil || len(d.shown.rows) != len(p.rows) || d.shown.rows[i] != row {
			b.WriteString(ansi.CursorPosition(1, i+1) + ansi.ResetStyle + ansi.EraseEntireLine + row)
		}
	}
	if p.title != d.shown.title {
		b.WriteString(ansi.SetWindowTitle(p.title))
	}
	if b.Len() == 0 && sameCursor(p.cursor, d.shown.cursor) {
		return
	}
	if p.cursor != nil {
		b.WriteString(ansi.CursorPosition(p.cursor.X+1, p.cursor.Y+1) + ansi.SetModeTextCursorEnable)
	}
	d.shown = p
	d.write(ansi.SetModeSynchronizedOutput + ansi.ResetModeTextCursorEnable + b.String() + ansi.ResetModeSynchronizedOutput)
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
	s.d.write(leaveScreen)
	stopProcess()
	s.d.write(enterScreen)
	return nil
}

func (*stop) SetStdin(io.Reader)  {}
func (*stop) SetStdout(io.Writer) {}
func (*stop) SetStderr(io.Writer) {}
