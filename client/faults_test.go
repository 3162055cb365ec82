package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/grpcchatter/grpcchatter/client"
)

// sending is messages that are sent to a room, from several goroutines.
type sending struct {
	room    *client.Room
	senders int // how many messages are under way at a time

	mu   sync.Mutex        // guards seqs
	seqs map[string]uint64 // of those that are acknowledged, by body
}

// sendAll sends n messages, twenty at a time, and returns the seqs by body.
func sendAll(t *testing.T, r *client.Room, name string, n int) map[string]uint64 {
	s := sending{room: r, senders: 20}
	return s.all(t, name, n)
}

// all sends n messages, and returns the seqs by body.
func (s *sending) all(t *testing.T, name string, n int) map[string]uint64 {
	s.mu.Lock()
	s.seqs = map[string]uint64{}
	s.mu.Unlock()
	var wg sync.WaitGroup
	for i := range s.senders {
		wg.Go(func() {
			for j := i; j < n; j += s.senders {
				body := fmt.Sprint(name, " ", j)
				seq, err := s.room.Send(t.Context(), body)
				if err != nil {
					t.Errorf("Send %q: %v", body, err)
					return
				}
				s.mu.Lock()
				s.seqs[body] = seq
				s.mu.Unlock()
			}
		})
	}
	wg.Wait()
	return s.seqs
}

// acknowledged returns how many messages are.
func (s *sending) acknowledged() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.seqs)
}

// checkAcknowledged checks that every acknowledged message is there under its seq, and nothing else.
func checkAcknowledged(t *testing.T, acknowledged map[string]uint64, messages []client.Message) {
	t.Helper()
	if len(acknowledged) != len(messages) {
		t.Errorf("%d messages were acknowledged, and %d are there", len(acknowledged), len(messages))
	}
	for _, m := range messages {
		if acknowledged[m.Body] != m.Seq {
			t.Errorf("%q has the seq %d, and was acknowledged with %d", m.Body, m.Seq, acknowledged[m.Body])
		}
	}
}

// maxInRow is how many faults may follow one another before progress is made again. What never lets anything through, as seen
// from a machine that is slow enough, would never end.
const maxInRow = 5

// faults says when the next fault may come.
type faults struct {
	most     time.Duration // until then
	progress func() int

	reached, inRow int
}

// wait waits for the time of the next fault. It returns false if end is closed first.
func (f *faults) wait(end <-chan struct{}) bool {
	timer := time.After(rand.N(f.most))
	for {
		select {
		case <-end:
			return false
		case <-timer:
		}
		if now := f.progress(); now > f.reached {
			f.reached, f.inRow = now, 0
		}
		if f.inRow++; f.inRow <= maxInRow {
			return true
		}
		timer = time.After(time.Millisecond)
	}
}

// trouble runs fault again and again until stop is called.
func trouble(most time.Duration, progress func() int, fault func()) (stop func()) {
	f := faults{most: most, progress: progress}
	end := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for f.wait(end) {
			fault()
		}
	})
	return func() {
		close(end)
		wg.Wait()
	}
}

// Every reader and the sender are cut off at random: each message is stored once, and comes once, in order.
func TestRandomCuts(t *testing.T) {
	const n = 3000
	s := startServer(t)
	p := startProxy(t, s)
	sender := newUser(t, p.addr(), "ann")
	code := createRoom(t, sender)
	var readers []*client.Room
	for i := range 3 {
		readers = append(readers, join(t, newUser(t, p.addr(), fmt.Sprint("reader", i)), code))
	}
	room := join(t, sender, code) // joining does not try again
	out := &sending{room: room, senders: 20}
	stop := trouble(150*time.Millisecond, out.acknowledged, p.cut)
	acknowledged := out.all(t, "message", n)
	stop()
	for _, r := range readers {
		checkAcknowledged(t, acknowledged, receive(t, r, 0, n))
	}
}

