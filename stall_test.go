package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/grpcchatter/grpcchatter/pb"
)

// TestStalledMember is promise 5: of 100 members one stops reading for good. The others go on getting
// everything in time, which is when somebody in a quiet room gets what is said at the same moment, where nobody waits either;
// it is cut in 10 s, is told so once it reads on, and resumes complete.
func TestStalledMember(t *testing.T) {
	const receivers, fill, gap = 99, 100, 20 * time.Millisecond
	measured := "127.0.0.1:" + freePort(t)
	p := startWatched(t, "--metrics-addr="+measured)
	owner, stalled := p.login("owner"), p.login("stalled")
	api := pb.NewGRPCChatterClient(p.connect())
	code := createRoom(t, api, owner)
	ownerRoom, stalledRoom := joinRoom(t, api, owner, code), joinRoom(t, api, stalled, code)
	quietRoom := joinRoom(t, api, owner, createRoom(t, api, owner))

	// A fixed window: what is not read blocks the server's writer behind it.
	narrow := pb.NewGRPCChatterClient(p.connect(grpc.WithInitialWindowSize(64<<10), grpc.WithInitialConnWindowSize(64<<10)))
	ctx, cancel := context.WithCancel(t.Context())
	var reading sync.WaitGroup
	defer reading.Wait()
	defer cancel()
	victim := openChat(t, ctx, narrow, stalledRoom, 0)

	// The others note how long each message was under way. The sender writes the time into it.
	late, undisturbed := make(chan []time.Duration, receivers), make(chan []time.Duration, 1)
	stop := make(chan struct{})
	for i := range receivers + 1 {
		late, room := late, ownerRoom
		if i == receivers {
			late, room = undisturbed, quietRoom
		}
		stream := openChat(t, ctx, api, room, 0)
		reading.Go(func() {
			var took []time.Duration
			last := uint64(0)
			for {
				resp, err := stream.Recv()
				if ctx.Err() != nil {
					return // the test is over
				} else if err != nil {
					t.Errorf("a member that reads: the stream ended after seq %d: %v", last, err)
					break
				}
				for _, e := range resp.Events {
					if e.Kind != pb.ChatEventKind_MESSAGE {
						continue
					}
					if e.Seq != last+1 {
						t.Errorf("a member that reads: seq %d came after %d", e.Seq, last)
					}
					last = e.Seq
					if sent, err := strconv.ParseInt(e.Body, 10, 64); err == nil {
						took = append(took, time.Since(time.Unix(0, sent)))
					} else if e.Body == "the end" {
						late <- took
						return
					}
				}
			}
			late <- took
		})
	}

	sender, beside := openDevice(t, api, ownerRoom, 0), openDevice(t, api, quietRoom, 0)
	for range fill {
		sender.say(t, "", strings.Repeat("x", 4000)) // more than the windows and buffers hold
	}
	sender.await(t, fill)
	full := time.Now()
	sending := make(chan int)
	go func() {
		n := 0
		for ; ; n++ {
			select {
			case <-stop:
				sending <- n
				return
			case <-time.After(gap):
				now := fmt.Sprint(time.Now().UnixNano())
				sender.say(t, "", now)
				beside.say(t, "", now)
			}
		}
	}()
	look, slowest := full, time.Duration(0) // of the looks, and then of all that the machine did meanwhile
	eventually(t, patience, "the member that reads nothing is cut", func() bool {
		there := slices.Contains(present(t, api, ownerRoom), "stalled")
		slowest, look = max(slowest, time.Since(look)), time.Now()
		return !there
	})
	cut := time.Since(full)
	close(stop)
	n := <-sending
	sender.say(t, "", "the end")
	beside.say(t, "", "the end")
	all := fill + n + 1

	var quiet, took, longer []time.Duration // longer: than in the quiet room
	select {
	case quiet = <-undisturbed:
	case <-time.After(30 * time.Second):
		t.Fatal("lost: who is in the quiet room has not got the last message")
	}
	if len(quiet) != n {
		t.Fatalf("who is in the quiet room got %d of %d messages", len(quiet), n)
	}
	for range receivers {
		select {
		case more := <-late:
			if len(more) != n {
				t.Errorf("a member that reads got %d of %d messages", len(more), n)
			}
			took = append(took, more...)
			for i := range min(len(more), n) {
				longer = append(longer, more[i]-quiet[i])
			}
		case <-time.After(30 * time.Second):
			t.Fatal("lost: a member that reads has not got the last message")
		}
	}
	slices.Sort(took)
	slices.Sort(longer)
	p99, more := took[len(took)*99/100], longer[len(longer)*99/100]
	t.Logf("cut after %s; p99 of %d deliveries to the others: %s, and %s longer than in a quiet room", cut.Round(time.Millisecond), len(took), p99.Round(time.Millisecond), more.Round(time.Millisecond))
	// A machine that is busy for a moment is so for both rooms, and not most of the time.
	if median := took[len(took)/2]; more > time.Second || median > time.Second {
		t.Errorf("the others wait for %s (median), %s (p99), and %s longer than in a quiet room (p99)", median, p99, more)
	}
	if slowest = max(slowest, took[len(took)-1]); cut > 10*time.Second+slowest {
		t.Errorf("cut only after %s; the machine took up to %s for what is done at once", cut, slowest)
	}

	// It reads on: what was on its way, and then why the stream has ended.
	last := 0
	take := func(resp *pb.ChatResponse) {
		for _, e := range resp.GetEvents() {
			if e.Kind != pb.ChatEventKind_MESSAGE {
				continue
			}
			if e.Seq != uint64(last+1) {
				t.Fatalf("the stalled member got seq %d after %d", e.Seq, last)
			}
			last++
		}
	}
	var err error
	for err == nil {
		var resp *pb.ChatResponse
		resp, err = victim.Recv()
		take(resp)
	}
	wantEnd(t, "the stalled stream", err, "Unavailable STALLED")
	if _, retry := reasonOf(err); !retry {
		t.Error("the stalled stream ended without RetryInfo")
	}
	if last >= all {
		t.Fatalf("the stalled member already has all %d messages: it was not stalled", last)
	}
	if got, _ := scrape(t, measured); got.value("grpcchatter_sessions_stalled_total") != 1 {
		t.Errorf("the metrics have %v stalled sessions, want 1", got.value("grpcchatter_sessions_stalled_total"))
	}
	again := openChat(t, ctx, narrow, stalledRoom, int64(last))
	for last < all {
		resp, err := again.Recv()
		if err != nil {
			t.Fatalf("lost: the stalled member resumed up to %d of %d: %v", last, all, err)
		}
		take(resp)
	}
	if !slices.Contains(present(t, api, ownerRoom), "stalled") {
		t.Error("the stalled member is back, but not present")
	}
}

