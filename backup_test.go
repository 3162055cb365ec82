package main

import (
	"bufio"
	"bytes"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc/codes"

	"github.com/grpcchatter/grpcchatter/client"
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
	eventually(t, patience, "messages that are lost", func() bool { return c.sum((*member).confirmed) > then+200 })
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

// Tokens of before the restore work for what is there again, and for nothing that has got the number of what is lost.
func TestTokensAfterRestore(t *testing.T) {
	t.Parallel()
	r := newChatRoom(t, nil, "alice", "bob")
	sayIn := func(code, token string, ids ...string) {
		t.Helper()
		for _, id := range ids {
			if a := r.call("POST", "/rooms/"+code+"/messages", token, fmt.Sprintf(`{"body":%q,"client_message_id":%q}`, id, id)); a.status != 200 {
				t.Fatalf("%s: %d %s", id, a.status, a.body)
			}
		}
	}
	say := func(ids ...string) { t.Helper(); sayIn(r.code, r.tokens["alice"], ids...) }
	say("one", "two", "three")
	quietCode := createRoom(t, r.api, r.users["bob"])
	quietToken := joinRoom(t, r.api, r.users["bob"], quietCode)
	sayIn(quietCode, quietToken, "hush")
	file := filepath.Join(t.TempDir(), "backup")
	mustRun(t, r.dir, "", "backup", file)

	goClient, err := client.New(r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer goClient.Disconnect()
	if err := goClient.Login(t.Context(), "bob", testPassword); err != nil {
		t.Fatal(err)
	}
	room, err := goClient.JoinChatRoom(t.Context(), r.code, "", client.After(0))
	if err != nil {
		t.Fatal(err)
	}
	quiet, err := goClient.JoinChatRoom(t.Context(), quietCode, "", client.After(0))
	if err != nil {
		t.Fatal(err)
	}
	say("four", "five")
	for range 5 {
		if _, err := room.Receive(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	carl := r.login("carl")
	otherCode := createRoom(t, r.api, r.users["alice"])
	lostRoom := joinRoom(t, r.api, r.users["alice"], otherCode)
	mustRun(t, r.dir, "another password\n", "user", "passwd", "alice")
	_, _, answer, _ := post(r.addr, "/login", credentialsJSON("alice", "another password"))
	changed, _ := answer["token"].(string)
	if changed == "" {
		t.Fatalf("log-in: %v", answer)
	}

	r.kill()
	r.restoreHere(file)
	r.start()
	conn := r.dial()
	_, err = room.Receive(t.Context())
	if !errors.Is(err, client.ErrHistoryRestored) {
		t.Errorf("the Go client's room ends with %v", err)
	}
	sayIn(quietCode, quietToken, "hello again")
	for _, want := range []string{"hush", "hello again"} { // where nothing is lost, it goes on
		if m, err := quiet.Receive(t.Context()); err != nil || m.Body != want {
			t.Errorf("the Go client's other room has %v, %v, want %q", m, err, want)
		}
	}
	wantUser := func(what, token, reason string) {
		t.Helper()
		_, err := rawCall(t, conn, bearerHeader(token), current+"ListChatRooms")
		if got, _ := reasonOf(err); got != reason {
			t.Errorf("%s: %v, want %q", what, err, reason)
		}
	}
	wantUser("a user token", r.users["alice"], "")
	wantUser("one of a lost account", carl, "TOKEN_INVALID")
	wantUser("one of after a lost change", changed, "TOKEN_INVALID")
	mallory := r.login("mallory") // has the number of carl
	wantUser("one of a lost account, whose number is in use", carl, "TOKEN_INVALID")
	wantUser("a new one", mallory, "")
	newCode := createRoom(t, r.api, r.users["alice"])
	newRoom := joinRoom(t, r.api, r.users["alice"], newCode) // with the number of lostRoom
	_, err = rawCall(t, conn, bearerHeader(lostRoom), current+"ListMessages")
	wantError(t, err, codes.NotFound, "ROOM_DELETED")
	_, err = rawCall(t, conn, bearerHeader(newRoom), current+"ListMessages")
	if err != nil {
		t.Error(err)
	}

	say("anew four", "anew five", "anew six") // by a token of before
	for _, after := range []int64{0, 3, 4, 5, 1 << 40} {
		code, closed, reason := codes.Unauthenticated, 4401, "TOKEN_INVALID"
		if after > 3 {
			code, closed, reason = codes.FailedPrecondition, 4409, "HISTORY_RESTORED"
		}
		wantError(t, openSession(t, r.api, r.tokens["alice"], after).end(), code, reason)
		socket := r.dialSocket(t)
		first := fmt.Sprintf(`{"token":%q,"start":{"afterSeq":"%d"}}`, r.tokens["alice"], after)
		if err := socket.Write(t.Context(), websocket.MessageText, []byte(first)); err != nil {
			t.Fatal(err)
		}
		_, _, err := socket.Read(t.Context())
		wantClose(t, fmt.Sprint("after ", after), err, websocket.StatusCode(closed), reason)
	}
	fresh := joinRoom(t, r.api, r.users["alice"], r.code)
	s := openSession(t, r.api, fresh, 3)
	for i, body := range []string{"anew four", "anew five", "anew six"} {
		s.wantMessage(uint64(4+i), "alice", body, body)
	}
	// Without a position there is none to be wrong.
	openSession(t, r.api, r.tokens["bob"], -1).wantMessage(1, "alice", "one", "one")
	room, err = goClient.JoinChatRoom(t.Context(), r.code, "", client.After(3))
	if err != nil {
		t.Fatal(err)
	}
	if m, err := room.Receive(t.Context()); err != nil || m.Body != "anew four" {
		t.Errorf("after joining again: %v, %v", m, err)
	}

	// Another restore: what has happened since the first one is lost, of whatever backup that was.
	r.kill()
	r.restoreHere(file)
	r.start()
	conn = r.dial()
	wantUser("a user token of the first time", r.users["alice"], "")
	wantUser("one of between", mallory, "TOKEN_INVALID")
	_, err = rawCall(t, conn, bearerHeader(fresh), current+"ListMessages")
	wantError(t, err, codes.FailedPrecondition, "HISTORY_RESTORED")
	if a := r.call("GET", "/rooms/"+r.code+"/messages", fresh, ""); a.status != 409 || a.code() != "HISTORY_RESTORED" {
		t.Errorf("REST: %d %s", a.status, a.body)
	}
	wantError(t, openSession(t, r.api, fresh, 3).end(), codes.FailedPrecondition, "HISTORY_RESTORED")
}

// An expired room token of before is not told to come back with a new one: nobody would see then that its position is old.
func TestExpiredTokenAfterRestore(t *testing.T) {
	t.Parallel()
	r := newChatRoom(t, []string{"--token-duration=1s"}, "alice")
	file := filepath.Join(t.TempDir(), "backup")
	mustRun(t, r.dir, "", "backup", file)
	r.stop()
	r.restoreHere(file)
	r.start()
	time.Sleep(2100 * time.Millisecond)
	_, err := rawCall(t, r.dial(), bearerHeader(r.tokens["alice"]), current+"ListMessages")
	wantError(t, err, codes.FailedPrecondition, "HISTORY_RESTORED")
	_, err = rawCall(t, r.dial(), bearerHeader(r.users["alice"]), current+"ListChatRooms")
	wantError(t, err, codes.Unauthenticated, "TOKEN_EXPIRED")
}

// A backup of one database is restored to the other, with everything.
func TestRestoreToTheOtherDatabase(t *testing.T) {
	onlyPostgres(t)
	t.Parallel()
	r := newChatRoom(t, nil, "alice")
	s := openSession(t, r.api, r.tokens["alice"], -1)
	bodies := []string{"a\x00b", "\\x41", "ümläut 😀"}
	for i, body := range bodies {
		s.send(&pb.ChatRequest{Body: body, ClientMessageId: fmt.Sprint("id\x00", i)})
		s.wantMessage(uint64(i+1), "alice", body, fmt.Sprint("id\x00", i))
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "backup")
	mustRun(t, r.dir, "", "backup", file)
	sqlite := "--database-url=sqlite:" + filepath.Join(dir, "grpcchatter.db")
	address, db := emptyDatabase(t)
	postgres := "--database-url=" + address

	status, out, errOut := runProgram(t, r.dir, nil, "", "restore", file)
	wantFailure(t, status, out, errOut, "another server is running on it")
	r.stop()
	status, out, errOut = runProgram(t, r.dir, nil, "", "restore", file)
	wantFailure(t, status, out, errOut, "has data already")
	status, out, errOut = runProgram(t, r.dir, nil, "", "restore", file, "--replace", postgres)
	wantFailure(t, status, out, errOut, "--replace is for SQLite")
	for _, bad := range []string{"truncated", "another program's"} {
		path := filepath.Join(dir, bad)
		badBackups[bad](t, file, path)
		status, out, errOut := runProgram(t, r.dir, nil, "", "restore", path, postgres)
		wantFailure(t, status, out, errOut, "is not a")
	}
	var tables int
	if err := db.QueryRow(`SELECT count(*) FROM information_schema.tables WHERE table_schema = current_schema()`).Scan(&tables); err != nil || tables != 0 {
		t.Errorf("the target has %d tables, %v", tables, err)
	}
	for _, database := range []string{sqlite, postgres} {
		mustRun(t, r.dir, "", "restore", file, database)
		r.args = []string{"serve", "--rate-limits=off", database}
		r.start()
		again := openSession(t, r.api, joinRoom(t, r.api, r.users["alice"], r.code), 0)
		for i, body := range bodies {
			again.wantMessage(uint64(i+1), "alice", body, fmt.Sprint("id\x00", i))
		}
		r.stop()
	}
}

// badBackups make, of a good backup, what is none.
var badBackups = map[string]func(t testing.TB, good, path string){
	"missing":   func(testing.TB, string, string) {},
	"empty":     func(t testing.TB, _, path string) { writeFile(t, path, nil) },
	"a folder":  func(t testing.TB, _, path string) { _ = os.Mkdir(path, 0o700) },
	"text":      func(t testing.TB, _, path string) { writeFile(t, path, []byte(strings.Repeat("text\n", 1000))) },
	"truncated": func(t testing.TB, good, path string) { b := readFile(t, good); writeFile(t, path, b[:len(b)/2]) },
	"a page of noise": func(t testing.TB, good, path string) {
		b := bytes.Clone(readFile(t, good))
		for i := len(b) - 3*4096; i < len(b)-4096; i++ {
			b[i] = byte(i * 7)
		}
		writeFile(t, path, b)
	},
	"noise after the magic": func(t testing.TB, good, path string) {
		writeFile(t, path, append(bytes.Clone(readFile(t, good)[:16]), bytes.Repeat([]byte{7}, 8192)...))
	},
	"another program's": func(t testing.TB, _, path string) {
		changed(t, path, `CREATE TABLE songs (id integer)`)
	},
	"another program's with our version table": func(t testing.TB, _, path string) {
		changed(t, path, `CREATE TABLE schema_version (version bigint)`, `INSERT INTO schema_version VALUES (1)`)
	},
	"a database without tables": func(t testing.TB, _, path string) {
		changed(t, path, `CREATE TABLE x (y)`, `DROP TABLE x`)
	},
	"a newer one": func(t testing.TB, good, path string) {
		writeFile(t, path, readFile(t, good))
		changed(t, path, `UPDATE schema_version SET version = 99`)
	},
	"without a version": func(t testing.TB, good, path string) {
		writeFile(t, path, readFile(t, good))
		changed(t, path, `DELETE FROM schema_version`)
	},
	"a server's, with its log": func(t testing.TB, good, path string) {
		writeFile(t, path, readFile(t, good))
		writeFile(t, path+"-wal", []byte("x"))
	},
}

func changed(t testing.TB, path string, statements ...string) {
	t.Helper()
	db := openSQL(t, path)
	execSQL(t, db, statements...)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

func writeFile(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// What is no backup is refused with one sentence that names it, and changes nothing (issue 6: "Bad input").
func TestBadBackups(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	dir := t.TempDir()
	good := filepath.Join(t.TempDir(), "good")
	mustRun(t, dir, testPassword, "user", "add", "ann")
	mustRun(t, dir, "", "backup", good)
	mustRun(t, dir, testPassword, "user", "add", "ben")
	before := files(t, dir)
	for name, spoil := range badBackups {
		path := filepath.Join(t.TempDir(), "bad")
		spoil(t, good, path)
		bad := files(t, filepath.Dir(path))
		for _, flag := range []string{"--replace", "--database-url=sqlite:" + filepath.Join(t.TempDir(), "new.db")} {
			status, out, errOut := runProgram(t, dir, nil, "", "restore", path, flag)
			t.Run(name+" "+flag[:5], func(t *testing.T) { wantFailure(t, status, out, errOut, path+" is not a") })
			if target, ok := strings.CutPrefix(flag, "--database-url=sqlite:"); ok {
				wantFolder(t, filepath.Dir(target), nil)
			}
		}
		wantSameFiles(t, name, bad, files(t, filepath.Dir(path)))
	}
	text := filepath.Join(t.TempDir(), "text")
	badBackups["text"](t, good, text)
	for _, c := range []struct {
		names string
		args  []string
	}{
		{"has data already", []string{"restore", good}},
		{"is the database itself", []string{"restore", "grpcchatter.db", "--replace"}},
		{"no such file or directory", []string{"restore", good, "--database-url=sqlite:missing/new.db"}},
		{"it is not a file", []string{"restore", good, "--replace", "--database-url=sqlite:" + filepath.Dir(good)}},
		{"DATABASE_URL", []string{"restore", good, "--database-url=mysql://x"}},
		{"--help", []string{"restore"}},
		{"there is a file", []string{"backup", good}},
		{"there is a file", []string{"backup", "grpcchatter.db"}},
		{"there is a file", []string{"backup", "."}},
		{"cannot write the backup", []string{"backup", "missing/backup"}},
		{"DATABASE_URL", []string{"backup", "new", "--database-url=mysql://x"}},
		{"missing.db", []string{"backup", "new", "--database-url=sqlite:missing.db"}},
		{"another program", []string{"backup", "new", "--database-url=sqlite:" + songs(t)}},
		{"holds no data", []string{"backup", "new", "--database-url=sqlite:" + emptyFile(t)}},
		{"not a SQLite database", []string{"backup", "new", "--database-url=sqlite:" + text}},
		{"--help", []string{"backup"}},
		{"no room", []string{"export", "--room=333333"}},
		{"no room", []string{"export", "--room=" + strings.Repeat("x", 100)}},
		{"missing.db", []string{"export", "--database-url=sqlite:missing.db"}},
	} {
		status, out, errOut := runProgram(t, dir, nil, "", c.args...)
		t.Run(strings.Join(c.args[:min(2, len(c.args))], " "), func(t *testing.T) { wantFailure(t, status, out, errOut, c.names) })
	}
	wantSameFiles(t, "the data", before, files(t, dir))

	p := startProgram(t, dir, nil, "--listen-addr=127.0.0.1:0")
	p.addrs(t, 1)
	status, out, errOut := runProgram(t, dir, nil, "", "restore", good, "--replace")
	wantFailure(t, status, out, errOut, "another server is running on it")
	p.stop()
	// Whatever the old data is, it makes way: it may be why there is a restore.
	writeFile(t, filepath.Join(dir, "grpcchatter.db"), []byte("rubbish"))
	said := mustRun(t, dir, "", "restore", good, "--replace")
	m := regexp.MustCompile(`The old data is kept as (\S+)\n`).FindStringSubmatch(said)
	if m == nil || string(readFile(t, m[1])) != "rubbish" {
		t.Errorf("restore says %q", said)
	}
	if list := mustRun(t, dir, "", "user", "list"); !strings.Contains(list, "ann") || strings.Contains(list, "ben") {
		t.Errorf("user list:\n%s", list)
	}
	if info, err := os.Stat(filepath.Join(dir, "grpcchatter.db")); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

func songs(t testing.TB) string {
	path := filepath.Join(t.TempDir(), "songs.db")
	changed(t, path, `CREATE TABLE songs (id integer)`)
	return path
}

func emptyFile(t testing.TB) string {
	path := filepath.Join(t.TempDir(), "empty.db")
	writeFile(t, path, nil)
	return path
}

func wantSameFiles(t testing.TB, what string, before, after map[string]string) {
	t.Helper()
	for path, b := range after {
		if _, was := before[path]; (!was && !strings.HasSuffix(path, "-lock")) || was && before[path] != b {
			t.Errorf("%s: %s was changed", what, path)
		}
	}
	for path := range before {
		if _, is := after[path]; !is {
			t.Errorf("%s: %s is gone", what, path)
		}
	}
}

// fill makes a database with messages of 1 KB, and returns its address.
func fill(t testing.TB, path string, messages int) {
	t.Helper()
	st, err := openStore(t.Context(), storeOptions{URL: "sqlite:" + path, Synchronous: "normal", Create: true})
	if err != nil {
		t.Fatal(err)
	}
	u, err := st.addUser(t.Context(), "ann", "x", roleUser)
	if err == nil {
		err = st.addRoom(t.Context(), "ABCDEF", "room", "x", u.ID)
	}
	for seq := 1; err == nil && seq <= messages; seq += 500 {
		var msgs []message
		for i := seq; i < seq+500 && i <= messages; i++ {
			msgs = append(msgs, message{RoomID: 1, Seq: uint64(i), UserID: u.ID, SentAt: int64(i), ClientMessageID: fmt.Sprint(i), Body: strings.Repeat("x", 1000)})
		}
		err = st.addMessages(msgs)
	}
	if err = errors.Join(err, st.close()); err != nil {
		t.Fatal(err)
	}
}

// SIGKILL at any moment of a backup leaves a whole backup under its name, or none; of a restore, the old data or the new,
// with which a server starts.
func TestKilledBackupAndRestore(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	const kills, old, fresh = 6, 1500, 1000
	dir, backups := t.TempDir(), t.TempDir()
	target := filepath.Join(dir, "grpcchatter.db")
	fill(t, filepath.Join(backups, "data"), fresh)
	fill(t, target, old)
	good := filepath.Join(backups, "good")
	start := time.Now()
	mustRun(t, dir, "", "backup", good, "--database-url=sqlite:"+filepath.Join(backups, "data"))
	took := time.Since(start)
	made, killed := 0, 0
	for i := range kills {
		file := filepath.Join(backups, fmt.Sprint("backup", i))
		killAfter(t, 2*took*time.Duration(i)/kills+rand.N(took/kills), program(t, dir, "backup", file))
		if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
			killed++
			continue
		}
		made++
		if n := wantOpened(t, file, "a backup that was killed"); n != old {
			t.Errorf("a backup that was killed has %d messages", n)
		}
	}
	t.Logf("a backup takes %s; of %d that were killed %d were made", took.Round(time.Millisecond), kills, made)
	if killed == 0 {
		t.Error("no backup was killed")
	}

	// The old data has a log, as that of a server which was killed has.
	db := openSQL(t, target)
	execSQL(t, db, `UPDATE rooms SET name = 'in the log'`)
	data, log := readFile(t, target), readFile(t, target+"-wal")
	if err := db.Close(); err != nil || len(log) == 0 {
		t.Fatal(err, len(log))
	}
	putOld := func() {
		removeDatabase(target)
		writeFile(t, target, data)
		writeFile(t, target+"-wal", log)
	}
	wantOld := func(path string) {
		t.Helper()
		var name string
		db := openSQL(t, path)
		defer db.Close()
		if err := db.QueryRow(`SELECT name FROM rooms`).Scan(&name); err != nil || name != "in the log" {
			t.Errorf("%s has lost its log: %q, %v", path, name, err)
		}
	}
	start = time.Now()
	mustRun(t, t.TempDir(), "", "restore", good)
	took = time.Since(start)
	wasOld, wasNew := 0, 0
	for i := range kills {
		putOld()
		killAfter(t, 2*took*time.Duration(i)/kills+rand.N(took/kills), program(t, dir, "restore", good, "--replace"))
		// As a server would find it.
		st, err := openStore(t.Context(), storeOptions{URL: "sqlite:" + target, Synchronous: "full", Exclusive: true})
		if err != nil {
			t.Fatalf("after a restore that was killed: %v", err)
		}
		if err := st.close(); err != nil {
			t.Fatal(err)
		}
		switch n := wantOpened(t, target, "the data after a restore that was killed"); n {
		case old:
			wasOld++
			wantOld(target)
		case fresh:
			wasNew++
		default:
			t.Fatalf("after a restore that was killed there are %d messages", n)
		}
	}
	t.Logf("a restore takes %s; after %d that were killed the data was the old one %d times and the new one %d times", took.Round(time.Millisecond), kills, wasOld, wasNew)
	if wasOld == 0 {
		t.Error("no restore was killed")
	}
	putOld()
	mustRun(t, dir, "", "restore", good, "--replace")
	if n := wantOpened(t, target, "the data"); n != fresh {
		t.Errorf("%d messages after a restore", n)
	}
	if left := glob(t, target+"-restoring*"); len(left) > 0 {
		t.Errorf("it has left %v", left)
	}
	kept := slices.DeleteFunc(glob(t, target+".replaced-*"), func(path string) bool { return strings.HasSuffix(path, "-wal") })
	if n := wantOpened(t, kept[len(kept)-1], "what was kept"); n != old {
		t.Errorf("%d messages are kept", n)
	}
	wantOld(kept[len(kept)-1])
}

func glob(t testing.TB, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// killAfter runs a command and kills it after a while, if it has not ended.
func killAfter(t testing.TB, d time.Duration, cmd *exec.Cmd) {
	t.Helper()
	cmd.Env = append(cmd.Env, noPause)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(d)
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // says that it was killed
}

// An export has every message once, in order, as JSON; of one room or of all, beside a server; also when nobody reads on.
func TestExport(t *testing.T) {
	t.Parallel()
	r := newChatRoom(t, nil, "alice")
	empty := createRoom(t, r.api, r.users["alice"])
	second := createRoom(t, r.api, r.users["alice"])
	gone := createRoom(t, r.api, r.users["alice"])
	bodies := []string{"<b>&amp;", "a\x00b\n", "ümläut 😀", strings.Repeat("x", 4000)}
	for len(bodies) < 700 {
		bodies = append(bodies, fmt.Sprint(len(bodies)))
	}
	for _, code := range []string{r.code, second, gone} {
		s := openSession(t, r.api, joinRoom(t, r.api, r.users["alice"], code), -1)
		for i, body := range bodies {
			s.send(&pb.ChatRequest{Body: body, ClientMessageId: fmt.Sprint(i)})
		}
		s.wantMessage(1, "alice", bodies[0], "0")
		for s.next().GetSeq() < uint64(len(bodies)) {
		}
		s.cancel()
	}
	if _, err := r.api.DeleteChatRoom(withToken(t.Context(), r.users["alice"]), &pb.DeleteChatRoomRequest{ShortCode: gone}); err != nil {
		t.Fatal(err)
	}
	check := func(out string, codes ...string) {
		t.Helper()
		lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
		if len(lines) != len(codes)*len(bodies) {
			t.Fatalf("%d lines, want %d", len(lines), len(codes)*len(bodies))
		}
		for i, line := range lines {
			var m map[string]any
			if err := json.Unmarshal([]byte(line), &m); err != nil {
				t.Fatalf("%v: %s", err, line)
			}
			at, err := time.Parse(time.RFC3339, m["sent_at"].(string))
			n := i % len(bodies)
			want := map[string]any{"short_code": codes[i/len(bodies)], "room_name": "a room", "seq": float64(n + 1), "user_name": "alice",
				"sent_at": m["sent_at"], "body": bodies[n], "client_message_id": fmt.Sprint(n)}
			if fmt.Sprint(m) != fmt.Sprint(want) || err != nil || time.Since(at).Abs() > time.Hour {
				t.Fatalf("line %d is %v, want %v", i, m, want)
			}
		}
	}
	check(mustRun(t, r.dir, "", "export"), r.code, second)
	check(mustRun(t, r.dir, "", "export", "--room", strings.ToLower(second)), second)
	if out := mustRun(t, r.dir, "", "export", "--room", empty); out != "" {
		t.Errorf("an empty room: %q", out)
	}
	status, out, errOut := runProgram(t, r.dir, nil, "", "export", "--room", gone)
	wantFailure(t, status, out, errOut, "no room")

	if runtime.GOOS == "windows" {
		return
	}
	cmd := program(t, r.dir, "export")
	var said bytes.Buffer
	cmd.Stderr = &said
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(pipe).ReadString('\n'); err != nil {
		t.Error(err)
	}
	_ = pipe.Close()
	_ = cmd.Wait()
	if said.Len() > 0 || cmd.ProcessState.Success() {
		t.Errorf("into a broken pipe: %v, %q", cmd.ProcessState, said.String())
	}
}
