package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/grpcchatter/grpcchatter/pb"
)

var soak = flag.Duration("soak", 6*time.Second, "how long TestSoak lasts")

// soakSample is what a server takes at one time.
type soakSample struct{ memory, goroutines, descriptors float64 }

// TestSoak lets everything happen at once for as long as -soak says: people write, come, go, resume, stall, log in and look
// back. What the server takes stays what it was, and nothing is lost.
func TestSoak(t *testing.T) {
	p, measured := startMeasured(t)
	members := pairs(t, p, 10)
	c := startCrowd(t, members)
	stopLoad := c.load(300, members...)
	defer stopLoad()
	user := p.login("visitor")
	api := pb.NewGRPCChatterClient(p.connect())
	code := createRoom(t, api, user)
	room := joinRoom(t, api, user, code)

	ctx, cancel := context.WithCancel(t.Context()) // not a deadline: the server would know it, and could be the first to say so
	defer cancel()
	end := time.Now().Add(*soak)
	var busy sync.WaitGroup
	var done atomic.Int64
	again := func(every time.Duration, do func(i int) error) {
		busy.Go(func() {
			for i := 0; pause(ctx, every) == nil; i++ {
				if err := do(i); err != nil && ctx.Err() == nil {
					t.Error(err)
					return
				}
				done.Add(1)
			}
		})
	}
	for k := range 4 {
		again(20*time.Millisecond, func(i int) error {
			id := "" // cut
			if i%2 == 0 {
				id = fmt.Sprint(k, " ", i)
			}
			return p.visit(room, id)
		})
	}
	again(50*time.Millisecond, func(i int) error { // a WebSocket
		stream, err := p.sockets().Chat(withToken(ctx, room))
		if err != nil {
			return err
		}
		if err := stream.Send(&pb.ChatRequest{Body: "x", ClientMessageId: fmt.Sprint("socket ", i)}); err != nil {
			return err
		}
		if _, err := stream.Recv(); err != nil {
			return err
		}
		return stream.CloseSend()
	})
	again(500*time.Millisecond, func(int) error {
		if a := p.call("POST", "/login", "", credentialsJSON("visitor", testPassword)); a.status != 200 {
			return fmt.Errorf("a log-in: %d %s", a.status, a.body)
		}
		return nil
	})
	again(time.Second, func(int) error {
		resp, err := api.CreateChatRoom(withToken(ctx, user), &pb.CreateChatRoomRequest{RoomName: "for a moment"})
		if err == nil {
			_, err = api.DeleteChatRoom(withToken(ctx, user), &pb.DeleteChatRoomRequest{ShortCode: resp.GetShortCode()})
		}
		return err
	})
	again(100*time.Millisecond, func(int) error {
		_, err := members[0].api.ListMessages(withToken(ctx, members[0].token), &pb.ListMessagesRequest{Limit: 200})
		return err
	})
	again(200*time.Millisecond, func(int) error {
		members[rand.IntN(len(members))].reconnect()
		return nil
	})
	again(time.Second, func(int) error { // who does not read, until it is cut
		all := uint64(0)
		conn := p.connect()
		defer conn.Close()
		stream, err := pb.NewGRPCChatterClient(conn).Chat(withToken(ctx, members[0].token))
		if err == nil {
			err = stream.Send(&pb.ChatRequest{Start: &pb.ChatStart{AfterSeq: &all}})
		}
		if err == nil {
			err = pause(ctx, 12*time.Second)
		}
		return err
	})

	var samples []soakSample
	for time.Now().Before(end) || len(samples) < 15 { // also where a sample takes its time
		time.Sleep(*soak / 60)
		got, _ := scrape(t, measured)
		samples = append(samples, soakSample{got.value("process_resident_memory_bytes"), got.value("go_goroutines"), got.value("process_open_fds")})
	}
	cancel()
	busy.Wait()
	stopLoad()
	c.settle(t, 30*time.Second)
	c.leave()
	p.stop()
	c.audit(t, p)

	least := func(samples []soakSample, of func(soakSample) float64) float64 { // what is left over at any time; a busy machine has more now and then
		n := of(samples[0])
		for _, s := range samples {
			n = min(n, of(s))
		}
		return n
	}
	third := len(samples) / 3
	t.Logf("%s: %d messages acknowledged, and %d visits, log-ins, rooms, pages and cuts", *soak, c.sum((*member).confirmed), done.Load())
	memory := 16.0
	if raceDetector {
		memory *= 5 // it keeps several bytes for each that was ever used
	}
	for _, figure := range []struct {
		what  string
		of    func(soakSample) float64
		slack float64 // beside a tenth
	}{
		{"MB of memory", func(s soakSample) float64 { return s.memory / 1e6 }, memory},
		{"goroutines", func(s soakSample) float64 { return s.goroutines }, 30},
		{"descriptors", func(s soakSample) float64 { return s.descriptors }, 15},
	} {
		before, after := least(samples[third:2*third], figure.of), least(samples[2*third:], figure.of)
		t.Logf("%s: at least %.0f in the second third, %.0f in the last", figure.what, before, after)
		if after > before*1.1+figure.slack {
			t.Errorf("%s grow: from %.0f to %.0f", figure.what, before, after)
		}
	}
}
