package main

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/grpcchatter/grpcchatter/pb"
)

// TestShutdown is about promises 1 and 4: SIGTERM with 1,000 open streams under load. All are told to come
// back, the process is over in 10 s with status 0, and nothing that was acknowledged is lost.
func TestShutdown(t *testing.T) {
	const users, rooms, streams, conns, perSecond = 10, 10, 1000, 10, 200
	p := startWatched(t)
	names, tokens := p.loginAll(users)
	var apis []pb.GRPCChatterClient
	for range conns {
		apis = append(apis, pb.NewGRPCChatterClient(p.connect()))
	}
	var devices []*device
	var writers []*member
	for i := range rooms {
		code := createRoom(t, apis[0], tokens[names[i]])
		roomToken := joinRoom(t, apis[0], tokens[names[i]], code)
		for k := range streams / rooms {
			devices = append(devices, openDevice(t, apis[k%conns], roomToken, 0))
		}
		writers = append(writers, newMember(apis[i%conns], names[i], code, roomToken, names[i]))
	}
	c := startCrowd(t, writers)
	stop := c.load(perSecond, writers...)
	defer stop()
	eventually(t, 30*time.Second, "the load runs", func() bool { return c.sum((*member).confirmed) > perSecond })

	stopInTime(t, p)
	ends := map[string]int{}
	for _, d := range devices {
		err := d.end(t, patience)
		reason, retry := reasonOf(err)
		ends[fmt.Sprintf("%s %s, retry %t", status.Code(err), reason, retry)]++
	}
	if n := ends["Unavailable SHUTTING_DOWN, retry true"]; n != streams {
		t.Errorf("%d of %d streams were told to come back: %v", n, streams, ends)
	}

	wantAllAfterRestart(t, p, c, stop, devices)
}

// stopInTime stops a server as a person does, and fails if that takes more than 10 s.
func stopInTime(t *testing.T, p *serverProcess) {
	t.Helper()
	start := time.Now()
	if code := p.stop(); code != 0 {
		t.Errorf("the server ended with status %d", code)
	}
	took := time.Since(start)
	t.Logf("over after %s", took.Round(time.Millisecond))
	if took > 10*time.Second {
		t.Errorf("over only after %s", took)
	}
}

// wantAllAfterRestart starts a server again, lets the crowd come back and end, and fails if anything was lost or doubled, in
// the database or in what the devices got before the server stopped.
func wantAllAfterRestart(t *testing.T, p *serverProcess, c *crowd, stopLoad func(), devices []*device) {
	t.Helper()
	p.start()
	stopLoad()
	c.settle(t, 30*time.Second)
	c.leave()
	if code := p.stop(); code != 0 {
		t.Errorf("the server ended with status %d", code)
	}
	c.audit(t, p)
	for _, d := range devices {
		for i, e := range d.messages() {
			if e.Seq != uint64(i+1) {
				t.Fatalf("a device got seq %d as message %d", e.Seq, i+1)
			}
		}
	}
}

// TestShutdownWithIdlers: nobody can make the shutdown longer than 10 s by doing nothing: not a stream that is
// not read, not a request that is half sent, not a connection that says nothing or only greets.
func TestShutdownWithIdlers(t *testing.T) {
	t.Parallel()
	p := startWatched(t)
	token := p.login("anna")
	api := pb.NewGRPCChatterClient(p.connect())
	roomToken := joinRoom(t, api, token, createRoom(t, api, token))
	narrow := pb.NewGRPCChatterClient(p.connect(grpc.WithInitialWindowSize(64<<10), grpc.WithInitialConnWindowSize(64<<10)))
	openChat(t, t.Context(), narrow, roomToken, 0) // never read
	unopened, err := api.Chat(withToken(t.Context(), roomToken))
	if err != nil {
		t.Fatal(err)
	}
	defer unopened.CloseSend()
	sender := openDevice(t, api, roomToken, 0)
	const n = 100
	for range n {
		sender.say(t, "", strings.Repeat("x", 4000))
	}
	sender.await(t, n)
	for _, said := range []string{
		"",
		"P",
		"PRI * HTTP/2.0\r\n\r\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
		"POST /login HTTP/1.1\r\nHost: x\r\n",
		"POST /login HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
		"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		conn, err := net.Dial("tcp", p.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, said); err != nil {
			t.Fatal(err)
		}
	}
	// The server has accepted all of them by the time that it answers the next one.
	if code, _ := p.rest("GET", "/readyz", ""); code != 200 {
		t.Fatalf("not ready: %d", code)
	}
	stopInTime(t, p)
	wantEnd(t, "a stream that was read", sender.end(t, patience), "Unavailable SHUTTING_DOWN")
}

// TestShutdownWhileComing: a stream that opens at the very moment of the shutdown is told to come back like
// all others, and keeps nothing waiting.
func TestShutdownWhileComing(t *testing.T) {
	const rounds, comers, each = 2, 20, 200
	p := startWatched(t)
	token := p.login("anna")
	api := pb.NewGRPCChatterClient(p.connect())
	roomToken := joinRoom(t, api, token, createRoom(t, api, token))
	for range rounds {
		var coming sync.WaitGroup
		var opened atomic.Int32
		var mu sync.Mutex // guards ends
		ends := map[string]int{}
		ended := func(what string, err error) {
			reason, _ := reasonOf(err)
			mu.Lock()
			defer mu.Unlock()
			ends[fmt.Sprintf("%s: %s %s", what, status.Code(err), reason)]++
		}
		for range comers {
			api := pb.NewGRPCChatterClient(p.connect())
			coming.Go(func() {
				for range each {
					stream, err := api.Chat(withToken(t.Context(), roomToken))
					if err == nil {
						_ = stream.Send(&pb.ChatRequest{})
						_, err = stream.Header()
					}
					if err != nil {
						ended("late", err)
						return
					}
					opened.Add(1)
					coming.Go(func() {
						var err error
						for err == nil {
							_, err = stream.Recv()
						}
						ended("open", err)
					})
				}
			})
		}
		eventually(t, 20*time.Second, "streams are opened", func() bool { return opened.Load() > comers*each/10 })
		start := time.Now()
		if code := p.stop(); code != 0 {
			t.Errorf("the server ended with status %d", code)
		}
		if took := time.Since(start); took > 6*time.Second {
			t.Errorf("over only after %s, though every stream reads", took)
		}
		coming.Wait()
		t.Log(ends)
		for end, n := range ends {
			// Who comes too late may find nobody to give a reason.
			if !strings.HasSuffix(end, "Unavailable SHUTTING_DOWN") && end != "late: Unavailable " {
				t.Errorf("%d streams ended with %q", n, end)
			}
		}
		p.start()
	}
}
