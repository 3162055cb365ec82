package client

import (
	"context"
	"errors"
	"sync"
	"time"
)

const (
	// inboxSize is how many messages wait in memory to be received.
	inboxSize = 1024
	// pageSize is how many messages are read from the server's history at a time.
	pageSize = 200
	// patience is how long the stream is held up for a program that is about to receive more.
	patience = time.Second
)

// inbox holds the messages that came and were not received yet, in order and without a gap. What does not
// fit is not kept: the inbox remembers how far the stream has come, and what lies between is put in later,
// from the server's history.
type inbox struct {
	mu      sync.Mutex // guards the fields below
	in      []Message  // put here …
	out     []Message  // … and taken from here, from head on; they change places when out is empty
	head    int
	last    uint64 // the newest message that was put in; all before it were
	stream  uint64 // the newest message that the stream has shown; never below last
	closing bool   // the page that is on its way ends where the stream is
	err     error  // why no more come
	arrived signal // a message can be taken, or err is set
	drained signal // half of the inbox is free, or closing is over, or err is set
	behind  signal // stream has gone past last
}

func newInbox(after uint64) *inbox { return &inbox{last: after, stream: after} }

// receive takes the oldest message, and waits for one when there is none.
func (b *inbox) receive(ctx context.Context) (Message, error) {
	for {
		if err := ctx.Err(); err != nil {
			return Message{}, err
		}
		m, arrived, err := b.take()
		if arrived == nil {
			return m, err
		}
		select {
		case <-arrived:
		case <-ctx.Done():
		}
	}
}

// take returns the oldest message, or why none comes any more, or a channel that says when to try again.
func (b *inbox) take() (Message, <-chan struct{}, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == ErrClosed {
		return Message{}, nil, b.err
	}
	if b.head == len(b.out) {
		b.in, b.out, b.head = b.out[:0], b.in, 0
	}
	if b.head == len(b.out) {
		if b.err != nil {
			return Message{}, nil, b.err
		}
		return Message{}, b.arrived.wait(), nil
	}
	m := b.out[b.head]
	b.out[b.head] = Message{}
	b.head++
	if b.len() <= inboxSize/2 {
		b.drained.wake()
	}
	return m, nil, nil
}

// len returns how many messages wait. b.mu is held.
func (b *inbox) len() int { return len(b.in) + len(b.out) - b.head }

// seen returns the seq of the newest message that the stream has shown.
func (b *inbox) seen() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.stream
}

// cause returns why no more messages come, or nil while they do.
func (b *inbox) cause() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// offer takes what the stream brought, in its order. When there is no room, or just a page missing, it waits a
// little for the program to catch up, at most until the time that deadline returns, and then goes on without:
// the stream carries acknowledgements too, and must be read.
func (b *inbox) offer(events []event, deadline func() time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range events {
		m := &events[i].Message
		if m.Seq <= b.stream {
			continue // not stored, or shown before
		}
		if b.mustWait() {
			b.await(deadline())
		}
		if m.Seq == b.last+1 && b.len() < inboxSize {
			b.in = append(b.in, *m)
			b.last = m.Seq
		}
		b.stream = m.Seq
	}
	b.arrived.wake()
	if b.stream > b.last {
		b.behind.wake()
	}
}

// mustWait reports whether the next message of the stream could be put in after a little while. b.mu is held.
func (b *inbox) mustWait() bool {
	if b.last < b.stream {
		return b.closing
	}
	return b.len() >= inboxSize
}

// await waits until there is room and nothing is missing, but no longer than until deadline. b.mu is held, but
// not while it waits.
func (b *inbox) await(deadline time.Time) {
	b.arrived.wake()
	full := b.len() >= inboxSize
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	for b.err == nil && (b.closing || full && b.len() > inboxSize/2) {
		drained := b.drained.wait()
		b.mu.Unlock()
		select {
		case <-drained:
			b.mu.Lock()
		case <-timer.C:
			b.mu.Lock()
			b.closing = false
			return
		}
	}
}

// missing waits until messages are missing and there is room for a page of them. It returns the seq before
// the first that is missing, and the last one to ask for, size messages on at most.
func (b *inbox) missing(ctx context.Context, size uint64) (after, until uint64, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for ctx.Err() == nil {
		var change <-chan struct{}
		switch {
		case b.last == b.stream:
			change = b.behind.wait()
		case b.len() > inboxSize/2:
			change = b.drained.wait()
		default:
			until = min(b.stream, b.last+size)
			b.closing = until == b.stream
			return b.last, until, nil
		}
		b.mu.Unlock()
		select {
		case <-change:
		case <-ctx.Done():
		}
		b.mu.Lock()
	}
	return 0, 0, ctx.Err()
}

// fill puts in the page that missing asked for. What a page leaves out is no longer in the history. After a
// failure to read the page, its messages stay missing.
func (b *inbox) fill(page []Message, until uint64, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closing = false
	b.drained.wake()
	if err != nil {
		return
	}
	b.in = append(b.in, page...)
	b.last = until
	b.arrived.wake()
}

// end makes receive return err once the inbox is empty, or at once if it is ErrClosed.
func (b *inbox) end(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil || errors.Is(err, ErrClosed) {
		b.err = err
	}
	if b.err == ErrClosed {
		b.in, b.out, b.head = nil, nil, 0
	}
	b.arrived.wake()
	b.drained.wake()
}
