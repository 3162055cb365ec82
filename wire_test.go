package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/grpcchatter/grpcchatter/pb"
)

// The tests in this file make and read every message by hand, so that no generated code can hide a number that
// has changed: an old client has the old one built in.

const (
	original = "/proto.GRPCChatter/"
	current  = "/grpcchatter.v1.GRPCChatter/"
)

// The original's clients, all of its calls in the order of a conversation (design: "The original's clients").
func TestOriginalClients(t *testing.T) {
	t.Parallel()
	p := startServer(t)
	conn := p.dial()
	alice, bob := tokenHeader(p.login("alice")), tokenHeader(p.login("bob"))

	created := mustCall(t, conn, alice, original+"CreateChatRoom", text(1, "a room"), text(2, "room"))
	code := onlyText(t, created)
	if len(code) != 6 {
		t.Errorf("short code %q: want 6 characters", code)
	}
	join := func(user metadata.MD) metadata.MD {
		// A member, such as the owner, needs no password; the others' is checked in access_test.go.
		return tokenHeader(onlyText(t, mustCall(t, conn, user, original+"JoinChatRoom", text(1, strings.ToLower(code)), text(2, "room"))))
	}
	aliceRoom, bobRoom := join(alice), join(bob)
	want := slices.Concat(nested(1, text(1, "alice")), nested(1, text(1, "bob")))
	if got := mustCall(t, conn, aliceRoom, original+"ListChatRoomUsers"); !bytes.Equal(got, want) {
		t.Errorf("ListChatRoomUsers after the joins: %q, want %q", got, want)
	}

	a1 := openRaw(t, conn, aliceRoom, original+"Chat")
	a1.send(text(1, "first")) // bob has joined, and not opened his stream
	b := openRaw(t, conn, bobRoom, original+"Chat")
	b.want("alice", "first")
	a2 := openRaw(t, conn, join(alice), original+"Chat")
	b.send(text(1, "second"))
	a1.want("bob", "second")
	a2.want("bob", "second") // and not "first", which was before this join
	a1.send(text(1, "third"))
	a2.want("alice", "third")
	b.want("alice", "third")
	b.send(text(1, "fourth"))
	a1.want("bob", "fourth") // and not the own "third"
	a2.send(text(1, "fifth"))
	b.want("alice", "fifth") // and not the own "fourth"

	// What the original does not know must not reach its clients: join, typing, leave, rejected, numbers, ids.
	api := pb.NewGRPCChatterClient(conn)
	carol := openSession(t, api, joinRoom(t, api, p.login("carol"), code), -1)
	carol.send(&pb.ChatRequest{Typing: true})
	carol.send(&pb.ChatRequest{ClientMessageId: "empty"})
	for range 50 {
		carol.send(&pb.ChatRequest{Body: "from now", ClientMessageId: ""})
	}
	for range 50 {
		b.want("carol", "from now") // one message a frame
	}
	a1.want("alice", "fifth")
	a1.want("carol", "from now")

	if got := mustCall(t, conn, alice, original+"DeleteChatRoom", text(1, code)); len(got) > 0 {
		t.Errorf("DeleteChatRoom: %q, want an empty message", got)
	}
	wantError(t, b.end(), codes.NotFound, "ROOM_DELETED")
}

// A broken rule ends the stream of an original's client, which knows no REJECTED; rejoining works after it
// (design: "The original's clients"; fault 3).
func TestOriginalBrokenRule(t *testing.T) {
	t.Parallel()
	p := startServer(t)
	conn := p.dial()
	alice := tokenHeader(p.login("alice"))
	code := onlyText(t, mustCall(t, conn, alice, original+"CreateChatRoom", text(1, "a room")))
	for name, body := range map[string][]byte{
		"no field":       {},
		"empty":          text(1, ""),
		"too long":       text(1, strings.Repeat("x", 4097)),
		"not UTF-8":      text(1, "\xff\xfe"),
		"not a protobuf": {0xff},
		"only others":    slices.Concat(text(2, "id"), uintField(4, 1)),
	} {
		room := tokenHeader(onlyText(t, mustCall(t, conn, alice, original+"JoinChatRoom", text(1, code))))
		s := openRaw(t, conn, room, original+"Chat")
		s.send(body)
		t.Run(name, func(t *testing.T) { wantError(t, s.end(), codes.InvalidArgument, "INVALID_FIELD") })
	}
	room := tokenHeader(onlyText(t, mustCall(t, conn, alice, original+"JoinChatRoom", text(1, code))))
	s := openRaw(t, conn, room, original+"Chat")
	s.send(text(1, strings.Repeat("x", 4096))) // as long as allowed
	other := openRaw(t, conn, room, original+"Chat")
	other.want("alice", strings.Repeat("x", 4096))
}

