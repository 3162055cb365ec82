package main

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/grpcchatter/grpcchatter/pb"
)

// member is a client as a fault test needs it: whatever ends its stream, it comes back, resumes behind the
// last seq that it has and sends again what was not acknowledged. It writes down all that it is given.
type member struct {
	api   pb.GRPCChatterClient
	user  string
	code  string // of the room
	token string // of the room
	key   string // begins its client_message_ids; its own alone
	// rejoin, if not nil, returns a new token for one that is not valid any more.
	rejoin func() string

	mu     sync.Mutex // guards the fields below
	more   *sync.Cond // when outbox grows
	outbox []*pb.ChatRequest
	sent   map[string]int // how often, by client_message_id
	acked  map[string]uint64
	got    []*pb.ChatEvent // every message, in order: got[i].Seq is i+1
	faults []string        // what was lost or doubled
	ends   []error         // of its streams
	cut    context.CancelFunc
}

func newMember(api pb.GRPCChatterClient, user, code, token, key string) *member {
	m := &member{api: api, user: user, code: code, token: token, key: key, sent: map[string]int{}, acked: map[string]uint64{}}
	m.more = sync.NewCond(&m.mu)
	return m
}

// say puts a message into the outbox.
func (m *member) say() {
	m.mu.Lock()
	defer m.mu.Unlock()
	id := fmt.Sprintf("%s-%d", m.key, len(m.outbox))
	m.outbox = append(m.outbox, &pb.ChatRequest{ClientMessageId: id, Body: bodyWord + " " + id})
	m.more.Broadcast()
}

// run keeps the member in the room until ctx ends.
func (m *member) run(ctx context.Context) {
	for ctx.Err() == nil {
		err := m.session(ctx)
		if reason, _ := reasonOf(err); reason == "TOKEN_INVALID" && m.rejoin != nil {
			m.token = m.rejoin()
		}
		m.mu.Lock()
		m.ends = append(m.ends, err)
		m.mu.Unlock()
	}
}

// session is one stream.
func (m *member) session(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var sending sync.WaitGroup
	defer sending.Wait()
	defer cancel()
	m.mu.Lock()
	m.cut = cancel
	last := uint64(len(m.got))
	m.mu.Unlock()
	stream, err := m.api.Chat(withToken(ctx, m.token), grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	if err := stream.Send(&pb.ChatRequest{Start: &pb.ChatStart{AfterSeq: &last}}); err == nil {
		sending.Go(func() { m.send(ctx, stream) })
	}
	for {
		resp, err := stream.Recv()
		if err != nil {
			return err
		}
		m.take(resp.GetEvents())
	}
}

// send sends what is not acknowledged, and then what comes, until ctx ends.
func (m *member) send(ctx context.Context, stream grpc.BidiStreamingClient[pb.ChatRequest, pb.ChatResponse]) {
	stop := context.AfterFunc(ctx, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.more.Broadcast()
	})
	defer stop()
	for i := 0; ; i++ {
		req := m.next(ctx, &i)
		if req == nil || stream.Send(req) != nil {
			return
		}
	}
}

// next waits for message i of the outbox, or for the first one after it that is not acknowledged.
func (m *member) next(ctx context.Context, i *int) *pb.ChatRequest {
	m.mu.Lock()
	defer m.mu.Unlock()
	for ; ; *i++ {
		for *i >= len(m.outbox) {
			if ctx.Err() != nil {
				return nil
			}
			m.more.Wait()
		}
		req := m.outbox[*i]
		if _, ok := m.acked[req.ClientMessageId]; !ok {
			m.sent[req.ClientMessageId]++
			return req
		}
	}
}

// take writes events down.
func (m *member) take(events []*pb.ChatEvent) {
	m.mu.Lock()
	defer m.mu.Unlock()
	fault := func(format string, args ...any) {
		m.faults = append(m.faults, m.key+": "+fmt.Sprintf(format, args...))
	}
	for _, e := range events {
		if e.Kind == pb.ChatEventKind_REJECTED {
			fault("rejected: %s", e.Body)
		}
		if e.Kind != pb.ChatEventKind_MESSAGE {
			continue
		}
		id, last := e.ClientMessageId, uint64(len(m.got))
		sent := m.sent[id] // 0: it is somebody else's
		switch {
		case e.Seq == last+1:
			m.got = append(m.got, e)
		case e.Seq > last+1:
			fault("lost: seq %d came after %d", e.Seq, last)
			continue
		case m.got[e.Seq-1].ClientMessageId != id || m.got[e.Seq-1].Body != e.Body:
			fault("seq %d was %q and is %q", e.Seq, m.got[e.Seq-1].ClientMessageId, id)
		case sent < 2:
			fault("doubled: seq %d came again after %d", e.Seq, last)
		}
		if sent == 0 {
			continue
		}
		if old, ok := m.acked[id]; ok && old != e.Seq {
			fault("%s has the seqs %d and %d", id, old, e.Seq)
		}
		m.acked[id] = e.Seq
	}
}

// last is the newest seq that the member has.
func (m *member) last() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.got)
}

// said and confirmed are how many messages there are in the outbox, and how many are acknowledged.
func (m *member) said() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.outbox)
}

func (m *member) confirmed() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.acked)
}

// reconnect cuts the stream that the member has.
func (m *member) reconnect() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cut != nil {
		m.cut()
	}
}

// crowd is members that run together.
type crowd struct {
	members []*member
	stop    context.CancelFunc
	running sync.WaitGroup
}

// startCrowd runs members until stop or the end of the test.
func startCrowd(t testing.TB, members []*member) *crowd {
	ctx, cancel := context.WithCancel(context.Background())
	c := &crowd{members: members, stop: cancel}
	for _, m := range members {
		c.running.Go(func() { m.run(ctx) })
	}
	t.Cleanup(c.leave)
	return c
}

