package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

var workloads = []workload{
	{"fanout128", "1 room, 50 receivers, 64 bytes, 128 in flight", func(ctx context.Context, b *bencher) ([]row, error) {
		s, err := b.fanOuts(ctx, []string{"grpcchatter", "nats", "nats (nats.go)", "jetstream", "bare"}, fanOut{rooms: 1, members: 51, inFlight: 128})
		if err != nil {
			return nil, err
		}
		return []row{
			compare("fan-out, 128 in flight", "deliveries/s", s, "rate", "nats", atLeast, 1.0),
			compare("", "deliveries/s", s, "rate", "nats (nats.go)", none, 0),
			compare("", "deliveries/s", s, "rate", "jetstream", none, 0),
			compare("", "deliveries/s", s, "rate", "bare", none, 0),
			compare("", "server CPU µs a delivery", s, "cpu", "nats", atMost, 0.9),
			compare("", "server CPU µs a delivery", s, "cpu", "nats (nats.go)", none, 0),
			compare("", "server CPU µs a delivery", s, "cpu", "jetstream", none, 0),
			compare("", "server CPU µs a delivery", s, "cpu", "bare", none, 0),
		}, nil
	}},
	{"fanout512", "the same, 512 in flight", func(ctx context.Context, b *bencher) ([]row, error) {
		s, err := b.fanOuts(ctx, []string{"grpcchatter", "nats", "nats (nats.go)", "bare"}, fanOut{rooms: 1, members: 51, inFlight: 512})
		if err != nil {
			return nil, err
		}
		return []row{
			compare("fan-out, 512 in flight", "deliveries/s", s, "rate", "nats", none, 0),
			compare("", "deliveries/s", s, "rate", "nats (nats.go)", none, 0),
			compare("", "deliveries/s", s, "rate", "bare", none, 0),
			compare("", "server CPU µs a delivery", s, "cpu", "nats", atMost, 0.8),
			compare("", "server CPU µs a delivery", s, "cpu", "nats (nats.go)", none, 0),
			compare("", "server CPU µs a delivery", s, "cpu", "bare", none, 0),
		}, nil
	}},
	{"postgres", "the fan-out of 128, on PostgreSQL", func(ctx context.Context, b *bencher) ([]row, error) {
		s, err := b.fanOuts(ctx, []string{"grpcchatter postgres", "jetstream"}, fanOut{rooms: 1, members: 51, inFlight: 128})
		if err != nil {
			return nil, err
		}
		s["grpcchatter"] = s["grpcchatter postgres"]
		return []row{
			compare("fan-out on PostgreSQL, 128 in flight", "deliveries/s", s, "rate", "jetstream", atLeast, 1.0),
			compare("", "CPU µs a delivery, PostgreSQL's included", s, "cpu", "jetstream", none, 0),
		}, nil
	}},
	{"rooms", "10 rooms of 10 people, all busy, 16 in flight in each", busyRooms(16)},
	{"rooms128", "the same, 128 in flight in each", busyRooms(128)},
	{"crowd", "one room of very many members, against one of 50", func(ctx context.Context, b *bencher) ([]row, error) {
		crowd := samples{}
		few := samples{}
		for i := range b.runs {
			for _, members := range []int{50, b.crowd} {
				f, err := b.fanOut(ctx, "grpcchatter", fanOut{rooms: 1, members: members, inFlight: 128, messages: max(b.messages*50/members, 256)})
				if err != nil {
					return nil, err
				}
				b.progress("run %d of %d  %d members  %s", i+1, b.runs, members, f)
				if members == 50 {
					few = append(few, f)
				} else {
					crowd = append(crowd, f)
				}
			}
		}
		r := compare(fmt.Sprintf("one room of %d", b.crowd), "server CPU µs a delivery", map[string]samples{"grpcchatter": crowd, "a room of 50": few}, "cpu", "a room of 50", atMost, 1.3)
		return []row{r}, nil
	}},
	{"sockets", "1 room, 200 receivers by WebSocket, against as many by gRPC", func(ctx context.Context, b *bencher) ([]row, error) {
		s, err := b.fanOuts(ctx, []string{"grpcchatter sockets", "grpcchatter"}, fanOut{rooms: 1, members: 201, inFlight: 128, messages: b.messages / 4})
		if err != nil {
			return nil, err
		}
		s = map[string]samples{"grpcchatter": s["grpcchatter sockets"], "gRPC": s["grpcchatter"]}
		return []row{
			compare("200 WebSockets in one room", "server CPU µs a delivery", s, "cpu", "gRPC", atMost, 2),
			compare("", "deliveries/s", s, "rate", "gRPC", none, 0),
		}, nil
	}},
	{"pingpong", "a room of two, one message at a time", pingPong},
	{"idle", "members that only listen, a connection each", idle},
	{"joins", "joins by a member", joins},
	{"catchup", "a member that is 10,000 messages behind", catchUp},
	{"logins", "500 log-ins at once, beside a chat", logins},
	{"client", "what a receiver by the Go client costs", receiverCost},
	{"stored", "a large database: start, history, memory", stored},
}

