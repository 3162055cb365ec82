package main

import (
	"fmt"
	"net"
	"sync"
	"time"

	natsd "github.com/nats-io/nats-server/v2/server"
	"google.golang.org/grpc"

	"github.com/grpcchatter/grpcchatter/pb"
)

// runPeer is the process of a peer, with its data in dir: it prints its address and serves until it is killed.
func runPeer(kind, dir string) {
	switch kind {
	case "bare":
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			panic(err)
		}
		s := grpc.NewServer()
		b := &broadcast{rooms: map[string]map[chan *pb.ChatEvent]struct{}{}}
		s.RegisterService(&grpc.ServiceDesc{ServiceName: "grpcchatter.v1.GRPCChatter", HandlerType: (*any)(nil), Streams: []grpc.StreamDesc{{
			StreamName: "Chat", Handler: b.chat, ServerStreams: true, ClientStreams: true,
		}}}, nil)
		fmt.Printf("ready on http://%s\n", l.Addr())
		panic(s.Serve(l))
	case "nats", "jetstream":
		s, err := natsd.NewServer(&natsd.Options{Host: "127.0.0.1", Port: -1, JetStream: kind == "jetstream", StoreDir: dir, NoSigs: true})
		if err != nil {
			panic(err)
		}
		s.Start()
		if !s.ReadyForConnections(10 * time.Second) {
			panic("nats-server is not ready")
		}
		fmt.Printf("ready on nats://%s\n", s.Addr())
		s.WaitForShutdown()
	default:
		panic("no such peer: " + kind)
	}
}

// broadcast is what a plain grpc-go program does: it stores nothing, and sends each message alone to the
// queue of each member of the room that the member's first message names.
type broadcast struct {
	mu    sync.Mutex // guards rooms
	rooms map[string]map[chan *pb.ChatEvent]struct{}
}

func (b *broadcast) chat(_ any, ss grpc.ServerStream) error {
	var req pb.ChatRequest
	if err := ss.RecvMsg(&req); err != nil {
		return err
	}
	room, queue := req.ClientMessageId, make(chan *pb.ChatEvent, 1024)
	b.mu.Lock()
	if b.rooms[room] == nil {
		b.rooms[room] = map[chan *pb.ChatEvent]struct{}{}
	}
	b.rooms[room][queue] = struct{}{}
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		delete(b.rooms[room], queue)
		b.mu.Unlock()
	}()
	if err := ss.SendHeader(nil); err != nil {
		return err
	}
	go func() {
		for {
			select {
			case e := <-queue:
				_ = ss.SendMsg(e)
			case <-ss.Context().Done():
				return
			}
		}
	}()
	for {
		var req pb.ChatRequest
		if err := ss.RecvMsg(&req); err != nil {
			return err
		}
		e := &pb.ChatEvent{UserName: "sender", Body: req.Body, ClientMessageId: req.ClientMessageId}
		b.mu.Lock()
		members := b.rooms[room]
		for q := range members {
			select {
			case q <- e:
			case <-ss.Context().Done():
			}
		}
		b.mu.Unlock()
	}
}
