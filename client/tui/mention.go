package tui

import (
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/charmbracelet/x/ansi"
)

// The values of Options.Notify.
const (
	NotifyOff  = ""
	NotifyBell = "bell"
	NotifyOSC9 = "osc9"
)

// notifyPause is the least time between two notifications.
const notifyPause = 2 * time.Second

// mentions reports whether a text has a user name as a word of its own; case makes no difference.
func mentions(text, name string) bool {
	if name == "" {
		return false
	}
	text, name = strings.ToLower(text), strings.ToLower(name)
	for from := 0; ; {
		i := strings.Index(text[from:], name)
		if i < 0 {
			return false
		}
		start := from + i
		from = start + len(name)
		if !continues(backwards(text[:start])) && !continues(text[from:]) {
			return true
		}
	}
}

// backwards is the end of a text, the last character first: as much of it as continues looks at.
func backwards(text string) string {
	r, n := utf8.DecodeLastRuneInString(text)
	before, _ := utf8.DecodeLastRuneInString(text[:len(text)-n])
	return string([]rune{r, before})
}

// continues reports whether a text goes on with more of a name. A full stop or a hyphen does so only before a letter
// or a digit: at the end of a sentence it is none of the name.
func continues(text string) bool {
	r, n := utf8.DecodeRuneInString(text)
	if r == '.' || r == '-' {
		r, _ = utf8.DecodeRuneInString(text[n:])
	}
	return inName(r)
}

func inName(r rune) bool {
	return r != utf8.RuneError && (unicode.IsLetter(r) || unicode.IsDigit(r) || r == '_')
}

// notification is what tells a person who looks elsewhere that somebody has written to them: a bell, or a text for
// the terminal to show (OSC 9, of iTerm2, kitty, WezTerm, Windows Terminal and others).
func notification(how, text string) string {
	switch how {
	case NotifyBell:
		return "\a"
	case NotifyOSC9:
		return "\x1b]9;" + ansi.Truncate(screenLine(text), 200, "…") + "\a"
	}
	return ""
}
