package main

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/grpcchatter/grpcchatter/client"
	"github.com/grpcchatter/grpcchatter/pb"
)

func TestRetentionRule(t *testing.T) {
	t.Parallel()
	onlySQLite(t)
	now := time.Now()
	for _, c := range []struct {
		retention string
		seq, last uint64
		age       time.Duration
		want      bool
	}{
		{"", 1, 1_000_000, 1e6 * time.Hour, false},
		{"2h", 1, 1, 2 * time.Hour, false},
		{"2h", 1, 1, 2*time.Hour + 1, true},
		{"2h", 1, 1_000_000, time.Hour, false},
		{"10", 90, 100, time.Hour, true},
		{"10", 91, 100, 1e6 * time.Hour, false},
		{"10", 1, 10, 1e6 * time.Hour, false},
		{"1", 9, 10, time.Hour - 1, false}, // whoever was away for a moment gets it still
		{"10, 2h", 90, 100, time.Hour, true},
		{" 2h,10", 91, 100, 3 * time.Hour, true},
		{"2h,10", 91, 100, 2 * time.Hour, false},
		{"2h", 1, 1, -time.Hour, false}, // a clock that was set back
	} {
		r, err := readRetention(c.retention)
		if err != nil {
			t.Fatalf("%q: %v", c.retention, err)
		}
		if got := r.expired(c.seq, c.last, now.Add(-c.age), now); got != c.want {
			t.Errorf("%q: message %d of %d, %s old: removed %v, want %v", c.retention, c.seq, c.last, c.age, got, c.want)
		}
	}
}

