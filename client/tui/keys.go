package tui

import (
	"strings"

	"charm.land/bubbles/v2/textinput"
	tea "charm.land/bubbletea/v2"
)

// keysHelp is what /help says of keys.
const keysHelp = `Enter sends; Alt-Enter, Shift-Enter or Ctrl-J begins a new line; pasted lines stay together
Up and Down at the edge of the text: what you have entered before; Tab completes names and commands
PageUp and PageDown scroll, Ctrl-Home and Ctrl-End go to the beginning and to the end, Alt-U to what is new; the mouse selects text, as ever
Alt-Up and Alt-Down (or Ctrl-P and Ctrl-N) change the room, Alt-A goes to the next one with something new, Alt-1 to Alt-9 to one of the first
Ctrl-L draws the screen anew, Ctrl-Z goes to the shell; Ctrl-C empties the input, and leaves when it is empty, as Ctrl-D does
//text sends a message that begins with a slash`

// press takes a key.
func (a *app) press(msg tea.KeyPressMsg) {
	switch msg.String() {
	case "ctrl+z":
		a.do(a.display.suspend())
		return
	case "ctrl+l":
		a.display.forget()
		return
	case "ctrl+c":
		a.interrupt()
		return
	}
	switch {
	case a.form != nil:
		a.form.press(msg)
	case a.question != nil:
		a.answer(msg)
	default:
		a.chatKey(msg)
	}
}

// interrupt leaves, but empties the input first if there is something in it.
func (a *app) interrupt() {
	switch {
	case a.question != nil:
		a.question = nil
	case a.form == nil && a.input.value() != "" && !a.leaving:
		a.input.remember(a.input.take())
	case a.leaving:
		a.do(tea.Quit)
	default:
		a.quit()
	}
}

func (a *app) chatKey(msg tea.KeyPressMsg) {
	a.here.seek = 0
	p := a.pane()
	page := max(1, p.height-1)
	switch key := msg.String(); key {
	case "enter":
		a.enter()
	case "tab":
		a.complete(1)
	case "shift+tab":
		a.complete(-1)
	case "pgup":
		p.up(page)
	case "pgdown":
		p.down(page)
	case "shift+pgup":
		p.up(1)
	case "shift+pgdown":
		p.down(1)
	case "ctrl+home":
		a.here.seek = 1
	case "alt+u":
		a.here.seek = a.here.unreadLine
	case "ctrl+end", "esc":
		a.here.scroll.toEnd()
	case "alt+up", "ctrl+p":
		a.step(-1)
	case "alt+down", "ctrl+n":
		a.step(1)
	case "alt+a":
		a.nextUnread()
	case "alt+1", "alt+2", "alt+3", "alt+4", "alt+5", "alt+6", "alt+7", "alt+8", "alt+9":
		if i := int(key[len(key)-1] - '1'); i < len(a.rooms) {
			a.show(a.rooms[i])
		}
	case "ctrl+d":
		if a.input.value() == "" {
			a.quit()
			return
		}
		a.input.press(msg)
	default:
		before := a.input.value()
		a.input.press(msg)
		if a.input.value() != before { // whoever moves about in a draft does not write
			a.typing()
		}
	}
}

func (a *app) complete(step int) {
	if a.input.choices != nil {
		a.input.turn(step)
		return
	}
	line, _, first := a.input.around()
	list := matching(line)
	if !first || len(list) == 0 || strings.ContainsAny(line, " \t") {
		a.input.completeName(a.here.names(a.user), step)
		return
	}
	var names []string
	for _, c := range list {
		if c.args != "" {
			c.name += " "
		}
		names = append(names, c.name)
	}
	a.input.complete(line, names, func(s string) string { return s }, step)
}

func (a *app) paste(text string) {
	switch {
	case a.form != nil:
		a.form.paste(text)
	case a.question != nil:
		pasteInto(&a.question.field, text)
	case !a.input.paste(text):
		a.note("What was pasted is too long for a message, and was left out: the input holds %d characters, in %d lines.", maxDraft, maxLines)
	}
}

// question asks for a secret in the place of the input. Enter answers, Esc does not.
type question struct {
	label  string
	field  textinput.Model
	answer func(string)
}

func newQuestion(label string, answer func(string)) *question {
	return &question{label: label, field: newField(true), answer: answer}
}

func (a *app) answer(msg tea.KeyPressMsg) {
	q := a.question
	switch msg.String() {
	case "enter":
		a.question = nil
		q.answer(q.field.Value())
	case "esc":
		a.question = nil
	default:
		q.field, _ = q.field.Update(msg)
	}
}
