package tui

import (
	"io"
	"strings"
	"testing"
	"testing/synctest"
)

// A slow terminal gets the rest of the piece that is being written, and is given back then; one that takes nothing is not
// waited for.
func TestDisplayLeaves(t *testing.T) {
	for _, slow := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) { leaveDisplay(t, slow) })
	}
}

func leaveDisplay(t *testing.T, slow bool) {
	rows := make([]string, 50)
	for i := range rows {
		rows[i] = strings.Repeat("x", minPiece)
	}
	terminal, out := io.Pipe() // a write waits until it is read
	d := newDisplay(io.Discard)
	d.out = out
	d.open()
	take := func() string {
		b := make([]byte, 64<<10)
		n, _ := terminal.Read(b)
		return string(b[:n])
	}
	if got := take(); got != enterScreen {
		t.Errorf("it begins with %q", got)
	}
	d.draw(picture{rows: rows})
	if got := take(); !strings.Contains(got, rows[0]) {
		t.Errorf("it draws %q", got)
	}
	if _, err := terminal.Read(make([]byte, 1)); err != nil { // the next piece is being written
		t.Fatal(err)
	}
	given := make(chan bool, 1)
	go func() { given <- d.close() }()
	if !slow {
		if <-given {
			t.Error("a terminal that takes nothing is said to have been given back")
		}
		terminal.Close()
		return
	}
	synctest.Wait() // until it is to be given back
	if got := take(); !strings.Contains(got, rows[1]) {
		t.Errorf("of the piece comes %q", got)
	}
	if got := take(); got != leaveScreen {
		t.Errorf("it ends with %q", got)
	}
	if !<-given {
		t.Error("it is not said that the terminal has been given back")
	}
}
