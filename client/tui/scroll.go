package tui

import (
	"strings"
	"time"
	"unicode"
)

// groupTime is how long after a message another one of the same sender stands under the same name.
const groupTime = 5 * time.Minute

// scroll is where a room is looked at. It holds on to an item, and not to a number of rows: what is added above or
// below, or wraps anew, moves nothing. The zero value follows the end.
type scroll struct {
	held  bool
	item  int // the item at the lower edge
	cut   int // rows of it below the edge
	fresh int // messages that have come since it was held
}

func (s *scroll) toEnd() { *s = scroll{} }

// appended is that an item has been added behind n others, before those that are pending.
func (s *scroll) appended(it *item, n int) {
	if s.held && it.kind == stored {
		s.fresh++
	}
	if s.held && s.item >= n {
		s.item++
	}
}

// removed is that the item of an index, the last of which is last now, is no more, or is the one of index as: -1 if it is none.
func (s *scroll) removed(i, as, last int) {
	switch {
	case !s.held:
		return
	case s.item > i:
		s.item--
	case s.item == i && as >= 0:
		s.item = as
	case s.item == i: // what stood above it stands last
		s.item, s.cut = max(0, i-1), 0
	}
	if s.item >= last && s.cut == 0 {
		s.toEnd()
	}
}

func (s *scroll) prepended(n int) {
	if s.held {
		s.item += n
	}
}

// drawing is an item as rows, and what it was drawn for.
type drawing struct {
	rows  []string
	width int
	look  look
}

// look is what an item's rows depend on besides the item.
type look struct {
	head, day, unread bool // what stands above it: the sender, the date, the unread line
	dark              bool
}

// pane draws a room's items in a column of so many columns and rows.
type pane struct {
	r             *room
	theme         *theme
	width, height int
}

func (p *pane) len() int { return len(p.r.items) + len(p.r.pending) }

func (p *pane) at(i int) *item {
	if n := len(p.r.items); i >= n {
		return p.r.pending[i-n]
	}
	return p.r.items[i]
}

// rows are the rows of an item.
func (p *pane) rows(i int) []string {
	it := p.at(i)
	l := look{dark: p.theme.dark}
	l.unread = p.r.unreadLine != 0 && it.kind == stored && it.seq >= p.r.unreadLine && (i == 0 || p.before(i) < p.r.unreadLine)
	if i == 0 {
		l.day, l.head = true, true
	} else {
		before := p.at(i - 1)
		l.day = !sameDay(before.at, it.at)
		l.head = l.day || l.unread || before.kind > pending || before.name != it.name || it.at.Sub(before.at) > groupTime
	}
	if it.kind > pending {
		l.head = false
	}
	if d := &it.drawn; d.rows == nil || d.width != p.width || d.look != l {
		*d = drawing{p.draw(it, l), p.width, l}
	}
	return it.drawn.rows
}

// before is the seq of the last message before item i.
func (p *pane) before(i int) uint64 {
	for i--; i >= 0; i-- {
		if it := p.at(i); it.kind == stored {
			return it.seq
		}
	}
	return 0
}

func (p *pane) draw(it *item, l look) []string {
	var rows []string
	if l.day {
		rows = append(rows, p.theme.faint.Render(p.divider(it.at.Local().Format("Monday, 2 January 2006"))))
	}
	if l.unread {
		rows = append(rows, p.theme.alert.Render(p.divider("new")))
	}
	if l.head {
		name := cells.Truncate(screenLine(it.name), max(1, p.width-7), "…")
		rows = append(rows, p.theme.name(it.name).Render(name)+"  "+p.theme.faint.Render(it.at.Local().Format("15:04")))
	}
	gutter := "  "
	switch {
	case it.kind == pending:
		gutter = p.theme.faint.Render("… ")
	case it.kind > pending:
		gutter = p.theme.faint.Render("· ")
	case it.mention:
		gutter = p.theme.mention.Render("▌ ")
	}
	for _, line := range fewBlanks(screenLines(it.body)) {
		for _, row := range p.wrap(line) {
			if it.kind != stored {
				row = p.theme.faint.Render(row)
			}
			rows = append(rows, gutter+row)
			if it.kind > pending {
				gutter = "  "
			}
		}
	}
	return rows
}

