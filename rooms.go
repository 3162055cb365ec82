package main

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/grpcchatter/grpcchatter/pb"
)

const (
	// stallLimit is how long one frame may wait for its receiver before the session is cut.
	stallLimit = 8 * time.Second
	// tendTick is how often that is looked at.
	tendTick = time.Second
	// joinGrace is how long somebody who joined by the original's protocol counts as present while its
	// stream is still to open.
	joinGrace = 10 * time.Second
)

// Lock order: room.mu, then hub.mu or session.mu.

// hub holds the rooms that somebody is in. It is a cache: a room that nobody is in is forgotten, and comes
// back from the database. It is safe for concurrent use.
type hub struct {
	lastSeq func(ctx context.Context, roomID int64) (uint64, error)
	metrics *metrics // nil: none
	keep    int      // events that a room's ring holds at least

	mu     sync.Mutex // guards the fields below, and refs of every room
	rooms  map[int64]*room
	closed error // why nobody can enter any more
}

func newHub(keep int, lastSeq func(context.Context, int64) (uint64, error)) *hub {
	return &hub{lastSeq: lastSeq, keep: keep, rooms: map[int64]*room{}}
}

// room is what is live of a room: its newest messages, its sessions and who is present.
type room struct {
	id  int64
	hub *hub

	refs    int           // sessions, uncommitted messages and joins; guarded by hub.mu
	loaded  chan struct{} // closed when last or loadErr is set
	loadErr error

	next  uint64       // of the committer: the seq of the next message; 0: to be asked from the database
	batch []submission // of the committer

	mu       sync.Mutex // guards the fields below
	last     uint64     // the newest seq that members may see
	ring     ring
	sessions map[*session]struct{}
	// held are the posts, and the sessions that are over, of which a message may still be on its way.
	held    map[*session]struct{}
	present map[int64]*presence // by user
	closed  error               // why the room is no more
}

// presence is a user's in one room: one for all of its devices.
type presence struct {
	name    string
	streams int
	grace   *time.Timer // not nil: joined, and its stream is still to open
}

// acquire returns a room and keeps it until release. The room is loaded if need be.
func (h *hub) acquire(ctx context.Context, id int64) (*room, error) {
	h.mu.Lock()
	if err := h.closed; err != nil {
		h.mu.Unlock()
		return nil, err
	}
	r, known := h.rooms[id]
	if !known {
		r = &room{id: id, hub: h, loaded: make(chan struct{}), sessions: map[*session]struct{}{}, held: map[*session]struct{}{}, present: map[int64]*presence{}}
		h.rooms[id] = r
	}
	r.refs++
	h.mu.Unlock()

	if !known {
		// For all who wait for it, so not with the context of one of them.
		r.last, r.loadErr = h.stored(context.WithoutCancel(ctx), id)
		r.next = r.last + 1
		close(r.loaded)
	}
	<-r.loaded
	if r.loadErr != nil {
		h.release(r)
		return nil, r.loadErr
	}
	return r, nil
}

// stored returns the seq of a room's newest message in the database. errRoomDeleted: the room is gone.
func (h *hub) stored(ctx context.Context, id int64) (uint64, error) {
	last, err := h.lastSeq(ctx, id)
	if errors.Is(err, errNotFound) {
		err = errRoomDeleted
	}
	return last, err
}

// closedBy returns why nobody can enter any more. Whoever holds a room's mu while it returns nil is seen by
// shutDown.
func (h *hub) closedBy() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.closed
}

func (h *hub) release(r *room) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if r.refs--; r.refs == 0 && h.rooms[r.id] == r {
		delete(h.rooms, r.id)
	}
}

// find returns a room that somebody is in, or nil. The caller must not keep it.
func (h *hub) find(id int64) *room {
	h.mu.Lock()
	r := h.rooms[id]
	h.mu.Unlock()
	if r == nil {
		return nil
	}
	<-r.loaded
	return r
}

// newest returns the last seq that members of a room may see, if somebody is in it.
func (h *hub) newest(id int64) (seq uint64, live bool) {
	r := h.find(id)
	if r == nil || r.loadErr != nil {
		return 0, false
	}
	return r.newest(), true
}

// size is how many rooms somebody is in.
func (h *hub) size() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.rooms)
}

func (h *hub) all() []*room {
	h.mu.Lock()
	defer h.mu.Unlock()
	rooms := make([]*room, 0, len(h.rooms))
	for _, r := range h.rooms {
		rooms = append(rooms, r)
	}
	return rooms
}

