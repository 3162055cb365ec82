package main

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/grpcchatter/grpcchatter/pb"
)

// chatRoom is a server with a room that some users have joined.
type chatRoom struct {
	*serverProcess
	api    pb.GRPCChatterClient
	code   string
	users  map[string]string // tokens, by name
	tokens map[string]string // of the room, by name
}

// newChatRoom makes a room that the first of names owns.
func newChatRoom(t *testing.T, args []string, names ...string) *chatRoom {
	t.Helper()
	p := startServer(t, args...)
	r := &chatRoom{serverProcess: p, api: pb.NewGRPCChatterClient(p.dial()), users: map[string]string{}, tokens: map[string]string{}}
	for _, name := range names {
		r.users[name] = p.login(name)
		if r.code == "" {
			r.code = createRoom(t, r.api, r.users[name])
		}
		r.tokens[name] = joinRoom(t, r.api, r.users[name], r.code)
	}
	return r
}

// The first request opens: with after_seq every message behind it, without it every message behind the join
// that the token tells; then live ones (design: "Chat, step by step").
func TestChatBegins(t *testing.T) {
	t.Parallel()
	r := newChatRoom(t, nil, "alice")
	alice := openSession(t, r.api, r.tokens["alice"], -1)
	for i := 1; i <= 3; i++ {
		alice.send(&pb.ChatRequest{Body: fmt.Sprint(i)})
		alice.wantMessage(uint64(i), "alice", fmt.Sprint(i), "")
	}
	late := joinRoom(t, r.api, r.users["alice"], r.code) // its join is at seq 3
	var sessions []*chatSession
	for _, c := range []struct {
		name  string
		token string
		after int64
		want  uint64 // the first seq
	}{
		{"no start, joined before all", r.tokens["alice"], -1, 1},
		{"no start, joined at 3", late, -1, 4},
		{"after 0", late, 0, 1},
		{"after 2", r.tokens["alice"], 2, 3},
		{"after the last", r.tokens["alice"], 3, 4},
		// A client that claims what is still to come would miss it.
		{"after one that is to come", r.tokens["alice"], 9, 4},
		{"after the largest", r.tokens["alice"], 1<<63 - 1, 4},
	} {
		s := openSession(t, r.api, c.token, c.after)
		for seq := c.want; seq <= 3; seq++ {
			if e := s.next(); e.GetSeq() != seq || e.GetBody() != fmt.Sprint(seq) {
				t.Fatalf("%s: %v, want seq %d", c.name, e, seq)
			}
		}
		sessions = append(sessions, s)
	}
	alice.send(&pb.ChatRequest{Body: "live"})
	for _, s := range append(sessions, alice) {
		s.wantMessage(4, "alice", "live", "")
	}
}

// The first request may carry a message too, and an after_seq of all ones is a position like any other
// (chat.proto: "may already carry a message").
func TestChatFirstRequestCarriesMessage(t *testing.T) {
	t.Parallel()
	r := newChatRoom(t, nil, "alice", "bob")
	alice := openRequest(t, r.api, r.tokens["alice"], &pb.ChatRequest{Body: "one", ClientMessageId: "a"})
	alice.wantMessage(1, "alice", "one", "a")
	after := ^uint64(0)
	bob := openRequest(t, r.api, r.tokens["bob"], &pb.ChatRequest{Body: "two", ClientMessageId: "b", Start: &pb.ChatStart{AfterSeq: &after}})
	bob.wantMessage(2, "bob", "two", "b")
	alice.wantKind(pb.ChatEventKind_USER_JOINED, "bob")
	alice.wantMessage(2, "bob", "two", "b")
	bob.send(&pb.ChatRequest{Body: "three", ClientMessageId: "b"}) // the id of "two": its answer again, and nothing stored
	bob.wantMessage(2, "bob", "two", "b")
	alice.send(&pb.ChatRequest{Body: "three", ClientMessageId: "b"}) // of another sender
	alice.wantMessage(3, "alice", "three", "b")

	first := openRequest(t, r.api, joinRoom(t, r.api, r.users["bob"], r.code), &pb.ChatRequest{Start: &pb.ChatStart{}, Body: strings.Repeat("x", 4097), ClientMessageId: "long"})
	first.wantRejected("long")
	first.send(&pb.ChatRequest{Body: "four"})
	first.wantMessage(4, "bob", "four", "")
}

