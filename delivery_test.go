package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/grpcchatter/grpcchatter/pb"
)

// TestResume is about promise 4: 500 streams that are cut at random under load.
func TestResume(t *testing.T) {
	const users, rooms, devices, perSecond, rounds = 10, 10, 25, 300, 6
	p := startWatched(t)
	names, tokens := p.loginAll(users)
	conns := make([]pb.GRPCChatterClient, users)
	for i := range conns {
		conns[i] = pb.NewGRPCChatterClient(p.connect())
	}
	var members, senders []*member
	for i := range rooms {
		// On 25 devices each: the owner and the next user.
		owner, other := i, (i+1)%users
		code := createRoom(t, conns[0], tokens[names[owner]])
		for _, u := range []int{owner, other} {
			roomToken := joinRoom(t, conns[0], tokens[names[u]], code)
			for k := range devices {
				m := newMember(conns[(i+k)%users], names[u], code, roomToken, fmt.Sprintf("%s-%d", names[u], k))
				members = append(members, m)
				if k == 0 {
					senders = append(senders, m)
				}
			}
		}
	}
	c := startCrowd(t, members)
	stop := c.load(perSecond, senders...)
	defer stop()
	for round := range rounds {
		before := c.sum((*member).confirmed)
		for _, i := range rand.Perm(len(members))[:len(members)/2] {
			members[i].reconnect()
		}
		eventually(t, 30*time.Second, fmt.Sprintf("acknowledgements after round %d", round), func() bool {
			return c.sum((*member).confirmed) > before+perSecond/4
		})
	}
	stop()
	c.settle(t, 30*time.Second)
	c.leave()
	c.audit(t, p)
	t.Logf("%d messages to %d streams that reconnected %d times", c.sum((*member).said), len(members),
		c.sum(func(m *member) int { return len(m.ends) }))
}

// TestCatchUp is about promises 4 and 5: members thousands of messages behind the ring get everything in
// order while live messages keep coming, wherever they say they were. Even with the smallest ring.
func TestCatchUp(t *testing.T) {
	t.Parallel()
	const n, perSecond = 6000, 300
	p := startWatched(t, "--max-message-queue-size=1")
	token := p.login("anna")
	api := pb.NewGRPCChatterClient(p.connect())
	code := createRoom(t, api, token)
	early := joinRoom(t, api, token, code)
	writer := newMember(api, "anna", code, early, "writer")
	c := startCrowd(t, []*member{writer})
	for range n {
		writer.say()
	}
	c.settle(t, 60*time.Second)
	stop := c.load(perSecond, writer)
	defer stop()

	follow := func(roomToken string, after int64, first uint64) *device {
		d := openDevice(t, api, roomToken, after)
		upTo := writer.said() + 100 // so that there are live messages too
		eventually(t, 60*time.Second, "the writer goes on", func() bool { return writer.confirmed() >= upTo })
		got := d.await(t, upTo-int(first)+1)
		for i, e := range got {
			if e.Seq != first+uint64(i) {
				t.Fatalf("after_seq %d: got seq %d where %d was to come", after, e.Seq, first+uint64(i))
			}
		}
		d.leave()
		return d
	}
	for _, after := range []int64{0, 1, n/2 - 1, n - 1, n} {
		follow(early, after, uint64(after+1))
	}
	follow(early, -1, 1) // without a start: since the join

	// A seq that is still to come is no position: what comes is live, from the next message on.
	for _, after := range []uint64{1_000_000, math.MaxInt64, math.MaxUint64} {
		before := uint64(writer.confirmed())
		d := openDevice(t, api, early, int64(after&math.MaxInt64))
		got := d.await(t, 50)
		for i, e := range got {
			if e.Seq <= before || i > 0 && e.Seq != got[i-1].Seq+1 {
				t.Fatalf("after_seq %d: got seq %d as number %d, the room was at %d", after, e.Seq, i, before)
			}
		}
		d.leave()
	}
	before := uint64(writer.confirmed())
	late := openDevice(t, api, joinRoom(t, api, token, code), -1)
	if got := late.await(t, 1); got[0].Seq <= before {
		t.Errorf("a session without after_seq began with seq %d, though the join was after %d", got[0].Seq, before)
	}
	stop()
	c.settle(t, 30*time.Second)
	c.leave()
	c.audit(t, p)
}

