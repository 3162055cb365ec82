package main

import (
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
	caller   caller
	original bool // the client speaks the original's protocol
	session  *session
	draining atomic.Bool // the client has closed its half
}

// Chat is the RPC under its own name.
func (s *chatServer) Chat(ss pb.GRPCChatter_ChatServer) error { return s.chat(ss, false) }

// chat serves a stream with three goroutines. This one waits for the end: only its return can end a stream
// whose reader or writer is blocked. The other two return soon after it.
func (s *chatServer) chat(ss grpc.ServerStream, original bool) error {
	ctx := ss.Context()
	st := &stream{ServerStream: ss, server: s, caller: callerOf(ctx), original: original}
	first := make(chan chatRequest, 1)
	opened := make(chan struct{})
	s.streams.Go(func() { st.read(first, opened) })

	seq := st.caller.room.Seq
	if !original {
		timeout := time.NewTimer(openTimeout)
		defer timeout.Stop()
		select {
		case req := <-first:
			if req.err != nil {
				return req.err
			}
			if req.afterSeq != nil {
				seq = *req.afterSeq
			}
		case <-timeout.C:
			return invalid("start", fmt.Sprintf("The first ChatRequest did not come within %d s.", openTimeout/time.Second))
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	session, err := s.hub.enter(ctx, st.caller.room.RoomID, st.caller.user.ID, st.caller.user.Name, seq, original)
	if errors.Is(err, errNotFound) {
		return errRoomDeleted
	} else if err != nil {
		return err
	}
	defer session.leave()
	// Again, now that whoever changes the account or deletes the room finds the session.
	if err := s.auth.unchanged(ctx, st.caller.user); err != nil {
		return err
	}
	if err := ss.SendHeader(nil); err != nil { // tells the client that the session is open
		return err
	}
	st.session = session
	close(opened)
	s.streams.Go(st.write)
	select {
	case <-session.done:
		return session.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// read receives until the stream ends. The first request of a client that does not speak the original's
// protocol opens the session.
func (st *stream) read(first chan<- chatRequest, opened <-chan struct{}) {
	var req chatRequest
	if !st.original {
		if err := st.receive(&req); err != nil {
			req.err = err
		}
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
	var typed time.Time
	if !st.original && !req.empty() {
		req.start = false
		st.handle(&req, &typed)
	}
	for {
		err := st.receive(&req)
		if errors.Is(err, io.EOF) {
			s.absent()
			st.draining.Store(true)
			s.awake()
			return
		}
		if err != nil {
			s.end(err)
			return
		}
		if !st.handle(&req, &typed) {
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
func (st *stream) handle(req *chatRequest, typed *time.Time) bool {
	s := st.session
	if req.typing && !st.original {
		if now := time.Now(); now.Sub(*typed) >= typingPause {
			*typed = now
			s.typing()
		}
		if req.body == "" && req.clientID == "" && !req.start {
			return true
		}
	}
	field, rule := st.broken(req)
	if rule != "" && st.original {
		s.end(invalid(field, rule))
		return false
	}
	if err := st.server.limits.Message.Take(strconv.FormatInt(s.userID, 10)); err != nil {
		s.end(err)
		return false
	}
	select {
	case s.slots <- struct{}{}:
	case <-s.done:
		return false
	}
	if rule != "" {
		s.answer(0, event{kind: pb.ChatEventKind_REJECTED, userName: s.userName, body: rule, clientID: strings.ToValidUTF8(req.clientID, "\uFFFD")})
		return true
	}
	sub := submission{s: s, body: req.body}
	if !st.original {
		sub.clientID = req.clientID
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
	case len(req.clientID) > maxClientID:
		return "client_message_id", fmt.Sprintf("The client_message_id is longer than %d bytes.", maxClientID)
	case !utf8.ValidString(req.clientID):
		return "client_message_id", "The client_message_id is not UTF-8."
	}
	return "", ""
}

// write sends until the session ends. It alone sends on the stream.
func (st *stream) write() {
	s := st.session
	var spans []span
	// Once the client has closed its half and its messages are stored, the session ends behind lastSeq.
	draining, lastSeq := false, uint64(0)
	for {
		select {
		case <-s.done:
			return
		default:
		}
		if !draining && st.draining.Load() && len(s.slots) == 0 {
			draining, lastSeq = true, s.room.newest()
		}
		var behind bool
		var err error
		spans, behind = s.take(s.answers(spans[:0]))
		switch {
		case len(spans) > 0:
			err = st.send(spans)
			clear(spans)
		case behind:
			err = st.catchUp()
		case !draining:
			<-s.wake
		}
		if err != nil || draining && s.seq >= lastSeq {
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
	page, err := st.server.store.MessagesAfter(st.Context(), s.room.id, s.seq, catchUpPage, catchUpBytes)
	if err != nil {
		return err
	}
	if len(page) == 0 {
		s.skip()
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
