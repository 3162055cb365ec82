package main

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/grpcchatter/grpcchatter/pb"
)

// chatSession is an open stream of the new protocol, whose events are read as they come.
type chatSession struct {
	grpc.BidiStreamingClient[pb.ChatRequest, pb.ChatResponse]
	t      testing.TB
	cancel context.CancelFunc
	events chan *pb.ChatEvent // closed at the end of the stream
	err    error              // why it ended; nil for a good end
}

// openSession opens a stream; a negative after leaves start out.
func openSession(t testing.TB, api pb.GRPCChatterClient, roomToken string, after int64) *chatSession {
	t.Helper()
	req := &pb.ChatRequest{}
	if after >= 0 {
		seq := uint64(after)
		req.Start = &pb.ChatStart{AfterSeq: &seq}
	}
	return openRequest(t, api, roomToken, req)
}

// openRequest opens a stream with a first request. It is open at the server when this returns.
func openRequest(t testing.TB, api pb.GRPCChatterClient, roomToken string, first *pb.ChatRequest) *chatSession {
	t.Helper()
	ctx, cancel := context.WithTimeout(withToken(t.Context(), roomToken), 2*patience)
	stream, err := api.Chat(ctx)
	if err == nil {
		err = stream.Send(first)
	}
	if err == nil || errors.Is(err, io.EOF) { // refused already: read tells why
		_, err = stream.Header()
	}
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	s := &chatSession{BidiStreamingClient: stream, t: t, cancel: cancel, events: make(chan *pb.ChatEvent, 1000)}
	go s.read()
	t.Cleanup(func() { cancel(); _ = s.end() })
	return s
}

func (s *chatSession) read() {
	defer close(s.events)
	for {
		resp, err := s.Recv()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				s.err = err
			}
			return
		}
		for _, e := range resp.GetEvents() {
			s.events <- e
		}
	}
}

func (s *chatSession) send(req *pb.ChatRequest) {
	s.t.Helper()
	if err := s.Send(req); err != nil {
		s.t.Fatal(err)
	}
}

// next waits for an event.
func (s *chatSession) next() *pb.ChatEvent {
	s.t.Helper()
	e, ok := <-s.events
	if !ok {
		s.t.Fatalf("the stream has ended: %v", s.err)
	}
	return e
}

// quiet returns an event that comes within a moment, or nil.
func (s *chatSession) quiet() *pb.ChatEvent {
	select {
	case e := <-s.events:
		return e
	case <-time.After(200 * time.Millisecond):
		return nil
	}
}

// end drops what is still to come, and returns why the stream ended.
func (s *chatSession) end() error {
	for range s.events {
	}
	return s.err
}

func (s *chatSession) wantMessage(seq uint64, userName, body, id string) {
	s.t.Helper()
	e := s.next()
	if e.GetKind() != pb.ChatEventKind_MESSAGE || e.GetSeq() != seq || e.GetUserName() != userName || e.GetBody() != body || e.GetClientMessageId() != id {
		s.t.Fatalf("got %.200v, want the message %d of %s: %.100q, with the id %q", e, seq, userName, body, id)
	}
}

// wantKind reads an event without a seq.
func (s *chatSession) wantKind(kind pb.ChatEventKind, userName string) {
	s.t.Helper()
	if e := s.next(); e.GetKind() != kind || e.GetUserName() != userName || e.GetSeq() != 0 || e.GetSentAt() != nil || e.GetBody() != "" {
		s.t.Fatalf("got %v, want %s of %s and nothing more", e, kind, userName)
	}
}

func (s *chatSession) wantRejected(id string) {
	s.t.Helper()
	if e := s.next(); e.GetKind() != pb.ChatEventKind_REJECTED || e.GetClientMessageId() != id || e.GetSeq() != 0 || e.GetBody() == "" {
		s.t.Fatalf("got %.200v, want REJECTED with a reason and the id %q", e, id)
	}
}
