package tui

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/grpcchatter/grpcchatter/client"
)

const (
	// maxItems is how many items of a room are kept; the history has the rest. While somebody looks at old ones it is
	// maxHeld: then the oldest go, even if they are looked at.
	maxItems, maxHeld = 12_000, 100_000
	// typingTime is how long somebody is said to type after the last hint.
	typingTime = 5 * time.Second
	// maxPresence is how long the line of who came and went may become, in bytes, before another one begins.
	maxPresence = 160
)

// room is a room of the user: what is known of it, what is shown of it, and how far it has been read.
type room struct {
	code, name, owner string
	live              *client.Room // nil until it has been joined
	joining, ending   bool         // it is being joined; the user is leaving or deleting it, and hears of that elsewhere
	gone              bool         // it is none of the user's rooms any more
	restored          bool         // its messages are others than those that were read
	stop              func()       // ends what runs for live
	ended             error        // why it is over, while ending
	link              link
	away              error // why it is not connected; nil when it is

	items   []*item    // oldest first; the messages among them have no gap
	pending []*item    // own messages that have not come back yet, in their order: shown under the items
	unsaved []*item    // own messages that the server has not confirmed yet
	outbox  chan *item // those of unsaved that have not been sent
	scroll  scroll

	oldest, last uint64 // seqs of the first and the last message among items; 0: there is none
	newest       uint64 // the seq of the newest message of all
	read         uint64 // the seq up to which messages have been seen
	unreadLine   uint64 // the seq of the message that the unread line stands above; 0: there is no line
	seek         uint64 // the seq of the message to be shown in the first row as soon as it is there; 0: none
	mentions     int    // that have not been seen
	loading      bool   // more of the history is being asked for
	complete     bool   // there is nothing before oldest

	present []string             // who is present, sorted
	moves   int                  // how often somebody came or went
	typing  map[string]time.Time // who types, and until when to say so
	hinted  time.Time            // when the others were last told that the user types
	draft   string               // in the input line while another room is shown
}

// maxPending is how many of a room's messages may wait to be stored: as many as the room itself has under way at a time.
const maxPending = 1000

func newOutbox() chan *item { return make(chan *item, maxPending) }

func newRoom(code, name, owner string, newest uint64) *room {
	return &room{
		code: code, name: name, owner: owner, newest: newest, read: newest,
		outbox: newOutbox(),
		typing: make(map[string]time.Time),
	}
}

// leave ends what runs for the room. Its client.Room is for the caller to disconnect.
func (r *room) leave() {
	r.stop()
	r.live = nil
}

// item is something in the column of messages.
type item struct {
	kind    itemKind
	seq     uint64 // of a message that is stored, or that the server has just confirmed
	name    string
	body    string
	at      time.Time
	mention bool
	drawn   drawing
}

type itemKind uint8

const (
	stored   itemKind = iota
	pending           // an own message that is not stored yet
	note              // something about the chat
	presence          // a note of who came and went
)

// unread is how many messages have not been seen.
func (r *room) unread() uint64 { return r.newest - min(r.read, r.newest) }

// add adds the room's next message. It reports whether it is news.
func (r *room) add(m client.Message, mine, mention bool) bool {
	if m.Seq <= r.last {
		if mine {
			r.arrived(m.Seq, m.Body)
		}
		return false
	}
	if r.oldest == 0 {
		r.oldest = m.Seq
	}
	r.last = m.Seq
	r.append(&item{seq: m.Seq, name: m.UserName, body: m.Body, at: m.SentAt, mention: mention})
	r.know(m.Seq - 1)
	r.newest = max(r.newest, m.Seq)
	delete(r.typing, m.UserName)
	if mine { // what came before was read where it was written
		r.read, r.mentions = max(r.read, m.Seq), 0
		if r.arrived(m.Seq, m.Body) && r.scroll.held { // it has been here all the time
			r.scroll.fresh--
		}
	}
	return true
}