func busyRooms(inFlight int) func(context.Context, *bencher) ([]row, error) {
	return func(ctx context.Context, b *bencher) ([]row, error) {
		s, err := b.fanOuts(ctx, []string{"grpcchatter", "bare", "nats"}, fanOut{rooms: 10, members: 10, inFlight: inFlight})
		if err != nil {
			return nil, err
		}
		return []row{
			compare(fmt.Sprintf("10 rooms × 10 people, %d in flight in each", inFlight), "server CPU µs a delivery", s, "cpu", "bare", atMost, 0.7),
			compare("", "server CPU µs a delivery", s, "cpu", "nats", none, 0),
			compare("", "deliveries/s", s, "rate", "bare", none, 0),
			compare("", "deliveries/s", s, "rate", "nats", none, 0),
		}, nil
	}
}

type bound int

const (
	none bound = iota
	atLeast
	atMost
)

// compare makes a row of a figure of grpcchatter's and a peer's. A bound is on the ratio of their medians.
func compare(work, figure string, s map[string]samples, name, peer string, bound bound, limit float64) row {
	r := row{work: work, figure: figure, ours: s["grpcchatter"].spread(name), peer: peer + " " + s[peer].spread(name)}
	if len(s["grpcchatter"]) == 0 || len(s[peer]) == 0 {
		return r // -servers leaves it out
	}
	ours, theirs := s["grpcchatter"].median(name), s[peer].median(name)
	r.ratio = fmt.Sprintf("%.2f", ours/theirs)
	return r.bounded(bound, ours/theirs, limit, fmt.Sprintf("%.2g × %s", limit, peer))
}

// single makes a row of a figure of grpcchatter's alone.
func single(work, figure string, s samples, name string, bound bound, limit float64) row {
	r := row{work: work, figure: figure, ours: s.spread(name)}
	if len(s) == 0 {
		return r
	}
	return r.bounded(bound, s.median(name), limit, number(limit))
}

// against makes a row of two figures of grpcchatter's, of the same runs. A bound is on the ratio of their medians.
func against(work, figure string, s samples, name, peer, peerName string, bound bound, limit float64) row {
	r := row{work: work, figure: figure, ours: s.spread(name), peer: peer + " " + s.spread(peerName)}
	if len(s) == 0 {
		return r
	}
	ratio := s.median(name) / s.median(peerName)
	r.ratio = fmt.Sprintf("%.2f", ratio)
	return r.bounded(bound, ratio, limit, fmt.Sprintf("%.2g × %s", limit, peer))
}

// spread is a median with the least and the greatest value.
func (s samples) spread(name string) string {
	if len(s) == 0 {
		return "not run"
	}
	least, most := s[0][name], s[0][name]
	for _, f := range s {
		least, most = min(least, f[name]), max(most, f[name])
	}
	return fmt.Sprintf("%s (%s–%s)", number(s.median(name)), number(least), number(most))
}

func (r row) bounded(bound bound, value, limit float64, text string) row {
	switch bound {
	case atLeast:
		r.target, r.met = "≥ "+text, value >= limit
	case atMost:
		r.target, r.met = "≤ "+text, value <= limit
	}
	return r
}

