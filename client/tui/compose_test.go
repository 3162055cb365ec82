package tui

import (
	"strings"
	"testing"

	tea "charm.land/bubbletea/v2"
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

// The cursor is to be seen in a text of more lines than the input has rows, however the text has come there: the view stayed at
// the beginning until the next key, and the cursor stood on the rows below the input.
func TestCursorInView(t *testing.T) {
	lines := strings.Repeat("line\n", 9) + "last"
	for how, put := range map[string]func(a *app){
		"pasted":         func(a *app) { a.Update(tea.PasteMsg{Content: lines}) },
		"pasted between": func(a *app) { a.input.set("b"); a.input.area.MoveToBegin(); a.Update(tea.PasteMsg{Content: lines}) },
		"had back by Up": func(a *app) { a.input.remember(lines); a.Update(tea.KeyPressMsg{Code: tea.KeyUp}) },
		"a draft":        func(a *app) { a.add(&room{code: "B", name: "b", joining: true, draft: lines}); a.step(1) },
		"a lower screen": func(a *app) { a.input.set(lines); a.Update(tea.WindowSizeMsg{Width: 80, Height: 8}) },
	} {
		a := chatting(t, 80, 24, 3)
		put(a)
		rows, cursor := a.chatView()
		if cursor == nil || cursor.Y >= a.height-1 || cursor.Y < 0 || !strings.Contains(rows[cursor.Y], "last") {
			t.Errorf("%s: the cursor is at %v, of %d rows:\n%s", how, cursor, len(rows), strings.Join(rows, "\n"))
		}
	}
}
