package tui

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/term"
)

// errLeave is how the person at the terminal, or a signal, asks to leave.
var errLeave = errors.New("tui: leave")

// escapeTime is how long after an ESC the rest of its sequence may come. Later, it was the Escape key.
const escapeTime = 50 * time.Millisecond

const (
	pasteModeOn  = "\x1b[?2004h"
	pasteModeOff = "\x1b[?2004l"
)

// screen is a terminal in raw mode: text going up, and under it one line of input that the text never
// disturbs. One goroutine uses it, apart from the one of its own that reads the keys.
type screen struct {
	in, out *os.File
	cooked  *term.State
	chunks  chan []byte   // what was read; closed at the end of the input
	done    chan struct{} // closed by close
	resized chan os.Signal

	keyboard keyboard
	escape   <-chan time.Time // nil unless a sequence has begun
	keys     []key            // not yet applied
	input    editor
	prompt   bool         // the input line is to be seen
	text     bytes.Buffer // printed since the last draw
}

// openScreen takes over the terminal. close gives it back.
func openScreen(in, out *os.File) (*screen, error) {
	cooked, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return nil, fmt.Errorf("set up the terminal: %w", err)
	}
	s := &screen{
		in: in, out: out, cooked: cooked,
		chunks:  make(chan []byte),
		done:    make(chan struct{}),
		resized: make(chan os.Signal, 1),
	}
	s.out.WriteString(pasteModeOn)
	notifyResize(s.resized)
	go s.read()
	return s, nil
}

// close leaves the cursor on an empty line and the terminal as it was. The reading goroutine ends with the
// next key, for a read from a terminal cannot be called off.
func (s *screen) close() {
	s.prompt = false
	s.draw()
	s.out.WriteString(pasteModeOff)
	stopResize(s.resized)
	term.Restore(int(s.in.Fd()), s.cooked)
	close(s.done)
}

func (s *screen) read() {
	defer close(s.chunks)
	b := make([]byte, 4096)
	for {
		n, err := s.in.Read(b)
		if n > 0 {
			select {
			case s.chunks <- bytes.Clone(b[:n]):
			case <-s.done:
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// print adds lines to the text. draw shows them.
func (s *screen) print(lines string) {
	s.text.WriteString(lines)
	s.text.WriteByte('\n')
}

// note prints a line about the chat rather than of it. It may name what others wrote.
func (s *screen) note(format string, args ...any) {
	s.print(dim("* " + screenLine(fmt.Sprintf(format, args...))))
}

// draw brings the terminal up to date, in one write.
func (s *screen) draw() {
	var b strings.Builder
	b.WriteString(erase)
	b.WriteString(strings.ReplaceAll(s.text.String(), "\n", "\r\n"))
	s.text.Reset()
	if s.prompt {
		wide, _, err := term.GetSize(int(s.out.Fd()))
		if err != nil || wide <= 0 {
			wide = 80
		}
		b.WriteString(s.input.draw(wide))
	}
	s.out.WriteString(b.String())
}

// fed takes what came from chunks. At the end of the input it leaves.
func (s *screen) fed(b []byte, ok bool) {
	if !ok {
		s.chunks = nil
		s.keys = append(s.keys, keyLeave)
		return
	}
	s.keys = append(s.keys, s.keyboard.feed(b)...)
	s.escape = nil
	if len(s.keyboard.rest) > 0 && !s.keyboard.pasting {
		s.escape = time.After(escapeTime)
	}
}

// enter applies the keys that have come, up to the next Enter. It returns the line that was entered, or
// ok false when there is none, or errLeave.
func (s *screen) enter() (line string, ok bool, err error) {
	for len(s.keys) > 0 {
		k := s.keys[0]
		s.keys = s.keys[1:]
		switch {
		case k == keyEnter:
			return s.input.take(), true, nil
		case k == keyLeave, k == keyEOF && len(s.input.line) == 0:
			return "", false, errLeave
		case k == keySuspend:
			s.suspend()
		case k == keyClear:
			s.out.WriteString("\x1b[H\x1b[2J")
		default:
			s.input.press(k)
		}
	}
	return "", false, nil
}

// suspend stops the program, as Ctrl-Z does where the terminal handles it, until the shell goes on with it.
func (s *screen) suspend() {
	s.out.WriteString(erase + pasteModeOff)
	term.Restore(int(s.in.Fd()), s.cooked)
	stopProcess()
	term.MakeRaw(int(s.in.Fd()))
	s.out.WriteString(pasteModeOn)
}

// ask asks a question and returns the answer without the space around it.
func (s *screen) ask(ctx context.Context, question string) (string, error) {
	answer, err := s.question(ctx, question, false)
	return strings.TrimSpace(answer), err
}

// askSecret asks a question whose answer is never shown.
func (s *screen) askSecret(ctx context.Context, question string) (string, error) {
	answer, err := s.question(ctx, question, true)
	return strings.TrimRight(answer, "\n"), err
}

func (s *screen) question(ctx context.Context, question string, hidden bool) (string, error) {
	s.input = editor{prompt: question, hidden: hidden}
	s.prompt = true
	defer func() {
		s.input = editor{}
		s.prompt = false
	}()
	for {
		answer, ok, err := s.enter()
		if err != nil {
			return "", err
		}
		if ok {
			shown := answer
			if hidden {
				shown = ""
			}
			s.print(question + screenLine(shown))
			s.prompt = false
			s.draw()
			return answer, nil
		}
		s.draw()
		select {
		case b, ok := <-s.chunks:
			s.fed(b, ok)
		case <-s.escape:
			s.keyboard.flush()
		case <-s.resized:
		case <-ctx.Done():
			return "", errLeave
		}
	}
}

// wait does something that may take long, such as a call, with a context that Ctrl-C ends. It returns its
// error, or errLeave. Other keys are kept for later.
func (s *screen) wait(ctx context.Context, do func(context.Context) error) error {
	s.draw()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- do(ctx) }()
	for {
		select {
		case err := <-done:
			if ctx.Err() != nil {
				return errLeave
			}
			return err
		case b, ok := <-s.chunks:
			s.fed(b, ok)
			if slices.Contains(s.keys, keyLeave) {
				cancel()
			}
		case <-s.escape:
			s.keyboard.flush()
		}
	}
}

func dim(s string) string  { return "\x1b[2m" + s + "\x1b[22m" }
func bold(s string) string { return "\x1b[1m" + s + "\x1b[22m" }
