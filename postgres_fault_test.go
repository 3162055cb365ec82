package main

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/grpcchatter/grpcchatter/pb"
)

// emptyDatabase makes a database for one test, and returns its address and a connection to it.
func emptyDatabase(t testing.TB) (string, *sql.DB) {
	t.Helper()
	address := pgServer.with(pgServer.create(t, t.TempDir()))
	db, err := sql.Open("pgx", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return address, db
}

// What the two scripts of the original make.
var originalScripts = []string{
	`CREATE TABLE users (
		id bigint primary key generated always as identity,
		created_at timestamptz default NOW() NOT NULL,
		username varchar(255) unique NOT NULL,
		password varchar(255) NOT NULL
	)`,
	`CREATE TABLE roles (id bigint primary key generated always as identity, name varchar(255) unique NOT NULL)`,
	`INSERT INTO roles (name) VALUES ('USER')`,
	`INSERT INTO roles (name) VALUES ('ADMIN')`,
	`ALTER TABLE users ADD COLUMN role_id bigint REFERENCES roles(id) default (1)`,
	`UPDATE users SET role_id = 1`,
}

// A database of the original's is taken over in one transaction: no account is lost or changed, whatever its name,
// and all log in with their bcrypt hashes, which become better ones (issue 4: "Adoption").
func TestPostgresAdopts(t *testing.T) {
	onlyPostgres(t)
	t.Parallel()
	address, db := emptyDatabase(t)
	execSQL(t, db, originalScripts...)
	hash, err := bcrypt.GenerateFromPassword([]byte("old password"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	names := []string{"ann", "ANN", "Ann", "with spaces", " ", strings.Repeat("x", 255), strings.Repeat("İ", 255), "ümläut", "né\nline", "x'; DROP TABLE users; --"}
	for i, name := range names {
		role := any(1 + i%2)
		if i == 3 {
			role = nil
		}
		if _, err := db.Exec(`INSERT INTO users (username, password, role_id, created_at) VALUES ($1, $2, $3, $4)`,
			name, hash, role, time.Date(2023, 1, 2, 3, 4, i, 0, time.UTC)); err != nil {
			t.Fatal(err)
		}
	}
	read := func() (all []string) {
		rows, err := db.Query(`SELECT id, created_at, username, role_id FROM users ORDER BY id`)
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		for rows.Next() {
			var id int64
			var at time.Time
			var name string
			var role sql.NullInt64
			if err := rows.Scan(&id, &at, &name, &role); err != nil {
				t.Fatal(err)
			}
			all = append(all, fmt.Sprintf("%d %s %q %v", id, at.UTC(), name, role))
		}
		return all
	}
	before := fmt.Sprint(read())
	p := startServer(t, "--database-url="+address)
	wantSameSchema(t, db, openData(t, startServer(t).dir))
	if after := fmt.Sprint(read()); after != before {
		t.Errorf("the accounts were\n%s\nand are\n%s", before, after)
	}
	for range 2 { // with the old hash, and with the new one
		for _, name := range names {
			status, answer := p.rest("POST", "/login", map[string]string{"user_name": name, "password": "old password"})
			if status != 200 {
				t.Errorf("log-in of %q: %d %v", name, status, answer)
			}
		}
	}
	var better int
	if err := db.QueryRow(`SELECT count(*) FROM users WHERE password LIKE '$argon2id$%'`).Scan(&better); err != nil || better != len(names) {
		t.Errorf("%d of %d hashes were replaced, %v", better, len(names), err)
	}
	if status, answer := p.rest("POST", "/register", map[string]string{"user_name": "aNN", "password": testPassword}); status != 409 {
		t.Errorf("a name that differs in case: %d %v", status, answer)
	}
	p.login("newcomer")
	if list := mustRun(t, p.dir, "", "user", "list", "--database-url="+address); !strings.Contains(list, "with spaces") || strings.Count(list, "ADMIN") != 4 {
		t.Errorf("user list:\n%s", list)
	}
	p.stop()
	p.start() // it is ours now
}

// Databases that cannot be used: one line that says why, the status 1, and nothing of the password.
func TestPostgresErrors(t *testing.T) {
	server := ownPostgres(t)
	t.Parallel()
	address, db := emptyDatabase(t)
	execSQL(t, db, `CREATE TABLE users (id integer, mail text)`)
	admin, err := sql.Open("pgx", server.url)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	execSQL(t, admin, `CREATE ROLE powerless LOGIN`, `CREATE ROLE needspassword LOGIN PASSWORD 'a password of its own'`)
	newer, newerDB := emptyDatabase(t)
	mustRun(t, t.TempDir(), testPassword, "user", "add", "ann", "--database-url="+newer)
	execSQL(t, newerDB, `UPDATE schema_version SET version = 99`)
	empty, _ := emptyDatabase(t)
	u, err := url.Parse(server.url)
	if err != nil {
		t.Fatal(err)
	}
	as := func(account *url.Userinfo, database, query string) string {
		v := *u
		v.User, v.Path, v.RawQuery = account, "/"+database, query
		return v.String()
	}
	for _, c := range []struct{ name, address, says string }{
		{"another program's", address, "another program"},
		{"newer", newer, "newer version"},
		{"empty", empty, "holds no data"},
		{"no such database", as(u.User, "nosuch", "sslmode=disable"), "does not exist"},
		{"wrong password", as(url.UserPassword("needspassword", "hunter2hunter2"), "postgres", "sslmode=disable"), "password authentication failed"},
		{"no TLS there", as(u.User, "postgres", "sslmode=require"), "TLS"},
		{"bad sslmode", as(u.User, "postgres", "sslmode=hunter2hunter2"), "DATABASE_URL"},
		{"nobody there", "postgres://postgres:hunter2hunter2@127.0.0.1:1/x", "connection refused"},
		{"no address", "postgres://user:hunter2hunter2@host:port/x", "DATABASE_URL"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			status, out, errOut := runProgram(t, dir, nil, "", "user", "list", "--database-url="+c.address)
			wantFailure(t, status, out, errOut, c.says)
			if strings.Contains(errOut, "hunter2") {
				t.Errorf("the password is in %q", errOut)
			}
		})
	}
	// A server, which may make tables, cannot.
	v := *u
	v.User, v.Path = url.User("powerless"), "/"+strings.TrimPrefix(mustParse(t, empty).Path, "/")
	status, out, errOut := runProgram(t, t.TempDir(), nil, "", "serve", "--listen-addr=127.0.0.1:0", "--database-url="+v.String())
	wantFailure(t, status, out, errOut, "permission denied")
}

func mustParse(t testing.TB, address string) *url.URL {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// One server a database: a second one refuses to start. A server whose lock is gone stores nothing until it has it
// again, and its clients' messages wait.
func TestPostgresOneServer(t *testing.T) {
	onlyPostgres(t)
	t.Parallel()
	address, db := emptyDatabase(t)
	r := newChatRoom(t, []string{"--database-url=" + address}, "alice")
	status, out, errOut := runProgram(t, t.TempDir(), nil, "", "serve", "--listen-addr=127.0.0.1:0", "--database-url="+address)
	wantFailure(t, status, out, errOut, "another server is running on it")

	// Somebody takes the lock at the moment when its connection is cut.
	thief, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer thief.Close()
	stolen := make(chan error, 1)
	go func() {
		_, err := thief.ExecContext(t.Context(), `SELECT pg_advisory_lock($1, hashtext(current_schema()))`, int32(pgServerLock))
		stolen <- err
	}()
	eventually(t, patience, "the thief waits in the queue", func() bool {
		var waits bool
		err := db.QueryRow(`SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = $1 AND NOT granted
			AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))`, pgServerLock).Scan(&waits)
		return err == nil && waits
	})
	execSQL(t, db, fmt.Sprintf(`SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND classid = %d AND granted
		AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`, pgServerLock)) // not those of other tests
	if err := <-stolen; err != nil {
		t.Fatal(err)
	}
	eventually(t, patience, "the server knows", func() bool { return strings.Contains(r.logText(), "lock is lost") })
	s := openSession(t, r.api, r.tokens["alice"], -1)
	s.send(&pb.ChatRequest{Body: "meanwhile", ClientMessageId: "1"})
	wantError(t, s.end(), codes.Unavailable, "DATABASE_UNAVAILABLE")
	var stored int
	if err := db.QueryRow(`SELECT count(*) FROM messages`).Scan(&stored); err != nil || stored != 0 {
		t.Errorf("%d messages were stored without the lock, %v", stored, err)
	}
	if status, _, _, err := request(r.addr, "GET", "/readyz", ""); status != 503 {
		t.Errorf("readyz without the lock: %d %v", status, err)
	}
	eventually(t, patience, "the server knows who has it", func() bool { return strings.Contains(r.logText(), "another server has the lock") })
	// What somebody else has stored meanwhile is seen when the lock is back.
	quiet := openSession(t, r.api, r.tokens["alice"], 0)
	execSQL(t, db, `INSERT INTO messages (room_id, seq, user_id, sent_at, body) SELECT id, 1, owner_id, 0, 'other' FROM rooms`)
	if _, err := thief.ExecContext(t.Context(), `SELECT pg_advisory_unlock($1, hashtext(current_schema()))`, int32(pgServerLock)); err != nil {
		t.Fatal(err)
	}
	eventually(t, patience, "the server has it again", func() bool { return strings.Contains(r.logText(), "lock again") })
	quiet.wantMessage(1, "alice", "other", "")
	quiet.send(&pb.ChatRequest{Body: "meanwhile", ClientMessageId: "1"})
	quiet.wantMessage(2, "alice", "meanwhile", "1")
}

// A request that the database does not let be answered within REQUEST_TIMEOUT is told so, and not cut off.
func TestPostgresRequestTimeout(t *testing.T) {
	onlyPostgres(t)
	t.Parallel()
	address, db := emptyDatabase(t)
	const limit = 8 * time.Second
	p := startServer(t, "--database-url="+address, "--request-timeout="+limit.String())
	user := p.login("alice")
	lock := func() (unlock func()) {
		tx, err := db.Begin()
		if err == nil {
			_, err = tx.Exec(`LOCK TABLE users`)
		}
		if err != nil {
			t.Fatal(err)
		}
		return func() { _ = tx.Rollback() }
	}
	unlock := lock()
	login := credentialsJSON("alice", testPassword)
	if a := p.call("POST", "/login", "", login); a.status != 503 || a.code() != "DATABASE_UNAVAILABLE" || a.header.Get("Retry-After") == "" {
		t.Errorf("a log-in: %d %s", a.status, a.body)
	}
	unlock()
	// The answer has the whole time, whatever the request took of its own.
	unlock = lock()
	conn := dialFrom(t, "127.0.0.1", p.addr)
	fmt.Fprintf(conn, "POST /login HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(login), login[:5])
	time.Sleep(limit * 9 / 16)
	_, _ = io.WriteString(conn, login[5:])
	time.Sleep(limit * 9 / 16) // together more than limit; the lock is held for less than pgTimeout
	unlock()
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || resp.StatusCode != 200 {
		t.Errorf("a log-in that was sent slowly: %v %v", resp, err)
	}
	// What the caller's own time has ended is no fault of the database.
	defer lock()()
	before := p.logText()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := pb.NewGRPCChatterClient(p.dial()).ListChatRooms(withToken(ctx, user), &emptypb.Empty{}); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("a call with a deadline: %v", err)
	}
	time.Sleep(200 * time.Millisecond)
	if after := p.logText(); after != before {
		t.Errorf("the log tells of it:\n%s", strings.TrimPrefix(after, before))
	}
}

// Two servers that start at once on an empty database make it once, and one of them runs.
func TestPostgresTwoStart(t *testing.T) {
	onlyPostgres(t)
	t.Parallel()
	address, _ := emptyDatabase(t)
	wantOneOfTwo(t, func() *exec.Cmd {
		return program(t, t.TempDir(), "serve", "--listen-addr=127.0.0.1:0", "--database-url="+address)
	})
}

// A database that is away when the server starts is waited for.
func TestPostgresAwayAtStart(t *testing.T) {
	ownPostgres(t)
	t.Parallel()
	pg, err := startPostgres()
	if err != nil {
		t.Fatal(err)
	}
	defer pg.close()
	if err := pg.halt("fast"); err != nil {
		t.Fatal(err)
	}
	server := startProgram(t, t.TempDir(), nil, "--listen-addr=127.0.0.1:0", "--database-url="+pg.url)
	eventually(t, patience, "the server says that it waits", func() bool { return strings.Contains(server.log(), "waiting for it") })
	if err := pg.start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, patience, "the server is ready", func() bool { return strings.Contains(server.stdout(), "To stop") })
}

// database restart: PostgreSQL is stopped and started 20 times under load, every other time as by a crash: nothing
// that was acknowledged is lost, nothing doubled, all is well again in 5 s, and no connection is left behind.
func TestPostgresRestarts(t *testing.T) {
	ownPostgres(t)
	const restarts, rooms, perSecond = 20, 5, 500
	pg, err := startPostgres()
	if err != nil {
		t.Fatal(err)
	}
	defer pg.close()
	p := startWatched(t, "--database-url="+pg.url)
	p.data = pg.url
	members := pairs(t, p, rooms)
	c := startCrowd(t, members)
	opened, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
	descriptors := len(opened)
	stop := c.load(perSecond, members...)
	defer stop()
	var took []time.Duration // until it was well again
	for i := range restarts {
		mode := []string{"immediate", "fast"}[i%2]
		if err := pg.halt(mode); err != nil {
			t.Fatal(err)
		}
		if err := pg.start(); err != nil {
			t.Fatal(err)
		}
		back := time.Now()
		before := c.sum((*member).confirmed)
		eventually(t, 30*time.Second, fmt.Sprintf("acknowledgements after restart %d", i), func() bool {
			return c.sum((*member).confirmed) > before+50
		})
		took = append(took, time.Since(back))
	}
	stop()
	c.settle(t, 30*time.Second)
	c.leave()
	if opened, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid)); len(opened) > descriptors+pgWriters+pgReaders {
		t.Errorf("the server has %d descriptors, and had %d", len(opened), descriptors)
	}
	for _, m := range members {
		for _, err := range m.ends {
			if code := status.Code(err); code != codes.Unavailable && code != codes.Canceled { // its own leaving
				t.Errorf("a stream ended with %v", err)
			}
		}
	}
	c.audit(t, p)
	slices.Sort(took)
	t.Logf("%d restarts, %d messages acknowledged, well again after at most %s", restarts, c.sum((*member).confirmed), took[restarts-1].Round(time.Millisecond))
	if took[restarts*3/4] > 5*time.Second { // a busy machine may be late now and then, not a quarter of the times
		t.Errorf("well again only after %s", took)
	}
}

