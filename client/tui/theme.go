package tui

import (
	"hash/fnv"
	"image/color"
	"strings"

	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/x/ansi"
)

// theme is how things look. It has nothing but the terminal's own sixteen colours, which its owner has chosen to be
// read on its background; without colours (NO_COLOR) bold, faint and reverse still tell things apart.
type theme struct {
	faint, bold, bar, alert, mention, good, chosen lipgloss.Style
	names                                          []lipgloss.Style // of senders
	dark                                           bool
}

// newTheme returns the theme for a dark or a light background: the bright colours, or the others.
func newTheme(dark bool) theme {
	var bright ansi.BasicColor // the step to a bright colour
	if dark {
		bright = 8
	}
	plain := lipgloss.NewStyle()
	coloured := func(c color.Color) lipgloss.Style { return plain.Foreground(c).Bold(true) }
	t := theme{
		dark:    dark,
		faint:   plain.Faint(true),
		bold:    plain.Bold(true),
		bar:     plain.Reverse(true),
		alert:   coloured(lipgloss.Red + bright),
		mention: coloured(lipgloss.Magenta + bright),
		good:    plain.Foreground(lipgloss.Green + bright),
		chosen:  plain.Reverse(true).Bold(true),
	}
	for _, c := range []ansi.BasicColor{lipgloss.Green, lipgloss.Blue, lipgloss.Magenta, lipgloss.Cyan} {
		t.names = append(t.names, coloured(c+bright))
	}
	if dark {
		t.names = append(t.names, coloured(lipgloss.BrightYellow)) // not to be read on white
	}
	return t
}

// name is the style of a sender's name, the same each time.
func (t *theme) name(s string) lipgloss.Style {
	h := fnv.New32a()
	h.Write([]byte(strings.ToLower(s)))
	return t.names[h.Sum32()%uint32(len(t.names))]
}