// What is granted for 10 s: a join by the original's protocol counts as present (one by the new protocol does
// not, as its stream tells), and a stream may wait with its first request (design: "The original's clients";
// promise 6).
func TestTenSeconds(t *testing.T) {
	t.Parallel()
	p := startServer(t)
	conn := p.dial()
	api := pb.NewGRPCChatterClient(conn)
	owner := p.login("owner")
	code := createRoom(t, api, owner)
	room := joinRoom(t, api, owner, code)
	neverBegins := openRaw(t, conn, bearerHeader(room), current+"Chat")
	if got := present(t, api, room); len(got) > 0 {
		t.Errorf("present after a join by the new protocol: %v, want nobody", got)
	}
	bob := tokenHeader(p.login("bob"))
	joined := time.Now()
	for range 2 { // the second join begins the 10 s anew
		time.Sleep(time.Second)
		joined = time.Now()
		mustCall(t, conn, bob, original+"JoinChatRoom", text(1, code), text(2, "room"))
	}
	eventually(t, patience, "bob is gone", func() bool { return len(present(t, api, room)) == 0 })
	if d := time.Since(joined); d < 9*time.Second {
		t.Errorf("bob counted as present for %s after his join, want 10 s", d)
	}
	wantError(t, neverBegins.end(), codes.InvalidArgument, "INVALID_FIELD")
}

// Every message and field number of the contract, with both forms of the token (design: "Wire contract: gRPC").
func TestWireNumbers(t *testing.T) {
	t.Parallel()
	p := startServer(t)
	conn := p.dial()
	alice, bob := p.login("alice"), p.login("bob")
	for name, header := range map[string]func(string) metadata.MD{"authorization": bearerHeader, "token": tokenHeader} {
		t.Run(name, func(t *testing.T) {
			code := onlyText(t, mustCall(t, conn, header(alice), current+"CreateChatRoom", text(1, "das Zimmer"), text(2, "room")))
			aliceRoom := header(onlyText(t, mustCall(t, conn, header(alice), current+"JoinChatRoom", text(1, code))))
			bobRoom := header(onlyText(t, mustCall(t, conn, header(bob), current+"JoinChatRoom", text(1, code), text(2, "room"))))

			a := openRaw(t, conn, aliceRoom, current+"Chat")
			a.send(nested(3, []byte{1 << 3, 0})) // start.after_seq = 0, which proto3 would leave out but for `optional`
			a.send(text(15, "of a later version"), text(1, "hello"), text(2, "id-1"))
			a.wantEvent(1, "alice", "hello", "id-1")
			users := mustCall(t, conn, aliceRoom, current+"ListChatRoomUsers")
			if want := nested(1, text(1, "alice")); !bytes.Equal(users, want) {
				t.Errorf("ListChatRoomUsers: %q, want %q", users, want)
			}

			b := openRaw(t, conn, bobRoom, current+"Chat")
			b.send() // an empty first request opens
			a.wantFields(field{num: 1, text: "bob"}, field{num: 6, n: 2})
			b.wantEvent(1, "alice", "hello", "id-1") // after bob's join
			b.send(uintField(4, 1))
			a.wantFields(field{num: 1, text: "bob"}, field{num: 6, n: 4})
			b.send(text(2, "id-2"))
			rejected := b.event()
			i := slices.IndexFunc(rejected, func(f field) bool { return f.num == 2 && f.text != "" })
			if i < 0 || !slices.Contains(rejected, field{num: 5, text: "id-2"}) || !slices.Contains(rejected, field{num: 6, n: 5}) ||
				slices.ContainsFunc(rejected, func(f field) bool { return f.num == 3 }) {
				t.Errorf("REJECTED: %v, want a reason in 2, id-2 in 5, 5 in 6 and no 3", rejected)
			}
			b.send(text(1, "ciao"))
			a.wantEvent(2, "bob", "ciao", "")
			_ = b.CloseSend()
			a.wantFields(field{num: 1, text: "bob"}, field{num: 6, n: 3})

			room := slices.Concat(text(1, code), text(2, "das Zimmer"), text(3, "alice"), uintField(4, 2))
			if got, want := mustCall(t, conn, header(bob), current+"ListChatRooms"), nested(1, room); !bytes.HasSuffix(got, want) {
				t.Errorf("ListChatRooms: %q, want %q", got, want)
			}
			page := readFields(t, mustCall(t, conn, bobRoom, current+"ListMessages", uintField(1, 2), uintField(2, 10)))
			if len(page) != 1 || page[0].num != 1 {
				t.Fatalf("ListMessages before 2: %v, want one message in 1", page)
			}
			wantMessage(t, readFields(t, []byte(page[0].text)), 1, "alice", "hello", "id-1")
			page = readFields(t, mustCall(t, conn, bobRoom, current+"ListMessages", uintField(2, 1)))
			if len(page) != 1 {
				t.Fatalf("ListMessages, the last one: %v, want one", page)
			}
			wantMessage(t, readFields(t, []byte(page[0].text)), 2, "bob", "ciao", "")

			if got := mustCall(t, conn, header(alice), current+"DeleteChatRoom", text(1, code)); len(got) > 0 {
				t.Errorf("DeleteChatRoom: %q, want an empty message", got)
			}
		})
	}
}