// U+0000 is a character like others: PostgreSQL's text could not hold it.
func TestAnyCharacter(t *testing.T) {
	t.Parallel()
	r := newChatRoom(t, nil, "alice")
	s := openSession(t, r.api, r.tokens["alice"], -1)
	for i, body := range []string{"\x00", "a\x00b", "\\x41", "\\", "\\000", "\u2028\ufeff\U0010ffff", "'; --", "$1 ?"} {
		s.send(&pb.ChatRequest{Body: body, ClientMessageId: "id" + body})
		s.wantMessage(uint64(i+1), "alice", body, "id"+body)
	}
	again := openSession(t, r.api, r.tokens["alice"], 0)
	again.send(&pb.ChatRequest{Body: "\x00", ClientMessageId: "id\x00"})
	again.wantMessage(1, "alice", "\x00", "id\x00")
	// Nothing is called by such a name.
	if status, answer := r.rest("POST", "/login", map[string]string{"user_name": "a\x00b", "password": testPassword}); status != 401 {
		t.Errorf("log-in: %d %v, want 401", status, answer)
	}
	_, err := r.api.JoinChatRoom(withToken(t.Context(), r.users["alice"]), &pb.JoinChatRoomRequest{ShortCode: "ab\x00cd"})
	wantError(t, err, codes.PermissionDenied, "ROOM_ACCESS_DENIED")
	_, err = r.api.DeleteChatRoom(withToken(t.Context(), r.users["alice"]), &pb.DeleteChatRoomRequest{ShortCode: "ab\x00cd"})
	wantError(t, err, codes.NotFound, "ROOM_NOT_FOUND")
}

