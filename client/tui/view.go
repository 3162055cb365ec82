package tui

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"
)

const (
	// From these widths on there is a list of rooms, and one of who is present.
	roomsFrom, peopleFrom = 72, 100
	roomsWidth            = 20
	peopleWidth           = 18
)

// cells counts the columns of a text as a terminal does that knows of no clusters. Where it counts otherwise, the display
// keeps things in their columns.
const cells = ansi.WcWidth

// picture is what is to be seen now.
func (a *app) picture() picture {
	p := picture{title: a.title()}
	if a.form != nil {
		p.rows, p.cursor = a.form.view(a.width, a.height)
	} else {
		p.rows, p.cursor = a.chatView()
	}
	if len(p.rows) > a.height {
		p.rows = p.rows[:a.height]
	}
	for len(p.rows) < a.height {
		p.rows = append(p.rows, "")
	}
	return p
}

// title is the window's: with the number of messages that have not been seen.
func (a *app) title() string {
	title := "GRPCChatter"
	if a.here.code != "" {
		title = screenLine(a.here.name) + " - " + title
	}
	var unread uint64
	for _, r := range a.rooms {
		unread += r.unread()
	}
	if unread > 0 {
		title = fmt.Sprintf("(%d) %s", unread, title)
	}
	return title
}

// measures are how the screen is divided.
type measures struct {
	rooms, people, middle int // columns; 0: not there
	body, input           int // rows
}

func (a *app) measure() measures {
	m := measures{middle: a.width}
	if a.width >= roomsFrom && len(a.rooms) > 0 {
		m.rooms = roomsWidth
		m.middle -= roomsWidth + 1
	}
	if a.width >= peopleFrom && a.here.code != "" {
		m.people = peopleWidth
		m.middle -= peopleWidth + 1
	}
	m.input = 1
	if a.question == nil {
		m.input = a.input.area.Height()
	}
	m.body = max(1, a.height-3-m.input)
	return m
}

// pane is the column of messages of the room that is shown.
func (a *app) pane() *pane {
	m := a.measure()
	return &pane{r: a.here, theme: &a.theme, width: m.middle, height: m.body}
}

func (a *app) chatView() ([]string, *tea.Cursor) {
	m := a.measure()
	rows := []string{a.header()}
	rooms, people := a.roomList(m), a.people(m)
	middle := a.messages(m)
	for i := range m.body {
		row, edge := pad(middle[i], m.middle), a.theme.faint.Render("│")
		if m.rooms > 0 {
			row = pad(rooms[i], m.rooms) + column(m.rooms) + edge + row
		}
		if m.people > 0 {
			row += column(a.width-m.people-1) + edge + people[i]
		}
		rows = append(rows, row)
	}
	rows = append(rows, a.rule())
	var cursor *tea.Cursor
	top := len(rows)
	if q := a.question; q != nil {
		label := " " + cells.Truncate(screenLine(q.label), max(4, a.width-12), "…")
		q.field.SetWidth(max(4, a.width-cells.StringWidth(label)-2))
		rows = append(rows, a.theme.bold.Render(label)+harmless(q.field.View()))
		if cursor = q.field.Cursor(); cursor != nil {
			cursor.X += cells.StringWidth(label)
		}
	} else {
		var text string
		text, cursor = a.input.view()
		rows = append(rows, strings.Split(text, "\n")...)
	}
	if cursor != nil {
		cursor.Y += top
	}
	return append(rows, a.status()), cursor
}

// messages are the rows of the middle: the room's items at its lower edge, over them the commands that can be typed.
func (a *app) messages(m measures) []string {
	visible, _ := a.pane().visible()
	rows := make([]string, max(0, m.body-len(visible)), m.body)
	rows = append(rows, visible...)
	if a.question != nil {
		return rows
	}
	var list []command
	if strings.HasPrefix(a.input.value(), "/") {
		line, _, _ := a.input.around()
		list = matching(line)
	}
	if len(list) > m.body {
		list = list[:m.body]
	}
	for i, c := range list {
		row := a.theme.bold.Render(pad(" "+c.name+" "+c.args, 15)) + c.does
		rows[m.body-len(list)+i] = pad(cells.Truncate(row, m.middle, "…"), m.middle)
	}
	return rows
}

// header names the room.
func (a *app) header() string {
	r := a.here
	left := " GRPCChatter"
	if r.code != "" {
		left = " " + screenLine(r.name) + " · " + screenLine(r.code)
		if len(r.present) > 0 {
			left += " · " + strconv.Itoa(len(r.present)) + " here"
		}
	}
	right := ""
	if a.width < roomsFrom {
		var unread uint64
		mentions := 0
		for _, other := range a.rooms {
			if other != r {
				unread += other.unread()
				mentions += other.mentions
			}
		}
		right = badge(unread, mentions)
		if right != "" {
			right = "elsewhere " + right + " "
		}
	}
	return a.theme.bar.Render(a.spread(left, right))
}

// badge says how many messages have not been seen, and whether somebody is meant.
func badge(unread uint64, mentions int) string {
	switch {
	case unread == 0:
		return ""
	case mentions > 0:
		return "@" + strconv.FormatUint(unread, 10)
	}
	return strconv.FormatUint(unread, 10)
}

