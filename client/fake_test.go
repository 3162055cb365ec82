package client

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/grpcchatter/grpcchatter/pb"
)

// fakeServer does what the real server does not: it forgets history, leaves gaps, answers twice.
type fakeServer struct {
	pb.UnimplementedGRPCChatterServer
	chat   func(stream pb.GRPCChatter_ChatServer, after uint64) error
	refuse error // of every stream, instead of opening it

	mu       sync.Mutex // guards the fields below
	oldest   uint64     // messages before it are gone
	newest   uint64
	most     int // messages in an answer
	requests int // of ListMessages
	failures int // of ListMessages, to come
}

func (f *fakeServer) JoinChatRoom(context.Context, *pb.JoinChatRoomRequest) (*pb.JoinChatRoomResponse, error) {
	return &pb.JoinChatRoomResponse{Token: fakeToken(`{"seq":0}`)}, nil
}

func fakeToken(claims string) string {
	return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
}

func (f *fakeServer) Chat(stream pb.GRPCChatter_ChatServer) error {
	req, err := stream.Recv()
	if err != nil {
		return err
	}
	if f.refuse != nil {
		return f.refuse
	}
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	return f.chat(stream, req.GetStart().GetAfterSeq())
}

func (f *fakeServer) ListMessages(_ context.Context, req *pb.ListMessagesRequest) (*pb.ListMessagesResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests++
	if f.failures > 0 {
		f.failures--
		return nil, status.Error(codes.Unavailable, "later")
	}
	first, last := f.oldest, min(f.newest, req.GetBeforeSeq()-1)
	n := uint64(min(int(req.GetLimit()), f.most))
	if last >= n {
		first = max(first, last-n+1)
	}
	resp := &pb.ListMessagesResponse{}
	for seq := first; seq <= last; seq++ {
		resp.Messages = append(resp.Messages, fakeMessage(seq))
	}
	return resp, nil
}

func fakeMessage(seq uint64) *pb.ChatEvent {
	return &pb.ChatEvent{
		Kind: pb.ChatEventKind_MESSAGE, Seq: seq, UserName: "bob", Body: fmt.Sprint(seq),
		SentAt: timestamppb.New(time.Unix(int64(seq), 0)), ClientMessageId: fmt.Sprint("id", seq),
	}
}

// show sends messages on a stream, as one frame.
func show(stream pb.GRPCChatter_ChatServer, seqs ...uint64) error {
	resp := &pb.ChatResponse{}
	for _, seq := range seqs {
		resp.Events = append(resp.Events, fakeMessage(seq))
	}
	return stream.Send(resp)
}

// hold keeps a stream open.
func hold(stream pb.GRPCChatter_ChatServer) error {
	<-stream.Context().Done()
	return stream.Context().Err()
}

