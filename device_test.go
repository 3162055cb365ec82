package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/grpcchatter/grpcchatter/pb"
)

// bodyWord is in the bodies of these tests, so that they can be looked for where they must not be.
const bodyWord = "marzipan"

// startWatched starts a server whose log must not tell of a race, a panic or an error without a name, and
// must not hold a message, a password or a token, even at the level debug.
func startWatched(t testing.TB, args ...string) *serverProcess {
	t.Helper()
	p := startServer(t, append([]string{"--log-level=debug"}, args...)...)
	t.Cleanup(func() {
		log := p.logText()
		for _, fault := range []string{"DATA RACE", "panic", "fatal error", "INTERNAL"} {
			if strings.Contains(log, fault) {
				t.Errorf("the log of the server tells of %q", fault)
			}
		}
		for _, secret := range []string{bodyWord, testPassword, "eyJ"} {
			if strings.Contains(log, secret) {
				t.Errorf("the log of the server holds %q: a message, a password or a token", secret)
			}
		}
	})
	return p
}

// connect opens a connection of its own that comes back at once when the server does.
func (p *serverProcess) connect(options ...grpc.DialOption) *grpc.ClientConn {
	p.t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+p.addr, append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, Jitter: 0.2, MaxDelay: 100 * time.Millisecond},
			MinConnectTimeout: 5 * time.Second,
		}),
	}, options...)...)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// loginAll logs users in, user00 and so on, and returns their tokens by name.
func (p *serverProcess) loginAll(n int) (names []string, tokens map[string]string) {
	p.t.Helper()
	tokens = map[string]string{}
	for i := range n {
		names = append(names, fmt.Sprintf("user%02d", i))
		tokens[names[i]] = p.login(names[i])
	}
	return names, tokens
}

// reasonOf is the reason of an error's google.rpc.ErrorInfo, and whether it says when to try again.
func reasonOf(err error) (reason string, retry bool) {
	for _, d := range status.Convert(err).Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			reason = d.GetReason()
		case *errdetails.RetryInfo:
			retry = d.GetRetryDelay().AsDuration() > 0
		}
	}
	return reason, retry
}

// wantEnd checks the status of an error: its code and its reason, as "NotFound ROOM_DELETED".
func wantEnd(t testing.TB, what string, err error, want string) {
	t.Helper()
	reason, _ := reasonOf(err)
	if got := status.Code(err).String() + " " + reason; got != want {
		t.Errorf("%s: got %q (%v), want %q", what, got, err, want)
	}
}

// device is one stream, read in the background, that does not come back.
type device struct {
	stream grpc.BidiStreamingClient[pb.ChatRequest, pb.ChatResponse]
	cancel context.CancelFunc
	done   chan struct{} // closed when the stream has ended

	mu     sync.Mutex // guards the fields below
	events []*pb.ChatEvent
	err    error
}

