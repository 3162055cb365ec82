package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
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
}

const password = "correct horse"

// newTarget prepares a server for members: an account and the rooms.
func newTarget(ctx context.Context, kind string, proc *process, rooms ...string) (*target, error) {
	t := &target{kind: kind, proc: proc, rooms: map[string]string{}, codes: map[string]string{}}
	if !strings.HasPrefix(kind, "grpcchatter") {
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
	// send sends a message; id is its number.
	send(body string, id int) error
	close()
}

// join opens a member, whose received function is told how many messages have come, from one goroutine.
func (t *target) join(ctx context.Context, room string, received func(n int)) (member, error) {
	switch t.kind {
	case "nats", "jetstream":
		return t.joinNATS(room, received)
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
		for stream.RecvMsg(&data) == nil {
			if t.kind == "bare" {
				received(1)
			} else if n := countMessages(data); n > 0 {
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

// countMessages counts the events of a ChatResponse that have a seq.
func countMessages(data []byte) (n int) {
	for len(data) > 0 {
		_, _, tag := protowire.ConsumeTag(data)
		event, size := protowire.ConsumeBytes(data[tag:])
		if tag < 0 || size < 0 {
			panic("a frame that is no ChatResponse")
		}
		data = data[tag+size:]
		for len(event) > 0 {
			num, _, tag := protowire.ConsumeTag(event)
			if num == 3 {
				n++
			}
			if num >= 3 {
				break
			}
			event = event[tag:]
			event = event[protowire.ConsumeFieldValue(num, protowire.BytesType, event):]
		}
	}
	return n
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

// natsMember is a subscriber; with JetStream, an ordered consumer of the room's stream.
type natsMember struct {
	nc   *nats.Conn
	js   nats.JetStreamContext // nil: core
	room string
}

func (t *target) joinNATS(room string, received func(n int)) (member, error) {
	nc, err := nats.Connect("nats://"+t.proc.addr, nats.Timeout(10*time.Second))
	if err != nil {
		return nil, err
	}
	m := &natsMember{nc: nc, room: room}
	handle := func(*nats.Msg) { received(1) }
	if t.kind == "jetstream" {
		if m.js, err = nc.JetStream(nats.PublishAsyncMaxPending(4096)); err != nil {
			return nil, err
		}
		if _, err := m.js.AddStream(&nats.StreamConfig{Name: room, Subjects: []string{room}, Storage: nats.FileStorage}); err != nil {
			return nil, err
		}
		_, err = m.js.Subscribe(room, handle, nats.OrderedConsumer())
	} else {
		var sub *nats.Subscription
		if sub, err = nc.Subscribe(room, handle); err == nil {
			err = sub.SetPendingLimits(-1, -1)
		}
	}
	if err != nil {
		return nil, err
	}
	return m, nc.Flush()
}

func (m *natsMember) send(body string, id int) error {
	if m.js != nil {
		_, err := m.js.PublishAsync(m.room, []byte(body))
		return err
	}
	return m.nc.Publish(m.room, []byte(body))
}

func (m *natsMember) close() { m.nc.Close() }
