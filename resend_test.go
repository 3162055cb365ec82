package main

import (
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/grpcchatter/grpcchatter/pb"
)

// TestResend is about promise 3: every acknowledgement is dropped once, by cutting the stream before it is
// read, now and then before the message has even arrived. The room is empty in between, so it is unloaded
// and loaded again all the time.
func TestResend(t *testing.T) {
	t.Parallel()
	const rounds, batch = 40, 10
	p := startWatched(t)
	token := p.login("anna")
	api := pb.NewGRPCChatterClient(p.connect())
	code := createRoom(t, api, token)
	roomToken := joinRoom(t, api, token, code)
	db := p.openReadOnly()

	seqs := map[string]uint64{}
	for round := range rounds {
		send := func(d *device, body string) {
			for i := range batch {
				d.say(t, fmt.Sprintf("r%d-%d", round, i), body)
			}
		}
		lost := openDevice(t, api, roomToken, int64(len(seqs)))
		send(lost, "first "+bodyWord)
		if round%2 == 0 {
			eventually(t, patience, "the batch is stored", func() bool { return len(storedIn(t, db)[code]) == (round+1)*batch })
		}
		lost.cancel()
		again := openDevice(t, api, roomToken, int64(len(seqs)))
		send(again, "second "+bodyWord)
		// What is stored comes in order; who has it already gets it once more, as the answer to the resend.
		eventually(t, patience, "every resend is answered", func() bool {
			for _, e := range again.messages() {
				if old, ok := seqs[e.ClientMessageId]; ok && old != e.Seq {
					t.Fatalf("%s was acknowledged with the seqs %d and %d", e.ClientMessageId, old, e.Seq)
				} else if !ok && e.Seq != uint64(len(seqs)+1) {
					t.Fatalf("%s came with seq %d where %d was to come", e.ClientMessageId, e.Seq, len(seqs)+1)
				}
				seqs[e.ClientMessageId] = e.Seq
			}
			return len(seqs) >= (round+1)*batch
		})
		again.leave()
		lost.leave()
	}

	rows := storedIn(t, db)[code]
	if len(rows) != rounds*batch || len(seqs) != rounds*batch {
		t.Fatalf("%d rows and %d acknowledged for %d messages", len(rows), len(seqs), rounds*batch)
	}
	history := openDevice(t, api, roomToken, 0).await(t, len(rows))
	for i, row := range rows {
		if seqs[row.ID] != row.Seq {
			t.Errorf("%s was acknowledged with seq %d and is stored as %d", row.ID, seqs[row.ID], row.Seq)
		}
		if h := history[i]; h.Seq != row.Seq || h.ClientMessageId != row.ID || h.Body != row.Body {
			t.Errorf("the history has %v where %v is stored", h, row)
		}
	}
}

// TestResendInOrder is about promise 3: a resend is answered with the seq and the body that the message
// has, but never ahead of an earlier message that the stream has still to get.
func TestResendInOrder(t *testing.T) {
	t.Parallel()
	const n = 3000
	p := startWatched(t)
	token := p.login("anna")
	api := pb.NewGRPCChatterClient(p.connect())
	code := createRoom(t, api, token)
	roomToken := joinRoom(t, api, token, code)
	first := openDevice(t, api, roomToken, 0)
	for i := range n {
		first.say(t, fmt.Sprint("id-", i+1), fmt.Sprint("body ", i+1))
	}
	first.await(t, n)

	for _, after := range []uint64{0, 1, 1000, n - 100, n - 1, n} {
		d := openDevice(t, api, roomToken, int64(after))
		resent := []uint64{1, 900, 1000, 1001, 2000, n - 50, n}
		for _, seq := range resent {
			d.say(t, fmt.Sprint("id-", seq), "another body")
		}
		marker := fmt.Sprint("after-", after)
		d.say(t, marker, "the end")
		last, times := after, map[uint64]int{}
		for _, e := range d.awaitID(t, marker) {
			times[e.Seq]++
			if e.Seq == last+1 {
				last++
			} else if e.Seq > last {
				t.Fatalf("after_seq %d: seq %d came ahead of %d", after, e.Seq, last+1)
			}
			if e.Seq <= n && e.Body != fmt.Sprint("body ", e.Seq) {
				t.Errorf("after_seq %d: seq %d came with the body %q", after, e.Seq, e.Body)
			}
		}
		for _, seq := range resent {
			if times[seq] == 0 {
				t.Errorf("after_seq %d: the resend of seq %d was not answered", after, seq)
			}
			if seq <= after && times[seq] != 1 {
				t.Errorf("after_seq %d: the resend of seq %d was answered %d times", after, seq, times[seq])
			}
		}
		d.leave()
	}
}

