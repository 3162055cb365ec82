package tui

import (
	"slices"
	"strings"
	"unicode/utf8"

	"charm.land/bubbles/v2/key"
	"charm.land/bubbles/v2/textarea"
	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"
)

const (
	// maxDraft is how long a text may become in the input, in characters: four times what a server takes unless it is told
	// otherwise. maxLines is how many lines it may have after a paste; who types may go on. A key takes some milliseconds in
	// a text of this length.
	maxDraft, maxLines = 16 << 10, 1000
	// maxHistory is how many texts Up brings back.
	maxHistory = 200
)

// composer is the input: a text of several lines, those that were entered before, and the completion of words.
type composer struct {
	area textarea.Model

	history []string
	at      int    // where in history the text is from; len(history): a new one
	draft   string // the new one, while history is looked through

	choices []string // what Tab goes through
	choice  int
	stem    string // what was typed of them
}

func newComposer() composer {
	a := textarea.New()
	a.Prompt = "> "
	a.SetPromptFunc(2, func(p textarea.PromptInfo) string {
		if p.LineNumber == 0 {
			return "> "
		}
		return "  "
	})
	a.ShowLineNumbers = false
	a.CharLimit = maxDraft
	a.DynamicHeight, a.MinHeight, a.MaxHeight, a.MaxContentHeight = true, 1, 6, maxDraft
	a.SetVirtualCursor(false)
	plain := textarea.StyleState{Selection: lipgloss.NewStyle().Reverse(true)}
	a.SetStyles(textarea.Styles{Focused: plain, Blurred: plain})
	keys := &a.KeyMap
	keys.InsertNewline = key.NewBinding(key.WithKeys("alt+enter", "shift+enter", "ctrl+j"))
	keys.LineNext, keys.LinePrevious = key.NewBinding(key.WithKeys("down")), key.NewBinding(key.WithKeys("up"))
	// The terminal pastes; and what selects and copies here is not told apart by every terminal.
	for _, b := range []*key.Binding{&keys.Paste, &keys.PageUp, &keys.PageDown, &keys.SelectAll, &keys.CopySelection, &keys.InputBegin, &keys.InputEnd} {
		b.Unbind()
	}
	a.Focus()
	return composer{area: a}
}

func (c *composer) setSize(width, maxHeight int) {
	c.area.MaxHeight = max(1, maxHeight)
	c.area.SetWidth(max(4, width))
	c.area.SetHeight(min(c.area.Height(), c.area.MaxHeight))
	c.follow()
}

// follow brings the cursor into view: the area does so only when it takes a message.
func (c *composer) follow() { c.area, _ = c.area.Update(nil) }

// The area has no tabs: it would make spaces of them. It has this in their place, the last character for private use, as
// wide as the picture by which it is shown; in value it is a tab again.
const tab = "\U0010FFFD"

var tabsIn = strings.NewReplacer("\r\n", "\n", "\r", "\n", tab, "\uFFFD", "\t", tab)

func (c *composer) value() string { return strings.ReplaceAll(c.area.Value(), tab, "\t") }

func (c *composer) set(s string) {
	c.area.SetValue(tabsIn.Replace(s))
	c.choices = nil
	c.follow()
}

// load sets a text that is none of the history.
func (c *composer) load(s string) {
	c.set(s)
	c.at = len(c.history)
}

// take empties the input, and returns what it held.
func (c *composer) take() string {
	s := c.value()
	c.load("")
	return s
}

// remember adds a text to what Up brings back.
func (c *composer) remember(s string) {
	if n := len(c.history); n == 0 || c.history[n-1] != s {
		c.history = append(c.history, s)
	}
	if len(c.history) > maxHistory {
		c.history = c.history[1:]
	}
	c.at = len(c.history)
}

// keep adds a text, if it is one, to what Up brings back, and leaves what is being written as it is.
func (c *composer) keep(s string) {
	if s != "" {
		c.remember(s)
	}
}

// press takes a key that is about the text.
func (c *composer) press(msg tea.KeyPressMsg) {
	c.choices = nil
	info := c.area.LineInfo()
	switch {
	case msg.String() == "up" && c.area.Line() == 0 && info.RowOffset == 0:
		c.recall(c.at - 1)
	case msg.String() == "down" && c.area.Line() == c.area.LineCount()-1 && info.RowOffset >= info.Height-1:
		c.recall(c.at + 1)
	default:
		c.area, _ = c.area.Update(msg)
	}
}

func (c *composer) recall(at int) {
	if at < 0 || at > len(c.history) {
		return
	}
	if c.at == len(c.history) {
		c.draft = c.value()
	}
	c.at = at
	if at == len(c.history) {
		c.set(c.draft)
	} else {
		c.set(c.history[at])
	}
}

// paste inserts a text. It reports false, and inserts nothing, if that would make too long a one.
func (c *composer) paste(s string) bool {
	s = tabsIn.Replace(s)
	if utf8.RuneCountInString(s)+c.area.Length() > maxDraft || strings.Count(s, "\n")+c.area.LineCount() > maxLines {
		return false
	}
	c.choices = nil
	c.area.InsertString(s)
	c.follow()
	return true
}

// around is the line that the cursor is in, before the cursor and behind it; first is whether it is the first one.
func (c *composer) around() (before, behind string, first bool) {
	lines := strings.Split(c.area.Value(), "\n")
	n := min(c.area.Line(), len(lines)-1)
	runes := []rune(lines[n])
	at := min(c.area.Column(), len(runes))
	return string(runes[:at]), string(runes[at:]), n == 0
}

// complete completes the word before the cursor with the first or, by a step of -1, the last of the candidates that begin
// as it does. What comes behind the word is added by suffix.
func (c *composer) complete(word string, candidates []string, suffix func(string) string, step int) {
	c.choices, c.stem, c.choice = nil, word, -1
	for _, s := range candidates {
		if len(s) >= len(word) && strings.EqualFold(s[:len(word)], word) {
			c.choices = append(c.choices, suffix(s))
		}
	}
	if step < 0 {
		c.choice = 0
	}
	c.turn(step)
}

// turn goes on to another of the choices.
func (c *composer) turn(step int) {
	if len(c.choices) == 0 {
		return
	}
	c.choice = (c.choice + step + len(c.choices)) % len(c.choices)
	for range utf8.RuneCountInString(c.stem) {
		c.area, _ = c.area.Update(tea.KeyPressMsg{Code: tea.KeyBackspace})
	}
	c.stem = c.choices[c.choice]
	c.area.InsertString(c.stem)
	c.follow()
}

// lastWord is the end of a line behind its last space.
func lastWord(line string) string {
	return line[strings.LastIndexAny(line, " \t")+1:]
}

// completeName completes a user's name: at the start of a message with a colon behind it, after an @ with the @ before it.
func (c *composer) completeName(names []string, step int) {
	line, behind, first := c.around()
	word := lastWord(line)
	suffix := func(name string) string { return name + " " }
	if strings.HasPrefix(behind, " ") {
		suffix = func(name string) string { return name }
	}
	switch {
	case strings.HasPrefix(word, "@"):
		names = slices.Clone(names)
		for i := range names {
			names[i] = "@" + names[i]
		}
	case first && word == line:
		suffix = func(name string) string { return name + ": " }
	}
	if word == "" {
		return
	}
	c.complete(word, names, suffix, step)
}

// view is the input as rows, and the cursor in it.
func (c *composer) view() (string, *tea.Cursor) {
	return harmless(strings.ReplaceAll(c.area.View(), tab, "␉")), c.area.Cursor()
}
