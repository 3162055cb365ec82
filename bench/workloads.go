package main

import (
	"context"
	"errors"
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
		s, err := b.fanOuts(ctx, []string{"grpcchatter", "nats", "jetstream", "bare"}, fanOut{rooms: 1, members: 51, inFlight: 128})
		if err != nil {
			return nil, err
		}
		return []row{
			compare("fan-out, 128 in flight", "deliveries/s", s, "rate", "nats", atLeast, 1.0),
			compare("", "server CPU µs a delivery", s, "cpu", "nats", atMost, 0.9),
			compare("", "server CPU µs a delivery", s, "cpu", "jetstream", none, 0),
			compare("", "server CPU µs a delivery", s, "cpu", "bare", none, 0),
		}, nil
	}},
	{"fanout512", "the same, 512 in flight", func(ctx context.Context, b *bencher) ([]row, error) {
		s, err := b.fanOuts(ctx, []string{"grpcchatter", "nats", "bare"}, fanOut{rooms: 1, members: 51, inFlight: 512})
		if err != nil {
			return nil, err
		}
		return []row{
			compare("fan-out, 512 in flight", "deliveries/s", s, "rate", "nats", none, 0),
			compare("", "server CPU µs a delivery", s, "cpu", "nats", atMost, 0.8),
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
	{"rooms", "10 rooms of 10 people, all busy", func(ctx context.Context, b *bencher) ([]row, error) {
		s, err := b.fanOuts(ctx, []string{"grpcchatter", "bare", "nats"}, fanOut{rooms: 10, members: 10, inFlight: 16})
		if err != nil {
			return nil, err
		}
		return []row{
			compare("10 rooms × 10 people", "server CPU µs a delivery", s, "cpu", "bare", atMost, 0.7),
			compare("", "server CPU µs a delivery", s, "cpu", "nats", none, 0),
		}, nil
	}},
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
	{"pingpong", "a room of two, one message at a time", pingPong},
	{"idle", "members that only listen, a connection each", idle},
	{"joins", "joins by a member", joins},
	{"catchup", "a member that is 10,000 messages behind", catchUp},
	{"logins", "500 log-ins at once, beside a chat", logins},
	{"client", "what a receiver by the Go client costs", receiverCost},
	{"stored", "a large database: start, history, memory", stored},
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

// launch starts a server of a kind, with a folder of its own.
func (b *bencher) launch(ctx context.Context, kind string, rooms ...string) (*target, func(), error) {
	dir, err := os.MkdirTemp(b.dir, "run")
	if err != nil {
		return nil, nil, err
	}
	var proc *process
	switch kind {
	case "grpcchatter":
		proc, err = b.startChatter(dir)
	case "grpcchatter postgres":
		var pg *postgres
		if pg, err = startPostgres(); err != nil {
			return nil, nil, err
		}
		if proc, err = b.startChatter(dir, "--database-url="+pg.url); err != nil {
			pg.stop()
			return nil, nil, err
		}
		proc.postgres = pg
	case "grpcchatter normal":
		proc, err = b.startChatter(dir, "--sqlite-synchronous=normal")
	default:
		var self string
		if self, err = os.Executable(); err == nil {
			proc, err = start(self, "peer", kind, dir)
		}
	}
	if err != nil {
		return nil, nil, err
	}
	stop := func() {
		proc.stop()
		os.RemoveAll(dir)
	}
	t, err := newTarget(ctx, kind, proc, rooms...)
	if err != nil {
		stop()
		return nil, nil, err
	}
	return t, stop, nil
}

// limit is how long one run may take.
const limit = 3 * time.Minute

func (b *bencher) fanOut(ctx context.Context, kind string, f fanOut) (figures, error) {
	rooms := make([]string, f.rooms)
	for i := range rooms {
		rooms[i] = fmt.Sprintf("room%d", i)
	}
	t, stop, err := b.launch(ctx, kind, rooms...)
	if err != nil {
		return nil, err
	}
	defer stop()
	messages := f.messages
	if messages == 0 {
		messages = b.messages
	}
	perRoom := messages / f.rooms
	want := int64(perRoom * f.rooms * f.members)
	var delivered atomic.Int64
	done := make(chan struct{})
	count := func(n int) {
		if delivered.Add(int64(n)) == want {
			close(done)
		}
	}
	senders := make([]member, f.rooms)
	windows := make([]chan struct{}, f.rooms)
	for i, room := range rooms {
		windows[i] = make(chan struct{}, f.inFlight)
		for j := range f.members {
			m, err := t.join(ctx, room, func(n int) {
				if j == 0 {
					for range n {
						<-windows[i]
					}
				}
				count(n)
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
	before, begin := t.proc.cpu(), time.Now()
	var sending sync.WaitGroup
	for i := range senders {
		sending.Go(func() {
			for id := range perRoom {
				windows[i] <- struct{}{}
				if senders[i].send(body, id) != nil {
					return
				}
			}
		})
	}
	select {
	case <-done:
	case <-ctx.Done():
		return nil, errors.New("interrupted")
	case <-time.After(limit):
		return nil, fmt.Errorf("%d of %d deliveries after %s", delivered.Load(), want, limit)
	}
	took := time.Since(begin)
	cpu := t.proc.cpu() - before
	sending.Wait()
	return figures{
		"rate": float64(want) / took.Seconds(),
		"cpu":  float64(cpu.Microseconds()) / float64(want),
	}, nil
}

// settle is how long members need to have read who else came.
func settle(members int) time.Duration {
	return 300*time.Millisecond + time.Duration(members)*time.Millisecond/2
}

// roundTrips returns how long n messages took, one after the other, from send to the other member's receipt.
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
	sender, err := t.join(ctx, room, func(int) {})
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
		case <-time.After(20 * time.Second):
			return nil, errors.New("a message did not arrive within 20 s")
		case <-ctx.Done():
			return nil, errors.New("interrupted")
		}
		times = append(times, float64(time.Since(begin).Microseconds()))
		time.Sleep(pause)
	}
	return times, nil
}

func pingPong(ctx context.Context, b *bencher) ([]row, error) {
	disk, err := syncTime(b.dir)
	if err != nil {
		return nil, err
	}
	s, err := b.alternate(ctx, []string{"grpcchatter normal", "grpcchatter", "bare", "nats"}, func(kind string) (figures, error) {
		t, stop, err := b.launch(ctx, kind, "room")
		if err != nil {
			return nil, err
		}
		defer stop()
		times, err := roundTrips(ctx, t, "room", 3000, 0)
		return figures{"p50": quantile(times, 0.5), "p99": quantile(times, 0.99)}, err
	})
	if err != nil {
		return nil, err
	}
	normal := compare("room of two, `normal`", "p50 µs", map[string]samples{"grpcchatter": s["grpcchatter normal"], "bare": s["bare"]}, "p50", "bare", atMost, 1.6)
	if len(s["grpcchatter"]) == 0 || len(s["bare"]) == 0 {
		return []row{normal}, nil
	}
	bare := s["bare"].median("p50")
	full := s["grpcchatter"].median("p50")
	allowed := float64(disk.Microseconds()) + 1.6*bare
	return []row{
		normal,
		row{work: "room of two, `FULL`", figure: "p50 µs", ours: s["grpcchatter"].spread("p50"), peer: fmt.Sprintf("disk sync %s + bare %s", number(float64(disk.Microseconds())), number(bare))}.
			bounded(atMost, full, allowed, "sync + 1.6 × bare = "+number(allowed)),
	}, nil
}

func idle(ctx context.Context, b *bencher) ([]row, error) {
	s, err := b.alternate(ctx, []string{"grpcchatter", "bare", "nats"}, func(kind string) (figures, error) {
		t, stop, err := b.launch(ctx, kind, "room")
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
		before := t.proc.resident()
		for range b.idle {
			m, err := t.join(ctx, "room", func(int) {})
			if err != nil {
				return nil, err
			}
			defer m.close()
		}
		time.Sleep(3 * time.Second)
		return figures{"KiB": (t.proc.resident() - before) / 1024 / float64(b.idle)}, nil
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
		t, stop, err := b.launch(ctx, kind, "room", "other")
		if err != nil {
			return nil, err
		}
		defer stop()
		got := make(chan int, behind)
		m, err := t.join(ctx, "room", func(n int) { got <- n })
		if err != nil {
			return nil, err
		}
		defer m.close()
		go func() {
			for i := range behind {
				if m.send(strings.Repeat("x", 64), i) != nil {
					return
				}
			}
		}()
		for n := 0; n < behind; {
			select {
			case more := <-got:
				n += more
			case <-ctx.Done():
				return nil, errors.New("interrupted")
			}
		}
		quiet, err := roundTrips(ctx, t, "other", 500, time.Millisecond)
		if err != nil {
			return nil, err
		}
		var times []float64
		var during []float64
		var failed error
		busy := make(chan struct{})
		go func() {
			defer close(busy)
			during, failed = roundTrips(ctx, t, "other", 500, time.Millisecond)
		}()
		for range 20 {
			conn, err := dial(t.proc.addr)
			if err != nil {
				return nil, err
			}
			left := behind
			done := make(chan struct{})
			begin := time.Now()
			late, err := t.joinOn(ctx, conn, "room", 0, func(n int) {
				if left -= n; left == 0 {
					close(done)
				}
			})
			if err != nil {
				return nil, err
			}
			select {
			case <-done:
			case <-ctx.Done():
				return nil, errors.New("interrupted")
			}
			times = append(times, float64(time.Since(begin).Milliseconds()))
			late.close()
		}
		<-busy
		if failed != nil {
			return nil, failed
		}
		return figures{"ms": median(times), "quiet p99": quantile(quiet, 0.99), "during p99": quantile(during, 0.99)}, nil
	})
	if err != nil {
		return nil, err
	}
	return []row{
		single("10,000 messages behind", "ms to catch up", s["grpcchatter"], "ms", atMost, 100),
		{figure: "p99 µs of another room meanwhile", ours: s["grpcchatter"].spread("during p99"), peer: "before " + s["grpcchatter"].spread("quiet p99")},
	}, nil
}

func storedPath(dir string) string { return filepath.Join(dir, "bench.db") }