// The server gets the messages, but its answers are lost, and then the connection.
func TestLostAcknowledgements(t *testing.T) {
	const n = 1000
	s := startServer(t)
	p := startProxy(t, s)
	c := newUser(t, p.addr(), "ann")
	r := join(t, c, createRoom(t, c))
	out := &sending{room: r, senders: 20}
	stop := trouble(100*time.Millisecond, out.acknowledged, func() {
		p.set(false, true)
		time.Sleep(50 * time.Millisecond)
		p.cut()
		p.set(false, false)
	})
	acknowledged := out.all(t, "message", n)
	stop()
	checkAcknowledged(t, acknowledged, receive(t, r, 0, n))
	var newest []client.Message
	eventually(t, "the history is read", func() bool { // the connection may just have been cut, and a call does not try again
		var err error
		newest, err = r.ListMessages(t.Context(), 0, 1)
		return err == nil
	})
	if len(newest) != 1 || newest[0].Seq != n {
		t.Errorf("the newest message is %v", newest)
	}
}

// The server is killed again and again, and comes back on the same port with the same data.
func TestServerKilled(t *testing.T) {
	const n = 2000
	s := startServer(t)
	ann, bob := newUser(t, s.addr, "ann"), newUser(t, s.addr, "bob")
	code := createRoom(t, ann)
	reader := join(t, bob, code)
	writer := join(t, ann, code)
	var acknowledged map[string]uint64
	out := &sending{room: writer, senders: 20}
	done := make(chan struct{})
	go func() {
		defer close(done)
		acknowledged = out.all(t, "message", n)
	}()
	f := faults{most: 400 * time.Millisecond, progress: out.acknowledged}
	kills := 0
	for ; f.wait(done); kills++ {
		s.kill()
		s.start(t)
	}
	checkAcknowledged(t, acknowledged, receive(t, reader, 0, n))
	t.Logf("%d kills", kills)
}

// A server that stops tells its streams to come back, and the room does.
func TestServerRestarted(t *testing.T) {
	s := startServer(t)
	c := newUser(t, s.addr, "ann")
	causes := make(chan error, 100)
	r := join(t, c, createRoom(t, c), client.OnState(func(state client.ConnState, err error) {
		if state == client.Reconnecting {
			causes <- err
		}
	}))
	send(t, r, "1")
	s.stop()
	if err := <-causes; !errors.Is(err, client.ErrShuttingDown) || !errors.Is(err, client.ErrUnavailable) {
		t.Errorf("the cause is %v", err)
	}
	sent := make(chan error)
	go func() {
		_, err := r.Send(t.Context(), "2")
		sent <- err
	}()
	time.Sleep(500 * time.Millisecond)
	s.start(t)
	if err := <-sent; err != nil {
		t.Error(err)
	}
	receive(t, r, 0, 2)
}

// A program that only sends gets its acknowledgements whatever else comes. When it receives at last, everything
// is there.
func TestSendOnly(t *testing.T) {
	const n = 12_000
	s := startServer(t)
	ann, bob := newUser(t, s.addr, "ann"), newUser(t, s.addr, "bob")
	code := createRoom(t, ann)
	r := join(t, ann, code)
	flood := join(t, bob, code)
	done := make(chan struct{})
	go func() {
		defer close(done)
		sendAll(t, flood, "flood", n)
	}()
	own := 0
	for running := true; running; own++ {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		if _, err := r.Send(ctx, "own"); err != nil {
			t.Fatalf("Send %d: %v", own, err)
		}
		cancel()
		select {
		case <-done:
			running = false
		default:
		}
	}
	t.Logf("%d messages of its own", own)
	receive(t, r, 0, n+own)
	send(t, r, "live again")
	receive(t, r, uint64(n+own), 1)
}

// A program that receives slowly holds up neither its own acknowledgements nor, in the end, anything.
func TestSlowReceiver(t *testing.T) {
	const n = 6000
	s := startServer(t)
	ann, bob := newUser(t, s.addr, "ann"), newUser(t, s.addr, "bob")
	code := createRoom(t, ann)
	r := join(t, ann, code)
	flood := join(t, bob, code)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	total := make(chan int, 1)
	wg.Go(func() {
		sendAll(t, flood, "flood", n)
		own := 0
		for range 3 {
			ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
			if _, err := r.Send(ctx, "own"); err != nil {
				t.Errorf("Send: %v", err)
			}
			cancel()
			own++
		}
		total <- n + own
	})
	after := uint64(0)
	want := -1
	for int(after) != want {
		receive(t, r, after, 1)
		if after++; want < 0 {
			time.Sleep(2 * time.Millisecond)
			select {
			case want = <-total:
			default:
			}
		}
	}
}