// TestInsideBlock is about promise 4: sessions that begin in the middle of a batch that was committed at once.
func TestInsideBlock(t *testing.T) {
	t.Parallel()
	const n = 200
	p := startWatched(t)
	token := p.login("anna")
	api := pb.NewGRPCChatterClient(p.connect())
	roomToken := joinRoom(t, api, token, createRoom(t, api, token))
	writer := openDevice(t, api, roomToken, 0)
	for i := range n {
		writer.say(t, "", fmt.Sprint(i+1))
	}
	writer.await(t, n)
	for after := range n {
		d := openDevice(t, api, roomToken, int64(after))
		for i, e := range d.await(t, n-after) {
			if e.Seq != uint64(after+i+1) || e.Body != fmt.Sprint(e.Seq) {
				t.Fatalf("after_seq %d: got seq %d, %q, as number %d", after, e.Seq, e.Body, i)
			}
		}
		d.leave()
	}
}

// TestBeforePublished is about promise 4, in the moment between the commit of a message and its publication,
// which is held open here: who catches up from the database then, and resumes, gets the message once.
func TestBeforePublished(t *testing.T) {
	t.Parallel()
	s, p := startInside(t)
	token := p.login("anna")
	api := pb.NewGRPCChatterClient(p.connect())
	roomToken := joinRoom(t, api, token, createRoom(t, api, token))
	first := openDevice(t, api, roomToken, 0)
	first.say(t, "1", "one")
	first.await(t, 1)
	first.leave()
	eventually(t, patience, "the room is unloaded", func() bool { return len(s.hub.all()) == 0 })
	watcher := openDevice(t, api, roomToken, 1)
	r := s.hub.all()[0]

	m := message{RoomID: r.id, Seq: 2, UserID: 1, UserName: "anna", SentAt: 1, ClientMessageID: "2", Body: "two"}
	if err := s.store.addMessages([]message{m}); err != nil {
		t.Fatal(err)
	}
	behind := openDevice(t, api, roomToken, 0)
	got := behind.await(t, 1)
	behind.leave()
	last := got[len(got)-1].Seq
	resumed := openDevice(t, api, roomToken, int64(last))
	r.publish(makeBlocks([]message{m}))
	watcher.say(t, "3", "three")
	for _, e := range resumed.awaitID(t, "3") {
		if e.Seq != last+1 {
			t.Errorf("lost or doubled: who resumed after %d got seq %d where %d was to come", last, e.Seq, last+1)
		}
		last = e.Seq
	}
}

// TestReadableWhenSeen is about promise 1: whoever is given a message, as its sender or not, finds its row
// by another connection to the database.
func TestReadableWhenSeen(t *testing.T) {
	t.Parallel()
	const senders, each = 8, 40
	p := startWatched(t)
	token := p.login("anna")
	api := pb.NewGRPCChatterClient(p.connect())
	roomToken := joinRoom(t, api, token, createRoom(t, api, token))
	db := p.openReadOnly()
	check := func(events []*pb.ChatEvent) {
		for _, e := range events {
			var body string
			if err := db.QueryRow(`SELECT body FROM messages WHERE seq = $1`, e.Seq).Scan(&body); err != nil || body != e.Body {
				t.Errorf("seq %d was seen as %q, and stored is %q (%v)", e.Seq, e.Body, body, err)
			}
		}
	}
	var running sync.WaitGroup
	for k := range senders {
		stream := openChat(t, t.Context(), api, roomToken, 0)
		running.Go(func() {
			for i := range each {
				if err := stream.Send(&pb.ChatRequest{Body: fmt.Sprintf("%d of %d", i, k)}); err != nil {
					t.Error(err)
					return
				}
			}
			for n := 0; n < senders*each; {
				resp, err := stream.Recv()
				if err != nil {
					t.Errorf("after %d messages: %v", n, err)
					return
				}
				check(resp.Events)
				n += len(resp.Events)
			}
		})
	}
	running.Wait()
}

// TestHalfCloseInQuietRoom is about promise 1: who closes its half of the stream behind its last message gets
// every acknowledgement and then the end of the stream, also when nothing else happens in the room that could
// wake its writer.
func TestHalfCloseInQuietRoom(t *testing.T) {
	t.Parallel()
	const rounds, n = 100, 20
	p := startWatched(t)
	token := p.login("anna")
	api := pb.NewGRPCChatterClient(p.connect())
	code := createRoom(t, api, token)
	for round := range rounds {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		stream := openChat(t, ctx, api, joinRoom(t, api, token, code), int64(round*n))
		for range n {
			if err := stream.Send(&pb.ChatRequest{Body: "x"}); err != nil {
				t.Fatal(err)
			}
		}
		if err := stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		got := 0
		var err error
		for err == nil {
			var resp *pb.ChatResponse
			resp, err = stream.Recv()
			got += len(resp.GetEvents())
		}
		cancel()
		if err != io.EOF || got != n {
			t.Fatalf("round %d: %d of %d acknowledgements, and the stream ended with %v", round, got, n, err)
		}
	}
}