// enter opens a session: a cursor behind seq. The user is present from now on until leave. With noEcho set,
// the session is to know its own messages.
func (h *hub) enter(ctx context.Context, roomID int64, u user, seq uint64, noEcho bool) (*session, error) {
	r, err := h.acquire(ctx, roomID)
	if err != nil {
		return nil, err
	}
	s := newSession(r, u, maxInFlight)
	if noEcho {
		s.own = map[uint64]struct{}{}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := cmp.Or(r.closed, h.closedBy()); err != nil {
		defer h.release(r)
		return nil, err
	}
	// A seq that is still to come is no position: who claims it would miss what comes before it.
	s.seq = min(seq, r.last)
	r.sessions[s] = struct{}{}
	p := r.arrive(u.ID, u.Name)
	if p.grace != nil && p.grace.Stop() {
		p.grace = nil
		defer h.release(r)
	}
	p.streams++
	s.pos, s.since = r.ring.first, r.ring.end()
	return s, nil
}

// poster opens a session for one message, until drop: it holds the message's slot, is told nothing and not present.
func (h *hub) poster(ctx context.Context, roomID int64, u user) (*session, error) {
	r, err := h.acquire(ctx, roomID)
	if err != nil {
		return nil, err
	}
	s := newSession(r, u, 1)
	s.posted = make(chan uint64, 1)
	s.slots <- struct{}{}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.held[s] = struct{}{}
	return s, nil
}

// expect makes a user present that has joined and is to open its stream within joinGrace.
func (h *hub) expect(ctx context.Context, roomID, userID int64, userName string) error {
	r, err := h.acquire(ctx, roomID)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.arrive(userID, userName)
	if p.grace != nil && p.grace.Stop() {
		defer h.release(r) // the new timer holds the room instead
	}
	var t *time.Timer
	t = time.AfterFunc(joinGrace, func() {
		r.mu.Lock()
		if p.grace == t {
			p.grace = nil
			r.depart(userID, nil)
		}
		r.mu.Unlock()
		h.release(r)
	})
	p.grace = t
	return nil
}

// arrive returns the presence of a user, and tells the others if it is new. r.mu is held.
func (r *room) arrive(userID int64, name string) *presence {
	p := r.present[userID]
	if p == nil {
		p = &presence{name: name}
		r.present[userID] = p
		r.announce(pb.ChatEventKind_USER_JOINED, name, nil)
	}
	return p
}

// depart ends the presence of a user that has nothing left in the room, and tells all but from. r.mu is held.
func (r *room) depart(userID int64, from *session) {
	p := r.present[userID]
	if p == nil || p.streams > 0 || p.grace != nil {
		return
	}
	delete(r.present, userID)
	r.announce(pb.ChatEventKind_USER_LEFT, p.name, from)
}

// users lists who is present, sorted.
func (h *hub) users(roomID int64) []string {
	r := h.find(roomID)
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	names := make([]string, 0, len(r.present))
	for _, p := range r.present {
		names = append(names, p.name)
	}
	slices.Sort(names)
	return names
}

// announce publishes an event that is not stored, to all but from. r.mu is held.
func (r *room) announce(kind pb.ChatEventKind, name string, from *session) {
	r.push(notStored(event{kind: kind, userName: name}, from))
}

// publish makes committed messages visible, which follow the newest one.
func (r *room) publish(blocks []*block) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = blocks[len(blocks)-1].last()
	r.push(blocks...)
}

// newest returns the last seq that members may see.
func (r *room) newest() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last
}

// advance makes messages visible that are in the database but in no block: members fetch them from there.
func (r *room) advance(last uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if last > r.last {
		r.last = last
		r.notifyAll()
	}
}

// push adds the blocks of a commit to the ring. All of them stay until the next one, or for a tick of tend: members
// would else read the first ones of a large commit from the database.
func (r *room) push(blocks ...*block) {
	r.ring.trim(r.hub.keep)
	for _, b := range blocks {
		r.ring.push(b)
	}
	r.notifyAll()
}

func (r *room) notifyAll() {
	for s := range r.sessions {
		s.notify()
	}
}

// remove ends a room: its sessions, and entering it.
func (h *hub) remove(roomID int64, err error) {
	if r := h.find(roomID); r != nil {
		r.close(err)
	}
}

func (r *room) close(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = err
	for s := range r.sessions {
		s.end(err)
	}
}

// refresh makes visible what another server has stored, and ends the rooms that are gone. With an error it has not seen all.
func (h *hub) refresh(ctx context.Context) error {
	for _, r := range h.all() {
		<-r.loaded
		switch last, err := h.stored(ctx, r.id); {
		case err == nil:
			r.advance(last)
		case errors.Is(err, errRoomDeleted):
			r.close(err)
		default:
			return err
		}
	}
	return nil
}

// shutDown ends all sessions, and entering.
func (h *hub) shutDown(err error) {
	h.mu.Lock()
	h.closed = err
	h.mu.Unlock()
	h.eachSession(func(s *session) { s.end(err) })
}

func (h *hub) eachSession(fn func(*session)) {
	for _, r := range h.all() {
		r.mu.Lock()
		for s := range r.sessions {
			fn(s)
		}
		r.mu.Unlock()
	}
}

// tend cuts the sessions whose receiver takes nothing, and trims the rings, until ctx ends.
func (h *hub) tend(ctx context.Context) {
	tick := time.NewTicker(tendTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		limit := time.Now().Add(-stallLimit).UnixNano()
		for _, r := range h.all() {
			r.mu.Lock()
			r.ring.trim(h.keep)
			for s := range r.sessions {
				if since := s.sendingSince.Load(); since != 0 && since < limit && s.end(errStalled) {
					h.metrics.sessionStalled()
				}
			}
			r.mu.Unlock()
		}
	}
}
