package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/grpcchatter/grpcchatter/pb"
)

// asBroadcast makes the test binary be the peer of BenchmarkFanOut.
const asBroadcast = "GRPCCHATTER_TEST_AS_BROADCAST"

// broadcast is what a plain grpc-go program does: it stores nothing, and sends each message alone to the
// queue of each receiver.
type broadcast struct {
	mu      sync.Mutex // guards members
	members map[chan *pb.ChatEvent]struct{}
}

func (b *broadcast) chat(_ any, ss grpc.ServerStream) error {
	queue := make(chan *pb.ChatEvent, 4096)
	b.mu.Lock()
	b.members[queue] = struct{}{}
	b.mu.Unlock()
	_ = ss.SendHeader(nil)
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
			return nil
		}
		if req.Body == "" {
			continue
		}
		e := &pb.ChatEvent{UserName: "sender", Body: req.Body, ClientMessageId: req.ClientMessageId}
		b.mu.Lock()
		for q := range b.members {
			q <- e
		}
		b.mu.Unlock()
	}
}

func runBroadcast() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Printf("GRPCChatter is ready on http://%s\n", l.Addr())
	s := grpc.NewServer()
	s.RegisterService(&grpc.ServiceDesc{ServiceName: "grpcchatter.v1.GRPCChatter", HandlerType: (*any)(nil), Streams: []grpc.StreamDesc{{
		StreamName: "Chat", Handler: (&broadcast{members: map[chan *pb.ChatEvent]struct{}{}}).chat, ServerStreams: true, ClientStreams: true,
	}}}, nil)
	_ = s.Serve(l)
}

// BenchmarkFanOut sends 64-byte messages, inFlight at a time, from one member of a room to 50 receivers that
// have a connection each. It reports the deliveries a second and the processor time of the server's process
// for each, of this server (which syncs every message to the disk first) and of a bare broadcast.
//
//	go test -run '^$' -bench FanOut -benchtime 50000x -count 5 .
func BenchmarkFanOut(b *testing.B) {
	for _, inFlight := range []int{128, 512} {
		b.Run(fmt.Sprintf("%d/grpcchatter", inFlight), func(b *testing.B) {
			p := startServer(b)
			token := p.login("sender")
			api := pb.NewGRPCChatterClient(p.dial())
			fanOut(b, p, joinRoom(b, api, token, createRoom(b, api, token)), inFlight)
		})
		b.Run(fmt.Sprintf("%d/broadcast", inFlight), func(b *testing.B) {
			p := &serverProcess{t: b, dir: b.TempDir(), addr: "127.0.0.1:0", command: func(exe string) *exec.Cmd {
				cmd := exec.Command(exe)
				cmd.Env = []string{asBroadcast + "=1"}
				return cmd
			}}
			p.start()
			defer p.kill()
			fanOut(b, p, "", inFlight)
		})
	}
}

const benchReceivers = 50

func fanOut(b *testing.B, p *serverProcess, token string, inFlight int) {
	ctx, cancel := context.WithCancel(withToken(b.Context(), token))
	var receivers sync.WaitGroup
	defer receivers.Wait()
	defer cancel()
	window := make(chan struct{}, inFlight)
	var delivered atomic.Int64
	all := make(chan struct{})
	want := int64(b.N) * (benchReceivers + 1)
	var sender grpc.ClientStream
	for i := range benchReceivers + 1 {
		stream := rawChat(b, ctx, p.addr)
		if i == 0 {
			sender = stream
		}
		receivers.Go(func() {
			for {
				var data []byte
				if stream.RecvMsg(&data) != nil {
					return
				}
				n := int64(1)
				if token != "" {
					n = countEvents(data)
				}
				if i == 0 {
					for range n {
						<-window
					}
				}
				if delivered.Add(n) == want {
					close(all)
				}
			}
		})
	}
	body := strings.Repeat("x", 64)
	before := cpuTime(b, p.cmd.Process.Pid)
	b.ResetTimer()
	for i := range b.N {
		window <- struct{}{}
		msg := appendString(appendString(nil, 1, body), 2, strconv.Itoa(i))
		if err := sender.SendMsg(&msg); err != nil {
			b.Fatal(err)
		}
	}
	select {
	case <-all:
	case <-time.After(time.Minute):
		b.Fatalf("%d of %d deliveries", delivered.Load(), want)
	}
	b.StopTimer()
	cpu := cpuTime(b, p.cmd.Process.Pid) - before
	b.ReportMetric(float64(want)/b.Elapsed().Seconds(), "deliveries/s")
	b.ReportMetric(float64(cpu.Nanoseconds())/float64(want), "server-cpu-ns/delivery")
}

// rawChat opens a Chat stream, on a connection of its own, that carries bytes.
func rawChat(b *testing.B, ctx context.Context, addr string) grpc.ClientStream {
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(bytesCodec{})))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = conn.Close() })
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/grpcchatter.v1.GRPCChatter/Chat")
	if err != nil {
		b.Fatal(err)
	}
	var open []byte
	if err := stream.SendMsg(&open); err != nil {
		b.Fatal(err)
	}
	if _, err := stream.Header(); err != nil {
		b.Fatal(err)
	}
	return stream
}

// bytesCodec leaves messages as bytes.
type bytesCodec struct{}

func (bytesCodec) Name() string { return "proto" }

func (bytesCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}

func (bytesCodec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

// countEvents counts the messages in a ChatResponse.
func countEvents(data []byte) (n int64) {
	for len(data) > 0 {
		_, _, tag := protowire.ConsumeTag(data)
		event, size := protowire.ConsumeBytes(data[tag:])
		if len(event) > 64 { // no USER_JOINED
			n++
		}
		data = data[tag+size:]
	}
	return n
}

// cpuTime is the processor time that a process has used, user and system, by 10 ms.
func cpuTime(b *testing.B, pid int) time.Duration {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Skip("needs /proc: ", err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

// BenchmarkAddMessages stores messages of 64 bytes, 128 in one transaction that is synced: of one room, or of eight.
func BenchmarkAddMessages(b *testing.B) {
	const batch = 128
	for _, rooms := range []int{1, 8} {
		b.Run(fmt.Sprintf("rooms=%d", rooms), func(b *testing.B) {
			ctx := context.Background()
			s, err := openStore(ctx, storeOptions{URL: "sqlite:" + filepath.Join(b.TempDir(), "bench.db"), Synchronous: "full", Create: true})
			if err != nil {
				b.Fatal(err)
			}
			defer s.close()
			u, err := s.addUser(ctx, "alice", "x", roleUser)
			if err != nil {
				b.Fatal(err)
			}
			for i := range rooms {
				if err := s.addRoom(ctx, strconv.Itoa(i), "room", "x", u.ID); err != nil {
					b.Fatal(err)
				}
			}
			body := strings.Repeat("x", 64)
			msgs := make([]message, batch)
			n := 0
			b.ResetTimer()
			for b.Loop() {
				for i := range msgs {
					room, seq := i*rooms/batch, uint64(n*batch/rooms+i%(batch/rooms))+1
					msgs[i] = message{RoomID: int64(room + 1), Seq: seq, UserID: u.ID, SentAt: time.Now().UnixMicro(),
						ClientMessageID: strconv.FormatUint(seq, 10), Body: body}
				}
				n++
				if err := s.addMessages(msgs); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(n*batch), "µs/message")
		})
	}
}
