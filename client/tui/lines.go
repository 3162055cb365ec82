package tui

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"unicode/utf8"
)

// maxLine is the longest line that is read, in bytes. How long a message may be is for the server to say.
const maxLine = 1 << 20

var (
	errLineTooLong = errors.New("the line is longer than 1 MiB")
	errLineNotUTF8 = errors.New("the line is not UTF-8")
)

// lineReader reads the messages of the line protocol.
type lineReader struct {
	r *bufio.Reader
	n int // the number of the line that next has returned, from 1
}

func newLineReader(r io.Reader) *lineReader {
	return &lineReader{r: bufio.NewReaderSize(r, 64<<10)}
}

// next returns the next line without its end; empty lines are skipped. After errLineTooLong and
// errLineNotUTF8, which are about this line alone, it goes on with the next.
func (l *lineReader) next() (string, error) {
	for {
		line, err := l.read()
		if err != nil || len(line) > 0 {
			return string(line), err
		}
	}
}

func (l *lineReader) read() ([]byte, error) {
	l.n++
	var line []byte
	tooLong := false
	for {
		part, err := l.r.ReadSlice('\n')
		if tooLong = tooLong || len(line)+len(part) > maxLine+len("\r\n"); !tooLong {
			line = append(line, part...)
		}
		if err == bufio.ErrBufferFull {
			continue
		}
		if err != nil && len(line) == 0 && !tooLong {
			return nil, err
		}
		break // a last line without an end is a line as well; its error comes again
	}
	line = bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
	switch {
	case tooLong || len(line) > maxLine:
		return nil, errLineTooLong
	case !utf8.Valid(line):
		return nil, errLineNotUTF8
	}
	return line, nil
}