// TestSameFromEverywhere is about promise 8: an event is the same whether it comes live, from the ring, from
// the database, from ListMessages, or from a server that was started again.
func TestSameFromEverywhere(t *testing.T) {
	t.Parallel()
	p := startWatched(t)
	token := p.login("anna")
	api := pb.NewGRPCChatterClient(p.connect())
	roomToken := joinRoom(t, api, token, createRoom(t, api, token))
	bodies := []string{
		"x", " ", "\x00", "a\x00b", "\r\n\t", "\ufeff", "\u202e", "é e\u0301 ẞ", "😀👩‍👩‍👧", "'; DROP TABLE messages; --", "$1 ? :a",
		strings.Repeat("ж", 2048), strings.Repeat("\x00", 4096), "123", "1e3", "NULL",
	}
	live := openDevice(t, api, roomToken, 0)
	for i, body := range bodies {
		live.say(t, []string{"", fmt.Sprint("id ", i), fmt.Sprint(i), fmt.Sprint("\x00", i)}[i%4], body)
	}
	want := live.await(t, len(bodies))
	for i, e := range want {
		if e.Body != bodies[i] {
			t.Errorf("%q came back as %q", bodies[i], e.Body)
		}
	}
	same := func(from string, got []*pb.ChatEvent) {
		t.Helper()
		if len(got) != len(want) {
			t.Fatalf("%d messages come from %s, %d were sent", len(got), from, len(want))
		}
		for i := range got {
			if !proto.Equal(got[i], want[i]) {
				t.Errorf("from %s: %v\nlive: %v", from, got[i], want[i])
			}
		}
	}
	list := func() []*pb.ChatEvent {
		resp, err := api.ListMessages(withToken(t.Context(), roomToken), &pb.ListMessagesRequest{Limit: maxListed})
		if err != nil {
			t.Fatal(err)
		}
		return resp.Messages
	}
	same("the ring", openDevice(t, api, roomToken, 0).await(t, len(want)))
	same("ListMessages", list())
	p.kill()
	p.start()
	conn := p.connect()
	api = pb.NewGRPCChatterClient(conn)
	same("ListMessages of a new start", list())
	same("the database", openDevice(t, api, roomToken, 0).await(t, len(want)))
}

// TestLargeMessages is about promises 3 and 4 with messages as large as they can be made: live, resent, from
// the database and as a page, every answer stays below what a gRPC client takes.
func TestLargeMessages(t *testing.T) {
	t.Parallel()
	const n, size = 12, 1 << 20
	p := startWatched(t, fmt.Sprint("--max-message-size=", size))
	token := p.login("anna")
	api := pb.NewGRPCChatterClient(p.connect())
	roomToken := joinRoom(t, api, token, createRoom(t, api, token))
	live := openDevice(t, api, roomToken, 0)
	check := func(from string, got []*pb.ChatEvent, first int) {
		t.Helper()
		for i, e := range got {
			if e.Seq != uint64(first+i) || len(e.Body) != size {
				t.Errorf("%s: message %d is seq %d with %d bytes", from, first+i, e.Seq, len(e.Body))
			}
		}
	}
	send := func(d *device) {
		for i := range n {
			d.say(t, fmt.Sprint(i), strings.Repeat("x", size))
		}
	}
	send(live)
	check("live", live.await(t, n), 1)
	send(live)
	check("resent", live.await(t, 2*n)[n:], 1)
	check("a second device", openDevice(t, api, roomToken, 0).await(t, n), 1)
	for before := uint64(0); before != 1; {
		resp, err := api.ListMessages(withToken(t.Context(), roomToken), &pb.ListMessagesRequest{BeforeSeq: before})
		if err != nil || len(resp.Messages) == 0 {
			t.Fatalf("the page before %d: %d messages, %v", before, len(resp.GetMessages()), err)
		}
		before = resp.Messages[0].Seq
		check("a page", resp.Messages, int(before))
	}
	p.kill()
	p.start()
	check("a new start", openDevice(t, pb.NewGRPCChatterClient(p.connect()), roomToken, 0).await(t, n), 1)
}
