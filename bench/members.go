package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/grpcchatter/grpcchatter/pb"
)

// target is a server and the rooms to use on it.
type target struct {
	kind  string
	proc  *process
	token string            // of the user, for grpcchatter
	rooms map[string]string // room tokens, for grpcchatter
	codes map[string]string // short codes, likewise
	// fail ends the run with an error: a member calls it that has lost a message or its connection.
	fail context.CancelCauseFunc
}

const password = "correct horse"

// newTarget prepares a server for members: an account and the rooms.
func newTarget(ctx context.Context, kind string, proc *process, rooms ...string) (*target, error) {
	t := &target{kind: kind, proc: proc, rooms: map[string]string{}, codes: map[string]string{}}
	switch {
	case kind == "jetstream":
		return t, t.addStreams(rooms)
	case !strings.HasPrefix(kind, "grpcchatter"):
		return t, nil
	}
	var err error
	if t.token, err = t.logIn("sender"); err != nil {
		return nil, err
	}
	conn, err := dial(proc.addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	api := pb.NewGRPCChatterClient(conn)
	ctx = withToken(ctx, t.token)
	for _, room := range rooms {
		made, err := api.CreateChatRoom(ctx, &pb.CreateChatRoomRequest{RoomName: room})
		if err != nil {
			return nil, err
		}
		joined, err := api.JoinChatRoom(ctx, &pb.JoinChatRoomRequest{ShortCode: made.GetShortCode()})
		if err != nil {
			return nil, err
		}
		t.rooms[room], t.codes[room] = joined.GetToken(), made.GetShortCode()
	}
	return t, nil
}

// logIn makes an account if there is none, and returns its token.
func (t *target) logIn(name string) (string, error) {
	var answer struct{ Token, Error string }
	for _, path := range []string{"/register", "/login"} {
		body, _ := json.Marshal(map[string]string{"user_name": name, "password": password})
		resp, err := http.Post("http://"+t.proc.addr+path, "application/json", bytes.NewReader(body))
		if err != nil {
			return "", err
		}
		err = json.NewDecoder(resp.Body).Decode(&answer)
		resp.Body.Close()
		if err != nil {
			return "", err
		}
	}
	if answer.Token == "" {
		return "", fmt.Errorf("log-in: %s", answer.Error)
	}
	return answer.Token, nil
}

func withToken(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

func dial(addr string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithInitialWindowSize(1<<20), grpc.WithInitialConnWindowSize(1<<20))
}

// member is somebody in a room, on a connection of its own.
type member interface {
	// send sends a message; id is its number. Only a member by joinToSend may send.
	send(body string, id int) error
	close()
}

// joinToSend is join for a member that sends too.
func (t *target) joinToSend(ctx context.Context, room string, received func(n int)) (member, error) {
	m, err := t.join(ctx, room, received)
	if err != nil {
		return nil, err
	}
	if n, ok := m.(*natsMember); ok {
		if err := n.connect(t); err != nil {
			m.close()
			return nil, err
		}
	}
	return m, nil
}

// join opens a member, whose received function is told how many messages have come, from one goroutine. With a server
// that numbers messages, the run fails unless they are 1, 2, 3, …
func (t *target) join(ctx context.Context, room string, received func(n int)) (member, error) {
	switch t.kind {
	case "nats", "jetstream":
		return t.joinNATS(room, received)
	case "nats (nats.go)":
		return t.joinNATSClient(room, received)
	case "grpcchatter sockets":
		return t.joinSocket(ctx, room, received)
	}
	conn, err := dial(t.proc.addr)
	if err != nil {
		return nil, err
	}
	m, err := t.joinOn(ctx, conn, room, 0, received)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return m, nil
}

// chatMember speaks gRPC without generated code, so that its own cost is small.
type chatMember struct {
	conn   *grpc.ClientConn
	stream grpc.ClientStream
	cancel context.CancelFunc
}

// joinOn opens a stream behind the message after.
func (t *target) joinOn(ctx context.Context, conn *grpc.ClientConn, room string, after uint64, received func(n int)) (*chatMember, error) {
	ctx, cancel := context.WithCancel(withToken(ctx, t.rooms[room]))
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true},
		"/grpcchatter.v1.GRPCChatter/Chat", grpc.ForceCodecV2(bytesCodec{}))
	if err != nil {
		cancel()
		return nil, err
	}
	// For the bare peer, the client_message_id of the first message is the room.
	open := protowire.AppendString(protowire.AppendTag(nil, 2, protowire.BytesType), room)
	if t.kind != "bare" {
		start := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), after)
		open = protowire.AppendBytes(protowire.AppendTag(nil, 3, protowire.BytesType), start)
	}
	if err := stream.SendMsg(&open); err != nil {
		cancel()
		return nil, err
	}
	if _, err := stream.Header(); err != nil {
		cancel()
		return nil, err
	}
	go func() {
		var data []byte
		numbers := sequence{after}
		for {
			n, err := 1, stream.RecvMsg(&data)
			if err == nil && t.kind != "bare" {
				n, err = numbers.countMessages(data)
			}
			if err != nil {
				if ctx.Err() == nil { // it was not closed
					t.fail(fmt.Errorf("a member of %s: %w", room, err))
				}
				return
			}
			if n > 0 {
				received(n)
			}
		}
	}()
	return &chatMember{conn, stream, cancel}, nil
}

func (m *chatMember) send(body string, id int) error {
	b := make([]byte, 0, len(body)+32)
	b = protowire.AppendString(protowire.AppendTag(b, 1, protowire.BytesType), body)
	b = protowire.AppendString(protowire.AppendTag(b, 2, protowire.BytesType), strconv.Itoa(id))
	return m.stream.SendMsg(&b)
}

func (m *chatMember) close() {
	m.cancel()
	_ = m.conn.Close()
}

// sequence sees to it that a member gets every message of a room once, in their order.
type sequence struct {
	last uint64 // the seq of the newest message
}

func (s *sequence) next(seq uint64) error {
	if seq != s.last+1 {
		return fmt.Errorf("got message %d after message %d", seq, s.last)
	}
	s.last = seq
	return nil
}

// countMessages counts the events of a ChatResponse that have a seq, and decodes nothing else of them.
func (s *sequence) countMessages(data []byte) (n int, err error) {
	for len(data) > 0 {
		_, _, tag := protowire.ConsumeTag(data)
		event, size := protowire.ConsumeBytes(data[max(tag, 0):])
		if tag < 0 || size < 0 {
			return 0, errors.New("got a frame that is no ChatResponse")
		}
		data = data[tag+size:]
		for len(event) > 0 {
			num, _, tag := protowire.ConsumeTag(event)
			if num == 3 {
				seq, _ := protowire.ConsumeVarint(event[tag:])
				if err := s.next(seq); err != nil {
					return 0, err
				}
				n++
			}
			if num >= 3 {
				break
			}
			event = event[tag:]
			event = event[protowire.ConsumeFieldValue(num, protowire.BytesType, event):]
		}
	}
	return n, nil
}

type bytesCodec struct{}

func (bytesCodec) Name() string { return "proto" }

func (bytesCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}

func (bytesCodec) Unmarshal(data mem.BufferSlice, v any) error {
	p := v.(*[]byte)
	*p = (*p)[:0]
	for _, b := range data {
		*p = append(*p, b.ReadOnlyData()...)
	}
	return nil
}