// TestSlowMember is promise 5 from the other side: who reads slowly, but reads, is not cut, however far behind
// it is, and gets everything.
func TestSlowMember(t *testing.T) {
	onlySQLite(t) // it is about connections
	t.Parallel()
	const n, pauses, pause = 600, 12, time.Second // together more than stallLimit
	p := startWatched(t)
	token := p.login("anna")
	code := createRoom(t, pb.NewGRPCChatterClient(p.connect()), token)
	narrow := pb.NewGRPCChatterClient(p.connect(grpc.WithInitialWindowSize(64<<10), grpc.WithInitialConnWindowSize(64<<10)))
	roomToken := joinRoom(t, narrow, token, code)
	slow := openChat(t, t.Context(), narrow, roomToken, 0)
	sender := openDevice(t, pb.NewGRPCChatterClient(p.connect()), roomToken, 0)
	for range n {
		sender.say(t, "", strings.Repeat("x", 4000))
	}
	sender.await(t, n)
	last := uint64(0)
	for frame := 0; last < n; frame++ {
		resp, err := slow.Recv()
		if err != nil {
			t.Fatalf("a slow reader was cut after seq %d: %v", last, err)
		}
		for _, e := range resp.Events {
			if last++; e.Seq != last {
				t.Fatalf("a slow reader got seq %d where %d was to come", e.Seq, last)
			}
		}
		if frame < pauses {
			time.Sleep(pause)
		}
	}
}