// What breaks a rule comes back as REJECTED, with its reason and its id, to its sender alone; the stream goes
// on (design: "A message that breaks a rule").
func TestChatRejected(t *testing.T) {
	t.Parallel()
	r := newChatRoom(t, nil, "alice", "bob")
	bob := openSession(t, r.api, r.tokens["bob"], -1)
	conn := r.dial()
	alice := openRaw(t, conn, bearerHeader(r.tokens["alice"]), current+"Chat")
	alice.send()
	bob.wantKind(pb.ChatEventKind_USER_JOINED, "alice")
	long := strings.Repeat("i", 129)
	seq := uint64(0)
	for _, c := range []struct {
		name string
		req  [][]byte
		id   string
	}{
		{"no field at all", nil, ""},
		{"empty body", [][]byte{text(1, ""), text(2, "id")}, "id"},
		{"a byte too long", [][]byte{text(1, strings.Repeat("x", 4097)), text(2, "id")}, "id"},
		{"far too long", [][]byte{text(1, strings.Repeat("x", 60_000)), text(2, "id")}, "id"},
		{"a byte too long, in characters of two", [][]byte{text(1, strings.Repeat("é", 2048)+"x"), text(2, "id")}, "id"},
		{"body not UTF-8", [][]byte{text(1, "a\xff"), text(2, "id")}, "id"},
		{"body a surrogate", [][]byte{text(1, "\xed\xa0\x80"), text(2, "id")}, "id"},
		{"id not UTF-8", [][]byte{text(1, "a"), text(2, "\xffid")}, "\uFFFDid"},
		{"id a byte too long", [][]byte{text(1, "a"), text(2, long)}, ""}, // it would be kept for who does not read
		{"a second start", [][]byte{text(1, "a"), text(2, "id"), nested(3, uintField(1, 1))}, "id"},
		{"a second start alone", [][]byte{nested(3)}, ""},
		{"a second start with typing", [][]byte{nested(3), uintField(4, 1)}, ""},
	} {
		alice.send(c.req...)
		got := alice.event()
		rejected := map[int]field{}
		for _, f := range got {
			rejected[f.num] = f
		}
		if rejected[6].n != uint64(pb.ChatEventKind_REJECTED) || rejected[2].text == "" || rejected[3].n != 0 || rejected[5].text != c.id {
			t.Errorf("%s: %v, want REJECTED with a reason, the id %q and no seq", c.name, got, c.id)
		}
		seq++
		alice.send(text(1, c.name))
		alice.wantEvent(seq, "alice", c.name, "")
		if c.name == "a second start with typing" {
			bob.wantKind(pb.ChatEventKind_TYPING, "alice")
		}
		bob.wantMessage(seq, "alice", c.name, "") // and nothing of the rejected one
	}
	for _, body := range []string{strings.Repeat("x", 4096), strings.Repeat("é", 2048), "\x00", " "} {
		id := strings.Repeat("i", 127) + body[:1]
		if body[0] >= 0x80 {
			id = strings.Repeat("é", 64)
		}
		seq++
		alice.send(text(1, body), text(2, id))
		alice.wantEvent(seq, "alice", body, id)
		bob.wantMessage(seq, "alice", body, id)
	}
}

// MAX_MESSAGE_SIZE counts bytes, and holds for every size that may be set (design: configuration).
func TestChatMessageSize(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, 1 << 20} {
		r := newChatRoom(t, []string{"--max-message-size", fmt.Sprint(size)}, "alice")
		s := openSession(t, r.api, r.tokens["alice"], -1)
		body := strings.Repeat("x", size)
		s.send(&pb.ChatRequest{Body: body + "x", ClientMessageId: "long"})
		s.wantRejected("long")
		for seq := range uint64(3) {
			s.send(&pb.ChatRequest{Body: body})
			s.wantMessage(seq+1, "alice", body, "")
		}
		again := openSession(t, r.api, r.tokens["alice"], 0)
		for seq := range uint64(3) {
			again.wantMessage(seq+1, "alice", body, "")
		}
	}
}

// Events without a seq come to all but their originator; each user's first stream is a join, the last one's
// end a leave (design: ChatEventKind; promise 6).
func TestChatPresenceEvents(t *testing.T) {
	t.Parallel()
	r := newChatRoom(t, nil, "alice", "bob")
	alice := openSession(t, r.api, r.tokens["alice"], -1)
	bob := openSession(t, r.api, r.tokens["bob"], -1)
	alice.wantKind(pb.ChatEventKind_USER_JOINED, "bob")
	second := openSession(t, r.api, r.tokens["bob"], -1)
	bob.send(&pb.ChatRequest{Typing: true})
	alice.wantKind(pb.ChatEventKind_TYPING, "bob") // and no second USER_JOINED before it
	bob.send(&pb.ChatRequest{Body: "hi", Typing: true})
	for _, s := range []*chatSession{alice, bob, second} {
		for e := s.next(); e.GetKind() != pb.ChatEventKind_MESSAGE; e = s.next() {
			if s == bob || e.GetKind() != pb.ChatEventKind_TYPING { // second did not type: its user did
				t.Errorf("unexpected: %v", e)
			}
		}
	}
	bob.cancel()
	if got := present(t, r.api, r.tokens["alice"]); strings.Join(got, " ") != "alice bob" {
		t.Errorf("present: %v, want each user once, sorted", got)
	}
	if e := alice.quiet(); e != nil {
		t.Errorf("unexpected while bob's other stream lives: %v", e)
	}
	if err := second.CloseSend(); err != nil {
		t.Fatal(err)
	}
	alice.wantKind(pb.ChatEventKind_USER_LEFT, "bob")
	if err := second.end(); err != nil {
		t.Errorf("the stream that bob has closed ends with %v, want a good end and no USER_LEFT of himself", err)
	}
	if e := alice.quiet(); e != nil {
		t.Errorf("unexpected: %v", e)
	}
}

