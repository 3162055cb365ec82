package client

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/grpcchatter/grpcchatter/pb"
)

// outboxSize is how many messages may wait for their acknowledgement.
const outboxSize = 1024

// outgoing is a message that is not acknowledged yet.
type outgoing struct {
	id      string
	body    string
	written time.Time   // to the stream that there is now
	answer  chan answer // takes the one answer without waiting
}

// answer is what became of an outgoing message.
type answer struct {
	seq uint64
	err error
}

// outbox holds the messages that are not acknowledged yet, in the order of their Send. Each new stream is
// given all of them, from the first.
type outbox struct {
	turns chan struct{} // holds an element for each Send under way
	ended chan struct{} // closed when err is set

	mu      sync.Mutex // guards the fields below
	queue   []*outgoing
	byID    map[string]*outgoing
	written int    // how many of the queue the stream was given
	pace    pace   // how fast messages may be written
	answers int    // how many messages the server has answered
	probing bool   // the stream is given one at a time
	typing  bool   // a typing hint is to be sent
	err     error  // why no more are sent
	more    signal // there may be something to write
}

func newOutbox() *outbox {
	return &outbox{
		turns: make(chan struct{}, outboxSize),
		ended: make(chan struct{}),
		byID:  make(map[string]*outgoing),
	}
}

// send queues a message, and waits for its acknowledgement.
func (b *outbox) send(ctx context.Context, body string) (uint64, error) {
	o, err := b.enqueue(ctx, body)
	if err != nil {
		return 0, err
	}
	return b.await(ctx, o)
}

// enqueue gives a message its place in the order; it waits for a turn. await must follow.
func (b *outbox) enqueue(ctx context.Context, body string) (*outgoing, error) {
	if !utf8.ValidString(body) {
		return nil, &Error{Code: "REJECTED", Message: "the message is not UTF-8"}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case b.turns <- struct{}{}:
	case <-b.ended:
		return nil, b.cause()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	o := &outgoing{id: rand.Text(), body: body, answer: make(chan answer, 1)}
	if err := b.add(o); err != nil {
		<-b.turns
		return nil, err
	}
	return o, nil
}

// await waits for the acknowledgement of o, and gives its turn back.
func (b *outbox) await(ctx context.Context, o *outgoing) (uint64, error) {
	defer func() { <-b.turns }()
	select {
	case a := <-o.answer:
		return a.seq, a.err
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.remove(o)
	select {
	case a := <-o.answer: // it came just now
		return a.seq, a.err
	default:
		return 0, ctx.Err()
	}
}

func (b *outbox) add(o *outgoing) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return b.err
	}
	b.queue = append(b.queue, o)
	b.byID[o.id] = o
	b.more.wake()
	return nil
}

// remove forgets a message. b.mu is held.
func (b *outbox) remove(o *outgoing) {
	if b.byID[o.id] != o {
		return
	}
	delete(b.byID, o.id)
	i := slices.Index(b.queue, o)
	if i == 0 { // nearly always
		b.queue[0] = nil
		b.queue = b.queue[1:]
	} else {
		b.queue = slices.Delete(b.queue, i, i+1)
	}
	if i < b.written {
		b.written--
	}
}

// sendTyping queues a typing hint.
func (b *outbox) sendTyping() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return b.err
	}
	b.typing = true
	b.more.wake()
	return nil
}

// rewind prepares for a new stream.
func (b *outbox) rewind() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.written = 0
	b.typing = false
}

// next waits for something to write to the stream, and counts it as written.
func (b *outbox) next(ctx context.Context) (*pb.ChatRequest, error) {
	for {
		req, more, pause := b.pick()
		if req != nil {
			return req, nil
		}
		var due <-chan time.Time
		if pause > 0 {
			due = time.After(pause)
		}
		select {
		case <-more:
		case <-due:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// pick returns what next is for, or when to look again: at more, and after the pause if there is one.
func (b *outbox) pick() (req *pb.ChatRequest, more <-chan struct{}, pause time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.written < len(b.queue) && !(b.probing && b.written > 0) {
		now := time.Now()
		if pause = b.pace.pause(now); pause == 0 {
			o := b.queue[b.written]
			o.written = now
			b.written++
			return &pb.ChatRequest{Body: o.body, ClientMessageId: o.id}, nil, 0
		}
	}
	if b.typing {
		b.typing = false
		return &pb.ChatRequest{Typing: true}, nil, 0
	}
	return nil, b.more.wait(), pause
}

// settle answers each Send whose message is among the events: acknowledged, or rejected. Another user may have
// chosen the same id; mine tells by the name.
func (b *outbox) settle(events []event, mine func(userName string) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range events {
		e := &events[i]
		o := b.byID[string(e.id)]
		switch {
		case o == nil:
		case e.kind == pb.ChatEventKind_MESSAGE && mine(e.UserName):
			b.resolve(o, answer{seq: e.Seq})
		case e.kind == pb.ChatEventKind_REJECTED:
			b.resolve(o, answer{err: &Error{Code: "REJECTED", Message: e.Body}})
		}
	}
}

// resolve answers the Send of o. b.mu is held.
func (b *outbox) resolve(o *outgoing, a answer) {
	b.remove(o)
	o.answer <- a
	b.answers++
	b.probing = false
	b.more.wake()
}

// broke tells why the stream ended.
func (b *outbox) broke(err error) {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e.Code {
	case "RATE_LIMITED":
		b.pace.slowDown(time.Now(), e.RetryAfter)
	case "RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "INVALID_FIELD":
		// A message that the server does not even read, such as one above its frame limit, ends every stream
		// that it is sent on. So messages are sent one at a time now: the one that ends a stream alone is it.
		if b.probing && b.written == 1 {
			b.resolve(b.queue[0], answer{err: &Error{Code: "REJECTED", Message: e.Message}})
		} else {
			b.probing = true
		}
	}
}

// answered returns how many messages the server has answered.
func (b *outbox) answered() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.answers
}

// oldest returns when the stream was given the oldest message that it has not answered; now, if there is none.
func (b *outbox) oldest() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.written == 0 {
		return time.Now()
	}
	return b.queue[0].written
}

// cause returns why no more messages are sent, or nil while they are.
func (b *outbox) cause() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// end answers every Send with err, those under way and those to come.
func (b *outbox) end(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		close(b.ended)
	}
	if b.err == nil || errors.Is(err, ErrClosed) {
		b.err = err
	}
	for _, o := range b.queue {
		o.answer <- answer{err: err}
	}
	b.queue, b.written = nil, 0
	clear(b.byID)
}
