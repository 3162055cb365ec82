package main

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/grpcchatter/grpcchatter/pb"
)

// maxInFlight is how many messages of one session may wait: to be committed, for their answer to be sent, or to be passed over
// where the sender does not get them.
const maxInFlight = 1024

// session is one open stream, a cursor into its room; or a post of one message, which is no part of it. Its methods are
// safe for concurrent use, except that take and answers belong to the one goroutine that sends on the stream.
type session struct {
	room        *room
	userID      int64
	userName    string
	userVersion int64
	done        chan struct{} // closed by end
	slots       chan struct{} // one for each message in flight

	writer atomic.Int32 // a state
	spawn  func(func()) // set by start, as write is
	write  func()       // sends what there is

	posted chan uint64 // of a post: takes the seq of its one message; nil: this is a stream

	holds        atomic.Int32 // the stream and its uncommitted messages: each keeps the room
	failed       bool         // of the committer: a message was not stored, so no later one may be
	watched      int          // likewise: so many of its next messages may be resends
	gone         atomic.Bool  // the presence has been given up
	expelled     atomic.Bool  // none of its messages may be stored any more
	sendingSince atomic.Int64 // Unix ns; 0: the writer is not sending

	// Of the writer.
	since uint64 // the ring's end when the session opened: presence and typing from before are not for it
	pos   uint64 // of the next block
	seq   uint64 // the last one sent

	mu      sync.Mutex // guards the fields below
	private []answer
	own     map[uint64]struct{} // the seqs that this session sent and its cursor has not passed, each with its slot; nil: not asked for
	err     error               // why it ended; valid when done is closed
}

// newSession returns a session that keeps r, which the caller has acquired, with slots for so many messages.
func newSession(r *room, u user, slots int) *session {
	s := &session{
		room: r, userID: u.ID, userName: u.Name, userVersion: u.Version,
		done:  make(chan struct{}),
		slots: make(chan struct{}, slots),
	}
	s.holds.Store(1)
	return s
}

// answer is an event for one stream only: a REJECTED (seq 0), or the acknowledgement of a resend.
type answer struct {
	seq   uint64
	block *block // of one event
}

// The states of a session's writer.
const (
	writerUnset int32 = iota // start is still to come
	writerNone               // there is nothing to send, and no goroutine
	writerRuns               // a goroutine looks for something to send
	writerAgain              // it has to look again
	writerOver               // the session has ended: there will be no other goroutine
)

// start gives the session what sends. Whenever there may be something to send, spawn runs write in a goroutine
// of its own, one at a time.
func (s *session) start(spawn func(func()), write func()) {
	s.spawn, s.write = spawn, write
	s.writer.CompareAndSwap(writerUnset, writerNone)
	s.notify()
}

// notify sees to it that the writer looks for something to send.
func (s *session) notify() {
	for {
		switch s.writer.Load() {
		case writerNone:
			if s.writer.CompareAndSwap(writerNone, writerRuns) {
				s.spawn(s.runWriter)
				return
			}
		case writerRuns:
			if s.writer.CompareAndSwap(writerRuns, writerAgain) {
				return
			}
		default:
			return
		}
	}
}

func (s *session) runWriter() {
	for s.write(); !s.writer.CompareAndSwap(writerRuns, writerNone); s.write() {
		if !s.writer.CompareAndSwap(writerAgain, writerRuns) {
			return // over
		}
	}
}

// over tells whether the session has ended.
func (s *session) over() bool { return s.writer.Load() == writerOver }

// end makes the session end with err. The first call counts, and returns true.
func (s *session) end(err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writer.Swap(writerOver) == writerOver {
		return false
	}
	s.err = err
	close(s.done)
	return true
}

// absent gives up the presence: at once when the other side has closed its half of the stream.
func (s *session) absent() {
	if s.gone.Swap(true) {
		return
	}
	r := s.room
	r.mu.Lock()
	defer r.mu.Unlock()
	r.present[s.userID].streams--
	r.depart(s.userID, s)
}

