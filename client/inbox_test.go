package client

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// shown returns events as the stream brings them.
func shown(seqs ...uint64) []event {
	var events []event
	for _, seq := range seqs {
		events = append(events, event{Message: Message{Seq: seq}})
	}
	return events
}

func soon() time.Time { return time.Now().Add(patience) }

func stored(seqs ...uint64) []Message {
	var messages []Message
	for _, seq := range seqs {
		messages = append(messages, Message{Seq: seq})
	}
	return messages
}

func (b *inbox) mustReceive(t *testing.T, from, to uint64) {
	t.Helper()
	for seq := from; seq <= to; seq++ {
		if m, err := b.receive(t.Context()); m.Seq != seq || err != nil {
			t.Fatalf("received %d, %v; want %d", m.Seq, err, seq)
		}
	}
}

// The stream is held up for a program that is about to receive, and loses nothing by it.
func TestInboxHoldsTheStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newInbox(0)
		began := time.Now()
		go b.offer(shown(sequence(1, inboxSize+100)...), soon)
		synctest.Wait()
		time.Sleep(patience / 2)
		b.mustReceive(t, 1, inboxSize+100)
		synctest.Wait()
		if b.last != b.stream || time.Since(began) >= patience {
			t.Errorf("it has %d of %d after %v", b.last, b.stream, time.Since(began))
		}
	})
}

// It is not held up longer than that: what came is dropped, and then put in from the history.
func TestInboxDrops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newInbox(0)
		began := time.Now()
		const all = 5 * inboxSize
		b.offer(shown(sequence(1, all)...), soon)
		if time.Since(began) != patience || b.len() != inboxSize || b.stream != all {
			t.Errorf("after %v there are %d messages, and the stream is at %d", time.Since(began), b.len(), b.stream)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				after, until, err := b.missing(ctx, pageSize)
				if err != nil {
					return
				}
				if after != b.last || until-after > pageSize {
					t.Errorf("asked for %d to %d, and has %d", after+1, until, b.last)
				}
				b.fill(stored(sequence(after+1, until)...), until, nil)
			}
		}()
		synctest.Wait()
		if b.last != inboxSize {
			t.Errorf("it read on to %d with no room for it", b.last)
		}
		b.mustReceive(t, 1, all)
		b.offer(shown(all+1), soon)
		b.mustReceive(t, all+1, all+1)
		cancel()
		<-done
	})
}

// While the last missing page is on its way the stream waits for it: else it would run on, and never be met.
func TestInboxMeetsTheStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newInbox(0)
		b.offer(shown(10), soon)
		after, until, _ := b.missing(t.Context(), pageSize)
		go b.offer(shown(11), soon)
		synctest.Wait()
		b.fill(stored(sequence(after+1, until)...), until, nil)
		synctest.Wait()
		if b.last != 11 {
			t.Errorf("it has %d", b.last)
		}

		// But not for ever,
		b.offer(shown(20), soon)
		b.missing(t.Context(), pageSize)
		began := time.Now()
		b.offer(shown(21, 22, 23), soon)
		if time.Since(began) != patience || b.stream != 23 {
			t.Errorf("it waited %v, and the stream is at %d", time.Since(began), b.stream)
		}

		// and not when the page cannot be read.
		b.missing(t.Context(), pageSize)
		go func() {
			time.Sleep(patience / 2)
			b.fill(nil, 0, errors.New("unreadable"))
		}()
		began = time.Now()
		b.offer(shown(24), soon)
		if time.Since(began) != patience/2 || b.stream != 24 || b.last != 11 {
			t.Errorf("it waited %v, has %d, and the stream is at %d", time.Since(began), b.last, b.stream)
		}
	})
}

// Disconnect does not wait for a stream that is held up.
func TestInboxEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newInbox(0)
		began := time.Now()
		go func() {
			time.Sleep(patience / 4)
			b.end(ErrClosed)
		}()
		b.offer(shown(sequence(1, 2*inboxSize)...), soon)
		if time.Since(began) != patience/4 {
			t.Errorf("it waited %v", time.Since(began))
		}
		if m, err := b.receive(t.Context()); err != ErrClosed {
			t.Errorf("receive = %v, %v", m, err)
		}
	})
}

// Disconnect waits for what does not end, but returns within a second.
func TestAwait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		await(make(chan struct{}))
		if took := time.Since(began); took >= time.Second {
			t.Errorf("it waited %v", took)
		}
	})
}

func TestRetries(t *testing.T) {
	var r retries
	longest := time.Duration(0)
	for i := range 2000 {
		bound := min(maxPause, minPause<<min(i, 10))
		pause := r.pause(errors.New("x"))
		if pause < 0 || pause >= bound {
			t.Fatalf("pause %d is %v", i, pause)
		}
		longest = max(longest, pause)
	}
	if longest < maxPause*9/10 {
		t.Errorf("the longest pause is %v", longest)
	}
	r.reset()
	if pause := r.pause(&Error{RetryAfter: time.Minute}); pause < time.Minute || pause > time.Minute+minPause {
		t.Errorf("when asked for a minute it waits %v", pause)
	}
}

func TestPace(t *testing.T) {
	var p pace
	now := time.Now()
	want := func(first, second time.Duration, what string) {
		t.Helper()
		if a, b := p.pause(now), p.pause(now); a != first || b != second {
			t.Errorf("pauses of %s and %s: it %s", a, b, what)
		}
	}
	want(0, 0, "holds up without a reason")
	p.slowDown(now, 5*time.Millisecond)
	want(0, 5*time.Millisecond, "does not keep what the server asked for")
	now = now.Add(5 * time.Millisecond)
	p.slowDown(now, time.Millisecond)
	want(0, 10*time.Millisecond, "does not double")
	now = now.Add(calm + 1)
	want(0, 0, "never gets over it")
}

// A slow function of the program costs events, but not the newest state.
func TestNotices(t *testing.T) {
	release := make(chan struct{})
	var events int
	var last ConnState
	n := &notices{
		onState: func(s ConnState, _ error) { last = s },
		onEvent: func(Event) { <-release; events++ },
	}
	done := make(chan struct{})
	go func() { n.run(); close(done) }()
	for range 10 * maxNotices {
		n.event(Event{Kind: Typing})
	}
	n.state(Reconnecting, nil)
	n.state(Closed, nil)
	n.end()
	close(release)
	<-done
	if events > 2*maxNotices || events < maxNotices-2 || last != Closed {
		t.Errorf("%d events came; the last state was %v", events, last)
	}
}
