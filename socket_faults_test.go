package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/grpcchatter/grpcchatter/pb"
)

// narrow makes it a connection of little room: what is not read blocks the server soon.
func (a socketAPI) narrow() socketAPI {
	return a.through(func(c *net.TCPConn) { _ = c.SetReadBuffer(16 << 10) })
}

// filling is more than the server's and a narrow client's TCP hold between them.
const filling = 1500 // messages of 4,000 bytes

// TestSocketStalled is promise 5: a socket that stops reading in a busy room delays nobody, is cut in 12 s, and resumes
// complete.
func TestSocketStalled(t *testing.T) {
	t.Parallel()
	const gap = 20 * time.Millisecond
	p := startWatched(t)
	owner, stalled := p.login("owner"), p.login("stalled")
	api := pb.NewGRPCChatterClient(p.connect())
	code := createRoom(t, api, owner)
	ownerRoom, stalledRoom := joinRoom(t, api, owner, code), joinRoom(t, api, stalled, code)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	victim := openChat(t, ctx, p.sockets().narrow(), stalledRoom, 0)
	others := []*device{openDevice(t, api, ownerRoom, 0), openDevice(t, p.sockets(), ownerRoom, 0), openDevice(t, p.sockets(), ownerRoom, 0)}
	sender := others[1]
	for range filling {
		sender.say(t, "", strings.Repeat("x", 4000))
	}
	for _, d := range others {
		d.await(t, filling)
	}
	full := time.Now()

	// The sender writes the time into its messages, which is when everybody is to have them.
	all := filling
	var took []time.Duration
	round, slowest := full, time.Duration(0) // of all that the machine did meanwhile
	for slices.Contains(present(t, api, ownerRoom), "stalled") {
		if time.Since(full) > 60*time.Second {
			t.Fatal("a socket that reads nothing is not cut")
		}
		start := time.Now()
		sender.say(t, "", fmt.Sprint(start.UnixNano()))
		all++
		for _, d := range others {
			if body := d.await(t, all)[all-1].Body; body != fmt.Sprint(start.UnixNano()) {
				t.Fatalf("message %d is %.20q", all, body)
			}
		}
		took = append(took, time.Since(start))
		time.Sleep(gap)
		slowest, round = max(slowest, time.Since(round)), time.Now()
	}
	slowest = max(slowest, time.Since(round))
	slices.Sort(took)
	t.Logf("cut after %s; the slowest of %d messages to the others took %s", time.Since(full).Round(time.Millisecond), len(took), took[len(took)-1].Round(time.Millisecond))
	if took[len(took)*9/10] > time.Second {
		t.Errorf("messages to the others take %s", took[len(took)*9/10])
	}
	if cut := time.Since(full); cut > 12*time.Second+slowest {
		t.Errorf("cut only after %s", cut)
	}

	// It reads on: what was on its way, and then the end. A frame that was begun is not finished.
	last := 0
	take := func(resp *pb.ChatResponse) {
		for _, e := range resp.GetEvents() {
			if e.Kind == pb.ChatEventKind_MESSAGE {
				if last++; e.Seq != uint64(last) {
					t.Fatalf("the stalled socket got seq %d where %d was to come", e.Seq, last)
				}
			}
		}
	}
	for {
		resp, err := victim.Recv()
		if err != nil {
			break
		}
		take(resp)
	}
	if last >= all {
		t.Fatalf("the stalled socket already has all %d messages: it was not stalled", last)
	}
	again := openChat(t, ctx, p.sockets(), stalledRoom, int64(last))
	for last < all {
		resp, err := again.Recv()
		if err != nil {
			t.Fatalf("lost: the stalled socket resumed up to %d of %d: %v", last, all, err)
		}
		take(resp)
	}
	if !slices.Contains(present(t, api, ownerRoom), "stalled") {
		t.Error("the stalled socket is back, but not present")
	}
}

