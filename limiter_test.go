package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A bucket gives its burst, then one try in each interval, and says how long it is until then. What is given back can be
// taken again; a limit that refuses leaves the others as they were.
func TestLimiter(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter("x", 3, 10*time.Second)
		want := func(key string, want time.Duration) {
			t.Helper()
			if got := l.take(key); got != want {
				t.Errorf("%s: %s to wait, want %s", key, got, want)
			}
		}
		for range 3 {
			want("eve", 0)
		}
		want("eve", 10*time.Second)
		want("adam", 0)
		time.Sleep(4 * time.Second)
		want("eve", 6*time.Second)
		time.Sleep(6 * time.Second)
		want("eve", 0)
		want("eve", 10*time.Second)
		l.giveBack("eve")
		want("eve", 0)
		l.giveBack("nobody")
		time.Sleep(time.Hour) // it does not get more than the burst
		for range 3 {
			want("eve", 0)
		}
		want("eve", 10*time.Second)

		other := newLimiter("other", 1, time.Second)
		err := take(try{other, "eve"}, try{l, "eve"})
		var e *apiError
		if !errors.As(err, &e) || !errors.Is(err, errRateLimited) || e.Retry != 10*time.Second || e.Message != "Too many tries or messages: try again in 10 s." {
			t.Errorf("the error is %v", err)
		}
		if wait := other.take("eve"); wait != 0 {
			t.Errorf("a try that another limit refused is used up: %s to wait", wait)
		}
		if err := take(try{nil, "eve"}); err != nil {
			t.Errorf("no limit: %v", err)
		}
		giveBack(try{nil, "eve"})
	})
}

// Who makes up ever new keys fills no memory, and does not make the limiter forget who is out of tries.
func TestLimiterIsBounded(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	l := newLimiter("x", 10, time.Hour)
	l.max = 1000
	for range 10 {
		l.take("victim")
	}
	for i := range 50_000 {
		l.take(fmt.Sprint("made up ", i))
	}
	if len(l.full) > l.max {
		t.Errorf("%d buckets, want %d at most", len(l.full), l.max)
	}
	if l.take("victim") == 0 {
		t.Error("the bucket that was used up is forgotten")
	}
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter("x", 10, time.Second)
		for i := range 10_000 {
			l.take(fmt.Sprint(i))
			time.Sleep(time.Second) // then it is full
		}
		if n := len(l.full); n > 10 {
			t.Errorf("%d buckets are kept, of which at most one is not full", n)
		}
	})
}

// BenchmarkLimiterFlood takes a try of ever new keys: a million of them with -benchtime=1000000x.
func BenchmarkLimiterFlood(b *testing.B) {
	l := newLimiter("x", 10, time.Hour)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range b.N {
		l.take(fmt.Sprint("2001:db8:", i, "::/64"))
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(after.HeapAlloc)-float64(before.HeapAlloc), "heap-B")
	b.ReportMetric(float64(len(l.full)), "buckets")
}

// An account is known at the addresses that it was used from last, and no number of accounts fills the memory.
func TestKnown(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	k := newKnown()
	for i := range knownAddresses {
		k.add("ann", fmt.Sprint(i))
	}
	k.add("ann", "0") // used again
	k.add("ann", "new")
	for address, want := range map[string]bool{"0": true, "1": false, "2": true, "7": true, "new": true, "8": false} {
		if k.has("ann", address) != want {
			t.Errorf("ann at %s: known is %t", address, !want)
		}
	}
	if k.has("ben", "0") {
		t.Error("ben is known where ann is")
	}
	k.forget("ann")
	if k.has("ann", "1") || k.has("ann", "8") {
		t.Error("an account that is forgotten is known")
	}
	for i := range knownAccounts + 1000 {
		k.add(fmt.Sprint("user ", i), "0")
	}
	if n := len(k.addresses); n > knownAccounts {
		t.Errorf("%d accounts, want %d at most", n, knownAccounts)
	}
}

// The /64 of an IPv6 address counts, an IPv4 address in its IPv6 form is itself, and a zone is nothing.
func TestSubscriber(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	for ip, want := range map[string]string{
		"192.0.2.1":                  "192.0.2.1/32",
		"::ffff:192.0.2.1":           "192.0.2.1/32",
		"::ffff:c000:201":            "192.0.2.1/32",
		"2001:db8:1:2:3:4:5:6":       "2001:db8:1:2::/64",
		"2001:DB8:1:2:ffff::":        "2001:db8:1:2::/64",
		"2001:db8:1:3::1":            "2001:db8:1:3::/64",
		"fe80::1%eth0":               "fe80::/64",
		"::1":                        "::/64",
		"64:ff9b::192.0.2.1":         "64:ff9b::/64",
		"::ffff:192.0.2.1%something": "192.0.2.1/32",
	} {
		if got := subscriber(plainAddr(netip.MustParseAddr(ip))).String(); got != want {
			t.Errorf("%s: %s, want %s", ip, got, want)
		}
	}
}

// asking waits for a hash in a lane by a key, and tells who got one, in order.
type asking struct {
	p *passwords

	mu     sync.Mutex // guards the fields below, but not from who has waited for all others
	served []string
	ends   map[string][]error
}

