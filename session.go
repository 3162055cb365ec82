package main

import (
	"sync"
	"sync/atomic"

	"github.com/grpcchatter/grpcchatter/pb"
)

// maxInFlight is how many messages of one session may wait: to be committed, or for their answer to be sent.
const maxInFlight = 1024

// session is one open stream: a cursor into its room. Its methods are safe for concurrent use, except that
// take and answers belong to the one goroutine that sends on the stream.
type session struct {
	room     *room
	userID   int64
	userName string
	wake     chan struct{} // holds a token when there may be something to do for the sender
	done     chan struct{} // closed by end
	slots    chan struct{} // one for each message in flight

	holds        atomic.Int32 // the stream and its uncommitted messages: each keeps the room
	gone         atomic.Bool  // the presence has been given up
	sendingSince atomic.Int64 // Unix ns; 0: not sending

	since uint64 // the ring's end at the start: what was not stored before it is not for this session
	pos   uint64 // of the next block, of the sender
	seq   uint64 // the last seq that was sent, of the sender

	mu      sync.Mutex // guards the fields below
	private []answer
	own     map[uint64]struct{} // the seqs that this session sent and has not met again; nil: not asked for
	err     error               // why it ended; valid when done is closed
	over    bool
}

// answer is an event for one stream only: a REJECTED (seq 0), or the acknowledgement of a resend.
type answer struct {
	seq  uint64
	data []byte
}

func (s *session) awake() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// end makes the session end with err. The first call counts.
func (s *session) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return
	}
	s.over, s.err = true, err
	close(s.done)
	s.awake()
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
	s.room.mu.Unlock()
	s.drop()
}

// drop gives up one hold.
func (s *session) drop() {
	if s.holds.Add(-1) == 0 {
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

// sentIt tells whether this session sent the message seq. It may be asked once.
func (s *session) sentIt(seq uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.own[seq]
	delete(s.own, seq)
	return ok
}

// skip moves the cursor over messages that are nowhere any more.
func (s *session) skip() {
	s.room.mu.Lock()
	defer s.room.mu.Unlock()
	s.seq = s.room.last
}

// answer sends an event to this stream alone. The message that it answers holds a slot, which is given back
// when it is sent.
func (s *session) answer(seq uint64, e event) {
	data, _ := appendEvent(nil, e)
	s.mu.Lock()
	s.private = append(s.private, answer{seq, data})
	s.mu.Unlock()
	s.awake()
}

// answers appends to out what is for this stream alone. The acknowledgement of a resend whose message is
// still ahead of the cursor is dropped: it comes with that message, and not before what precedes it.
func (s *session) answers(out []span) []span {
	s.mu.Lock()
	private := s.private
	s.private = nil
	s.mu.Unlock()
	for _, a := range private {
		if a.seq <= s.seq {
			out = append(out, span{data: a.data})
		}
		<-s.slots
	}
	return out
}

// take appends to out the events behind the cursor, as far as the ring has them and up to about maxFrame
// bytes, and moves the cursor. behind: the next ones are in the database only.
func (s *session) take(out []span) (_ []span, behind bool) {
	r := s.room
	r.mu.Lock()
	defer r.mu.Unlock()
	size := 0
	s.pos = max(s.pos, r.ring.first)
	for ; s.pos < r.ring.end(); s.pos++ {
		b := r.ring.blocks[s.pos-r.ring.first]
		switch {
		case b.first == 0:
			if s.pos >= s.since && b.from != s {
				out = append(out, span{data: b.data, block: b, to: len(b.marks)})
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
