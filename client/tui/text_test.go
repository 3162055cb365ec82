package tui

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/grpcchatter/grpcchatter/client"
)

func TestScreenLines(t *testing.T) {
	for _, test := range []struct{ in, want string }{
		{"plain 你好 é 😀", "plain 你好 é 😀"},
		{"\x1b[2J\x1b]0;x\a", "␛[2J␛]0;x␇"},
		{"\u009b31m\x7f\x00", "<U+009B>31m␡␀"},
		{"a\u202eb\u2066c\u2069d", "a<U+202E>b<U+2066>c<U+2069>d"},
		{"one\ntwo\r\nthree\n", "one\ntwo\nthree"},
		{"one\rtwo", "one␍two"},
		{"\tx", "    x"},
		{"a\u2028b", "a<U+2028>b"},
		{"family 👨‍👩‍👧", "family 👨‍👩‍👧"},
	} {
		if got := strings.Join(screenLines(test.in), "\n"); got != test.want {
			t.Errorf("screenLines(%q) = %q, want %q", test.in, got, test.want)
		}
	}
	if got := screenLine("a\nb"); got != "a␊b" {
		t.Errorf("screenLine shows a line break as %q", got)
	}
}

// What a server says reaches a terminal as one harmless line, whatever it is wrapped in.
func TestSentence(t *testing.T) {
	said := &client.Error{Code: "OTHER", Message: "no\x1b[2J\nline 1 was not sent."}
	for _, err := range []error{said, fmt.Errorf("join: %w", said), &failure{sentence(said), said}} {
		if got, want := sentence(err), "no␛[2J␊line 1 was not sent"; got != want {
			t.Errorf("of %v is said %q, want %q", err, got, want)
		}
	}
	if got := sentence(fmt.Errorf("%w: %w", ErrOutputClosed, crash("x\ny"))); got != crash("x\ny").Error() {
		t.Errorf("of a crash is said %q", got)
	}
}

func FuzzText(f *testing.F) {
	for _, s := range []string{"", "hello", "a\\nb\n", "\x1b[31m", "\u202e\u2069", "\\u0041", "\xff", "a\r\n\tb", "x: y"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, line := range screenLines(s) {
			if strings.ContainsFunc(line, harmful) {
				t.Errorf("screenLines(%q) has a line %q", s, line)
			}
		}
		if got := screenLine(s); strings.ContainsFunc(got, harmful) {
			t.Errorf("screenLine(%q) = %q", s, got)
		}
		if !utf8.ValidString(s) {
			return // no message is
		}
		if got := pipeText(s); strings.ContainsFunc(got, harmful) || unescape(t, got) != s {
			t.Errorf("pipeText(%q) = %q", s, got)
		}
		if got := pipeName(s); strings.ContainsFunc(got, harmful) || strings.ContainsAny(got, " :") || unescape(t, got) != s {
			t.Errorf("pipeName(%q) = %q", s, got)
		}
	})
}

// unescape undoes what Options.Plain says of the text.
func unescape(t *testing.T, s string) string {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(s, `\`)
		b.WriteString(before)
		if !found {
			return b.String()
		}
		switch after[0] {
		case '\\':
			b.WriteByte('\\')
		case 'n':
			b.WriteByte('\n')
		case 'r':
			b.WriteByte('\r')
		case 't':
			b.WriteByte('\t')
		case 'u':
			r, err := strconv.ParseUint(after[1:5], 16, 32)
			if err != nil {
				t.Fatal(err)
			}
			b.WriteRune(rune(r))
			after = after[4:]
		default:
			t.Fatalf("an escape that is none: %q", after)
		}
		s = after[1:]
	}
}