// TestSocketGhosts is promise 6: whoever's socket ends, in whatever way, is absent at once, and can come back at once.
func TestSocketGhosts(t *testing.T) {
	l := openLounge(t)
	for _, kind := range []struct {
		name string
		end  func(*device, *net.TCPConn)
	}{
		{"close code", func(d *device, _ *net.TCPConn) { _ = d.stream.CloseSend() }},
		{"connection closed", func(d *device, _ *net.TCPConn) { d.cancel() }},
		{"RST", func(_ *device, tcp *net.TCPConn) { _ = tcp.SetLinger(0); _ = tcp.Close() }},
		{"half-closed", func(_ *device, tcp *net.TCPConn) { _ = tcp.CloseWrite() }},
		{"a frame that is no JSON", func(d *device, _ *net.TCPConn) {
			_ = d.stream.(*socketStream).conn.Write(context.Background(), websocket.MessageText, []byte("x"))
		}},
		{"half a frame", func(_ *device, tcp *net.TCPConn) { _, _ = tcp.Write(clientFrame(bodyWord)[:10]); _ = tcp.Close() }},
		{"what is no frame", func(_ *device, tcp *net.TCPConn) { _, _ = tcp.Write(bytes.Repeat([]byte{0xff}, 20)) }},
	} {
		t.Run(kind.name, func(t *testing.T) {
			l.haunt(t, kind.name, func() (end func()) {
				var tcp *net.TCPConn
				d := openDevice(t, l.sockets().through(func(c *net.TCPConn) { tcp = c }), l.rooms["ghost"], 0)
				return func() { kind.end(d, tcp) }
			}, func() *device { return openDevice(t, l.sockets(), l.rooms["ghost"], 0) })
		})
	}
}

// TestSocketSilent is promise 6: a socket whose peer answers no ping is gone in 45 s, though its TCP lives. Until then
// the same user can come back; and a socket that only listens, and answers, stays.
func TestSocketSilent(t *testing.T) {
	onlySQLite(t) // it is about connections
	t.Parallel()
	l := openLounge(t)
	idle := openDevice(t, l.sockets(), l.rooms["watcher"], 0)
	opened := time.Now()
	silent := rawSocket(t, l.addr, opening(l.rooms["ghost"]))
	eventually(t, patience, "the ghost is present", func() bool { return l.seen(pb.ChatEventKind_USER_JOINED) == 1 })
	back := openDevice(t, l.sockets(), l.rooms["ghost"], 0)
	back.say(t, "", "I am back")
	back.await(t, 1)
	back.leave()
	l.ghostIs(t, true)
	took := l.gone(t, 45*time.Second, 1)
	t.Logf("gone after %s", took.Round(time.Second))
	if open := time.Since(opened); open < pingAfter {
		t.Errorf("gone after %s, before anybody asked", open)
	}
	_ = silent.SetReadDeadline(time.Now().Add(patience))
	end, err := io.ReadAll(silent)
	if err != nil {
		t.Errorf("the connection of the silent socket is still open: %v", err)
	}
	if !bytes.Contains(end, []byte("PING_TIMEOUT: ")) {
		t.Errorf("the silent socket is not told why it ends: %q", end)
	}
	idle.say(t, "idle", "still here")
	idle.awaitID(t, "idle")
	openDevice(t, l.sockets(), l.rooms["ghost"], 0).leave()
}

// TestSocketShutdown is about promises 1 and 4: SIGTERM with 200 sockets under load, one that says nothing and one that
// does not read. All who read are told to come back, the process is over in 10 s, and nothing acknowledged is lost.
func TestSocketShutdown(t *testing.T) {
	t.Parallel()
	const sockets, rooms, perSecond = 200, 4, 100
	p := startWatched(t)
	names, tokens := p.loginAll(rooms)
	api := pb.NewGRPCChatterClient(p.connect())
	var devices []*device
	var writers []*member
	for _, name := range names {
		code := createRoom(t, api, tokens[name])
		roomToken := joinRoom(t, api, tokens[name], code)
		for range sockets / rooms {
			devices = append(devices, openDevice(t, p.sockets(), roomToken, 0))
		}
		writers = append(writers, newMember(p.sockets(), name, code, roomToken, name))
	}
	crowded := joinRoom(t, api, tokens[names[0]], createRoom(t, api, tokens[names[0]]))
	unread := openChat(t, t.Context(), p.sockets().narrow(), crowded, 0)
	full := openDevice(t, api, crowded, 0)
	for range filling {
		full.say(t, "", strings.Repeat("x", 4000))
	}
	full.await(t, filling)
	c := startCrowd(t, writers)
	stop := c.load(perSecond, writers...)
	defer stop()
	eventually(t, 30*time.Second, "the load runs", func() bool { return c.sum((*member).confirmed) > perSecond })
	silent := p.dialSocket(t) // not before: it may be silent for openTimeout

	stopInTime(t, p)
	for i, d := range devices {
		wantClose(t, fmt.Sprint("socket ", i), d.end(t, patience), websocket.StatusGoingAway, "SHUTTING_DOWN")
	}
	wantClose(t, "a socket that said nothing", endOf(silent), websocket.StatusGoingAway, "SHUTTING_DOWN")
	_ = unread.(*socketStream).conn.CloseNow()

	wantAllAfterRestart(t, p, c, stop, devices)
}