// openDevice opens a stream like openChat, and reads it until it ends: with the test, if not before.
func openDevice(t testing.TB, api pb.GRPCChatterClient, roomToken string, after int64) *device {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	d := &device{stream: openChat(t, ctx, api, roomToken, after), cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(d.done)
		for {
			resp, err := d.stream.Recv()
			d.mu.Lock()
			d.events = append(d.events, resp.GetEvents()...)
			d.err = err
			d.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(d.leave)
	return d
}

// leave cuts the stream.
func (d *device) leave() {
	d.cancel()
	<-d.done
}

// say sends a message.
func (d *device) say(t testing.TB, id, body string) {
	t.Helper()
	if err := d.stream.Send(&pb.ChatRequest{ClientMessageId: id, Body: body}); err != nil {
		t.Errorf("sending %s: %v", id, err)
	}
}

// all are the events so far.
func (d *device) all() []*pb.ChatEvent {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.events)
}

// messages are those of all that are messages.
func (d *device) messages() []*pb.ChatEvent {
	return slices.DeleteFunc(d.all(), func(e *pb.ChatEvent) bool { return e.Kind != pb.ChatEventKind_MESSAGE })
}

// await waits until the device has n messages, and returns all that it has. It fails when nothing comes any more: a busy machine
// may take its time.
func (d *device) await(t testing.TB, n int) []*pb.ChatEvent {
	t.Helper()
	return d.awaitThat(t, fmt.Sprint(n, " messages"), func(got []*pb.ChatEvent) bool { return len(got) >= n })
}

// awaitID waits for the message id, and returns all messages.
func (d *device) awaitID(t testing.TB, id string) []*pb.ChatEvent {
	t.Helper()
	return d.awaitThat(t, "the message "+id, func(got []*pb.ChatEvent) bool {
		return slices.ContainsFunc(got, func(e *pb.ChatEvent) bool { return e.ClientMessageId == id })
	})
}

func (d *device) awaitThat(t testing.TB, what string, ok func([]*pb.ChatEvent) bool) []*pb.ChatEvent {
	t.Helper()
	moved, before := time.Now(), 0
	for ; ; time.Sleep(5 * time.Millisecond) {
		ended := d.ended() // before it is looked at what has come: the last of it comes with the end
		got := d.messages()
		if ok(got) {
			return got
		}
		if ended != nil {
			t.Fatalf("waiting for %s, the stream ended with %d messages: %v", what, len(got), ended)
		}
		if len(got) != before {
			moved, before = time.Now(), len(got)
		} else if time.Since(moved) > patience {
			t.Fatalf("lost: %s, there are %d, and nothing came for %s", what, len(got), patience)
		}
	}
}

// ended is the error that the stream has ended with, if it has.
func (d *device) ended() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

// end waits for the end of the stream.
func (d *device) end(t testing.TB, limit time.Duration) error {
	t.Helper()
	select {
	case <-d.done:
		return d.ended()
	case <-time.After(limit):
		t.Errorf("the stream has not ended after %s", limit)
		return errors.New("not ended")
	}
}

// originalDevice is one Chat stream by the original's protocol, read in the background.
type originalDevice struct {
	stream grpc.ClientStream
	cancel context.CancelFunc
	done   chan struct{} // closed when the stream has ended

	mu     sync.Mutex // guards the fields below
	events []*pb.ChatEvent
	err    error
}

// asOriginal is a context with a token as the original's clients send it.
func asOriginal(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "token", token)
}

// originalJoin joins by the original's protocol and returns a room token.
func originalJoin(t testing.TB, conn *grpc.ClientConn, token, code string) string {
	t.Helper()
	var resp pb.JoinChatRoomResponse
	err := conn.Invoke(asOriginal(t.Context(), token), "/proto.GRPCChatter/JoinChatRoom", &pb.JoinChatRoomRequest{ShortCode: code, RoomPassword: "room"}, &resp)
	if err != nil {
		t.Fatal(err)
	}
	return resp.Token
}

// openOriginal opens a stream by the original's protocol.
func openOriginal(t testing.TB, conn *grpc.ClientConn, roomToken string) *originalDevice {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := conn.NewStream(asOriginal(ctx, roomToken), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/proto.GRPCChatter/Chat")
	if err != nil {
		t.Fatal(err)
	}
	d := &originalDevice{stream: stream, cancel: cancel, done: make(chan struct{})}
	if _, err := stream.Header(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(d.done)
		for {
			e := &pb.ChatEvent{}
			err := stream.RecvMsg(e)
			d.mu.Lock()
			if d.err = err; err == nil {
				d.events = append(d.events, e)
			}
			d.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(d.leave)
	return d
}

// leave cuts the stream.
func (d *originalDevice) leave() {
	d.cancel()
	<-d.done
}

// say sends a message.
func (d *originalDevice) say(t testing.TB, body string) {
	t.Helper()
	if err := d.stream.SendMsg(&pb.ChatRequest{Body: body}); err != nil {
		t.Errorf("sending %q: %v", body, err)
	}
}

// await waits until the device has n messages, and returns all that it has.
func (d *originalDevice) await(t testing.TB, n int) []*pb.ChatEvent {
	t.Helper()
	var got []*pb.ChatEvent
	eventually(t, 30*time.Second, fmt.Sprintf("%d messages by the original's protocol", n), func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		got = d.events
		return len(got) >= n || d.err != nil
	})
	if len(got) < n {
		t.Fatalf("lost: the stream ended with %d of %d messages: %v", len(got), n, d.err)
	}
	return got
}

// end waits for the end of the stream.
func (d *originalDevice) end(t testing.TB, limit time.Duration) error {
	t.Helper()
	select {
	case <-d.done:
	case <-time.After(limit):
		t.Fatalf("the stream has not ended after %s", limit)
	}
	return d.err
}
