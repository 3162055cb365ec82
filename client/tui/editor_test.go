package tui

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestEditor(t *testing.T) {
	for _, test := range []struct{ keys, line, right string }{ // right: of the cursor
		{"hello", "hello", ""},
		{"hello\x7f\x08", "hel", ""},
		{"你好😀\x7f", "你好", ""},
		{"cafe\u0301\x7f", "caf", ""},                                    // a combining accent goes with its letter
		{"ab\x1b[D\x1b[DX", "Xab", "ab"},                                 // Left
		{"ab\x01X\x05Y", "XabY", ""},                                     // ^A, ^E
		{"ab\x01\x1b[3~", "b", "b"},                                      // Delete
		{"ab\x01\x04", "b", "b"},                                         // ^D within a line
		{"one two  \x17", "one ", ""},                                    // ^W
		{"one two\x1bb\x0b", "one ", ""},                                 // Alt-b, ^K
		{"one two\x1b[1;5D\x15", "two", "two"},                           // Ctrl-Left, ^U
		{"one\x01\x1bfX", "oneX", ""},                                    // Alt-f
		{"one\x1b\rtwo", "one\ntwo", ""},                                 // Alt-Enter
		{"a\x1b[200~b\rc\td\r\n\x1b\x03e\x1b[201~f", "ab\nc\td\nef", ""}, // pasted: text, whatever it holds
		{"a\x1b[15~\x1bOPb\x07\x1bxc", "abc", ""},                        // keys that mean nothing here
		{"\x1b[Ax", "x", ""},                                             // Up without a history
	} {
		e := editor{prompt: "> "}
		var k keyboard
		for _, key := range k.feed([]byte(test.keys)) {
			e.press(key)
		}
		if string(e.line) != test.line || string(e.line[e.pos:]) != test.right {
			t.Errorf("%q makes %q with %q behind the cursor", test.keys, string(e.line), string(e.line[e.pos:]))
		}
	}
}

func TestEditorHistory(t *testing.T) {
	var e editor
	for _, line := range []string{"one", "two", "two"} {
		e.remember(line)
	}
	e.set("draft")
	for _, step := range []struct {
		key  key
		want string
	}{{keyUp, "two"}, {keyUp, "one"}, {keyUp, "one"}, {keyDown, "two"}, {keyDown, "draft"}, {keyDown, "draft"}} {
		if e.press(step.key); string(e.line) != step.want {
			t.Errorf("there is %q, want %q", string(e.line), step.want)
		}
	}
	for i := range 2 * maxHistory {
		e.remember(fmt.Sprint(i))
	}
	if len(e.history) != maxHistory {
		t.Errorf("%d lines are kept", len(e.history))
	}
}

func TestKeyboardEscapeAlone(t *testing.T) {
	var k keyboard
	if keys := k.feed([]byte("a\x1b")); !slices.Equal(keys, []key{'a'}) || len(k.rest) == 0 {
		t.Errorf("keys %q", keys)
	}
	k.flush()
	if keys := k.feed([]byte("b")); !slices.Equal(keys, []key{'b'}) {
		t.Errorf("after Escape alone: keys %q", keys)
	}
}

// Whatever is typed or pasted, in whatever pieces: the same keys, nothing harmful drawn, and the row and the
// cursor stay within the terminal.
func FuzzEditor(f *testing.F) {
	f.Add([]byte("hello\x1b[D\x1b[200~x\ry\x1b[201~\x7f"), 5, 20)
	f.Add([]byte("你好世界😀e\u0301\x17\x01"), 4, 9)
	f.Add([]byte("\x1b[1;5Dabc\xff\xe4"), 2, 1)
	f.Fuzz(func(t *testing.T, typed []byte, cut, wide int) {
		if wide < 1 || wide > 500 || len(typed) > 2000 {
			return
		}
		var whole, pieces keyboard
		keys := whole.feed(typed)
		cut = min(max(cut, 0), len(typed))
		again := append(pieces.feed(typed[:cut]), pieces.feed(typed[cut:])...)
		if !slices.Equal(keys, again) {
			t.Fatalf("%q makes %q, cut at %d %q", typed, keys, cut, again)
		}
		e := editor{prompt: "> "}
		for _, k := range keys {
			switch k {
			case keyEnter:
				e.remember(e.take())
			case keyLeave, keyEOF, keySuspend, keyClear:
			default:
				e.press(k)
			}
			checkRow(t, e.draw(wide), max(wide, 3))
		}
	})
}

func checkRow(t *testing.T, drawn string, wide int) {
	m := regexp.MustCompile(`^\r\x1b\[K([^\r]*)\r(?:\x1b\[(\d+)C)?$`).FindStringSubmatch(drawn)
	if m == nil || strings.ContainsFunc(m[1], harmful) {
		t.Fatalf("drawn: %q", drawn)
	}
	cursor := 0
	fmt.Sscan(m[2], &cursor)
	if columns(m[1]) >= wide || cursor >= wide {
		t.Fatalf("drawn on %d columns: %q", wide, drawn)
	}
}