// What is no ChatRequest ends the stream, as the first request and as a later one (error table: argument
// breaks a rule).
func TestChatMalformed(t *testing.T) {
	t.Parallel()
	r := newChatRoom(t, nil, "alice")
	conn := r.dial()
	for name, garbage := range map[string][]byte{
		"cut tag":       {0xff},
		"cut text":      {1<<3 | 2, 200, 'x'},
		"cut varint":    {4 << 3, 0x80},
		"bad start":     nested(3, []byte{0x08}),
		"field 0":       {0, 1},
		"stray end":     {1<<3 | 4},
		"HTTP":          []byte("GET / HTTP/1.1"),
		"long varint":   append([]byte{4 << 3}, strings.Repeat("\xff", 11)...),
		"negative size": append([]byte{1<<3 | 2}, strings.Repeat("\xff", 9)+"\x01"...),
	} {
		for _, first := range []bool{true, false} {
			s := openRaw(t, conn, bearerHeader(r.tokens["alice"]), current+"Chat")
			if !first {
				s.send()
			}
			s.send(garbage)
			t.Run(fmt.Sprint(name, " first ", first), func(t *testing.T) {
				wantError(t, s.end(), codes.InvalidArgument, "INVALID_FIELD")
			})
		}
	}
}

// Who opens a stream and leaves without a request does no harm, and is not an internal error (promise 7: what
// goes to the log as a failure of the server must be one).
func TestChatNothingSaid(t *testing.T) {
	t.Parallel()
	r := newChatRoom(t, nil, "alice")
	s := openRaw(t, r.dial(), bearerHeader(r.tokens["alice"]), current+"Chat")
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := s.end(); err != nil {
		wantError(t, err, codes.InvalidArgument, "INVALID_FIELD")
	}
	if strings.Contains(r.logText(), "request failed") {
		t.Errorf("a client that says nothing is logged as a failure of the server")
	}
}

// History in pages, oldest first, with the limits of the contract (design: ListMessages).
func TestListMessages(t *testing.T) {
	t.Parallel()
	r := newChatRoom(t, nil, "alice")
	s := openSession(t, r.api, r.tokens["alice"], -1)
	for i := 1; i <= 230; i++ {
		s.send(&pb.ChatRequest{Body: fmt.Sprint(i)})
	}
	s.wantMessage(1, "alice", "1", "")
	for i := 2; i <= 230; i++ {
		s.wantMessage(uint64(i), "alice", fmt.Sprint(i), "")
	}
	ctx := metadata.AppendToOutgoingContext(t.Context(), "token", r.tokens["alice"])
	for _, c := range []struct {
		before      uint64
		limit       uint32
		first, last uint64
	}{
		{0, 0, 181, 230}, {0, 200, 31, 230}, {0, 1, 230, 230}, {181, 0, 131, 180}, {31, 200, 1, 30},
		{2, 7, 1, 1}, {1, 0, 1, 0}, {231, 1, 230, 230}, {1 << 63, 1, 230, 230}, {^uint64(0), 2, 229, 230},
	} {
		resp, err := r.api.ListMessages(ctx, &pb.ListMessagesRequest{BeforeSeq: c.before, Limit: c.limit})
		if err != nil {
			t.Errorf("before %d limit %d: %v", c.before, c.limit, err)
			continue
		}
		want := c.first
		for _, e := range resp.GetMessages() {
			if e.GetSeq() != want || e.GetBody() != fmt.Sprint(want) || e.GetKind() != pb.ChatEventKind_MESSAGE || e.GetUserName() != "alice" || e.GetSentAt() == nil {
				t.Fatalf("before %d limit %d: %v, want seq %d", c.before, c.limit, e, want)
			}
			want++
		}
		if want != c.last+1 {
			t.Errorf("before %d limit %d: up to %d, want %d to %d", c.before, c.limit, want-1, c.first, c.last)
		}
	}
	for _, limit := range []uint32{201, 1 << 31, ^uint32(0)} {
		_, err := r.api.ListMessages(ctx, &pb.ListMessagesRequest{Limit: limit})
		wantField(t, wantError(t, err, codes.InvalidArgument, "INVALID_FIELD"), "limit")
	}
}