// TestFlood is promise 5: others who send as fast as they can, without reading, or the same message again and
// again, slow a member down but do not stop it.
func TestFlood(t *testing.T) {
	const floods, n = 4, 30
	p := startWatched(t)
	rude, polite := p.login("rude"), p.login("polite")
	conn := p.connect()
	api := pb.NewGRPCChatterClient(conn)
	code := createRoom(t, api, polite)
	rudeRoom, politeRoom := joinRoom(t, api, rude, code), joinRoom(t, api, polite, code)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var flooding sync.WaitGroup
	for k := range floods {
		api := pb.NewGRPCChatterClient(p.connect())
		flooding.Go(func() {
			for ctx.Err() == nil { // again, when it was cut
				stream, err := api.Chat(withToken(ctx, rudeRoom))
				if err != nil {
					return
				}
				for i := 0; err == nil; i++ {
					req := &pb.ChatRequest{Body: strings.Repeat("x", 1000)}
					if k%2 == 0 {
						req.ClientMessageId = fmt.Sprint(k, " ", i/100)
					}
					err = stream.Send(req)
				}
			}
		})
	}
	member := openDevice(t, api, politeRoom, 0)
	var took []time.Duration
	for i := range n {
		start := time.Now()
		id := fmt.Sprint("polite ", i)
		member.say(t, id, "x")
		member.awaitID(t, id)
		took = append(took, time.Since(start))
	}
	stop()
	flooding.Wait()
	for i, e := range member.messages() {
		if e.Seq != uint64(i+1) {
			t.Fatalf("the member got seq %d as message %d", e.Seq, i+1)
		}
	}
	slices.Sort(took)
	t.Logf("acknowledged in %s (median), %s (last) beside %d messages of others", took[n/2].Round(time.Millisecond), took[n-1].Round(time.Millisecond), len(member.messages())-n)
	if took[n/2] > time.Second || took[n-1] > 10*time.Second {
		t.Errorf("a member waits %s (median), %s (longest) for its acknowledgements", took[n/2], took[n-1])
	}
}

// TestRateLimited is about promises 3 to 5: who sends more than the limit allows is slowed down, with all that
// it sent stored once in the end, though it comes back at once each time and sends everything again. Another
// user notices nothing.
func TestRateLimited(t *testing.T) {
	t.Parallel()
	p := startWatched(t, "--rate-limits=on")
	names, tokens := p.loginAll(2)
	api := pb.NewGRPCChatterClient(p.connect())
	code := createRoom(t, api, tokens[names[0]])
	var members []*member
	for _, name := range names {
		members = append(members, newMember(pb.NewGRPCChatterClient(p.connect()), name, code, joinRoom(t, api, tokens[name], code), name))
	}
	hasty, other := members[0], members[1]
	c := startCrowd(t, members)
	stop := c.load(20, other)
	limited := func() bool {
		hasty.mu.Lock()
		defer hasty.mu.Unlock()
		return len(hasty.ends) > 0
	}
	eventually(t, 60*time.Second, "the hasty one is over its limit", func() bool {
		for n := hasty.said() - hasty.confirmed(); n < 2000 && !limited(); n++ {
			hasty.say() // always more than goes through
		}
		return limited()
	})
	for range 200 {
		hasty.say()
	}
	c.settle(t, 30*time.Second)
	stop()
	c.settle(t, 30*time.Second)
	c.leave()
	wantEnd(t, "the stream of who sends too much", hasty.ends[0], "ResourceExhausted RATE_LIMITED")
	if _, retry := reasonOf(hasty.ends[0]); !retry {
		t.Error("RATE_LIMITED came without RetryInfo")
	}
	if len(other.ends) > 1 {
		t.Errorf("the stream of the other user ended: %v", other.ends[0])
	}
	c.audit(t, p)
	t.Logf("%d streams for %d messages", len(hasty.ends), hasty.said())
}