// Old messages go, in steps, and nothing else does: the room's seqs go on behind them (promise 2), also when none is left
// and after a restart, and whoever resumes from what is gone gets all that is there.
func TestRetention(t *testing.T) {
	t.Parallel()
	r := newChatRoom(t, nil, "ann")
	other := createRoom(t, r.api, r.users["ann"])
	rooms := map[string]string{r.code: r.tokens["ann"], other: joinRoom(t, r.api, r.users["ann"], other)}
	const n = 2*purgeStep + 200
	for _, token := range rooms {
		s := openSession(t, r.api, token, 0)
		for i := range n {
			s.send(&pb.ChatRequest{Body: fmt.Sprint("message ", i+1)})
			if i%200 == 199 { // not more at once than a stream may have in flight
				for s.next().GetSeq() != uint64(i+1) {
				}
			}
		}
		s.cancel()
	}
	db := openData(t, r.dir)
	age := func(code string, upTo int, by time.Duration) {
		t.Helper()
		if _, err := db.Exec(`UPDATE messages SET sent_at = sent_at - $1 WHERE seq <= $2 AND room_id = (SELECT id FROM rooms WHERE short_code = $3)`,
			by.Microseconds(), upTo, code); err != nil {
			t.Fatal(err)
		}
	}
	count := func(code string) (first, messages int) {
		t.Helper()
		var seq sql.NullInt64
		if err := db.QueryRow(`SELECT min(seq), count(*) FROM messages WHERE room_id = (SELECT id FROM rooms WHERE short_code = $1)`, code).Scan(&seq, &messages); err != nil {
			t.Fatal(err)
		}
		return int(seq.Int64), messages
	}
	restart := func(args ...string) {
		t.Helper()
		r.stop()
		r.args = append([]string{"serve", "--rate-limits=off"}, args...)
		r.start()
	}
	const kept = 50
	age(r.code, n-kept, 3*time.Hour)
	age(other, n, 3*time.Hour)
	restart()
	if _, all := count(r.code); all != n {
		t.Errorf("without MESSAGE_RETENTION %d of %d messages are there", all, n)
	}
	restart("--message-retention=2h")
	eventually(t, 2*patience, "old messages are removed", func() bool {
		first, a := count(r.code)
		_, b := count(other)
		return first == n-kept+1 && a == kept && b == 0
	})

	s := openSession(t, r.api, rooms[r.code], 5)
	for seq := n - kept + 1; seq <= n; seq++ {
		s.wantMessage(uint64(seq), "ann", fmt.Sprint("message ", seq), "")
	}
	page, err := r.api.ListMessages(withToken(t.Context(), rooms[r.code]), &pb.ListMessagesRequest{Limit: 200})
	if err != nil || len(page.Messages) != kept {
		t.Errorf("a page of history has %d messages, want %d (%v)", len(page.GetMessages()), kept, err)
	}
	for i := range 2 { // the second time behind a restart
		s := openSession(t, r.api, rooms[other], n-3)
		s.send(&pb.ChatRequest{Body: "after all of them"})
		for seq := range i {
			s.wantMessage(uint64(n+seq+1), "ann", "after all of them", "")
		}
		s.wantMessage(uint64(n+i+1), "ann", "after all of them", "")
		if i == 0 {
			age(other, n+1, 3*time.Hour)
			restart("--message-retention=10")
		}
	}
	eventually(t, 2*patience, "all but the newest ten are removed", func() bool {
		first, messages := count(r.code)
		return first == n-kept+1 && messages == kept // they are young
	})
	age(r.code, n, 61*time.Minute)
	restart("--message-retention=10")
	eventually(t, 2*patience, "all but the newest ten are removed", func() bool { first, _ := count(r.code); return first == n-10+1 })

	// The Go client, from a position whose messages are gone.
	c, err := client.New(r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Disconnect()
	if err := c.Login(t.Context(), "ann", testPassword); err != nil {
		t.Fatal(err)
	}
	room, err := c.JoinChatRoom(t.Context(), r.code, "", client.After(3))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := room.Send(t.Context(), "here I am"); err != nil {
		t.Fatal(err)
	}
	want := uint64(n - 10 + 1)
	for m, err := range room.Messages(t.Context()) {
		if err != nil || m.Seq != want {
			t.Fatalf("the client gets message %d (%v), want %d", m.Seq, err, want)
		}
		if want++; m.Body == "here I am" {
			break
		}
	}
}

// A message that a clock which was wrong has dated into the future keeps nothing: those behind it tell how old it is.
func TestRetentionOfTheFuture(t *testing.T) {
	t.Parallel()
	st := openStoreIn(t, t.TempDir(), func(ctx context.Context, s *store, tx *sql.Tx) error { return s.upgrade(ctx, tx, 0, schemaVersion) })
	defer st.close()
	u, err := st.addUser(t.Context(), "ann", "x", roleUser)
	if err == nil {
		err = st.addRoom(t.Context(), "ROOM", "room", "x", u.ID)
	}
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for i, age := range []time.Duration{3 * time.Hour, -1000 * time.Hour, 3 * time.Hour, -time.Hour, time.Minute, 3 * time.Hour} {
		if err := st.write(t.Context(), func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, `INSERT INTO messages (room_id, seq, user_id, sent_at, body) VALUES (1, $1, $2, $3, $4)`, i+1, u.ID, now.Add(-age).UnixMicro(), []byte("x"))
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	r := retention{age: 2 * time.Hour}
	n, err := st.purgeMessages(t.Context(), 1, func(seq uint64, at time.Time) bool { return r.expired(seq, 6, at, now) })
	if n != 3 || err != nil {
		t.Errorf("%d messages are removed (%v), want the first three", n, err)
	}
	if last, err := st.lastSeq(t.Context(), 1); last != 6 || err != nil {
		t.Errorf("the last seq is %d, %v", last, err)
	}
}

// The page where older messages were removed: it shows what is left and asks for no more, whatever it has read.
func TestPageAfterRetention(t *testing.T) {
	t.Parallel()
	b := startBrowser(t)
	s := startServer(t, "--log-level=debug")
	api := pb.NewGRPCChatterClient(s.connect())
	ann := s.login("ann")
	code := createRoom(t, api, ann)
	token := joinRoom(t, api, ann, code)
	post := func(from, to int) (bodies []string) {
		t.Helper()
		for i := from; i <= to; i++ {
			bodies = append(bodies, fmt.Sprint("message ", i))
			if a := s.call("POST", "/rooms/"+code+"/messages", token, fmt.Sprintf(`{"body":%q}`, bodies[len(bodies)-1])); a.status != 200 {
				t.Fatalf("%d %s", a.status, a.body)
			}
		}
		return bodies
	}
	change := func(statements ...string) {
		t.Helper()
		db := openData(t, s.dir)
		execSQL(t, db, statements...)
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
	left := post(1, 220)[200:]
	change(`DELETE FROM messages WHERE seq <= 200`, `UPDATE rooms SET purged_seq = 200`)
	before := len(s.logText())
	p := b.open("ann", "http://"+s.addr+"/#"+code)
	p.logIn("ann")
	eventually(t, patience, "what is left", func() bool { return slices.Equal(p.messages(), left) })
	p.awaitText("#start", "Older messages were removed")
	time.Sleep(time.Second)
	if n := strings.Count(s.logText()[before:], "GET /rooms/{short_code}/messages"); n > 5 {
		t.Errorf("the page has asked %d times for 20 messages", n)
	}

	s.kill() // while the page is away, there come more, and the first of them are removed too
	change(`INSERT INTO messages (room_id, seq, user_id, sent_at, body)
		SELECT room_id, seq + 5, user_id, sent_at, 'message ' || (seq + 5) FROM messages WHERE seq > 215`,
		`DELETE FROM messages WHERE seq <= 223`, `UPDATE rooms SET purged_seq = 223`)
	s.start()
	shows := func(want ...string) {
		t.Helper()
		eventually(t, patience, fmt.Sprint(want), func() bool { return slices.Equal(p.messages(), want) })
	}
	shows("message 224", "message 225")
	post(226, 226)
	shows("message 224", "message 225", "message 226")

	s.kill() // and then all of them
	change(`DELETE FROM messages`, `UPDATE rooms SET purged_seq = 226`)
	s.start()
	p.do(chromedp.Reload())
	p.awaitText("#start", "Older messages were removed")
	shows()
	post(227, 227)
	shows("message 227")
	time.Sleep(time.Second)
	if n := strings.Count(s.logText()[before:], "GET /rooms/{short_code}/messages"); n > 20 {
		t.Errorf("the page has asked %d times for messages", n)
	}

	// Who reads in the middle, while what follows there is removed, gets to what is left.
	last := post(228, 800)[800-228]
	eventually(t, patience, "all that is live", func() bool {
		shown := p.messages()
		return len(shown) > 0 && shown[len(shown)-1] == last
	})
	p.await(fmt.Sprintf(`localStorage.getItem("grpcchatter.read/ann/%s") === "800"`, code)) // or it would be noted over the next line
	eval[bool](p, fmt.Sprintf(`localStorage.setItem("grpcchatter.read/ann/%s", "230"), true`, code))
	p.do(chromedp.Reload())
	p.awaitText("#messages", "message 231")
	change(`DELETE FROM messages WHERE seq <= 600`, `UPDATE rooms SET purged_seq = 600`)
	before = len(s.logText())
	eventually(t, patience, "the end", func() bool {
		eval[bool](p, `(e => { e.scrollTop = e.scrollHeight; return true })(document.querySelector("#timeline"))`)
		shown := p.messages()
		return len(shown) > 0 && shown[len(shown)-1] == last
	})
	time.Sleep(time.Second)
	if n := strings.Count(s.logText()[before:], "GET /rooms/{short_code}/messages"); n > 20 {
		t.Errorf("the page has asked %d times for messages", n)
	}
}