// leave ends all streams, and waits for it.
func (c *crowd) leave() {
	c.stop()
	c.running.Wait()
}

// sum adds up a figure of all members.
func (c *crowd) sum(figure func(*member) int) (n int) {
	for _, m := range c.members {
		n += figure(m)
	}
	return n
}

// load makes members say something at an even pace, together perSecond messages, until the returned function
// is called.
func (c *crowd) load(perSecond int, members ...*member) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(time.Second * time.Duration(len(members)) / time.Duration(perSecond))
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				for _, m := range members {
					m.say()
				}
			}
		}
	}()
	return func() { cancel(); <-done }
}

// settle waits until everything that was said is acknowledged, and everybody has all of its room. It fails when
// nothing comes any more for limit: a busy machine may take its time.
func (c *crowd) settle(t testing.TB, limit time.Duration) {
	t.Helper()
	inRoom := map[string]int{}
	for _, m := range c.members {
		inRoom[m.code] += m.said()
	}
	moved, before := time.Now(), -1
	for ; ; time.Sleep(20 * time.Millisecond) {
		var missing []string
		for _, m := range c.members {
			if last, want := m.last(), inRoom[m.code]; last < want {
				missing = append(missing, fmt.Sprintf("%s has %d of %d", m.key, last, want))
			}
			if n := m.said() - m.confirmed(); n > 0 {
				missing = append(missing, fmt.Sprintf("%s waits for %d acknowledgements", m.key, n))
			}
		}
		if len(missing) == 0 {
			return
		}
		if now := c.sum((*member).last) + c.sum((*member).confirmed); now != before {
			moved, before = time.Now(), now
		} else if time.Since(moved) > limit {
			t.Fatalf("lost: nothing came for %s, and %d things are missing, such as %s", limit, len(missing), missing[:min(len(missing), 5)])
		}
	}
}

// storedMessage is a row of messages.
type storedMessage struct {
	Seq            uint64
	User, ID, Body string
}

// openReadOnly opens the database beside the server, as a reader.
func (p *serverProcess) openReadOnly() *sql.DB {
	p.t.Helper()
	if p.data != "" {
		db, err := sql.Open("pgx", p.data)
		if err != nil {
			p.t.Fatal(err)
		}
		return db
	}
	return openData(p.t, p.dir)
}

// storedIn returns what is stored, in order of seq, by the short code of the room.
func storedIn(t testing.TB, db *sql.DB) map[string][]storedMessage {
	t.Helper()
	rows, err := db.Query(`SELECT r.short_code, m.seq, u.username, coalesce(m.client_message_id, ''), m.body
		FROM messages m JOIN rooms r ON r.id = m.room_id JOIN users u ON u.id = m.user_id WHERE r.short_code IS NOT NULL ORDER BY m.room_id, m.seq`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	stored := map[string][]storedMessage{}
	for rows.Next() {
		var code string
		var m storedMessage
		if err := rows.Scan(&code, &m.Seq, &m.User, &m.ID, &m.Body); err != nil {
			t.Fatal(err)
		}
		stored[code] = append(stored[code], m)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return stored
}

// pairs are two members in each of some rooms, with an account and a connection each.
func pairs(t *testing.T, p *serverProcess, rooms int) (members []*member) {
	t.Helper()
	names, tokens := p.loginAll(2 * rooms)
	setup := pb.NewGRPCChatterClient(p.connect())
	for i := range rooms {
		code := createRoom(t, setup, tokens[names[2*i]])
		for _, name := range names[2*i : 2*i+2] {
			api := pb.NewGRPCChatterClient(p.connect())
			members = append(members, newMember(api, name, code, joinRoom(t, api, tokens[name], code), name))
		}
	}
	return members
}

// audit compares what the members wrote down with the database: no acknowledged message lost, none doubled,
// one order for all, and the file whole. Without writers, once everybody has left.
func (c *crowd) audit(t testing.TB, p *serverProcess) {
	t.Helper()
	db := p.openReadOnly()
	defer db.Close()
	if pgServer == nil { // PostgreSQL has no such check
		var integrity string
		if err := db.QueryRow(`PRAGMA integrity_check`).Scan(&integrity); err != nil || integrity != "ok" {
			t.Errorf("integrity_check: %q, %v", integrity, err)
		}
	}
	stored := storedIn(t, db)
	for code, rows := range stored {
		ids := map[string]uint64{}
		for i, row := range rows {
			if row.Seq != uint64(i+1) {
				t.Fatalf("room %s: a gap before seq %d, which is message %d", code, row.Seq, i+1)
			}
			key := row.User + " " + row.ID
			if old := ids[key]; old != 0 && row.ID != "" {
				t.Errorf("room %s: doubled: %s is seq %d and %d", code, key, old, row.Seq)
			}
			ids[key] = row.Seq
		}
	}
	for _, m := range c.members {
		m.mu.Lock()
		defer m.mu.Unlock()
		if n := len(m.faults); n > 0 {
			t.Errorf("%d faults, such as:\n%s", n, strings.Join(m.faults[:min(n, 5)], "\n"))
		}
		rows := stored[m.code]
		for id, seq := range m.acked {
			if seq > uint64(len(rows)) || rows[seq-1].ID != id || rows[seq-1].User != m.user {
				t.Errorf("lost: %s was acknowledged with seq %d, and is not stored there", id, seq)
			}
		}
		for i, e := range m.got {
			if want := (storedMessage{e.Seq, e.UserName, e.ClientMessageId, e.Body}); i >= len(rows) || rows[i] != want {
				t.Fatalf("%s was given %v as seq %d, which is not what is stored", m.key, want, i+1)
			}
		}
	}
}