func number(v float64) string {
	switch {
	case v >= 1e6:
		return fmt.Sprintf("%.2f M", v/1e6)
	case v >= 1e4:
		return fmt.Sprintf("%.0f k", v/1e3)
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.3g", v)
}

// fanOut is one sender in each of some rooms, with so many messages on their way that it has not got back.
type fanOut struct {
	rooms    int
	members  int // of each room, the sender among them
	inFlight int // of each sender
	messages int // 0: the flag's
}

func (b *bencher) fanOuts(ctx context.Context, kinds []string, f fanOut) (map[string]samples, error) {
	return b.alternate(ctx, kinds, func(kind string) (figures, error) { return b.fanOut(ctx, kind, f) })
}

// limit is how long one run may take.
const limit = 3 * time.Minute

// launch starts a server of a kind, with a folder of its own. The context that it returns is the run's: it ends at the
// limit, or by the target's fail, with why as its cause.
func (b *bencher) launch(ctx context.Context, kind string, rooms ...string) (context.Context, *target, func(), error) {
	dir, err := os.MkdirTemp(b.dir, "run")
	if err != nil {
		return nil, nil, nil, err
	}
	var proc *process
	switch kind {
	case "grpcchatter", "grpcchatter sockets":
		proc, err = b.startChatter(dir)
	case "grpcchatter postgres":
		var pg *postgres
		if pg, err = startPostgres(); err != nil {
			return nil, nil, nil, err
		}
		if proc, err = b.startChatter(dir, "--database-url="+pg.url); err != nil {
			pg.stop()
			return nil, nil, nil, err
		}
		proc.postgres = pg
	case "grpcchatter normal":
		proc, err = b.startChatter(dir, "--sqlite-synchronous=normal")
	default:
		var self string
		peer, _, _ := strings.Cut(kind, " ")
		if self, err = os.Executable(); err == nil {
			proc, err = start(self, "peer", peer, dir)
		}
	}
	if err != nil {
		return nil, nil, nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not done after %s", limit))
	ctx, fail := context.WithCancelCause(ctx)
	stop := func() {
		fail(nil)
		cancel()
		proc.stop()
		os.RemoveAll(dir)
	}
	t, err := newTarget(ctx, kind, proc, rooms...)
	if err != nil {
		stop()
		return nil, nil, nil, err
	}
	t.fail = fail
	return ctx, t, stop, nil
}

// await waits until done is closed. It returns why the run ended before that, if it did.
func await(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done:
	case <-ctx.Done():
	}
	return context.Cause(ctx)
}

func (b *bencher) fanOut(ctx context.Context, kind string, f fanOut) (figures, error) {
	rooms := make([]string, f.rooms)
	for i := range rooms {
		rooms[i] = fmt.Sprintf("room%d", i)
	}
	ctx, t, stop, err := b.launch(ctx, kind, rooms...)
	if err != nil {
		return nil, err
	}
	defer stop()
	messages := f.messages
	if messages == 0 {
		messages = b.messages
	}
	perRoom := messages / f.rooms
	want := float64(perRoom * f.rooms * f.members)
	var waiting atomic.Int64 // members that have not got all messages of their room
	waiting.Store(int64(f.rooms * f.members))
	done := make(chan struct{})
	senders := make([]member, f.rooms)
	windows := make([]chan struct{}, f.rooms)
	for i, room := range rooms {
		windows[i] = make(chan struct{}, f.inFlight)
		for j := range f.members {
			join, left := t.join, perRoom
			if j == 0 {
				join = t.joinToSend
			}
			m, err := join(ctx, room, func(n int) {
				if left -= n; left < 0 {
					t.fail(fmt.Errorf("a member of %s got more than %d messages", room, perRoom))
					return
				}
				if j == 0 {
					for range n {
						<-windows[i]
					}
				}
				if left == 0 && waiting.Add(-1) == 0 {
					close(done)
				}
			})
			if err != nil {
				return nil, err
			}
			defer m.close()
			if j == 0 {
				senders[i] = m
			}
		}
	}
	time.Sleep(settle(f.members))
	body := strings.Repeat("x", 64)
	before, load, begin := t.proc.cpu(), cpuOf(os.Getpid()), time.Now()
	var sending sync.WaitGroup
	defer sending.Wait()
	for i := range senders {
		sending.Go(func() {
			for id := range perRoom {
				select {
				case windows[i] <- struct{}{}:
				case <-ctx.Done():
					return
				}
				if err := senders[i].send(body, id); err != nil {
					t.fail(err)
					return
				}
			}
		})
	}
	if err := await(ctx, done); err != nil {
		return nil, fmt.Errorf("%w (%d of %d members have not got all messages)", err, waiting.Load(), f.rooms*f.members)
	}
	took := time.Since(begin)
	cpu := t.proc.cpu() - before
	load = cpuOf(os.Getpid()) - load
	return figures{
		"rate": want / took.Seconds(),
		"cpu":  float64(cpu.Microseconds()) / want,
		"load": float64(load.Microseconds()) / want, // what the members cost
	}, nil
}

// settle is how long members need to have read who else came.
func settle(members int) time.Duration {
	return 300*time.Millisecond + time.Duration(members)*time.Millisecond/2
}

// roundTrips returns how many microseconds n messages took, one after the other, from send to the other member's
// receipt, in a room that has no messages yet.
func roundTrips(ctx context.Context, t *target, room string, n int, pause time.Duration) ([]float64, error) {
	arrived := make(chan struct{}, 1024)
	other, err := t.join(ctx, room, func(n int) {
		for range n {
			arrived <- struct{}{}
		}
	})
	if err != nil {
		return nil, err
	}
	defer other.close()
	sender, err := t.joinToSend(ctx, room, func(int) {})
	if err != nil {
		return nil, err
	}
	defer sender.close()
	time.Sleep(100 * time.Millisecond)
	times := make([]float64, 0, n)
	for i := range n {
		begin := time.Now()
		if err := sender.send(strings.Repeat("x", 64), i); err != nil {
			return nil, err
		}
		select {
		case <-arrived:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		times = append(times, float64(time.Since(begin).Microseconds()))
		time.Sleep(pause)
	}
	return times, nil
}

func pingPong(ctx context.Context, b *bencher) ([]row, error) {
	s, err := b.alternate(ctx, []string{"grpcchatter normal", "grpcchatter", "bare", "nats"}, func(kind string) (figures, error) {
		sync, err := syncTime(b.dir)
		if err != nil {
			return nil, err
		}
		ctx, t, stop, err := b.launch(ctx, kind, "room")
		if err != nil {
			return nil, err
		}
		defer stop()
		times, err := roundTrips(ctx, t, "room", 3000, 0)
		return figures{"p50": quantile(times, 0.5), "p99": quantile(times, 0.99), "sync": sync}, err
	})
	if err != nil {
		return nil, err
	}
	normal := map[string]samples{"grpcchatter": s["grpcchatter normal"], "bare": s["bare"], "nats": s["nats"]}
	return []row{
		compare("room of two, `normal`", "p50 µs", normal, "p50", "bare", atMost, 1.6),
		compare("", "p50 µs", normal, "p50", "nats", none, 0),
		synced(s["grpcchatter"], s["bare"]),
	}, nil
}

// synced makes the row whose target is a sum: the disk's sync and 1.6 times the bare peer.
func synced(ours, bare samples) row {
	r := row{work: "room of two, `FULL`", figure: "p50 µs", ours: ours.spread("p50"), peer: "sync " + ours.spread("sync") + ", bare " + bare.spread("p50")}
	if len(ours) == 0 || len(bare) == 0 {
		return r
	}
	full, allowed := ours.median("p50"), ours.median("sync")+1.6*bare.median("p50")
	r.ratio = fmt.Sprintf("%.2f of the target", full/allowed)
	return r.bounded(atMost, full, allowed, "sync + 1.6 × bare = "+number(allowed))
}

func idle(ctx context.Context, b *bencher) ([]row, error) {
	s, err := b.alternate(ctx, []string{"grpcchatter", "bare", "nats"}, func(kind string) (figures, error) {
		ctx, t, stop, err := b.launch(ctx, kind, "room")
		if err != nil {
			return nil, err
		}
		defer stop()
		if kind == "grpcchatter" { // the log-in has left memory that would be used again
			if err := b.restart(t); err != nil {
				return nil, err
			}
		}
		time.Sleep(time.Second)
		before, err := t.proc.resident()
		if err != nil {
			return nil, err
		}
		for range b.idle {
			m, err := t.join(ctx, "room", func(int) {})
			if err != nil {
				return nil, err
			}
			defer m.close()
		}
		time.Sleep(3 * time.Second)
		after, err := t.proc.resident()
		if err == nil {
			err = context.Cause(ctx) // a member may be gone
		}
		return figures{"KiB": (after - before) / float64(b.idle)}, err
	})
	if err != nil {
		return nil, err
	}
	r := compare("idle member", "resident KiB", s, "KiB", "bare", none, 0)
	if len(s["grpcchatter"]) > 0 {
		r = r.bounded(atMost, s["grpcchatter"].median("KiB"), 20, "20")
	}
	return []row{
		r,
		compare("", "resident KiB", s, "KiB", "nats", none, 0),
	}, nil
}

func catchUp(ctx context.Context, b *bencher) ([]row, error) {
	const behind = 10_000
	s, err := b.alternate(ctx, []string{"grpcchatter"}, func(kind string) (figures, error) {
		ctx, t, stop, err := b.launch(ctx, kind, "room", "quiet", "other")
		if err != nil {
			return nil, err
		}
		defer stop()
		stored, left := make(chan struct{}), behind
		m, err := t.joinToSend(ctx, "room", func(n int) {
			if left -= n; left == 0 {
				close(stored)
			}
		})
		if err != nil {
			return nil, err
		}
		defer m.close()
		for i := range behind {
			if err := m.send(strings.Repeat("x", 64), i); err != nil {
				return nil, err
			}
		}
		if err := await(ctx, stored); err != nil {
			return nil, err
		}
		const trips = 1000
		quiet, err := roundTrips(ctx, t, "quiet", trips, time.Millisecond)
		if err != nil {
			return nil, err
		}
		var during []float64
		chat := make(chan struct{})
		go func() {
			defer close(chat)
			var err error
			if during, err = roundTrips(ctx, t, "other", trips, time.Millisecond); err != nil {
				t.fail(err)
			}
		}()
		var times []float64
		for chatting := true; chatting; { // as long as the other room's messages are measured
			took, err := catchUpOnce(ctx, t, "room", behind)
			if err != nil {
				t.fail(err)
				break
			}
			times = append(times, took)
			select {
			case <-chat:
				chatting = false
			default:
			}
		}
		<-chat
		return figures{
			"ms": median(times), "times": float64(len(times)),
			"quiet p50": quantile(quiet, 0.5), "quiet p99": quantile(quiet, 0.99),
			"p50": quantile(during, 0.5), "p99": quantile(during, 0.99),
		}, context.Cause(ctx)
	})
	if err != nil {
		return nil, err
	}
	return []row{
		single("10,000 messages behind", "ms to catch up", s["grpcchatter"], "ms", atMost, 100),
		against("", "p50 µs of another room meanwhile", s["grpcchatter"], "p50", "of a quiet server", "quiet p50", none, 0),
		against("", "p99 µs of another room meanwhile", s["grpcchatter"], "p99", "of a quiet server", "quiet p99", none, 0),
	}, nil
}

// catchUpOnce returns how many milliseconds a new member takes to get so many messages, which are all of the room.
func catchUpOnce(ctx context.Context, t *target, room string, behind int) (float64, error) {
	done := make(chan struct{})
	begin := time.Now()
	m, err := t.join(ctx, room, func(n int) {
		if behind -= n; behind == 0 {
			close(done)
		}
	})
	if err != nil {
		return 0, err
	}
	defer m.close()
	err = await(ctx, done)
	return float64(time.Since(begin).Microseconds()) / 1000, err
}

func storedPath(dir string) string { return filepath.Join(dir, "bench.db") }