// roomList are the rows of the list of rooms, with the one that is shown among them.
func (a *app) roomList(m measures) []string {
	rows := make([]string, m.body)
	at := max(0, slices.Index(a.rooms, a.here))
	first := max(0, min(at-m.body/2, len(a.rooms)-m.body))
	for i := range rows {
		if first+i >= len(a.rooms) || m.rooms == 0 {
			break
		}
		r := a.rooms[first+i]
		unread := badge(r.unread(), r.mentions)
		name := " " + cells.Truncate(screenLine(r.name), m.rooms-3-len(unread), "…")
		row := pad(name, m.rooms-1-len(unread)) + unread + " "
		switch {
		case r == a.here:
			row = a.theme.chosen.Render(row)
		case r.mentions > 0:
			row = a.theme.mention.Render(row)
		case unread != "":
			row = a.theme.bold.Render(row)
		}
		rows[i] = row
	}
	return rows
}

// people are the rows of who is present.
func (a *app) people(m measures) []string {
	rows := make([]string, m.body)
	for i, name := range a.here.present {
		if i == m.body-1 && len(a.here.present) > m.body {
			rows[i] = a.theme.faint.Render(fmt.Sprintf(" and %d more", len(a.here.present)-i))
			break
		}
		rows[i] = " " + a.theme.name(name).Render(cells.Truncate(screenLine(name), m.people-2, "…"))
	}
	return rows
}

// rule divides the messages from the input. It says who types, and what has come below the screen.
func (a *app) rule() string {
	left, right := "", ""
	if names := a.here.typists(time.Now()); len(names) > 0 {
		switch {
		case len(names) == 1:
			left = " " + screenLine(names[0]) + " types … "
		case len(names) <= 3:
			left = " " + screenLine(strings.Join(names, ", ")) + " type … "
		default:
			left = fmt.Sprintf(" %d people type … ", len(names))
		}
	}
	s := a.here.scroll
	switch {
	case s.held && s.fresh > 0:
		right = fmt.Sprintf(" ↓ %d new ", s.fresh)
	case s.held:
		right = " ↓ "
	case a.here.unreadLine != 0 && a.pane().hides(a.here.unreadLine):
		right = " ↑ new: Alt-U "
	}
	left = cells.Truncate(left, max(0, a.width-4-cells.StringWidth(right)), "…")
	line := max(0, a.width-4-cells.StringWidth(left)-cells.StringWidth(right))
	return a.theme.faint.Render("──"+left+strings.Repeat("─", line)) + a.theme.bold.Render(right) + a.theme.faint.Render("──")
}

// status is the last row: how the connection is, who one is, and what is on its way.
func (a *app) status() string {
	state, style := "● connected", a.theme.good
	r := a.here
	away := a.away
	if away == nil {
		away = r.away
	}
	for _, other := range a.rooms {
		if away == nil {
			away = other.away
		}
	}
	switch {
	case away != nil:
		state, style = "○ away: "+sentence(away)+"; trying again", a.theme.alert
	case !a.listed, r.code != "" && r.live == nil:
		state, style = "○ connecting", a.theme.faint
	case len(a.rooms) == 0:
		state, style = "○ in no room", a.theme.faint
	}
	state = " " + state
	waiting := ""
	if n := a.waiting(); n > 0 {
		waiting = strconv.Itoa(n) + " waiting"
	}
	who := screenLine(a.user + "@" + strings.TrimPrefix(strings.TrimPrefix(a.server, "https://"), "http://"))
	right := ""
	for _, parts := range [][]string{{waiting, who, "/help"}, {waiting, who}, {waiting}} { // the most that there is room for
		right = strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), " · ")
		if cells.StringWidth(state)+cells.StringWidth(right)+3 <= a.width {
			break
		}
	}
	state = cells.Truncate(state, max(1, a.width-2-cells.StringWidth(right)), "…")
	gap := max(0, a.width-1-cells.StringWidth(state)-cells.StringWidth(right))
	return style.Render(state) + strings.Repeat(" ", gap) + a.theme.faint.Render(right) + " "
}

// spread is a row with a text at either end.
func (a *app) spread(left, right string) string {
	left = cells.Truncate(left, max(0, a.width-cells.StringWidth(right)-1), "…")
	return pad(left, a.width-cells.StringWidth(right)) + right
}

// column goes to a column of the row, the first one being 0: whatever width the terminal has given to what stands before.
func column(n int) string { return ansi.CursorHorizontalAbsolute(n + 1) }

// pad makes a row so many columns wide: with spaces, or by cutting it.
func pad(row string, width int) string {
	n := cells.StringWidth(row)
	switch {
	case n < width:
		return row + strings.Repeat(" ", width-n)
	case n > width:
		return cells.Truncate(row, width, "")
	}
	return row
}

// harmless takes out of a drawn row what must not reach a terminal, other than the sequences that it is drawn with.
func harmless(row string) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && r != 0x1b && harmful(r) {
			return -1
		}
		return r
	}, row)
}
