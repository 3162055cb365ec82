package tui

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/grpcchatter/grpcchatter/client"
)

// chatting is an app in a room with so many messages.
func chatting(b testing.TB, width, height, messages int) *app {
	b.Helper()
	a := newApp(b.Context(), Options{Out: io.Discard})
	a.feed.send = func(tea.Msg) {}
	a.form = nil
	a.user = "ann"
	r := newRoom("K7P2QX", "Lobby", "ann", 0)
	r.complete = true
	a.add(r)
	a.here = r
	for i := range messages {
		r.add(message(i), false, false)
	}
	_, _ = a.Update(tea.WindowSizeMsg{Width: width, Height: height})
	return a
}

func message(i int) client.Message {
	return client.Message{
		Seq: uint64(i + 1), UserName: fmt.Sprintf("user%d", i/7%5), SentAt: time.Unix(1_700_000_000+int64(i)*20, 0),
		Body: fmt.Sprintf("message %d of the room, which is long enough to be wrapped on most screens: %s", i, strings.Repeat("word ", i%20)),
	}
}

// A key and the screen that follows: it has 33 ms until the next picture (framesPerSecond).
func BenchmarkKey(b *testing.B) {
	for _, size := range []struct{ width, height int }{{80, 24}, {200, 60}} {
		for _, draft := range []int{0, 4000} {
			b.Run(fmt.Sprintf("%dx%d/draft=%d", size.width, size.height, draft), func(b *testing.B) {
				a := chatting(b, size.width, size.height, 5000)
				a.input.set(strings.Repeat("y", draft))
				b.ReportAllocs()
				for b.Loop() {
					a.Update(tea.KeyPressMsg{Code: 'x', Text: "x"})
					a.display.turnTo(a.picture())
					a.Update(tea.KeyPressMsg{Code: tea.KeyBackspace})
					a.display.turnTo(a.picture())
				}
			})
		}
	}
}

// A picture's worth of messages (2,000 a second) and the screen that follows.
func BenchmarkFlood(b *testing.B) {
	a := chatting(b, 120, 40, 5000)
	r := a.here
	n := 5000
	b.ReportAllocs()
	for b.Loop() {
		for range 2000 / framesPerSecond {
			r.add(message(n), false, false)
			n++
		}
		a.Update(fed{})
		a.display.turnTo(a.picture())
	}
}

// The README has every command as /help has it.
func TestCommandsInReadme(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range commands() {
		if row := "| `" + strings.TrimSpace(c.name+" "+c.args) + "` | " + c.does + " |\n"; !strings.Contains(string(readme), row) {
			t.Errorf("the README lacks %q", row)
		}
	}
}