// A PostgreSQL that hangs, as on a machine that has stopped: whoever waits for it is told within a time that it does not
// answer, and not in the driver's words; when it goes on, all is well at once, and what was acknowledged is there.
func TestPostgresHangs(t *testing.T) {
	ownPostgres(t)
	pg, err := startPostgres()
	if err != nil {
		t.Fatal(err)
	}
	defer pg.close()
	r := newChatRoom(t, []string{"--database-url=" + pg.url}, "alice")
	s := openSession(t, r.api, r.tokens["alice"], -1)
	s.send(&pb.ChatRequest{Body: "before", ClientMessageId: "1"})
	s.wantMessage(1, "alice", "before", "1")

	signal := func(sig syscall.Signal) {
		first, err := os.ReadFile(filepath.Join(pg.dir, "postmaster.pid"))
		if err != nil {
			t.Fatal(err)
		}
		parent, _, _ := strings.Cut(string(first), "\n")
		pid, err := strconv.Atoi(parent)
		if err != nil {
			t.Fatal(err)
		}
		_ = syscall.Kill(pid, sig) // first, or it could have more children than are found here
		stats, _ := filepath.Glob("/proc/[0-9]*/stat")
		for _, path := range stats {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			b, _ := os.ReadFile(path)
			f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
			if len(f) > 1 && f[1] == parent {
				_ = syscall.Kill(pid, sig)
			}
		}
	}
	signal(syscall.SIGSTOP)
	s.send(&pb.ChatRequest{Body: "meanwhile", ClientMessageId: "2"})
	_, err = r.api.ListMessages(withToken(t.Context(), r.tokens["alice"]), &pb.ListMessagesRequest{})
	wantError(t, err, codes.Unavailable, "DATABASE_UNAVAILABLE")
	wantError(t, s.end(), codes.Unavailable, "DATABASE_UNAVAILABLE")
	signal(syscall.SIGCONT)
	eventually(t, patience, "the server is ready", func() bool {
		status, _, _, _ := request(r.addr, "GET", "/readyz", "")
		return status == 200
	})
	again := openSession(t, r.api, r.tokens["alice"], 0)
	again.wantMessage(1, "alice", "before", "1")
	again.send(&pb.ChatRequest{Body: "meanwhile", ClientMessageId: "2"})
	again.wantMessage(2, "alice", "meanwhile", "2")
}