// know notes that the room has messages up to a seq. Those that it has after a restore are no news.
func (r *room) know(seq uint64) {
	if r.unknown() {
		r.read = seq
	}
	r.newest = max(r.newest, seq)
}

// unknown reports whether the room's messages have been replaced, and nothing is known yet of what it has now.
func (r *room) unknown() bool { return r.restored && r.newest == 0 }

// note adds a line about the chat.
func (r *room) note(at time.Time, text string) {
	it := &item{kind: note, body: text, at: at}
	if len(r.pending) > 0 { // it is an answer to what was entered last
		r.pending = append(r.pending, it)
		return
	}
	r.append(it)
}

func (r *room) append(it *item) {
	r.scroll.appended(it, len(r.items))
	r.items = append(r.items, it)
	if n := len(r.items); n > maxHeld || n > maxItems && !r.scroll.held && r.seek == 0 {
		r.trim(n / 3)
	}
}

// trim drops the n oldest items.
func (r *room) trim(n int) {
	r.items = slices.Clone(r.items[n:])
	r.scroll.item = max(0, r.scroll.item-n)
	r.complete = false
	r.oldest = 0
	if i := slices.IndexFunc(r.items, func(it *item) bool { return it.kind == stored }); i >= 0 {
		r.oldest = r.items[i].seq
	}
}

// index is where a message stands among the items; -1: nowhere.
func (r *room) index(seq uint64) int {
	for i := len(r.items) - 1; i >= 0; i-- {
		if it := r.items[i]; it.kind == stored && it.seq <= seq {
			if it.seq == seq {
				return i
			}
			break
		}
	}
	return -1
}

// prepend adds a page of the history, of the messages before a seq, or of the last ones before 0. It is late if the room
// begins elsewhere by now: then it says nothing of what comes before that.
func (r *room) prepend(page []client.Message, before uint64, user string) {
	if before != r.oldest {
		return
	}
	var older []*item
	for _, m := range page {
		mine := strings.EqualFold(m.UserName, user)
		older = append(older, &item{seq: m.Seq, name: m.UserName, body: m.Body, at: m.SentAt, mention: !mine && mentions(m.Body, user)})
	}
	if len(older) == 0 {
		r.complete = true
		return
	}
	r.oldest, r.last = older[0].seq, max(r.last, older[len(older)-1].seq)
	r.know(r.last)
	r.complete = r.oldest == 1
	if len(r.items)+len(older) > maxHeld {
		r.complete = true
		text := "Older messages are not shown here: " + count(maxHeld, "message") + " are. Whoever runs the server can export them all."
		older = slices.Insert(older, 0, &item{kind: note, body: text, at: older[0].at})
	}
	r.items = append(older, r.items...)
	r.scroll.prepended(len(older))
	for _, m := range page {
		if strings.EqualFold(m.UserName, user) {
			r.arrived(m.Seq, "")
		}
	}
}

// arrived takes away the pending message that has come back as part of the room: the one of this seq, or, before it has
// been confirmed, the first with these words, if there are any. It reports whether there was one.
func (r *room) arrived(seq uint64, body string) bool {
	for _, it := range r.pending {
		if it.kind == pending && (it.seq == seq || it.seq == 0 && body != "" && it.body == body) {
			r.unpend(it, seq)
			return true
		}
	}
	return false
}

// unpend takes an item out of those that are shown last: it is the stored message of this seq, or none if that is 0. Notes that
// stood behind it alone stand among the others now.
func (r *room) unpend(it *item, seq uint64) {
	if i := slices.Index(r.pending, it); i >= 0 {
		r.pending = slices.Delete(r.pending, i, i+1)
		r.scroll.removed(len(r.items)+i, r.index(seq), len(r.items)+len(r.pending)-1)
	}
	for len(r.pending) > 0 && r.pending[0].kind != pending {
		r.items = append(r.items, r.pending[0])
		r.pending = r.pending[1:]
	}
}