// leave ends the session's part in the room.
func (s *session) leave() {
	s.end(nil)
	s.absent()
	s.room.mu.Lock()
	delete(s.room.sessions, s)
	s.room.held[s] = struct{}{}
	s.room.mu.Unlock()
	s.drop()
}

// hold keeps the room for a message until drop. It returns false if nothing keeps it any more.
func (s *session) hold() bool {
	for n := s.holds.Load(); n > 0; n = s.holds.Load() {
		if s.holds.CompareAndSwap(n, n+1) {
			return true
		}
	}
	return false
}

// drop gives up one hold.
func (s *session) drop() {
	if s.holds.Add(-1) == 0 {
		s.room.mu.Lock()
		delete(s.room.held, s)
		s.room.mu.Unlock()
		s.room.hub.release(s.room)
	}
}

// typing tells the others that the user types.
func (s *session) typing() {
	s.room.mu.Lock()
	defer s.room.mu.Unlock()
	s.room.announce(pb.ChatEventKind_TYPING, s.userName, s)
}

// stored notes that a message of this session has become seq.
func (s *session) stored(seq uint64) {
	if s.own == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.own[seq] = struct{}{}
}

// sentIt tells whether this session sent the message seq.
func (s *session) sentIt(seq uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.own[seq]
	return ok
}

// passed forgets the session's own messages up to the cursor, and gives back their slots: who does not read cannot go on
// sending, for nothing else would bound them.
func (s *session) passed() {
	if s.own == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for seq := range s.own {
		if seq <= s.seq {
			delete(s.own, seq)
			<-s.slots // never blocks
		}
	}
}

// answer sends an event to this stream alone. The message that it answers holds a slot, which is given back
// when it is sent.
func (s *session) answer(seq uint64, e event) {
	if s.posted != nil {
		s.posted <- seq
		return
	}
	s.mu.Lock()
	s.private = append(s.private, answer{seq, notStored(e, nil)})
	s.mu.Unlock()
	s.notify()
}

// sending calls send, which hands a frame to the transport, and notes since when it has been at it.
func (s *session) sending(send func() error) error {
	s.sendingSince.Store(time.Now().UnixNano())
	defer s.sendingSince.Store(0)
	return send()
}

// answers appends to out what is for this stream alone, up to about maxFrame bytes. The acknowledgement of a
// resend whose message is still ahead of the cursor is dropped: it comes with that message, and not before what
// precedes it.
func (s *session) answers(out []span) []span {
	s.mu.Lock()
	defer s.mu.Unlock()
	for size := 0; len(s.private) > 0 && size < maxFrame; {
		a := s.private[0]
		s.private[0], s.private = answer{}, s.private[1:]
		if a.seq <= s.seq {
			out = append(out, a.block.whole())
			size += len(a.block.data)
		}
		<-s.slots // that of the message: never blocks
	}
	return out
}

// take appends to out the events behind the cursor, as far as the ring has them and until out has about
// maxFrame bytes, and moves the cursor. behind: the next ones are in the database only.
func (s *session) take(out []span) (_ []span, behind bool) {
	r := s.room
	r.mu.Lock()
	defer r.mu.Unlock()
	size := 0
	for _, sp := range out {
		size += len(sp.data)
	}
	s.pos = max(s.pos, r.ring.first)
	for ; s.pos < r.ring.end(); s.pos++ {
		b := r.ring.blocks[s.pos-r.ring.first]
		switch {
		case b.first == 0:
			if s.pos >= s.since && b.from != s {
				out = append(out, b.whole())
				size += len(b.data)
			}
			continue
		case b.last() <= s.seq:
			continue
		case b.first > s.seq+1:
			return out, true
		}
		sp := b.span(int(s.seq+1-b.first), maxFrame-size)
		if sp.to == sp.from {
			return out, false // the frame is full
		}
		out = append(out, sp)
		size += len(sp.data)
		if s.seq = b.first + uint64(sp.to) - 1; s.seq < b.last() {
			return out, false
		}
	}
	return out, s.seq < r.last
}