// ask asks by a key: an address, or an address and a user behind a slash.
func (a *asking) ask(lane int, key string) {
	address, user, _ := strings.Cut(key, "/")
	go func() {
		err := a.p.run(context.Background(), hashing{lane, address, user}, func() {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.served = append(a.served, key)
		})
		a.mu.Lock()
		defer a.mu.Unlock()
		a.ends[key] = append(a.ends[key], err)
	}()
	synctest.Wait()
}

// Who waits for a hash gets it in turns: the two lanes, and in a lane those who ask, however often each of them does. A full
// lane has a place for who has fewer there.
func TestHashingIsFair(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	busy := func(t *testing.T, then func(a *asking)) *asking {
		a := &asking{p: newPasswords(), ends: map[string][]error{}}
		a.p.workers, a.p.busy = 1, 1 // a hash runs
		then(a)
		a.p.next() // it ends, and all others run one after the other
		synctest.Wait()
		if a.p.busy != 0 || a.p.lanes[0].n+a.p.lanes[1].n+len(a.p.lanes[0].waiters)+len(a.p.lanes[1].waiters) != 0 {
			t.Errorf("at the end there is %+v", a.p)
		}
		return a
	}
	synctest.Test(t, func(t *testing.T) {
		a := busy(t, func(a *asking) {
			for range 3 {
				a.ask(laneStrangers, "eve")
			}
			a.ask(laneStrangers, "adam")
			for range 2 {
				a.ask(laneKnown, "ann")
			}
			a.ask(laneKnown, "ben")
		})
		if want := []string{"ann", "eve", "ben", "adam", "ann", "eve", "eve"}; !slices.Equal(a.served, want) {
			t.Errorf("served %v, want %v", a.served, want)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		a := busy(t, func(a *asking) {
			for range hashQueue + 3 {
				a.ask(laneStrangers, "eve")
			}
			if got := a.ends["eve"]; len(got) != 3 || !errors.Is(got[0], errOverloaded) {
				t.Errorf("of %d asked at once %v are refused, want 3", hashQueue+3, got)
			}
			a.ask(laneStrangers, "adam")
			a.ask(laneKnown, "ann")
		})
		if got := a.ends["eve"]; len(got) != hashQueue+3 || !errors.Is(got[3], errOverloaded) || got[4] != nil {
			t.Errorf("eve, who had all places, gets %v", got)
		}
		if i := slices.Index(a.served, "adam"); i < 0 || i > 3 || a.served[0] != "ann" {
			t.Errorf("served %v, want ann first and adam soon", a.served)
		}
	})
	synctest.Test(t, func(t *testing.T) { // as many accounts as there are places, at one address
		a := busy(t, func(a *asking) {
			for i := range hashQueue {
				a.ask(laneKnown, fmt.Sprint("eve/", i))
			}
			a.ask(laneKnown, "ann/1")
			a.ask(laneKnown, "eve/0")
			a.ask(laneKnown, "eve/0")
		})
		if got := a.ends["ann/1"]; len(got) != 1 || got[0] != nil || slices.Index(a.served, "ann/1") > 1 {
			t.Errorf("ann gets %v, and has the turn %d", got, slices.Index(a.served, "ann/1"))
		}
		if got := a.ends["eve/0"]; len(got) != 3 || !errors.Is(got[0], errOverloaded) {
			t.Errorf("one that has a turn already, where all have one, gets %v", got)
		}
	})
	synctest.Test(t, func(t *testing.T) { // one account has all places, and another one of its address comes
		a := busy(t, func(a *asking) {
			for range hashQueue {
				a.ask(laneKnown, "eve/0")
			}
			a.ask(laneKnown, "eve/1")
		})
		if got := a.ends["eve/1"]; len(got) != 1 || got[0] != nil || slices.Index(a.served, "eve/1") > 1 {
			t.Errorf("who shares the address gets %v, and has the turn %d", got, slices.Index(a.served, "eve/1"))
		}
	})
	synctest.Test(t, func(t *testing.T) { // as many who ask as there are places
		a := busy(t, func(a *asking) {
			for i := range hashQueue {
				a.ask(laneStrangers, fmt.Sprint(i))
			}
			a.ask(laneStrangers, "late")
		})
		if got := a.ends["late"]; len(got) != 1 || !errors.Is(got[0], errOverloaded) || len(a.served) != hashQueue {
			t.Errorf("who comes when each place is another's gets %v; served are %d", got, len(a.served))
		}
	})
}

// Who waits for a hash is told to come again while the answer can still be sent: nobody hangs until the
// connection is cut (error table: OVERLOADED). Who is gone leaves its place.
func TestHashQueueEnds(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPasswords()
		p.busy = p.workers // with hashes that take long, as they do when the machine is busy with other things
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if _, err := p.hash(ctx, hashing{laneKnown, "a", ""}, testPassword); !errors.Is(err, errOverloaded) {
			t.Errorf("a hash that does not get its turn: %v, want OVERLOADED", err)
		}
		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if _, err := p.hash(ctx, hashing{laneKnown, "a", ""}, testPassword); !errors.Is(err, context.Canceled) {
			t.Errorf("a hash whose caller is gone: %v", err)
		}
		if n := p.lanes[laneKnown].n; n != 0 || len(p.lanes[laneKnown].waiters) != 0 {
			t.Errorf("%d wait still", n)
		}
	})
}
