package main

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/grpcchatter/grpcchatter/pb"
)

// restoreHere stops a server's data being what it is: it restores a backup, on PostgreSQL to another database, which the
// server has from now on.
func (p *serverProcess) restoreHere(file string) (out string) {
	p.t.Helper()
	if pgServer == nil {
		return mustRun(p.t, p.dir, "", "restore", file, "--replace")
	}
	p.data, _ = emptyDatabase(p.t)
	p.args = append(p.args, "--database-url="+p.data)
	return mustRun(p.t, p.dir, "", "restore", file, "--database-url="+p.data)
}

// A backup made under 500 messages/s has all that was acknowledged before it began. The server that is restored from it
// goes on: who has nothing later resumes with its token's renewal, who has is told (issue 6: "Keeping").
func TestBackupUnderLoad(t *testing.T) {
	const rooms, perSecond = 4, 500
	p := startServer(t)
	members := pairs(t, p, rooms)
	var early, late []*member // early is away when the backup is made
	for i, m := range members {
		if i%2 == 0 {
			late = append(late, m)
			continue
		}
		user := p.login(m.user)
		m.rejoin = func() string { return joinRoom(t, m.api, user, m.code) }
		early = append(early, m)
	}
	c, away := startCrowd(t, late), startCrowd(t, early)
	stop := c.load(perSecond, members...)
	eventually(t, patience, "messages", func() bool { return c.sum((*member).confirmed)+away.sum((*member).confirmed) > 300 })
	stop()
	away.settle(t, patience) // what it has said is in the backup
	away.leave()
	stop = c.load(perSecond, late...)
	eventually(t, patience, "more messages", func() bool { return c.sum((*member).confirmed) > 300 })

	type acked struct {
		code, user, id string
		seq            uint64
	}
	var before []acked
	for _, m := range members {
		m.mu.Lock()
		for id, seq := range m.acked {
			before = append(before, acked{m.code, m.user, id, seq})
		}
		m.mu.Unlock()
	}
	file := filepath.Join(t.TempDir(), "backup")
	start := time.Now()
	out := mustRun(t, p.dir, "", "backup", file)
	t.Logf("%s (%s with the start of the program)", strings.TrimSpace(out), time.Since(start).Round(time.Millisecond))
	if !regexp.MustCompile(`^\S+ holds \d+ messages, 4 rooms and 8 accounts: \d+\.\d MB, in \S+\.\n$`).MatchString(out) {
		t.Errorf("backup says %q", out)
	}
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
		t.Errorf("the backup: %v, %v", info, err)
	}
	wantFolder(t, filepath.Dir(file), []string{"backup"})
	then := c.sum((*member).confirmed)
	after := map[string]string{} // of each member, a message that is said now
	for _, m := range late {
		m.mu.Lock()
		after[m.key] = fmt.Sprintf("%s-%d", m.key, len(m.outbox))
		m.mu.Unlock()
	}
	eventually(t, patience, "messages that are lost, of each", func() bool {
		for _, m := range late {
			m.mu.Lock()
			_, acked := m.acked[after[m.key]]
			m.mu.Unlock()
			if !acked {
				return false
			}
		}
		return c.sum((*member).confirmed) > then+200
	})
	stop()
	p.kill()
	c.leave()

	out = p.restoreHere(file)
	for _, want := range []string{" messages, 4 rooms and 8 accounts", "The newest message is of 20"} {
		if !strings.Contains(out, want) {
			t.Errorf("restore says %q", out)
		}
	}
	wantOpened(t, file, "ok") // it has only been read
	db := p.openReadOnly()
	stored := storedIn(t, db)
	_ = db.Close()
	for _, a := range before {
		if rows := stored[a.code]; a.seq > uint64(len(rows)) || rows[a.seq-1].ID != a.id || rows[a.seq-1].User != a.user {
			t.Errorf("lost: %s was acknowledged with seq %d before the backup began", a.id, a.seq)
		}
	}
	lost := 0
	p.start()
	api := pb.NewGRPCChatterClient(p.connect())
	for _, m := range late {
		lost += m.last() - len(stored[m.code])
		if m.last() <= len(stored[m.code]) {
			t.Fatalf("%s has nothing that is lost", m.key)
		}
		err := openSession(t, api, m.token, int64(m.last())).end()
		wantError(t, err, codes.FailedPrecondition, "HISTORY_RESTORED")
	}
	back := startCrowd(t, early)
	stop = back.load(perSecond, early...)
	said := back.sum((*member).said)
	eventually(t, patience, "messages of those who are back", func() bool { return back.sum((*member).confirmed) > said+300 })
	stop()
	back.settle(t, patience)
	back.leave()
	if code := p.stop(); code != 0 {
		t.Errorf("the server ended with status %d", code)
	}
	back.audit(t, p)
	t.Logf("%d messages were acknowledged before the backup, %d were seen after it and are lost", len(before), lost)
}

// wantOpened checks that a SQLite file is whole, and returns how many messages it has.
func wantOpened(t testing.TB, path, what string) (messages int) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var integrity string
	if err := db.QueryRow(`PRAGMA integrity_check`).Scan(&integrity); err != nil || integrity != "ok" {
		t.Fatalf("%s: integrity_check: %q, %v", what, integrity, err)
	}
	if err := db.QueryRow(`SELECT count(*) FROM messages`).Scan(&messages); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	return messages
}

// "backup -" made a file that is named so.
func TestBackupToStdout(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	dir := t.TempDir()
	status, out, errOut := runProgram(t, dir, nil, "", "backup", "-")
	wantFailure(t, status, out, errOut, "not to stdout")
	wantFolder(t, dir, nil)
	mustRun(t, dir, testPassword, "user", "add", "ann")
	mustRun(t, dir, "", "backup", "./-")
	wantOpened(t, filepath.Join(dir, "-"), "the backup")
}
