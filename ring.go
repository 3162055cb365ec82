package main

import "time"

// maxFrame is about how many bytes of events are one block, and go out as one gRPC message or one frame of a WebSocket: so
// much may wait for a receiver that is slow. One event may be larger.
const maxFrame = 64 << 10

// ringBytes is how much a ring keeps for those who are a little behind, however few events keep asks for. Where JSON is
// read, each block has that form too: less than twice as large, where the text is plain.
const ringBytes = 256 << 10

// block is events of one commit in one room, or one event that is not stored. It is encoded once, and
// never changed: all members' frames share it.
type block struct {
	data   []byte   // ChatResponse.events, one after the other
	marks  []mark   // of each event
	first  uint64   // the seq of the first event; 0: not stored
	from   *session // of an event that is not stored: who must not get it
	asJSON jsonForm // see json
	// committed is when it was, of metrics; 0: not just now, or nobody asks.
	committed time.Duration
}

// notStored is a block of one event that is not stored.
func notStored(e event, from *session) *block {
	data, m := appendEvent(nil, e)
	return &block{data: data, marks: []mark{m}, from: from}
}

// makeBlocks encodes messages, into blocks of seqs that follow one another and of at most maxFrame bytes, unless one
// message is larger: who is slow, and the ring, keep whole blocks.
func makeBlocks(msgs []message) (blocks []*block) {
	for len(msgs) > 0 {
		n, size := 0, 0
		for n < len(msgs) && (n == 0 || size+encodedSize(&msgs[n]) <= maxFrame && msgs[n].Seq == msgs[n-1].Seq+1) {
			size += encodedSize(&msgs[n])
			n++
		}
		b := &block{first: msgs[0].Seq, marks: make([]mark, n), data: make([]byte, 0, size)}
		for i := range b.marks {
			b.data, b.marks[i] = appendEvent(b.data, messageEvent(msgs[i]))
		}
		blocks = append(blocks, b)
		msgs = msgs[n:]
	}
	return blocks
}

// encodedSize is what a message takes as an event, at most.
func encodedSize(m *message) int {
	return len(m.Body) + len(m.UserName) + len(m.ClientMessageID) + 56
}

func (b *block) last() uint64 { return b.first + uint64(len(b.marks)) - 1 }

// start is where event i begins, with tag and length.
func (b *block) start(i int) int {
	if i == 0 {
		return 0
	}
	return b.marks[i-1].end
}

// span is some events of a block.
type span struct {
	data     []byte
	block    *block
	from, to int // events of block
}

func (b *block) whole() span { return span{data: b.data, block: b, to: len(b.marks)} }

// span returns the events from i on that fit into max bytes: none if not even the first does, unless max is
// a whole frame.
func (b *block) span(i, max int) span {
	start := b.start(i)
	to := i
	for to < len(b.marks) && b.marks[to].end-start <= max {
		to++
	}
	if to == i && max >= maxFrame {
		to++
	}
	return span{data: b.data[start:b.start(to)], block: b, from: i, to: to}
}

// ring is the newest blocks of a room, by position: blocks[0] is at first. Its room's mu guards it.
type ring struct {
	blocks []*block
	first  uint64
	events int // stored or not: else typing would pile up where few messages are written
	bytes  int
}

func (r *ring) end() uint64 { return r.first + uint64(len(r.blocks)) }

func (r *ring) push(b *block) {
	r.blocks = append(r.blocks, b)
	r.events, r.bytes = r.events+len(b.marks), r.bytes+b.size()
}

// trim lets go of the oldest blocks as long as what is left has keep events and ringBytes.
func (r *ring) trim(keep int) {
	for len(r.blocks) > 0 {
		old := r.blocks[0]
		events, bytes := r.events-len(old.marks), r.bytes-old.size()
		if events < keep || bytes < ringBytes {
			return
		}
		r.events, r.bytes = events, bytes
		r.blocks[0] = nil
		r.blocks = r.blocks[1:]
		r.first++
	}
}

// size is about what a block takes of memory.
func (b *block) size() int { return len(b.data) + 24*len(b.marks) + 100 }