// A join that meets the deletion of its room leaves no member: the room's rows could not be cleared for ever.
func TestPostgresJoinMeetsDelete(t *testing.T) {
	onlyPostgres(t)
	t.Parallel()
	address, db := emptyDatabase(t)
	st, err := openStore(t.Context(), storeOptions{URL: address, Create: true})
	if err != nil {
		t.Fatal(err)
	}
	defer st.close()
	u, err := st.addUser(t.Context(), "ann", "x", roleUser)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.addRoom(t.Context(), "ABCDEF", "room", "x", u.ID); err != nil {
		t.Fatal(err)
	}
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(`UPDATE rooms SET short_code = NULL`); err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(`DELETE FROM members`); err != nil {
		t.Fatal(err)
	}
	joined := make(chan error, 1)
	go func() { joined <- st.addMember(t.Context(), 1, u.ID) }()
	eventually(t, patience, "it waits for the deletion", func() bool {
		var waits bool
		err := db.QueryRow(`SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')`).Scan(&waits)
		return err == nil && waits
	})
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := <-joined; !errors.Is(err, errNotFound) {
		t.Errorf("joining a room that is deleted: %v, want errNotFound", err)
	}
	var members int
	if err := db.QueryRow(`SELECT count(*) FROM members`).Scan(&members); err != nil || members != 0 {
		t.Errorf("the deleted room has %d members, %v", members, err)
	}
	for more := true; more; {
		if more, err = st.purgeDeletedRooms(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// A commit whose answer was lost may take place after the server has looked what is stored: the resend is answered
// then, and the message delivered, although nobody writes another one.
func TestLateCommit(t *testing.T) {
	t.Parallel()
	r := newChatRoom(t, nil, "alice", "bob")
	alice, bob := openSession(t, r.api, r.tokens["alice"], -1), openSession(t, r.api, r.tokens["bob"], -1)
	alice.next() // bob's coming
	alice.send(&pb.ChatRequest{Body: "one", ClientMessageId: "1"})
	alice.wantMessage(1, "alice", "one", "1")
	bob.wantMessage(1, "alice", "one", "1")
	execSQL(t, openData(t, r.dir), `INSERT INTO messages (room_id, seq, user_id, sent_at, client_message_id, body)
		SELECT room_id, 2, user_id, sent_at, '2', 'late' FROM messages`)
	alice.send(&pb.ChatRequest{Body: "late", ClientMessageId: "2"})
	alice.wantMessage(2, "alice", "late", "2")
	bob.wantMessage(2, "alice", "late", "2")
}