// joinFake returns a room of ann's on a fake server. Both end with the test.
func joinFake(t *testing.T, f *fakeServer, opts ...JoinOption) *Room {
	t.Helper()
	r, err := loginFake(t, f).JoinChatRoom(t.Context(), "ROOM", "", opts...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// loginFake returns a Client of ann's on a fake server. Both end with the test.
func loginFake(t *testing.T, f *fakeServer) *Client {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	pb.RegisterGRPCChatterServer(s, f)
	var wg sync.WaitGroup
	wg.Go(func() { s.Serve(l) })
	c, err := New(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Disconnect()
		s.Stop()
		wg.Wait()
	})
	c.session = &session{user: account{UserName: "ann"}}
	c.session.token = newToken("user token", func(context.Context, error) (string, error) {
		return "", errors.New("no log-in here")
	})
	return c
}

// expect receives messages with the given seqs.
func expect(t *testing.T, r *Room, seqs ...uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, seq := range seqs {
		m, err := r.Receive(ctx)
		if err != nil {
			t.Fatalf("waiting for %d: %v", seq, err)
		}
		want := Message{seq, "bob", fmt.Sprint(seq), time.Unix(int64(seq), 0).UTC()}
		if m != want {
			t.Fatalf("received %+v, want %+v", m, want)
		}
	}
}

// sequence returns from, from+1, … to.
func sequence(from, to uint64) []uint64 {
	var seqs []uint64
	for ; from <= to; from++ {
		seqs = append(seqs, from)
	}
	return seqs
}

// What the stream leaves out comes from the history, even when that fails at first.
func TestGap(t *testing.T) {
	f := &fakeServer{oldest: 1, newest: 700, most: 200, failures: 2}
	f.chat = func(stream pb.GRPCChatter_ChatServer, _ uint64) error {
		show(stream, 1, 2)
		show(stream, 2, 1, 5, 4) // 3 is missing, and some come twice or late
		show(stream, 700)        // and many more are missing
		return hold(stream)
	}
	expect(t, joinFake(t, f), sequence(1, 700)...)
}

// The server may answer with less than it was asked for.
func TestShortPages(t *testing.T) {
	f := &fakeServer{oldest: 1, newest: 500, most: 7}
	f.chat = func(stream pb.GRPCChatter_ChatServer, _ uint64) error {
		show(stream, 500)
		return hold(stream)
	}
	expect(t, joinFake(t, f), sequence(1, 500)...)
	if f.requests > 150 { // 500 / 7, and some to find out
		t.Errorf("it took %d requests", f.requests)
	}
}

// The oldest part of the history is gone: what is left comes, and what is gone costs few requests.
func TestForgottenHistory(t *testing.T) {
	for _, oldest := range []uint64{2, 150, 200, 201, 777_777, 1_000_000} {
		f := &fakeServer{oldest: oldest, newest: 1_000_000, most: 200}
		f.chat = func(stream pb.GRPCChatter_ChatServer, _ uint64) error {
			show(stream, 1_000_000)
			return hold(stream)
		}
		r := joinFake(t, f, After(0))
		expect(t, r, sequence(oldest, oldest+min(500, f.newest-oldest))...)
		r.Disconnect()
		f.mu.Lock()
		if f.requests > 50 {
			t.Errorf("from %d: it took %d requests", oldest, f.requests)
		}
		f.mu.Unlock()
	}
}

// All of the history is gone, even what the stream has just shown.
func TestNoHistory(t *testing.T) {
	f := &fakeServer{oldest: 1, newest: 0, most: 200}
	read := make(chan struct{})
	f.chat = func(stream pb.GRPCChatter_ChatServer, _ uint64) error {
		show(stream, 100)
		<-read
		show(stream, 101)
		return hold(stream)
	}
	r := joinFake(t, f)
	for r.in.has() != 100 { // until the history was read
		time.Sleep(time.Millisecond)
	}
	close(read)
	expect(t, r, 101)
}

// has returns the seq of the newest message that was put in, or that is known to be no more.
func (b *inbox) has() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.last
}

func (f *fakeServer) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.requests
}

// Whatever ends a stream, the room comes back after the last message that it has seen. Streams that were of use
// do not make the pauses longer: expect would lose patience.
func TestStreamEnds(t *testing.T) {
	ends := slices.Repeat([]error{
		nil,
		reason(codes.Unavailable, "STALLED", 0),
		reason(codes.ResourceExhausted, "STORAGE_FULL", 0),
		reason(codes.Unauthenticated, "TOKEN_EXPIRED", 0),
		reason(codes.Internal, "INTERNAL", 0),
		status.Error(codes.Unknown, "a proxy's"),
		status.Error(codes.PermissionDenied, "a proxy's"),
	}, 5)
	next := 0
	f := &fakeServer{}
	f.chat = func(stream pb.GRPCChatter_ChatServer, after uint64) error {
		if after != uint64(next) {
			t.Errorf("stream %d starts after %d", next, after)
		}
		show(stream, uint64(next+1))
		if next == len(ends) {
			return hold(stream)
		}
		next++
		return ends[next-1]
	}
	expect(t, joinFake(t, f), sequence(1, uint64(len(ends)+1))...)
}

// reason returns an error as the server makes them.
func reason(code codes.Code, reason string, retry time.Duration) error {
	details := []protoadapt.MessageV1{&errdetails.ErrorInfo{Domain: domain, Reason: reason}}
	if retry > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(retry)})
	}
	st, err := status.New(code, "Sorry.").WithDetails(details...)
	if err != nil {
		panic(err)
	}
	return st.Err()
}