// giveUp empties what waits to be stored, and returns it. Whoever sends for the room keeps the outbox that there was: with a
// new one nothing that is written from now on can be taken for what was given up.
func (r *room) giveUp() []*item {
	unsaved := r.unsaved
	for _, it := range slices.Clone(r.pending) {
		if it.kind == pending {
			r.unpend(it, 0)
		}
	}
	r.unsaved, r.outbox = nil, newOutbox()
	return unsaved
}

// confirmed notes that a pending message is stored. It is shown until it comes back, which may have been before.
func (r *room) confirmed(it *item, seq uint64) {
	it.seq = seq
	r.unsaved = without(r.unsaved, it)
	if r.index(seq) >= 0 {
		r.unpend(it, seq)
	}
}

// forget takes a pending message away that will not be stored.
func (r *room) forget(it *item) {
	r.unsaved = without(r.unsaved, it)
	r.unpend(it, 0)
}

// without is a list in which nothing is this.
func without[T comparable](list []T, this T) []T {
	return slices.DeleteFunc(list, func(other T) bool { return other == this })
}

// enter makes the room the one that is looked at: the unread line stands where reading stopped.
func (r *room) enter() {
	r.unreadLine = 0
	if r.unread() > 0 {
		r.unreadLine = r.read + 1
	}
	r.scroll.toEnd()
	r.see()
}

// see notes that all messages have been seen.
func (r *room) see() {
	r.read, r.mentions = r.newest, 0
}

// came and left keep who is present.
func (r *room) came(name string, at time.Time) {
	if i, found := slices.BinarySearch(r.present, name); !found {
		r.present = slices.Insert(r.present, i, name)
	}
	r.moves++
	r.notePresence(name+" joined", at)
}

func (r *room) left(name string, at time.Time) {
	r.present = without(r.present, name)
	delete(r.typing, name)
	r.moves++
	r.notePresence(name+" left", at)
}

// notePresence notes it in the line of the last such note if nothing came after that.
func (r *room) notePresence(text string, at time.Time) {
	if n := len(r.items); n > 0 {
		if last := r.items[n-1]; last.kind == presence && len(last.body) < maxPresence {
			last.body += " · " + text
			last.drawn = drawing{}
			return
		}
	}
	r.append(&item{kind: presence, body: text, at: at})
}

// typists are those who type now, sorted.
func (r *room) typists(now time.Time) []string {
	var names []string
	for name, until := range r.typing {
		if until.After(now) {
			names = append(names, name)
		} else {
			delete(r.typing, name)
		}
	}
	slices.Sort(names)
	return names
}

// names are the names to complete: who is present, and who wrote lately, the last writer first.
func (r *room) names(user string) []string {
	const lately = 200
	var names []string
	add := func(name string) {
		if name != "" && !strings.EqualFold(name, user) && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for i := len(r.items) - 1; i >= max(0, len(r.items)-lately); i-- {
		add(r.items[i].name)
	}
	for _, name := range r.present {
		add(name)
	}
	return names
}

// byName is the order of rooms in the list.
func byName(a, b *room) int {
	return cmp.Or(compare(strings.ToLower(a.name), strings.ToLower(b.name)), cmp.Compare(a.code, b.code))
}

// compare compares two texts, and the numbers in them by what they are: 4 comes before 39.
func compare(a, b string) int {
	for a != "" && b != "" {
		m, n := digits(a), digits(b)
		if m == 0 || n == 0 {
			m, n = 1, 1
		}
		x, y := a[:m], b[:n]
		if m > 1 || n > 1 {
			x, y = strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
			if c := cmp.Compare(len(x), len(y)); c != 0 {
				return c
			}
		}
		if c := cmp.Compare(x, y); c != 0 {
			return c
		}
		a, b = a[m:], b[n:]
	}
	return cmp.Compare(a, b)
}

// digits is how many digits a text begins with.
func digits(s string) int { return len(s) - len(strings.TrimLeft(s, "0123456789")) }