// TestSameIDAtOnce is about promise 3: the same id several times in one batch, on one stream and on two
// devices of one user at the same time, with different bodies, is one message.
func TestSameIDAtOnce(t *testing.T) {
	t.Parallel()
	const n, times = 200, 3
	p := startWatched(t)
	token := p.login("anna")
	api := pb.NewGRPCChatterClient(p.connect())
	code := createRoom(t, api, token)
	roomToken := joinRoom(t, api, token, code)
	devices := []*device{openDevice(t, api, roomToken, 0), openDevice(t, pb.NewGRPCChatterClient(p.connect()), roomToken, 0)}
	var sending sync.WaitGroup
	for k, d := range devices {
		sending.Go(func() {
			for i := range n {
				for again := range times {
					d.say(t, fmt.Sprint("id-", i), fmt.Sprintf("device %d, try %d", k, again))
				}
			}
		})
	}
	sending.Wait()
	for k, d := range devices {
		d.say(t, fmt.Sprint("end-", k), "the end")
	}
	for _, d := range devices {
		for k := range devices {
			d.awaitID(t, fmt.Sprint("end-", k))
		}
	}
	stored := storedIn(t, p.openReadOnly())[code]
	if len(stored) != n+len(devices) {
		t.Fatalf("%d messages are stored, %d were sent", len(stored), n+len(devices))
	}
	for _, d := range devices {
		for _, e := range d.messages() {
			if row := stored[e.Seq-1]; row.ID != e.ClientMessageId || row.Body != e.Body {
				t.Errorf("seq %d came as %q %q and is stored as %v", e.Seq, e.ClientMessageId, e.Body, row)
			}
		}
	}
}

// TestSameIDElsewhere is about promise 3: an id is unique per room and sender, and in every byte.
func TestSameIDElsewhere(t *testing.T) {
	t.Parallel()
	p := startWatched(t)
	names, tokens := p.loginAll(2)
	api := pb.NewGRPCChatterClient(p.connect())
	codes := []string{createRoom(t, api, tokens[names[0]]), createRoom(t, api, tokens[names[0]])}
	ids := []string{"id", "ID", "id ", " id", "id\x00", "id\x00x", "1", "1.0", "01", "é", "e\u0301", strings.Repeat("x", maxClientMessageID)}
	for _, code := range codes {
		var devices []*device
		for _, name := range names {
			devices = append(devices, openDevice(t, api, joinRoom(t, api, tokens[name], code), 0))
		}
		for range 2 {
			for k, d := range devices {
				for _, id := range ids {
					d.say(t, id, fmt.Sprintf("%s of %s in %s", id, names[k], code))
				}
			}
		}
		for k, d := range devices {
			d.say(t, "end of "+names[k], "the end")
		}
		for _, d := range devices {
			for _, name := range names {
				d.awaitID(t, "end of "+name)
			}
		}
	}
	stored := storedIn(t, p.openReadOnly())
	for _, code := range codes {
		if n, want := len(stored[code]), len(names)*(len(ids)+1); n != want {
			t.Errorf("%d rows for %d different messages", n, want)
		}
		for _, row := range stored[code] {
			if want := fmt.Sprintf("%s of %s in %s", row.ID, row.User, code); row.Body != "the end" && row.Body != want {
				t.Errorf("stored %q, want %q", row.Body, want)
			}
		}
	}
}

// TestResendUnread is about promises 3 and 5: who sends what it has sent before, again and again, and does not
// read the answers meanwhile, gets them all once it reads: in frames that a gRPC client takes.
func TestResendUnread(t *testing.T) {
	t.Parallel()
	const stored, resends = 200, 3000
	p := startWatched(t)
	token := p.login("anna")
	api := pb.NewGRPCChatterClient(p.connect(grpc.WithInitialWindowSize(64<<10), grpc.WithInitialConnWindowSize(64<<10)))
	roomToken := joinRoom(t, api, token, createRoom(t, api, token))
	body := strings.Repeat("x", 4096)
	first := openDevice(t, api, roomToken, 0)
	for i := range stored {
		first.say(t, fmt.Sprint(i), body)
	}
	first.await(t, stored)
	first.leave()

	stream := openChat(t, t.Context(), api, roomToken, math.MaxInt64)
	var sent atomic.Int32
	var sending sync.WaitGroup
	sending.Go(func() {
		for i := range resends {
			if err := stream.Send(&pb.ChatRequest{ClientMessageId: fmt.Sprint(i % stored), Body: "another body"}); err != nil {
				return // Recv tells why
			}
			sent.Add(1)
		}
	})
	// The server takes no more of them once so many answers wait.
	for last := int32(-1); sent.Load() != last; time.Sleep(500 * time.Millisecond) {
		last = sent.Load()
	}
	for got := 0; got < resends; {
		resp, err := stream.Recv()
		if err != nil {
			t.Fatalf("lost: %d of %d answers came, then %v", got, resends, err)
		}
		for _, e := range resp.Events {
			if id := fmt.Sprint(e.Seq - 1); e.ClientMessageId != id || e.Body != body {
				t.Fatalf("seq %d is the answer to %s with %d bytes", e.Seq, e.ClientMessageId, len(e.Body))
			}
			got++
		}
	}
	sending.Wait()
}
