package tui

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestLineReader(t *testing.T) {
	longest := strings.Repeat("x", maxLine)
	in := "one\n\n\r\ntwo\r\n" + longest + "\n" + longest + "\r\n" + longest + "x\n\xff\nend"
	l := newLineReader(strings.NewReader(in))
	for _, want := range []struct {
		n    int
		line string
		err  error
	}{
		{1, "one", nil},
		{4, "two", nil},
		{5, longest, nil},
		{6, longest, nil},
		{7, "", errLineTooLong},
		{8, "", errLineNotUTF8},
		{9, "end", nil},
	} {
		line, err := l.next()
		if line != want.line || err != want.err || l.n != want.n {
			t.Errorf("line %d: %d bytes, %v; want line %d, %d bytes, %v", l.n, len(line), err, want.n, len(want.line), want.err)
		}
	}
	if line, err := l.next(); line != "" || err != io.EOF {
		t.Errorf("at the end: %q, %v", line, err)
	}
}

func TestLineReaderKeepsTheErrorOfItsInput(t *testing.T) {
	broken := errors.New("broken")
	l := newLineReader(io.MultiReader(strings.NewReader("one"), iotest.ErrReader(broken)))
	if line, err := l.next(); line != "one" || err != nil {
		t.Errorf("%q, %v", line, err)
	}
	if _, err := l.next(); err != broken {
		t.Errorf("the error is %v", err)
	}
}

// However the input is cut into pieces, the lines are those that it holds.
func FuzzLineReader(f *testing.F) {
	f.Add("one\ntwo\r\n\nthree")
	f.Add("\r\r\n\n\xff\n")
	f.Fuzz(func(t *testing.T, in string) {
		var want []string
		for line := range strings.SplitSeq(in, "\n") {
			line = strings.TrimSuffix(line, "\r")
			if line != "" {
				want = append(want, line)
			}
		}
		l := newLineReader(iotest.OneByteReader(strings.NewReader(in)))
		for _, w := range want {
			line, err := l.next()
			if err == errLineNotUTF8 && strings.ToValidUTF8(w, "") != w {
				continue
			}
			if line != w || err != nil {
				t.Fatalf("of %q: %q, %v; want %q", in, line, err, w)
			}
		}
		if line, err := l.next(); err != io.EOF {
			t.Fatalf("of %q: %q, %v; want the end", in, line, err)
		}
	})
}
