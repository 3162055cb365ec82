package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/grpcchatter/grpcchatter/pb"
)

// All data goes from SQLite to PostgreSQL and back: tokens stay valid there, and a member resumes with the seq
// that it had. A target with data is refused (issue 4: "migrate").
func TestMigrate(t *testing.T) {
	onlyPostgres(t)
	t.Parallel()
	dir := t.TempDir()
	file := "sqlite:" + filepath.Join(dir, "old.db")
	r := newChatRoom(t, []string{"--database-url=" + file}, "alice", "bob")
	s := openSession(t, r.api, r.tokens["alice"], -1)
	bodies := []string{"one", "a\x00b", "\\x41", "ümläut 😀", strings.Repeat("x", 4096)}
	for i, body := range bodies {
		s.send(&pb.ChatRequest{Body: body, ClientMessageId: fmt.Sprint("id\x00", i)})
		s.wantMessage(uint64(i+1), "alice", body, fmt.Sprint("id\x00", i))
	}
	gone := createRoom(t, r.api, r.users["alice"])
	if _, err := r.api.DeleteChatRoom(withToken(t.Context(), r.users["alice"]), &pb.DeleteChatRoomRequest{ShortCode: gone}); err != nil {
		t.Fatal(err)
	}
	mustRun(t, dir, "", "user", "disable", "bob", "--database-url="+file)
	address, _ := emptyDatabase(t)

	status, out, errOut := runProgram(t, dir, nil, "", "migrate", "--from", file, "--to", address)
	wantFailure(t, status, out, errOut, "another server is running on it")
	r.stop()
	there := mustRun(t, dir, "", "migrate", "--from", file, "--to", address)
	for _, want := range []string{"users         2", "messages      5", "Both databases hold the same"} {
		if !strings.Contains(there, want) {
			t.Errorf("migrate says\n%swithout %q", there, want)
		}
	}
	status, out, errOut = runProgram(t, dir, nil, "", "migrate", "--from", file, "--to", address)
	wantFailure(t, status, out, errOut, "has data already")

	check := func(database string) {
		t.Helper()
		r.args = []string{"serve", "--log-level=debug", "--rate-limits=off", "--database-url=" + database}
		r.start()
		again := openSession(t, r.api, r.tokens["alice"], 2) // with its old token
		for i, body := range bodies[2:] {
			again.wantMessage(uint64(i+3), "alice", body, fmt.Sprint("id\x00", i+2))
		}
		again.send(&pb.ChatRequest{Body: "one", ClientMessageId: "id\x000"}) // a resend
		again.wantMessage(1, "alice", "one", "id\x000")
		if status, answer := r.rest("POST", "/login", map[string]string{"user_name": "bob", "password": testPassword}); status != 403 {
			t.Errorf("a disabled account logs in: %d %v", status, answer)
		}
		bodies = append(bodies, "on "+database)
		again.send(&pb.ChatRequest{Body: bodies[len(bodies)-1], ClientMessageId: fmt.Sprint("id\x00", len(bodies)-1)})
		again.wantMessage(uint64(len(bodies)), "alice", bodies[len(bodies)-1], fmt.Sprint("id\x00", len(bodies)-1))
		// Numbers go on where they were: nothing new looks like something that is gone.
		createRoom(t, r.api, r.users["alice"])
		r.stop()
	}
	check(address)
	back := "sqlite:" + filepath.Join(dir, "back.db")
	mustRun(t, dir, "", "migrate", "--from", address, "--to", back)
	check(back)
	// And once more from there, now that PostgreSQL's has been changed: a third database.
	third, _ := emptyDatabase(t)
	mustRun(t, dir, "", "migrate", "--from", back, "--to", third)
	check(third)
}

// A migration that fails leaves the target as it was.
func TestMigrateFails(t *testing.T) {
	onlyPostgres(t)
	t.Parallel()
	dir := t.TempDir()
	file := "sqlite:" + filepath.Join(dir, "old.db")
	mustRun(t, dir, testPassword, "user", "add", "ann", "--database-url="+file)
	db := openSQL(t, filepath.Join(dir, "old.db"))
	execSQL(t, db, `UPDATE users SET name_key = 'a' || char(0) || 'b'`) // no text of PostgreSQL's
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	address, target := emptyDatabase(t)
	status, out, errOut := runProgram(t, dir, nil, "", "migrate", "--from", file, "--to", address)
	wantFailure(t, status, out, errOut, "table users")
	var tables int
	if err := target.QueryRow(`SELECT count(*) FROM information_schema.tables WHERE table_schema = current_schema()`).Scan(&tables); err != nil || tables != 0 {
		t.Errorf("the target has %d tables, %v", tables, err)
	}
	for _, c := range [][]string{
		{"migrate"}, {"migrate", "--from", file}, {"migrate", "--from", file, "--to", file}, {"migrate", "--from", file, "--to", "mysql://x"},
		{"migrate", "--from", "sqlite:" + filepath.Join(dir, "missing.db"), "--to", "sqlite:" + filepath.Join(dir, "new.db")},
	} {
		status, out, errOut := runProgram(t, dir, nil, "", c...)
		wantFailure(t, status, out, errOut, "")
	}
	if _, err := os.Stat(filepath.Join(dir, "new.db")); err == nil {
		t.Error("a migration that failed has left new.db")
	}
}

// 100,000 messages, or fewer without -slow, move in less than 30 s, with progress.
func TestMigrateMany(t *testing.T) {
	onlyPostgres(t)
	n := size(20_000, 100_000)
	dir := t.TempDir()
	file := "sqlite:" + filepath.Join(dir, "old.db")
	st, err := openStore(t.Context(), storeOptions{URL: file, Synchronous: "normal", Create: true})
	if err != nil {
		t.Fatal(err)
	}
	u, err := st.addUser(t.Context(), "ann", "x", roleUser)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.addRoom(t.Context(), "ABCDEF", "room", "x", u.ID); err != nil {
		t.Fatal(err)
	}
	var msgs []message
	for i := range n {
		msgs = append(msgs, message{RoomID: 1, Seq: uint64(i + 1), UserID: u.ID, SentAt: time.Now().UnixMicro(), ClientMessageID: fmt.Sprint(i), Body: strings.Repeat("x", 64)})
		if len(msgs) == 1000 {
			if err := st.addMessages(msgs); err != nil {
				t.Fatal(err)
			}
			msgs = msgs[:0]
		}
	}
	if err := st.close(); err != nil {
		t.Fatal(err)
	}
	address, db := emptyDatabase(t)
	start := time.Now()
	out := mustRun(t, dir, "", "migrate", "--from", file, "--to", address)
	took := time.Since(start)
	t.Logf("%d messages moved in %s", n, took.Round(time.Millisecond))
	if took > 30*time.Second || !strings.Contains(out, fmt.Sprintf("messages      %d", n)) {
		t.Errorf("after %s:\n%s", took, out)
	}
	var rows int
	if err := db.QueryRow(`SELECT count(*) FROM messages`).Scan(&rows); err != nil || rows != n {
		t.Errorf("%d messages are there, %v", rows, err)
	}
}
