package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"

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
)

// stream is one Chat call.
type stream struct {
	grpc.ServerStream
	server   *chatServer
	original bool // the client speaks the original's protocol
	session  *session
	draining atomic.Bool // the client has closed its half
	// Of read.
	typed time.Time // when a TYPING was passed on last
	// Of write: once the client has closed its half and its messages are stored, the session ends behind lastSeq.
	ending  bool
	lastSeq uint64
	spans   []span
}

// Chat is the RPC under its own name.
func (s *chatServer) Chat(ss pb.GRPCChatter_ChatServer) error { return s.chat(ss, false) }

// chat serves a stream. This goroutine waits for the end, for only its return can end a stream whose reader or
// writer is blocked; both return soon after it. There is a writer only while there is something to send.
func (s *chatServer) chat(ss grpc.ServerStream, original bool) error {
	ctx := ss.Context()
	st := &stream{ServerStream: ss, server: s, original: original}
	first := make(chan chatRequest, 1)
	opened := make(chan struct{})
	s.readers.Go(func() { st.read(first, opened) })

	seq := callerOf(ctx).room.Seq
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
			case req.afterSeq != nil:
				seq = *req.afterSeq
			}
		case <-timeout.C:
			return invalid("start", fmt.Sprintf("The first ChatRequest did not come within %d s.", openTimeout/time.Second))
		case <-s.auth.stopped.Done():
			return errShuttingDown
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	var session *session
	var err error
	aside(func() {
		if session, err = s.open(ctx, seq, original); err == nil {
			err = ss.SendHeader(nil) // tells the client that the session is open
		}
	})
	if session != nil {
		defer session.leave()
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

// open opens a session behind seq for the caller.
func (s *chatServer) open(ctx context.Context, seq uint64, original bool) (*session, error) {
	c := callerOf(ctx)
	session, err := s.hub.enter(ctx, c.room.RoomID, c.user, seq, original)
	if errors.Is(err, errNotFound) {
		return nil, errRoomDeleted
	} else if err != nil {
		return nil, err
	}
	// Again, now that whoever changes the account or deletes the room finds the session.
	if err := s.auth.unchanged(ctx, c.user); err != nil {
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
	case <-st.Context().Done():
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

// receive reads the next request. A stream that carries something else ends.
func (st *stream) receive(req *chatRequest) error {
	if err := st.RecvMsg(req); err != nil {
		return err
	}
	if req.err != nil {
		return invalid("request", "This is no ChatRequest.")
	}
	return nil
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
	field, rule := st.broken(req)
	if rule != "" && st.original {
		s.end(invalid(field, rule))
		return false
	}
	if err := st.server.limits.message.take(strconv.FormatInt(s.userID, 10)); err != nil {
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

// broken returns the rule that a request breaks, if any, and the field that breaks it.
func (st *stream) broken(req *chatRequest) (field, rule string) {
	switch {
	case req.start && !st.original:
		return "start", "Only the first request of a stream may have a start."
	case req.body == "":
		return "body", "The message is empty."
	case len(req.body) > st.server.maxMessage:
		return "body", fmt.Sprintf("The message is longer than %d bytes.", st.server.maxMessage)
	case !utf8.ValidString(req.body):
		return "body", "The message is not UTF-8."
	case st.original:
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
			err = st.send(st.spans)
			clear(st.spans)
		case behind:
			err = st.catchUp()
		case !st.ending:
			return
		}
		if err != nil || st.ending && s.seq >= st.lastSeq {
			s.end(err)
			return
		}
	}
}

// send writes events as one frame; to a client of the original, each message as a frame.
func (st *stream) send(spans []span) error {
	if st.original {
		for _, sp := range spans {
			if sp.block == nil || sp.block.first == 0 {
				continue
			}
			for i := sp.from; i < sp.to; i++ {
				m := sp.block.marks[i]
				if err := st.sendText(sp.block.first+uint64(i), sp.block.data[m.content:m.text]); err != nil {
					return err
				}
			}
		}
		return nil
	}
	f := &frame{make(mem.BufferSlice, 0, len(spans))}
	for _, sp := range spans {
		f.BufferSlice = append(f.BufferSlice, mem.SliceBuffer(sp.data))
	}
	return st.sendFrame(f)
}

// sendText sends the original's form of a message, but not to the stream that it came from.
func (st *stream) sendText(seq uint64, text []byte) error {
	if st.session.sentIt(seq) {
		return nil
	}
	return st.sendFrame(&frame{mem.BufferSlice{mem.SliceBuffer(text)}})
}

func (st *stream) sendFrame(f *frame) error {
	st.session.sendingSince.Store(time.Now().UnixNano())
	err := st.SendMsg(f)
	st.session.sendingSince.Store(0)
	return err
}

// catchUp sends a page of what is in the database behind the cursor, and moves the cursor.
func (st *stream) catchUp() error {
	s := st.session
	last := s.room.newest()
	page, err := st.server.store.messagesAfter(st.Context(), s.room.id, s.seq, catchUpPage, catchUpBytes)
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
	for len(page) > 0 {
		b := &block{first: page[0].Seq}
		for len(page) > 0 && len(b.data) < maxFrame && (len(b.marks) == 0 || page[0].Seq == b.last()+1) {
			var m mark
			b.data, m = appendEvent(b.data, messageEvent(page[0]))
			b.marks = append(b.marks, m)
			page = page[1:]
		}
		if err := st.send([]span{{data: b.data, block: b, to: len(b.marks)}}); err != nil {
			return err
		}
		s.seq = b.last()
	}
	return nil
}