// lateness is what a machine that has other things to do may add to the second that Disconnect takes. gRPC alone would wait for
// five: see TestAwait for the second itself.
const lateness = 3 * time.Second

// The network takes everything and gives nothing back. Disconnect must not wait for it.
func TestDisconnectInBlackHole(t *testing.T) {
	for _, what := range []string{"the network", "the server"} {
		t.Run(what, func(t *testing.T) {
			s := startServer(t)
			p := startProxy(t, s)
			c := newUser(t, p.addr(), "ann")
			code := createRoom(t, c)
			quiet, busy := join(t, c, code), join(t, c, code)
			if what == "the network" {
				p.set(true, true)
			} else {
				s.freeze(t)
			}
			ended := make(chan error)
			waiting := 0
			wait := func(f func() error) {
				waiting++
				go func() { ended <- f() }()
			}
			for range 200 { // fill all buffers on the way
				wait(func() error { _, err := busy.Send(t.Context(), strings.Repeat("x", 100_000)); return err })
			}
			for range 3 {
				wait(func() error { _, err := quiet.Receive(t.Context()); return err })
			}
			wait(func() error { _, err := quiet.ListMessages(t.Context(), 0, 0); return err })
			wait(func() error { return c.Login(t.Context(), "ann", password) })
			wait(func() error { _, err := c.JoinChatRoom(t.Context(), code, ""); return err })
			time.Sleep(200 * time.Millisecond)

			began := time.Now()
			quiet.Disconnect()
			if took := time.Since(began); took > time.Second+lateness {
				t.Errorf("Room.Disconnect took %v", took)
			}
			began = time.Now()
			c.Disconnect()
			if took := time.Since(began); took > time.Second+lateness {
				t.Errorf("Client.Disconnect took %v", took)
			}
			for range waiting {
				select {
				case err := <-ended:
					if !errors.Is(err, client.ErrClosed) {
						t.Errorf("a call ended with %v", err)
					}
				case <-time.After(10 * time.Second):
					t.Fatal("a call never ended")
				}
			}
		})
	}
}

// A network that is gone without a word is noticed, and the room connects again once there is another way.
func TestSilentNetwork(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	p := startProxy(t, s)
	c := newUser(t, p.addr(), "ann")
	lost := make(chan time.Time, 100)
	r := join(t, c, createRoom(t, c), client.OnState(func(state client.ConnState, _ error) {
		if state == client.Reconnecting {
			lost <- time.Now()
		}
	}))
	p.set(true, true)
	began := time.Now()
	if took := (<-lost).Sub(began); took > 45*time.Second {
		t.Errorf("it was noticed after %v", took)
	}
	p.cut()
	p.set(false, false)
	send(t, r, "back")
	receive(t, r, 0, 1)
}