// field is one field of a message: a text (or a message, or bytes), or a number.
type field struct {
	num  int
	text string
	n    uint64
}

func text(num int, s string) []byte {
	return append(binary.AppendUvarint([]byte{byte(num<<3 | 2)}, uint64(len(s))), s...)
}

func nested(num int, fields ...[]byte) []byte { return text(num, string(slices.Concat(fields...))) }

func uintField(num int, n uint64) []byte { return binary.AppendUvarint([]byte{byte(num << 3)}, n) }

// readFields takes a message apart. It knows what the contract has, and nothing else.
func readFields(t testing.TB, b []byte) (fields []field) {
	t.Helper()
	for rest := b; len(rest) > 0; {
		tag, n := binary.Uvarint(rest)
		v, m := binary.Uvarint(rest[max(n, 0):])
		if n <= 0 || m <= 0 || tag&7 == 2 && uint64(len(rest)-n-m) < v || tag&7 != 2 && tag&7 != 0 {
			t.Fatalf("not a message of the contract: %q", b)
		}
		f := field{num: int(tag >> 3), n: v}
		if rest = rest[n+m:]; tag&7 == 2 {
			f.text, f.n, rest = string(rest[:v]), 0, rest[v:]
		}
		fields = append(fields, f)
	}
	return fields
}

// onlyText returns field 1 of a message that has no other.
func onlyText(t testing.TB, b []byte) string {
	t.Helper()
	f := readFields(t, b)
	if len(f) != 1 || f[0].num != 1 || f[0].text == "" {
		t.Fatalf("%v: want one text in field 1", f)
	}
	return f[0].text
}

// rawCodec sends and receives messages as the bytes that they are.
type rawCodec struct{}

func (rawCodec) Name() string                    { return "proto" }
func (rawCodec) Marshal(v any) ([]byte, error)   { return v.([]byte), nil }
func (rawCodec) Unmarshal(b []byte, v any) error { *v.(*[]byte) = bytes.Clone(b); return nil }

func tokenHeader(token string) metadata.MD  { return metadata.Pairs("token", token) }
func bearerHeader(token string) metadata.MD { return metadata.Pairs("authorization", "Bearer "+token) }

// patience bounds what a test waits for: an answer that does not come fails the test instead of hanging it.
const patience = 30 * time.Second

func rawContext(t testing.TB, header metadata.MD) context.Context {
	ctx, cancel := context.WithTimeout(metadata.NewOutgoingContext(t.Context(), header), patience)
	t.Cleanup(cancel)
	return ctx
}

