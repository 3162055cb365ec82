package tui

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// editor is one line of input: its text, the cursor, and the lines entered before. It stays on one row
// of the screen and scrolls sideways, so that lines coming in above never have to guess how many rows it
// takes. It is not safe for concurrent use.
//
// golang.org/x/term has a Terminal for this; it counts every character as one column wide, which leaves
// a wrong screen behind as soon as somebody types Chinese or an emoji.
type editor struct {
	prompt string
	hidden bool // nothing of the line is shown: a password

	line []rune
	pos  int // of the cursor, in line
	left int // the first rune shown, in line

	history []string
	at      int    // where in history the line is from; len(history): a new one
	draft   string // the new line, kept while history is looked through
}

// maxHistory is how many lines an editor remembers.
const maxHistory = 200

// press applies a key. Enter, leaving and suspending are for the caller; keyEOF comes here only with
// something in the line.
func (e *editor) press(k key) {
	switch k {
	case keyNewline:
		e.insert('\n')
	case keyUp:
		e.recall(e.at - 1)
	case keyDown:
		e.recall(e.at + 1)
	case keyLeft:
		e.pos = e.glyphLeft()
	case keyRight:
		e.pos = e.glyphRight()
	case keyWordLeft:
		e.pos = e.wordLeft()
	case keyWordRight:
		e.pos = e.wordRight()
	case keyHome:
		e.pos = 0
	case keyEnd:
		e.pos = len(e.line)
	case keyBackspace:
		e.cut(e.glyphLeft(), e.pos)
	case keyDelete, keyEOF:
		e.cut(e.pos, e.glyphRight())
	case keyKillWord:
		e.cut(e.wordLeft(), e.pos)
	case keyKillStart:
		e.cut(0, e.pos)
	case keyKillEnd:
		e.cut(e.pos, len(e.line))
	default:
		if k <= unicode.MaxRune {
			e.insert(k)
		}
	}
}

// take returns the line and empties it.
func (e *editor) take() string {
	s := string(e.line)
	e.set("")
	e.at = len(e.history)
	return s
}

// remember adds s to what keyUp brings back.
func (e *editor) remember(s string) {
	if n := len(e.history); n == 0 || e.history[n-1] != s {
		e.history = append(e.history, s)
	}
	if len(e.history) > maxHistory {
		e.history = e.history[1:]
	}
	e.at = len(e.history)
}

func (e *editor) recall(at int) {
	if at < 0 || at > len(e.history) {
		return
	}
	if e.at == len(e.history) {
		e.draft = string(e.line)
	}
	e.at = at
	if at == len(e.history) {
		e.set(e.draft)
	} else {
		e.set(e.history[at])
	}
}

func (e *editor) set(s string) {
	e.line = []rune(s)
	e.pos, e.left = len(e.line), 0
}

func (e *editor) insert(r rune) {
	e.line = slices.Insert(e.line, e.pos, r)
	e.pos++
}

func (e *editor) cut(from, to int) {
	e.line = slices.Delete(e.line, from, to)
	e.pos = from
}

// glyphLeft is the place before the glyph that the cursor stands behind: a rune with all that combines
// with it.
func (e *editor) glyphLeft() int {
	i := max(e.pos-1, 0)
	for i > 0 && runeColumns(e.line[i]) == 0 {
		i--
	}
	return i
}

func (e *editor) glyphRight() int {
	i := min(e.pos+1, len(e.line))
	for i < len(e.line) && runeColumns(e.line[i]) == 0 {
		i++
	}
	return i
}

func (e *editor) wordLeft() int {
	i := e.pos
	for i > 0 && unicode.IsSpace(e.line[i-1]) {
		i--
	}
	for i > 0 && !unicode.IsSpace(e.line[i-1]) {
		i--
	}
	return i
}

func (e *editor) wordRight() int {
	i := e.pos
	for i < len(e.line) && unicode.IsSpace(e.line[i]) {
		i++
	}
	for i < len(e.line) && !unicode.IsSpace(e.line[i]) {
		i++
	}
	return i
}

// glyph is what a rune of the line looks like on the one row: a line break in it is shown as ␤.
func glyph(r rune) string {
	switch {
	case r == '\n':
		return "␤"
	case r == '\t':
		return " "
	case harmful(r):
		return visible(r)
	}
	return string(r)
}

// draw returns what shows the line on a terminal of so many columns, the cursor in its place. It
// begins with erasing the row.
func (e *editor) draw(wide int) string {
	prompt := e.prompt
	room := wide - 1 - columns(prompt)
	if room < 8 { // too narrow for both
		prompt, room = "", max(wide-1, 2)
	}
	if e.hidden {
		return erase + prompt
	}
	e.scroll(room)
	var b strings.Builder
	b.WriteString(erase + prompt)
	shown := 0
	for _, r := range e.line[e.left:] {
		g := glyph(r)
		if shown += columns(g); shown > room {
			break
		}
		b.WriteString(g)
	}
	b.WriteByte('\r')
	if cursor := columns(prompt) + e.columns(e.left, e.pos); cursor > 0 {
		fmt.Fprintf(&b, "\x1b[%dC", cursor)
	}
	return b.String()
}

// scroll moves the part of the line that is shown so that the cursor is in it.
func (e *editor) scroll(room int) {
	if e.pos <= e.left {
		e.left = max(e.pos-room/2, 0)
	}
	used := 0
	for i := e.pos; i > e.left; i-- {
		if used += columns(glyph(e.line[i-1])); used > room {
			e.left = i
		}
	}
}

func (e *editor) columns(from, to int) int {
	n := 0
	for _, r := range e.line[from:to] {
		n += columns(glyph(r))
	}
	return n
}

// erase clears the row that the cursor is in and goes to its start.
const erase = "\r\x1b[K"
