package tui

import (
	"bytes"
	"unicode"
	"unicode/utf8"
)

// A key is a rune that was typed, or one of the constants below, which lie beyond all runes.
type key = rune

const (
	keyNone key = unicode.MaxRune + 1 + iota // a sequence that means nothing here
	keyEnter
	keyNewline
	keyUp
	keyDown
	keyLeft
	keyRight
	keyWordLeft
	keyWordRight
	keyHome
	keyEnd
	keyBackspace
	keyDelete
	keyKillWord
	keyKillStart
	keyKillEnd
	keyClear
	keyLeave
	keyEOF
	keySuspend
)

// control is the key that arrives as the control byte b.
func control(b byte) (key, bool) {
	switch b {
	case '\r', '\n':
		return keyEnter, true
	case 0x01: // ^A
		return keyHome, true
	case 0x02: // ^B
		return keyLeft, true
	case 0x03: // ^C
		return keyLeave, true
	case 0x04: // ^D
		return keyEOF, true
	case 0x05: // ^E
		return keyEnd, true
	case 0x06: // ^F
		return keyRight, true
	case 0x08, 0x7F: // ^H and what most Backspace keys send
		return keyBackspace, true
	case 0x0B: // ^K
		return keyKillEnd, true
	case 0x0C: // ^L
		return keyClear, true
	case 0x0E: // ^N
		return keyDown, true
	case 0x10: // ^P
		return keyUp, true
	case 0x15: // ^U
		return keyKillStart, true
	case 0x17: // ^W
		return keyKillWord, true
	case 0x1A: // ^Z
		return keySuspend, true
	}
	return keyNone, false
}

// sequenceKey is the key that arrives as ESC followed by s.
func sequenceKey(s string) key {
	switch s {
	case "[A", "OA":
		return keyUp
	case "[B", "OB":
		return keyDown
	case "[C", "OC":
		return keyRight
	case "[D", "OD":
		return keyLeft
	case "[H", "OH", "[1~", "[7~":
		return keyHome
	case "[F", "OF", "[4~", "[8~":
		return keyEnd
	case "[3~":
		return keyDelete
	case "[1;5D", "[1;3D", "b": // Ctrl-Left, Alt-Left, Alt-b
		return keyWordLeft
	case "[1;5C", "[1;3C", "f":
		return keyWordRight
	case "\x7f": // Alt-Backspace
		return keyKillWord
	case "\r", "\n": // Alt-Enter
		return keyNewline
	}
	return keyNone
}

const (
	esc        = 0x1B
	pasteStart = "\x1b[200~"
	pasteEnd   = "\x1b[201~"
)

// keyboard turns the bytes of a terminal into keys. What is pasted (between the marks that a terminal puts
// around it) is text and never a command: its line breaks are keyNewline, its controls mean nothing.
type keyboard struct {
	rest    []byte // the beginning of a sequence whose end is still to come
	pasting bool
}

// feed takes bytes and returns the keys that they complete.
func (k *keyboard) feed(b []byte) []key {
	b = append(k.rest, b...)
	var keys []key
	for len(b) > 0 {
		key, n := k.next(b)
		if n == 0 {
			break
		}
		if key != keyNone {
			keys = append(keys, key)
		}
		b = b[n:]
	}
	k.rest = bytes.Clone(b)
	return keys
}

// flush gives up waiting for the end of a sequence: what there is of it was Escape alone.
func (k *keyboard) flush() { k.rest = nil }

// next takes one key off b and returns how many bytes it had, 0 when the rest of it has yet to come.
func (k *keyboard) next(b []byte) (key, int) {
	switch {
	case k.pasting && bytes.HasPrefix(b, []byte(pasteEnd)):
		k.pasting = false
		return keyNone, len(pasteEnd)
	case k.pasting && bytes.HasPrefix([]byte(pasteEnd), b):
		return keyNone, 0
	case k.pasting:
		return pasted(b)
	case b[0] == esc:
		return k.sequence(b)
	}
	if key, ok := control(b[0]); ok {
		return key, 1
	}
	return typed(b)
}

func pasted(b []byte) (key, int) {
	switch {
	case len(b) > 1 && b[0] == '\r' && b[1] == '\n':
		return keyNewline, 2
	case b[0] == '\r', b[0] == '\n':
		return keyNewline, 1
	case b[0] == '\t':
		return '\t', 1
	}
	return typed(b)
}

// typed takes one rune off b; controls and bytes that are no UTF-8 are left out.
func typed(b []byte) (key, int) {
	if !utf8.FullRune(b) {
		return keyNone, 0
	}
	r, n := utf8.DecodeRune(b)
	if unicode.IsControl(r) || r == utf8.RuneError && n == 1 {
		return keyNone, n
	}
	return r, n
}

func (k *keyboard) sequence(b []byte) (key, int) {
	n := sequenceLen(b)
	if n == 0 {
		return keyNone, 0
	}
	if string(b[:n]) == pasteStart {
		k.pasting = true
		return keyNone, n
	}
	return sequenceKey(string(b[1:n])), n
}

// sequenceLen is the length of the escape sequence at the start of b, 0 when its end has yet to come.
func sequenceLen(b []byte) int {
	if len(b) < 2 {
		return 0
	}
	switch b[1] {
	case '[':
		for i, c := range b[2:] {
			if c < 0x20 || c > 0x3F { // the final byte, or something that does not belong here
				return 2 + i + 1
			}
		}
		return 0
	case 'O':
		if len(b) < 3 {
			return 0
		}
		return 3
	case esc:
		return 1
	}
	_, n := utf8.DecodeRune(b[1:])
	return 1 + n
}