// JoinChatRoom does not return before the stream is open, and says why it is not.
func TestStreamRefused(t *testing.T) {
	called := false
	c := loginFake(t, &fakeServer{refuse: reason(codes.ResourceExhausted, "RATE_LIMITED", time.Minute)})
	_, err := c.JoinChatRoom(t.Context(), "ROOM", "", OnState(func(ConnState, error) { called = true }))
	if e, ok := errors.AsType[*Error](err); !ok || !errors.Is(err, ErrRateLimited) || e.RetryAfter != time.Minute {
		t.Errorf("JoinChatRoom: %v", err)
	}
	if called || len(c.rooms) != 0 {
		t.Errorf("there was a room: %v, %v", called, c.rooms)
	}
}

// The acknowledgement stands behind many messages on the stream, and the program takes them slowly: Send does
// not wait until it has taken them all.
func TestAcknowledgementOvertakes(t *testing.T) {
	const n = 20_000
	f := &fakeServer{oldest: 1, newest: n + 1, most: 200}
	f.chat = func(stream pb.GRPCChatter_ChatServer, _ uint64) error {
		req, err := stream.Recv()
		if err != nil {
			return err
		}
		for first := uint64(1); first < n; first += 500 {
			show(stream, sequence(first, first+499)...)
		}
		own := &pb.ChatEvent{Kind: pb.ChatEventKind_MESSAGE, Seq: n + 1, UserName: "ann", ClientMessageId: req.GetClientMessageId()}
		return errors.Join(stream.Send(&pb.ChatResponse{Events: []*pb.ChatEvent{own}}), hold(stream))
	}
	r := joinFake(t, f)
	sent := make(chan error, 1)
	go func() {
		_, err := r.Send(t.Context(), "hello")
		sent <- err
	}()
	for seq := uint64(1); ; seq++ {
		expect(t, r, seq)
		time.Sleep(time.Millisecond)
		select {
		case err := <-sent:
			if err != nil || seq > n/2 {
				t.Errorf("Send returned %v after %d messages", err, seq)
			}
			return
		default:
		}
	}
}

// The delay that the server asks for is kept.
func TestRetryInfo(t *testing.T) {
	const delay = 300 * time.Millisecond
	var ended time.Time
	f := &fakeServer{}
	f.chat = func(stream pb.GRPCChatter_ChatServer, after uint64) error {
		if after == 0 {
			show(stream, 1)
			ended = time.Now()
			return reason(codes.ResourceExhausted, "RATE_LIMITED", delay)
		}
		if waited := time.Since(ended); waited < delay {
			t.Errorf("it came back after %v", waited)
		}
		show(stream, 2)
		return hold(stream)
	}
	expect(t, joinFake(t, f), 1, 2)
}

// The acknowledgement of a resend has the seq that the message got the first time, which was seen before. Another
// user's message with the same id acknowledges nothing.
func TestResend(t *testing.T) {
	id := ""
	f := &fakeServer{}
	f.chat = func(stream pb.GRPCChatter_ChatServer, after uint64) error {
		req, err := stream.Recv()
		if err != nil {
			return err
		}
		own := &pb.ChatEvent{Kind: pb.ChatEventKind_MESSAGE, Seq: 1, UserName: "Ann", Body: req.GetBody(), ClientMessageId: req.GetClientMessageId()}
		switch after {
		case 0:
			id = own.ClientMessageId
			bare := &pb.ChatEvent{Kind: pb.ChatEventKind_MESSAGE, Seq: 1, UserName: "ann", Body: own.Body}
			show(stream, 2)
			stream.Send(&pb.ChatResponse{Events: []*pb.ChatEvent{bare}})
			return reason(codes.Unavailable, "SHUTTING_DOWN", 0)
		default:
			if own.ClientMessageId != id || len(id) < 22 {
				t.Errorf("first sent as %q, then as %q", id, own.ClientMessageId)
			}
			foreign := fakeMessage(3)
			foreign.ClientMessageId = id
			return errors.Join(stream.Send(&pb.ChatResponse{Events: []*pb.ChatEvent{foreign, own}}), hold(stream))
		}
	}
	f.oldest, f.newest, f.most = 1, 3, 200 // 3 as well: the history may be read after that was shown
	r := joinFake(t, f)
	if seq, err := r.Send(t.Context(), "1"); seq != 1 || err != nil {
		t.Errorf("Send = %d, %v", seq, err)
	}
	expect(t, r, 1, 2, 3)
}

