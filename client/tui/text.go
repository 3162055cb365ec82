package tui

import (
	"fmt"
	"strings"
	"unicode"
)

// harmful reports whether r must not reach a terminal as it is: controls (C0, DEL, C1), which move the
// cursor or start an escape sequence; the bidirectional overrides and isolates, which make text read as
// something it is not; the two separators that some terminals take for a new line; and the fillers of Hangul, which are
// not seen, and whose width terminals do not agree on.
func harmful(r rune) bool {
	switch {
	case unicode.IsControl(r):
		return true
	case r >= 0x202A && r <= 0x202E, r >= 0x2066 && r <= 0x2069:
		return true
	}
	switch r {
	case 0x2028, 0x2029, 0x115F, 0x1160, 0x3164, 0xFFA0:
		return true
	}
	return false
}

// visible is the form in which a harmful rune is shown on a screen: a control picture such as ␛ where
// Unicode has one, otherwise the rune's number, such as <U+202E>.
func visible(r rune) string {
	switch {
	case r < 0x20:
		return string(0x2400 + r)
	case r == 0x7F:
		return "␡"
	}
	return fmt.Sprintf("<U+%04X>", r)
}

// screenLine makes s, which somebody else wrote, safe to show on one line of a terminal. Tabs become
// four spaces; a line break is shown as ␊.
func screenLine(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '\t':
			b.WriteString("    ")
		case harmful(r):
			b.WriteString(visible(r))
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// screenLines is screenLine for every line of a text. Line breaks at its end are left out.
func screenLines(s string) []string {
	s = strings.ReplaceAll(s, "\r\n", "\n")
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	for i, line := range lines {
		lines[i] = screenLine(line)
	}
	return lines
}

// pipeText makes a message one line of the line protocol. A backslash becomes \\; line feed, carriage
// return and tab become \n, \r and \t; every other harmful rune becomes \u and four hexadecimal digits.
// Nothing else is changed, so the text can be had back: `printf %b` of bash undoes it.
func pipeText(s string) string {
	return escape(s, func(r rune) bool { return r == '\\' || harmful(r) })
}

// pipeName is pipeText for a user name, with spaces and colons escaped too: the name ends at the first
// colon of the line's rest, whatever name an older server let in.
func pipeName(s string) string {
	return escape(s, func(r rune) bool { return r == '\\' || r == ':' || unicode.IsSpace(r) || harmful(r) })
}

func escape(s string, needed func(rune) bool) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case !needed(r):
			b.WriteRune(r)
		case r == '\\':
			b.WriteString(`\\`)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

// count is a number with its noun: "1 message", "2 messages".
func count[N int | uint64](n N, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