// TestSocketChurn is promise 4: 40 sockets, among streams of gRPC, that connect and leave at random under load. Each gets
// each seq once, none missing; in the end nobody is left behind.
func TestSocketChurn(t *testing.T) {
	t.Parallel()
	const users, rooms, devices, perSecond, rounds = 4, 4, 10, 200, 6
	p := startWatched(t)
	names, tokens := p.loginAll(users)
	api := pb.NewGRPCChatterClient(p.connect())
	var members, senders []*member
	for i := range rooms {
		owner, other := names[i], names[(i+1)%users]
		code := createRoom(t, api, tokens[owner])
		ownerRoom, otherRoom := joinRoom(t, api, tokens[owner], code), joinRoom(t, api, tokens[other], code)
		for k := range devices {
			name, roomToken := owner, ownerRoom
			if k%2 == 1 {
				name, roomToken = other, otherRoom
			}
			members = append(members, newMember(p.sockets(), name, code, roomToken, fmt.Sprintf("%s-%d", name, k)))
		}
		stream := newMember(api, owner, code, ownerRoom, owner+"-stream")
		members = append(members, stream)
		senders = append(senders, members[len(members)-2], members[len(members)-3], stream)
	}
	c := startCrowd(t, members)
	stop := c.load(perSecond, senders...)
	defer stop()
	for round := range rounds {
		before := c.sum((*member).confirmed)
		for _, i := range rand.Perm(len(members))[:len(members)/2] {
			members[i].reconnect()
			time.Sleep(rand.N(5 * time.Millisecond))
		}
		eventually(t, 30*time.Second, "acknowledgements after round "+strconv.Itoa(round), func() bool {
			return c.sum((*member).confirmed) > before+perSecond/4
		})
	}
	stop()
	c.settle(t, 30*time.Second)
	c.leave()
	c.audit(t, p)
	for _, m := range members {
		eventually(t, patience, "nobody is left behind", func() bool { return len(present(t, api, m.token)) == 0 })
	}
	t.Logf("%d messages to %d members that reconnected %d times", c.sum((*member).said), len(members), c.sum(func(m *member) int { return len(m.ends) }))
}

