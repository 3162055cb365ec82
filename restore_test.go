package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/grpcchatter/grpcchatter/pb"
)

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
	"with a column of another name": func(t testing.TB, good, path string) {
		writeFile(t, path, readFile(t, good))
		changed(t, path, `ALTER TABLE messages RENAME COLUMN body TO text`)
	},
	"a server's, with its log": func(t testing.TB, good, path string) {
		writeFile(t, path, readFile(t, good))
		writeFile(t, path+"-wal", []byte("x"))
	},
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
		{"belongs to the database", []string{"backup", "grpcchatter.db-wal"}},
		{"belongs to the database", []string{"backup", "../" + filepath.Base(dir) + "/grpcchatter.db-restoring"}},
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

// Of two restores at once to a new file one takes place, and the other one is told why it does not.
func TestTwoRestores(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	_, good := servedData(t)
	for range 3 {
		dir := t.TempDir()
		var both []*runningProgram
		for range 2 {
			p := &runningProgram{cmd: program(t, dir, "restore", good), done: make(chan struct{})}
			p.start(t)
			both = append(both, p)
		}
		good := 0
		for _, p := range both {
			<-p.done
			if p.cmd.ProcessState.Success() {
				good++
			} else if said := p.log(); !strings.Contains(said, "or a restore") && !strings.Contains(said, "has data already") {
				t.Errorf("one says %q", said)
			}
		}
		if good != 1 {
			t.Errorf("%d of two restores took place", good)
		}
	}
}
