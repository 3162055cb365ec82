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
	id     string
	body   string
	since  time.Time
	answer chan answer // takes the one answer without waiting
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
	if !utf8.ValidString(body) {
		return 0, &Error{Code: "REJECTED", Message: "the message is not UTF-8"}
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	select {
	case b.turns <- struct{}{}:
		defer func() { <-b.turns }()
	case <-b.ended:
		return 0, b.cause()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	o := &outgoing{id: rand.Text(), body: body, since: time.Now(), answer: make(chan answer, 1)}
	if err := b.add(o); err != nil {
		return 0, err
	}
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
		req, more := b.pick()
		if req != nil {
			return req, nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (b *outbox) pick() (*pb.ChatRequest, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.written < len(b.queue) && !(b.probing && b.written > 0) {
		o := b.queue[b.written]
		b.written++
		return &pb.ChatRequest{Body: o.body, ClientMessageId: o.id}, nil
	}
	if b.typing {
		b.typing = false
		return &pb.ChatRequest{Typing: true}, nil
	}
	return nil, b.more.wait()
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
		case o == nil || !mine(e.UserName):
		case e.kind == pb.ChatEventKind_MESSAGE:
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
	b.probing = false
	b.more.wake()
}

// broke tells that the stream ended with err. A message that the server does not even read, such as one above
// its frame limit, would end every stream that it is sent on. So after such an end the messages are sent one
// at a time, and the one that ends a stream alone is rejected.
func (b *outbox) broke(err error) {
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Code != "RESOURCE_EXHAUSTED" && e.Code != "INVALID_ARGUMENT" && e.Code != "INVALID_FIELD" {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.probing && b.written == 1 {
		b.resolve(b.queue[0], answer{err: &Error{Code: "REJECTED", Message: e.Message}})
		return
	}
	b.probing = true
}

// oldest returns when the oldest message was queued; now, if there is none.
func (b *outbox) oldest() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.queue) == 0 {
		return time.Now()
	}
	return b.queue[0].since
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
