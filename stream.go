package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/grpcchatter/grpcchatter/pb"
)

const (
	// openTimeout is how long a Chat stream may take to send its first request.
	openTimeout = 10 * time.Second
	// typingPause is how often a TYPING of one stream is passed on at most.
	typingPause = time.Second
	// catchUpPage and catchUpBytes are how much is read from the database at once for who is behind.
	catchUpPage  = 500
	catchUpBytes = 256 << 10
	// keptSpans is how many spans a stream keeps room for.
	keptSpans = 64
)

// transport carries one stream to its client and back: gRPC, the original's gRPC, or a WebSocket.
type transport interface {
	// name is the transport's, in the metrics.
	name() string
	// receive reads the next request. io.EOF: there will be no other one, but the client still reads.
	receive(*chatRequest) error
	// opened tells the client that its session is open.
	opened() error
	// send sends events of the session. Only one goroutine at a time calls it.
	send(*session, []span) error
}

// stream is one Chat call.
type stream struct {
	transport
	ctx      context.Context // of the call, with its caller
	server   *chatServer
	original bool // the client speaks the original's protocol
	session  *session
	openedAt time.Duration // of metrics
	draining atomic.Bool   // the client has closed its half
	// Of read.
	typed time.Time // when a TYPING was passed on last
	// Of write: once the client has closed its half and its messages are stored, the session ends behind lastSeq.
	ending  bool
	lastSeq uint64
	spans   []span
}

