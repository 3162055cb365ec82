package tui

import (
	"strings"
	"testing"
)

// A tab stays one, its picture stays a picture, and both are shown as the picture.
func TestComposerTabs(t *testing.T) {
	c := newComposer()
	c.setSize(40, 6)
	const text = "a\tb ␉ c"
	c.set(text)
	c.paste("\td\r\n␉")
	if got, want := c.value(), text+"\td\n␉"; got != want {
		t.Errorf("it sends %q, want %q", got, want)
	}
	if view, _ := c.view(); !strings.Contains(view, "a␉b ␉ c␉d") || strings.Contains(view, tab) {
		t.Errorf("it shows %q", view)
	}
}