// A room that is disconnected while it cannot read the history stops trying: it once spun for ever.
func TestDisconnectWhileBehind(t *testing.T) {
	f := &fakeServer{failures: 1 << 30}
	f.chat = func(stream pb.GRPCChatter_ChatServer, _ uint64) error {
		show(stream, 1000)
		return hold(stream)
	}
	r := joinFake(t, f)
	for f.count() == 0 {
		time.Sleep(time.Millisecond)
	}
	r.Disconnect()
	select {
	case <-r.gone:
	case <-time.After(10 * time.Second):
		t.Error("the room's goroutines go on")
	}
}

// A call that is under way at a Disconnect ends with ErrClosed, also where it hears of the connection's end before that of its
// owner, of which another goroutine tells it.
func TestCallIsClosed(t *testing.T) {
	c, err := New("127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Disconnect()
	for range 1000 {
		owner, end := context.WithCancel(t.Context())
		err := c.unary(t.Context(), owner, newToken("user token", nil), func(context.Context) error {
			end()
			return status.Error(codes.Canceled, "grpc: the client connection is closing")
		})
		if err != ErrClosed {
			t.Fatalf("the call ended with %v", err)
		}
	}
}

// Many find out at once that their token is refused, and one of them gets a new one.
func TestTokenIsRenewedOnce(t *testing.T) {
	fetched := 0
	tok := newToken("old", func(context.Context, error) (string, error) {
		fetched++
		return "new", nil
	})
	var wg, all sync.WaitGroup
	all.Add(20)
	for range 20 {
		wg.Go(func() {
			tries := 0
			err := tok.authorize(t.Context(), func(string) error {
				if tries++; tries == 1 {
					all.Done()
					all.Wait()
					return &Error{Code: "TOKEN_EXPIRED"}
				}
				return nil
			})
			if err != nil || tries != 2 {
				t.Errorf("%d tries, %v", tries, err)
			}
		})
	}
	wg.Wait()
	if fetched != 1 || tok.get() != "new" {
		t.Errorf("%d tokens were fetched", fetched)
	}
}

// A server without the claim seq is none that the client can resume on.
func TestJoinWithoutSeq(t *testing.T) {
	for _, token := range []string{"", "x", "a.b", "a.!.c", fakeToken("{}"), fakeToken(`{"seq":-1}`), fakeToken(`{"seq":"1"}`), fakeToken("null")} {
		if seq, err := joinSeq(token); err == nil {
			t.Errorf("joinSeq(%q) = %d", token, seq)
		}
	}
	if seq, err := joinSeq(fakeToken(`{"seq":18446744073709551615,"sub":"1"}`)); seq != 1<<64-1 || err != nil {
		t.Errorf("joinSeq = %d, %v", seq, err)
	}
}

// No more than outboxSize messages are on their way; each answer makes room for the next.
func TestWindow(t *testing.T) {
	const more = 100
	f := &fakeServer{}
	counted := make(chan int)
	f.chat = func(stream pb.GRPCChatter_ChatServer, _ uint64) error {
		reqs := make(chan *pb.ChatRequest, 2*outboxSize)
		go func() {
			for {
				req, err := stream.Recv()
				if err != nil {
					return
				}
				reqs <- req
			}
		}()
		answered := uint64(0)
		for _, limit := range []int{outboxSize, outboxSize + more} {
			for len(reqs)+int(answered) < limit {
				time.Sleep(time.Millisecond)
			}
			time.Sleep(100 * time.Millisecond) // for one too many
			counted <- len(reqs) + int(answered)
			for answered < more {
				answered++
				e := fakeMessage(answered)
				e.UserName, e.ClientMessageId = "ann", (<-reqs).GetClientMessageId()
				stream.Send(&pb.ChatResponse{Events: []*pb.ChatEvent{e}})
			}
		}
		return hold(stream)
	}
	r := joinFake(t, f)
	var wg sync.WaitGroup
	for range 2 * outboxSize {
		wg.Go(func() { r.Send(t.Context(), "x") })
	}
	if n := <-counted; n != outboxSize {
		t.Errorf("%d messages were sent without an answer", n)
	}
	if n := <-counted; n != outboxSize+more {
		t.Errorf("after %d answers %d messages were sent", more, n)
	}
	r.Disconnect()
	wg.Wait()
}