// wrap breaks a line into rows that leave room for the gutter. What the line is indented by, its rows are, unless that is
// much.
func (p *pane) wrap(line string) []string {
	width := max(2, p.width-2)
	text := strings.TrimLeft(line, " ")
	indent := line[:len(line)-len(text)]
	if len(indent) > width/2 {
		text, indent = line, ""
	}
	width -= len(indent)
	var rows []string
	for row := range strings.SplitSeq(cells.Wrap(text, width, ""), "\n") {
		if cells.StringWidth(row) > width { // Wrap lets some spaces and hyphens stand over
			row = cells.Hardwrap(row, width, true)
		}
		for part := range strings.SplitSeq(row, "\n") {
			if rest := strings.TrimLeftFunc(part, joins); rest != part && rows != nil { // Wrap breaks before what stands above a letter
				rows[len(rows)-1] += part[:len(part)-len(rest)]
				if part = rest; part == "" {
					continue
				}
			}
			rows = append(rows, indent+part)
		}
	}
	return rows
}

// joins reports whether a character is part of the one before: an accent of its own, for example.
func joins(r rune) bool { return unicode.In(r, unicode.Mn, unicode.Me) || r == '\u200D' }

// fewBlanks makes one line of many empty ones, which would push everything else away.
func fewBlanks(lines []string) []string {
	const few = 3
	var kept []string
	for i := 0; i < len(lines); {
		j := i
		for j < len(lines) && strings.TrimSpace(lines[j]) == "" {
			j++
		}
		if n := j - i; n > few || n > 0 && n == len(lines) {
			kept = append(kept, "("+count(n, "empty line")+")")
			i = j
			continue
		}
		kept = append(kept, lines[i])
		i++
	}
	return kept
}

// divider is a row with a text in the middle of a line.
func (p *pane) divider(text string) string {
	text = " " + text + " "
	line := max(0, p.width-cells.StringWidth(text))
	return strings.Repeat("─", line/2) + text + strings.Repeat("─", line-line/2)
}

// edge is the item at the lower edge, and how many rows of it lie below. The item is -1 where there is none.
func (p *pane) edge() (i, cut int) {
	s := &p.r.scroll
	last := p.len() - 1
	if !s.held || s.item > last {
		return last, 0
	}
	return s.item, min(s.cut, len(p.rows(s.item))-1)
}

// visible are the rows to be seen, at most height, and how many items above them are left.
func (p *pane) visible() (rows []string, above int) {
	i, cut := p.edge()
	var parts [][]string
	n := 0
	for ; i >= 0 && n < p.height; i-- {
		part := p.rows(i)
		part = part[:len(part)-cut]
		cut = 0
		if over := n + len(part) - p.height; over > 0 {
			part = part[over:]
		}
		parts = append(parts, part)
		n += len(part)
	}
	for j := len(parts) - 1; j >= 0; j-- {
		rows = append(rows, parts[j]...)
	}
	return rows, i + 1
}

// up moves the edge up by n rows, as far as there is something to fill the height with.
func (p *pane) up(n int) {
	if p.len() == 0 {
		return
	}
	i, cut := p.edge()
	first, firstCut := p.from(0)
	for cut += n; i > 0 && cut >= len(p.rows(i)); i-- {
		cut -= len(p.rows(i))
	}
	if i < first || i == first && cut > firstCut {
		i, cut = first, firstCut
	}
	p.hold(i, cut)
}

// down moves the edge down by n rows, at most to the end, which it then follows.
func (p *pane) down(n int) {
	i, cut := p.edge()
	for cut -= n; cut < 0 && i < p.len()-1; {
		i++
		cut += len(p.rows(i))
	}
	p.hold(i, max(cut, 0))
}

func (p *pane) hold(i, cut int) {
	s := &p.r.scroll
	if i >= p.len()-1 && cut <= 0 {
		s.toEnd()
		return
	}
	s.held, s.item, s.cut = true, i, cut
}

// from is the edge with an item in the first row, or with the last one in the last.
func (p *pane) from(first int) (i, cut int) {
	n := 0
	for i = first; i < p.len(); i++ {
		if n += len(p.rows(i)); n >= p.height {
			return i, n - p.height
		}
	}
	return p.len() - 1, 0
}

// reach shows the first message with this seq or a later one in the first row.
func (p *pane) reach(seq uint64) {
	for i, it := range p.r.items {
		if it.kind == stored && it.seq >= seq {
			p.hold(p.from(i))
			return
		}
	}
}

// hides reports whether a message stands above the rows to be seen.
func (p *pane) hides(seq uint64) bool {
	if p.r.oldest == 0 || p.r.oldest > seq {
		return p.r.oldest != 0
	}
	_, above := p.visible()
	for i := above - 1; i >= 0; i-- {
		if it := p.at(i); it.kind == stored {
			return it.seq >= seq
		}
	}
	return false
}

func sameDay(a, b time.Time) bool {
	ay, am, ad := a.Local().Date()
	by, bm, bd := b.Local().Date()
	return ay == by && am == bm && ad == bd
}