// TestSocketsAtOnce is about promise 3: one message sent again and again by two sockets of one user at the same time,
// and by POST, is stored once and has one seq for all.
func TestSocketsAtOnce(t *testing.T) {
	t.Parallel()
	const n, times = 50, 3
	r := newChatRoom(t, nil, "alice")
	token := r.tokens["alice"]
	devices := []*device{openDevice(t, r.sockets(), token, 0), openDevice(t, r.sockets(), token, 0)}
	posted := make([]float64, n)
	var sending sync.WaitGroup
	for k, d := range devices {
		sending.Go(func() {
			for i := range n {
				for range times {
					d.say(t, fmt.Sprint("id-", i), fmt.Sprint("device ", k))
				}
			}
		})
	}
	sending.Go(func() {
		for i := range n {
			a := r.call("POST", "/rooms/"+r.code+"/messages", token, fmt.Sprintf(`{"body":"posted","client_message_id":"id-%d"}`, i))
			posted[i], _ = a.json["seq"].(float64)
		}
	})
	sending.Wait()
	db := r.openReadOnly()
	var stored []storedMessage
	eventually(t, patience, "all are stored", func() bool { stored = storedIn(t, db)[r.code]; return len(stored) >= n })
	for _, d := range devices {
		d.say(t, "end", "the end")
		for _, e := range d.awaitID(t, "end") {
			if e.ClientMessageId != "end" && (stored[e.Seq-1].ID != e.ClientMessageId || stored[e.Seq-1].Body != e.Body) {
				t.Errorf("seq %d came as %q %q and is stored as %v", e.Seq, e.ClientMessageId, e.Body, stored[e.Seq-1])
			}
		}
	}
	for i, seq := range posted {
		if seq < 1 || int(seq) > len(stored) || stored[int(seq)-1].ID != fmt.Sprint("id-", i) {
			t.Errorf("the post of id-%d was answered with the seq %v", i, seq)
		}
	}
	if got := storedIn(t, db)[r.code]; len(got) != n+1 {
		t.Errorf("%d messages are stored, want %d", len(got), n+1)
	}
}

// TestSlowSocket is promise 5 from the other side: who reads slowly, but reads, is not cut, though the ping that it is to
// answer stands behind all that it has still to read.
func TestSlowSocket(t *testing.T) {
	onlySQLite(t) // it is about connections
	t.Parallel()
	const n, pauses, pause = 1500, 45, time.Second // together more than a ping and its timeout
	p := startWatched(t)
	token := p.login("anna")
	api := pb.NewGRPCChatterClient(p.connect())
	roomToken := joinRoom(t, api, token, createRoom(t, api, token))
	// Below 64 KiB, Linux on loopback would not take a window that opens for a sign of life (its TCP_USER_TIMEOUT).
	narrow := p.sockets().through(func(c *net.TCPConn) { _ = c.SetReadBuffer(128 << 10) })
	slow := openChat(t, t.Context(), narrow, roomToken, 0)
	sender := openDevice(t, api, roomToken, 0)
	for range n {
		sender.say(t, "", strings.Repeat("x", 4000))
	}
	sender.await(t, n)
	start, last := time.Now(), uint64(0)
	for frame := 0; last < n; frame++ {
		resp, err := slow.Recv()
		if err != nil {
			t.Fatalf("a slow reader was cut after seq %d and %s: %v", last, time.Since(start).Round(time.Second), err)
		}
		for _, e := range resp.Events {
			if e.Kind != pb.ChatEventKind_MESSAGE {
				continue
			}
			if last++; e.Seq != last {
				t.Fatalf("a slow reader got seq %d where %d was to come", e.Seq, last)
			}
		}
		if frame < pauses {
			time.Sleep(pause)
		}
	}
}

// TestPostedIsPublished is promise 4: who posts learns the seq when it can resume behind it, and not before, or the message
// would come again. The moment between commit and publication is held open here.
func TestPostedIsPublished(t *testing.T) {
	t.Parallel()
	s, p := startInside(t)
	token := p.login("anna")
	api := pb.NewGRPCChatterClient(p.connect())
	code := createRoom(t, api, token)
	roomToken := joinRoom(t, api, token, code)
	watcher := openDevice(t, api, roomToken, 0)
	r := s.hub.all()[0]
	answers := make(chan restAnswer, 1)
	r.mu.Lock()
	go func() { answers <- p.call("POST", "/rooms/"+code+"/messages", roomToken, `{"body":"posted"}`) }()
	select {
	case a := <-answers:
		t.Errorf("the post is answered with %s while nobody can see the message yet", a.body)
		answers <- a
	case <-time.After(time.Second):
	}
	r.mu.Unlock()
	if a := <-answers; a.json["seq"] != 1.0 {
		t.Errorf("the post is answered with %d %s", a.status, a.body)
	}
	resumed := openDevice(t, p.sockets(), roomToken, 1)
	watcher.say(t, "next", "next")
	if got := resumed.awaitID(t, "next"); got[0].Seq != 2 {
		t.Errorf("doubled: who resumed after 1 got seq %d", got[0].Seq)
	}
}