func rawCall(t testing.TB, conn *grpc.ClientConn, header metadata.MD, method string, req ...[]byte) (resp []byte, err error) {
	t.Helper()
	err = conn.Invoke(rawContext(t, header), method, slices.Concat(req...), &resp, grpc.ForceCodec(rawCodec{}))
	return resp, err
}

func mustCall(t testing.TB, conn *grpc.ClientConn, header metadata.MD, method string, req ...[]byte) []byte {
	t.Helper()
	resp, err := rawCall(t, conn, header, method, req...)
	if err != nil {
		t.Fatalf("%s: %v", method, err)
	}
	return resp
}

// rawStream is a stream of bytes.
type rawStream struct {
	grpc.ClientStream
	t      testing.TB
	events []field // of the last frame, still to be returned
}

func openRaw(t testing.TB, conn *grpc.ClientConn, header metadata.MD, method string) *rawStream {
	t.Helper()
	desc := &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}
	s, err := conn.NewStream(rawContext(t, header), desc, method, grpc.ForceCodec(rawCodec{}))
	if err != nil {
		t.Fatal(err)
	}
	return &rawStream{ClientStream: s, t: t}
}

func (s *rawStream) send(fields ...[]byte) {
	s.t.Helper()
	if err := s.SendMsg(slices.Concat(fields...)); err != nil {
		s.t.Fatal(err)
	}
}

// want reads a frame of the original's protocol, which is these two fields and nothing else.
func (s *rawStream) want(userName, body string) {
	s.t.Helper()
	var got []byte
	if err := s.RecvMsg(&got); err != nil {
		s.t.Fatal(err)
	}
	if want := slices.Concat(text(1, userName), text(2, body)); !bytes.Equal(got, want) {
		s.t.Fatalf("frame %q, want %q", got, want)
	}
}

// event returns the fields of the next event of a ChatResponse.
func (s *rawStream) event() []field {
	s.t.Helper()
	for len(s.events) == 0 {
		var frame []byte
		if err := s.RecvMsg(&frame); err != nil {
			s.t.Fatal(err)
		}
		s.events = readFields(s.t, frame)
	}
	e := s.events[0]
	s.events = s.events[1:]
	if e.num != 1 {
		s.t.Fatalf("field %d in a ChatResponse", e.num)
	}
	return readFields(s.t, []byte(e.text))
}

func (s *rawStream) wantFields(want ...field) {
	s.t.Helper()
	if got := s.event(); !slices.Equal(got, want) {
		s.t.Fatalf("event %v, want %v", got, want)
	}
}

func (s *rawStream) wantEvent(seq uint64, userName, body, id string) {
	s.t.Helper()
	wantMessage(s.t, s.event(), seq, userName, body, id)
}

// wantMessage checks the fields of a MESSAGE: sent_at has to be now, more or less.
func wantMessage(t testing.TB, got []field, seq uint64, userName, body, id string) {
	t.Helper()
	want := []field{{num: 1, text: userName}, {num: 2, text: body}, {num: 3, n: seq}, {num: 4}}
	if id != "" {
		want = append(want, field{num: 5, text: id})
	}
	want = append(want, field{num: 6, n: 1})
	var stamp []field
	if len(got) > 3 {
		stamp = readFields(t, []byte(got[3].text))
		got[3].text = ""
	}
	if !slices.Equal(got, want) {
		t.Fatalf("event %v, want %v", got, want)
	}
	if len(stamp) == 0 || stamp[0].num != 1 || time.Since(time.Unix(int64(stamp[0].n), 0)).Abs() > time.Minute {
		t.Fatalf("sent_at %v: want the seconds of now in field 1", stamp)
	}
	if len(stamp) > 1 && (stamp[1].num != 2 || stamp[1].n >= 1e9) {
		t.Fatalf("sent_at %v: want nanoseconds in field 2", stamp)
	}
}

// end reads until the stream ends, and returns its error: nil for a good end.
func (s *rawStream) end() error {
	for {
		var frame []byte
		if err := s.RecvMsg(&frame); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}