// serve serves a stream until it ends, and returns why. This goroutine waits for the end, for only its return can end a
// stream whose reader or writer is blocked; both return soon after it. There is a writer only while there is something
// to send.
func (s *chatServer) serve(ctx context.Context, t transport, original bool) error {
	st := &stream{transport: t, ctx: ctx, server: s, original: original}
	first := make(chan chatRequest, 1)
	opened := make(chan struct{})
	s.readers.Go(func() { st.read(first, opened) })

	var afterSeq *uint64
	if !original {
		timeout := time.NewTimer(openTimeout)
		select {
		case req := <-first:
			timeout.Stop()
			switch {
			case errors.Is(req.err, io.EOF):
				return nil // it had nothing to say
			case req.err != nil:
				return req.err
			}
			afterSeq = req.afterSeq
		case <-timeout.C:
			return errNotOpened()
		case <-s.auth.stopped.Done():
			return errShuttingDown
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	var session *session
	var err error
	aside(func() {
		if session, err = s.open(ctx, afterSeq, original); err == nil {
			st.openedAt = s.metrics.sessionOpened(t.name(), afterSeq != nil) // before the client can answer: what comes then is no old message
			err = t.opened()
		}
	})
	if session != nil {
		defer session.leave()
		defer s.metrics.sessionClosed(t.name())
	}
	if err != nil {
		return err
	}
	st.session = session
	close(opened)
	session.start(func(run func()) { s.writers.Go(run) }, st.write)
	select {
	case <-session.done:
		return session.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// errNotOpened says that the request which opens a session did not come.
func errNotOpened() error {
	return invalid("start", fmt.Sprintf("The first ChatRequest did not come within %d s.", openTimeout/time.Second))
}

// open opens a session for the caller: behind afterSeq or, if that is nil, behind the join.
func (s *chatServer) open(ctx context.Context, afterSeq *uint64, original bool) (*session, error) {
	c := callerOf(ctx)
	seq := c.room.Seq
	if afterSeq != nil {
		seq = *afterSeq
	}
	if c.restored {
		last, err := s.store.restoredSeq(ctx, c.room.RoomID)
		switch {
		case err != nil:
			return nil, err
		case afterSeq == nil:
			seq = min(seq, last)
		case seq > last: // the messages from last on are others than those that it has
			return nil, errHistoryRestored
		default: // with a new token it goes on there, and what it gets then is known to be of now
			return nil, errTokenInvalid
		}
	}
	session, err := s.hub.enter(ctx, c.room.RoomID, c.user, seq, original)
	if err != nil {
		return nil, err
	}
	// Again, now that whoever changes the account, ends the membership or deletes the room finds the session.
	if err := s.auth.stillValid(ctx, c); err != nil {
		session.leave()
		return nil, err
	}
	return session, nil
}

// read receives until the stream ends. The first request of a client that does not speak the original's
// protocol opens the session.
func (st *stream) read(first chan<- chatRequest, opened <-chan struct{}) {
	var req chatRequest
	if !st.original {
		req.err = st.receive(&req)
		first <- req
		if req.err != nil {
			return
		}
	}
	select {
	case <-opened:
	case <-st.ctx.Done():
		return
	}
	s := st.session
	if !st.original && (!req.empty() || req.typing) {
		req.start = false
		st.handle(&req)
	}
	for {
		err := st.receive(&req)
		if errors.Is(err, io.EOF) {
			s.absent()
			st.draining.Store(true)
			s.notify()
			return
		} else if err != nil {
			s.end(err)
			return
		}
		if !st.handle(&req) {
			return
		}
	}
}

// handle does what a request asks for. It returns false once the session has ended.
func (st *stream) handle(req *chatRequest) bool {
	s := st.session
	if req.typing && !st.original {
		if now := time.Now(); now.Sub(st.typed) >= typingPause {
			st.typed = now
			s.typing()
		}
		if req.empty() && !req.start {
			return true
		}
	}
	field, rule := st.server.broken(req, st.original)
	if rule != "" && st.original {
		s.end(invalid(field, rule))
		return false
	}
	if err := take(try{st.server.limits.messagesPerUser, userKey(s.userID)}); err != nil {
		s.end(err)
		return false
	}
	select {
	case s.slots <- struct{}{}:
	case <-s.done:
		return false
	}
	if rule != "" {
		e := event{kind: pb.ChatEventKind_REJECTED, userName: s.userName, body: rule}
		if len(req.clientMessageID) <= maxClientMessageID { // a larger one would be kept for who does not read
			e.clientMessageID = strings.ToValidUTF8(req.clientMessageID, "\uFFFD")
		}
		s.answer(0, e)
		return true
	}
	sub := submission{s: s, body: req.body}
	if !st.original {
		sub.clientMessageID = req.clientMessageID
	}
	return st.server.committer.submit(sub)
}

// broken returns the rule that a message breaks, if any, and the field that breaks it.
func (s *chatServer) broken(req *chatRequest, original bool) (field, rule string) {
	switch {
	case req.start && !original:
		return "start", "Only the first request of a stream may have a start."
	case req.body == "":
		return "body", "The message is empty."
	case len(req.body) > s.maxMessage:
		return "body", fmt.Sprintf("The message is longer than %d bytes.", s.maxMessage)
	case !utf8.ValidString(req.body):
		return "body", "The message is not UTF-8."
	case original:
		return "", ""
	case len(req.clientMessageID) > maxClientMessageID:
		return "client_message_id", fmt.Sprintf("The client_message_id is longer than %d bytes.", maxClientMessageID)
	case !utf8.ValidString(req.clientMessageID):
		return "client_message_id", "The client_message_id is not UTF-8."
	}
	return "", ""
}

// write sends what there is. One goroutine at a time runs it: no other sends on the stream.
func (st *stream) write() {
	s := st.session
	for !s.over() {
		if !st.ending && st.draining.Load() && len(s.slots) == 0 {
			st.ending, st.lastSeq = true, s.room.newest()
		}
		var behind bool
		var err error
		st.spans, behind = s.take(s.answers(st.spans[:0]))
		switch {
		case len(st.spans) > 0:
			if err = st.send(s, st.spans); err == nil {
				st.server.metrics.delivered(st.spans, st.openedAt)
			}
			clear(st.spans)
			if cap(st.spans) > keptSpans {
				st.spans = nil // of who was slow once
			}
		case behind:
			err = st.catchUp()
		case !st.ending:
			return
		}
		s.passed()
		if err != nil || st.ending && s.seq >= st.lastSeq {
			s.end(err)
			return
		}
	}
}

// catchUp sends a page of what is in the database behind the cursor, and moves the cursor.
func (st *stream) catchUp() error {
	s := st.session
	last := s.room.newest()
	page, err := st.server.store.messagesAfter(st.ctx, s.room.id, s.seq, catchUpPage, catchUpBytes)
	if err != nil {
		return err
	}
	// What is committed but not published yet comes by the ring: only then is it known whose it is.
	for len(page) > 0 && page[len(page)-1].Seq > last {
		page = page[:len(page)-1]
	}
	if len(page) == 0 {
		s.seq = last // there is nothing left of what was before
		return nil
	}
	for _, b := range makeBlocks(page) {
		if err := st.send(s, []span{b.whole()}); err != nil {
			return err
		}
		s.seq = b.last()
	}
	return nil
}