func TestDisconnect(t *testing.T) {
	s := startServer(t)
	c := newUser(t, s.addr, "ann")
	code := createRoom(t, c)
	r := join(t, c, code)
	send(t, r, "never received")
	for range 2 {
		if err := r.Disconnect(); err != nil {
			t.Error(err)
		}
	}
	if _, err := r.Receive(t.Context()); err != client.ErrClosed {
		t.Errorf("Receive: %v", err)
	}
	if _, err := r.Send(t.Context(), "x"); err != client.ErrClosed {
		t.Errorf("Send: %v", err)
	}
	if _, err := r.ListMessages(t.Context(), 0, 0); !errors.Is(err, client.ErrClosed) {
		t.Errorf("ListMessages: %v", err)
	}
	other := join(t, c, code)
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() { c.Disconnect() })
	}
	wg.Wait()
	if _, err := other.Receive(t.Context()); err != client.ErrClosed {
		t.Errorf("Receive: %v", err)
	}
	for name, call := range map[string]func() error{
		"Login":         func() error { return c.Login(t.Context(), "ann", password) },
		"JoinChatRoom":  func() error { _, err := c.JoinChatRoom(t.Context(), code, ""); return err },
		"ListChatRooms": func() error { _, err := c.ListChatRooms(t.Context()); return err },
	} {
		if err := call(); !errors.Is(err, client.ErrClosed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A function of the program that does not return must not hold up Disconnect, not even if it calls it.
func TestDisconnectInCallback(t *testing.T) {
	s := startServer(t)
	code := createRoom(t, newUser(t, s.addr, "owner"))
	for name, disconnect := range map[string]func(*client.Client, *client.Room) error{
		"room":   func(_ *client.Client, r *client.Room) error { return r.Disconnect() },
		"client": func(c *client.Client, _ *client.Room) error { return c.Disconnect() },
	} {
		c := newUser(t, s.addr, name)
		rooms := make(chan *client.Room, 1)
		took := make(chan time.Duration)
		rooms <- join(t, c, code, client.OnState(func(state client.ConnState, _ error) {
			if state == client.Connected {
				r := <-rooms
				began := time.Now()
				disconnect(c, r)
				took <- time.Since(began)
			}
		}))
		if took := <-took; took > time.Second+lateness {
			t.Errorf("%s: Disconnect took %v", name, took)
		}
	}
}

// A Send whose context ends is given up; the room goes on.
func TestSendContext(t *testing.T) {
	s := startServer(t)
	p := startProxy(t, s)
	c := newUser(t, p.addr(), "ann")
	r := join(t, c, createRoom(t, c))
	p.set(true, true)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	var wg sync.WaitGroup
	for range 1500 { // more than may be unacknowledged
		wg.Go(func() {
			if _, err := r.Send(ctx, "given up"); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Send: %v", err)
			}
		})
	}
	wg.Wait()
	if _, err := r.Receive(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Receive: %v", err)
	}
	p.cut() // what was on the way is lost, and must not be sent again
	p.set(false, false)
	if seq := send(t, r, "kept"); seq != 1 {
		t.Errorf("a message that was given up was sent again: the next one got the seq %d", seq)
	}
}

func TestRoomDeleted(t *testing.T) {
	s := startServer(t)
	ann, bob := newUser(t, s.addr, "ann"), newUser(t, s.addr, "bob")
	code := createRoom(t, ann)
	closed := make(chan error, 1)
	b := join(t, bob, code, client.OnState(func(state client.ConnState, err error) {
		if state == client.Closed {
			closed <- err
		}
	}))
	send(t, b, "1")
	send(t, b, "2")
	if err := ann.DeleteChatRoom(t.Context(), code); err != nil {
		t.Fatal(err)
	}
	if err := <-closed; !errors.Is(err, client.ErrRoomDeleted) {
		t.Errorf("Closed with %v", err)
	}
	receive(t, b, 0, 2) // what had come already
	if _, err := b.Receive(t.Context()); !errors.Is(err, client.ErrRoomDeleted) {
		t.Errorf("Receive: %v", err)
	}
	if _, err := b.Send(t.Context(), "x"); !errors.Is(err, client.ErrRoomDeleted) {
		t.Errorf("Send: %v", err)
	}
	if _, err := b.ListMessages(t.Context(), 0, 0); !errors.Is(err, client.ErrRoomDeleted) {
		t.Errorf("ListMessages: %v", err)
	}
	b.Disconnect()
	if _, err := b.Receive(t.Context()); !errors.Is(err, client.ErrClosed) {
		t.Errorf("Receive after Disconnect: %v", err)
	}
}

// Who is removed from a room or banned is told so, and does not come back by itself: not even into a room that has no password.
func TestRoomRemoved(t *testing.T) {
	s := startServer(t)
	ann, bob := newUser(t, s.addr, "ann"), newUser(t, s.addr, "bob")
	code := createRoom(t, ann)
	token := userToken(t, s, "ann")
	for _, c := range []struct{ method, path, sentence string }{{"DELETE", "/members/bob", "removed"}, {"PUT", "/bans/bob", "banned"}} {
		states := make(chan client.ConnState, 10)
		b := join(t, bob, code, client.OnState(func(state client.ConnState, _ error) { states <- state }))
		send(t, b, "1")
		req, err := http.NewRequest(c.method, s.addr+"/rooms/"+code+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil || resp.StatusCode != 200 {
			t.Fatal(resp, err)
		}
		resp.Body.Close()
		for err == nil {
			_, err = b.Receive(t.Context())
		}
		if e, ok := errors.AsType[*client.Error](err); !ok || !errors.Is(err, client.ErrRoomAccessDenied) || !strings.Contains(e.Message, c.sentence) {
			t.Errorf("Receive: %v, want ErrRoomAccessDenied, and that the user was %s", err, c.sentence)
		}
		var got []client.ConnState
		for state := range states {
			if got = append(got, state); state == client.Closed {
				break
			}
		}
		if !slices.Equal(got, []client.ConnState{client.Connected, client.Closed}) {
			t.Errorf("the room was %v, want it closed at once", got)
		}
		if rooms, err := bob.ListChatRooms(t.Context()); err != nil || len(rooms) > 0 {
			t.Errorf("bob is a member again: %v %v", rooms, err)
		}
	}
	if _, err := bob.JoinChatRoom(t.Context(), code, ""); !errors.Is(err, client.ErrRoomAccessDenied) {
		t.Errorf("one who is banned joins: %v", err)
	}
}

// userToken logs in by REST.
func userToken(t *testing.T, s *server, name string) string {
	t.Helper()
	resp, err := http.Post(s.addr+"/login", "application/json", strings.NewReader(fmt.Sprintf(`{"user_name":%q,"password":%q}`, name, password)))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct{ Token string }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.Token == "" {
		t.Fatal(resp.Status, err)
	}
	return answer.Token
}

// The room was deleted while the room's stream was away.
func TestRoomDeletedMeanwhile(t *testing.T) {
	s := startServer(t)
	p := startProxy(t, s)
	ann, bob := newUser(t, s.addr, "ann"), newUser(t, p.addr(), "bob")
	code := createRoom(t, ann)
	b := join(t, bob, code)
	p.set(true, true)
	p.cut()
	if err := ann.DeleteChatRoom(t.Context(), code); err != nil {
		t.Fatal(err)
	}
	p.set(false, false)
	if _, err := b.Receive(t.Context()); !errors.Is(err, client.ErrRoomDeleted) {
		t.Errorf("Receive: %v", err)
	}
}

// A sender that the server finds too fast slows down, and does not lose its stream again and again.
func TestRateLimited(t *testing.T) {
	t.Parallel()
	// A thousand messages are under way at once: so many too many come, however long the disk takes for them.
	s := startServer(t, "--rate-limits=on", "--limit-messages-per-user=500+200/1s")
	c := newUser(t, s.addr, "ann")
	var lost atomic.Int32
	r := join(t, c, createRoom(t, c), client.OnState(func(state client.ConnState, err error) {
		if state == client.Reconnecting {
			lost.Add(1)
			if !errors.Is(err, client.ErrRateLimited) {
				t.Errorf("the cause is %v", err)
			}
		}
	}))
	const n = 2000
	out := &sending{room: r, senders: n / 2}
	acknowledged := out.all(t, "message", n)
	checkAcknowledged(t, acknowledged, receive(t, r, 0, n))
	if lost := lost.Load(); lost < 1 || lost > 10 {
		t.Errorf("it lost its stream %d times", lost)
	}
}

func TestAccountDisabled(t *testing.T) {
	s := startServer(t)
	ann, bob := newUser(t, s.addr, "ann"), newUser(t, s.addr, "bob")
	code := createRoom(t, ann)
	b := join(t, bob, code)
	s.command(t, "user", "disable", "bob")
	if _, err := b.Receive(t.Context()); !errors.Is(err, client.ErrAccountDisabled) {
		t.Errorf("Receive: %v", err)
	}
	if _, err := b.Send(t.Context(), "x"); !errors.Is(err, client.ErrAccountDisabled) {
		t.Errorf("Send: %v", err)
	}
	send(t, join(t, ann, code), "the others go on")
}

// Tokens live five seconds, and connections half a second: rooms and calls renew both kinds of token.
func TestTokensExpire(t *testing.T) {
	t.Parallel()
	s := startServer(t, "--token-duration", "5s")
	p := startProxy(t, s)
	log := &testLog{}
	c := newUser(t, p.addr(), "ann", client.WithLogger(log.logger()))
	code := createRoom(t, c)
	quiet, r := join(t, c, code), join(t, c, code)
	const n = 100
	var sent atomic.Int32
	stop := trouble(time.Second, func() int { return int(sent.Load()) }, p.cut)
	for i := range n {
		send(t, r, fmt.Sprint("secret ", i))
		sent.Add(1)
		time.Sleep(70 * time.Millisecond)
	}
	stop()
	eventually(t, "the rooms are listed", func() bool {
		rooms, err := c.ListChatRooms(t.Context())
		return err == nil && len(rooms) == 1
	})
	eventually(t, "the history is read", func() bool {
		_, err := r.ListMessages(t.Context(), 0, 0)
		return err == nil
	})
	receive(t, r, 0, n)
	receive(t, quiet, 0, n)
	text := log.String()
	for _, want := range []string{"logging in again", "renewing the room token", "reconnecting"} {
		if !strings.Contains(text, want) {
			t.Errorf("the log does not say %q", want)
		}
	}
	for _, secret := range []string{password, "secret ", "eyJ"} {
		if strings.Contains(text, secret) {
			t.Errorf("the log contains %q", secret)
		}
	}
}

// The user's rooms survive a new password when the user logs in with it.
func TestOtherUser(t *testing.T) {
	s := startServer(t)
	p := startProxy(t, s)
	c := newUser(t, p.addr(), "ann")
	code := createRoom(t, c)
	a := join(t, c, code)
	if _, err := c.Register(t.Context(), "bob", password); err != nil {
		t.Fatal(err)
	}
	login(t, c, "bob")
	b := join(t, c, code)
	p.cut()
	send(t, a, "of ann")
	send(t, b, "of bob")
	var names []string
	for _, m := range receive(t, a, 0, 2) {
		names = append(names, m.UserName)
	}
	if !slices.Equal(names, []string{"ann", "bob"}) {
		t.Errorf("the messages are of %v", names)
	}
}

// Who sends faster than the server allows is slowed down: the room comes back when the server says, not at once and again
// and again, and every message is stored once, in order.
func TestSlowedDown(t *testing.T) {
	t.Parallel()
	const n, burst = 20, 5
	s := startServer(t, "--rate-limits=on", fmt.Sprintf("--limit-messages-per-user=%d+1/100ms", burst))
	c := newUser(t, s.addr, "ann")
	var streams atomic.Int32
	r := join(t, c, createRoom(t, c), client.OnState(func(state client.ConnState, _ error) {
		if state == client.Connected {
			streams.Add(1)
		}
	}))
	var stored []func() (uint64, error)
	for i := range n {
		wait, err := r.Queue(t.Context(), fmt.Sprint(i))
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, wait)
	}
	for i, wait := range stored {
		if seq, err := wait(); err != nil || seq != uint64(i+1) {
			t.Errorf("message %d: %d %v", i, seq, err)
		}
	}
	for i, m := range receive(t, r, 0, n) {
		if m.Body != fmt.Sprint(i) {
			t.Errorf("message %d is %q", i, m.Body)
		}
	}
	if got := streams.Load(); got < 2 || got > 6 {
		t.Errorf("%d streams for %d messages, want few", got, n)
	}
}

// Who has logged in before sends its token along when it does so again: guesses of others at the account do not keep it out.
func TestLoginAmongGuesses(t *testing.T) {
	t.Parallel()
	s := startServer(t, "--rate-limits=on", "--limit-logins-per-account-and-address=1+1/1h")
	ann := newUser(t, s.addr, "ann")
	other := newClient(t, s.addr)
	if err := other.Login(t.Context(), "ann", "a wrong password"); !errors.Is(err, client.ErrInvalidCredentials) {
		t.Errorf("a guess: %v", err)
	}
	err := other.Login(t.Context(), "ann", password)
	if e, ok := errors.AsType[*client.Error](err); !ok || !errors.Is(err, client.ErrRateLimited) || e.RetryAfter < 59*time.Minute {
		t.Errorf("after it, with no token: %v", err)
	}
	login(t, ann, "ann")
}
