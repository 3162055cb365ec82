package main

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/grpcchatter/grpcchatter/pb"
)

// openSQL opens a database by its path, as another program would.
func openSQL(t testing.TB, path string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func execSQL(t testing.TB, db *sql.DB, statements ...string) {
	t.Helper()
	for _, s := range statements {
		if _, err := db.Exec(s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

// files returns what is in a folder.
func files(t testing.TB, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		all[path] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// A database that cannot be used is refused by every command, with one line that names it and says why, and it
// is left as it was (design: "Storage": "a newer one is refused with a clear error").
func TestBadDatabases(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	made := filepath.Join(t.TempDir(), "made.db") // by this program
	st, err := openStore(context.Background(), storeOptions{URL: "sqlite:" + made, Create: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := st.close(); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(made)
	if err != nil {
		t.Fatal(err)
	}
	write := func(content string) func(string) {
		return func(path string) {
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	query := func(content string, statements ...string) func(string) {
		return func(path string) {
			write(content)(path)
			db := openSQL(t, path)
			execSQL(t, db, statements...)
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range []struct {
		name string
		make func(path string)
		path string // below the folder
		says string
	}{
		{"text", write(strings.Repeat("this is no database\n", 500)), "x.db", "not a SQLite database"},
		{"a few bytes", write("few\n"), "x.db", "not a SQLite database"},
		{"the first page lost", write(strings.Repeat("\x00", 4096) + string(good[4096:])), "x.db", "not a SQLite database"},
		{"cut off", write(string(good[:4096])), "x.db", ""},
		{"of another program", query("", "CREATE TABLE notes (id integer)", "INSERT INTO notes VALUES (1)"), "x.db", "another program"},
		{"of another program, with a table schema_version", query("", "CREATE TABLE schema_version (v text)", "CREATE TABLE notes (id integer)"), "x.db", ""},
		{"newer", query(string(good), "UPDATE schema_version SET version = 99"), "x.db", "newer version"},
		{"without a version", query(string(good), "DELETE FROM schema_version"), "x.db", "damaged"},
		{"no folder", func(string) {}, "missing/x.db", "folder"},
		{"below a file", write("x"), "x.db/y.db", ""},
		{"a folder", func(path string) { _ = os.Mkdir(path, 0o700) }, "x.db", "not a file"},
		{"a version that is a text", query(string(good), "UPDATE schema_version SET version = 'x'"), "x.db", "damaged"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, c.path)
			c.make(filepath.Join(dir, "x.db"))
			before := files(t, dir)
			for _, command := range [][]string{{"serve", "--listen-addr=127.0.0.1:0"}, {"user", "add", "ann"}, {"user", "list"}} {
				status, out, errOut := runProgram(t, dir, nil, testPassword, append(command, "--database-url=sqlite:"+path)...)
				wantFailure(t, status, out, errOut, path)
				if !strings.Contains(errOut, c.says) {
					t.Errorf("%v: %q does not say %q", command, errOut, c.says)
				}
			}
			after := files(t, dir)
			if !maps.Equal(before, after) {
				t.Errorf("the files were changed: before %v, after %v", sizes(before), sizes(after))
			}
		})
	}
}

func sizes(files map[string]string) (s []string) {
	for path, content := range files {
		s = append(s, fmt.Sprintf("%s: %d bytes, beginning with %.24q", filepath.Base(path), len(content), content))
	}
	slices.Sort(s)
	return s
}

// A database or a folder without permission to write is refused (configuration: DATABASE_URL). Permissions do
// not stop root, who runs the program as nobody here.
func TestDatabaseWithoutPermission(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	dir := t.TempDir()
	exe := filepath.Join(dir, "grpcchatter")
	cmd := program(t, dir)
	b, err := os.ReadFile(cmd.Path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(exe, b, 0o755); err != nil {
		t.Fatal(err)
	}
	full := filepath.Join(dir, "full")
	if err := os.Mkdir(full, 0o755); err != nil {
		t.Fatal(err)
	}
	mustRun(t, full, testPassword, "user", "add", "ann")
	// Of this one only the file is read-only: SQLite opens it, and fails at the first write.
	open := filepath.Join(dir, "open")
	if err := os.Mkdir(open, 0o777); err != nil {
		t.Fatal(err)
	}
	mustRun(t, open, testPassword, "user", "add", "ann")
	if err := errors.Join(os.Chmod(open, 0o777), os.Chmod(filepath.Join(open, "grpcchatter.db"), 0o444)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, filepath.Dir(dir), full} {
		if err := os.Chmod(path, 0o555); err != nil {
			t.Fatal(err)
		}
	}
	defer func() { _ = os.Chmod(dir, 0o755); _ = os.Chmod(filepath.Dir(dir), 0o755); _ = os.Chmod(full, 0o755) }()
	if err := os.Chmod(filepath.Join(full, "grpcchatter.db"), 0o444); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(full, "grpcchatter.db"), filepath.Join(open, "grpcchatter.db"), filepath.Join(dir, "new.db")} {
		cmd := program(t, dir, "serve", "--listen-addr=127.0.0.1:0", "--database-url=sqlite:"+path)
		cmd.Path = exe
		if os.Geteuid() == 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		}
		status, out, errOut := runCommand(t, cmd, nil, "")
		wantFailure(t, status, out, errOut, path)
		if !strings.Contains(errOut, "permission") {
			t.Errorf("%s: %q says nothing of a permission", path, errOut)
		}
	}
}

// Two servers on one file, by whatever name: the second one refuses to start, and the first one goes on; of two
// at the very first start, one runs (design: "Two servers on one file: the second refuses to start").
func TestSecondServer(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	p := startServer(t)
	p.login("ann")
	link := filepath.Join(t.TempDir(), "link.db")
	if err := os.Symlink(p.database(), link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{p.database(), link, filepath.Join(p.dir, "..", filepath.Base(p.dir), "grpcchatter.db")} {
		status, out, errOut := runProgram(t, p.dir, nil, "", "serve", "--listen-addr=127.0.0.1:0", "--database-url=sqlite:"+path)
		wantFailure(t, status, out, errOut, "another server")
	}
	p.login("ann")

	// A link that was there before the database: one lock all the same.
	target := filepath.Join(t.TempDir(), "made.db")
	link = filepath.Join(t.TempDir(), "link.db")
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	startServer(t, "--database-url=sqlite:"+link)
	status, out, errOut := runProgram(t, p.dir, nil, "", "serve", "--listen-addr=127.0.0.1:0", "--database-url=sqlite:"+target)
	wantFailure(t, status, out, errOut, "another server")

	// SQLite would take two hard links for two databases.
	hard := filepath.Join(p.dir, "hard.db")
	if err := os.Link(p.database(), hard); err != nil {
		t.Fatal(err)
	}
	status, out, errOut = runProgram(t, p.dir, nil, "", "serve", "--listen-addr=127.0.0.1:0", "--database-url=sqlite:"+hard)
	wantFailure(t, status, out, errOut, "hard link")

	dir := t.TempDir()
	wantOneOfTwo(t, func() *exec.Cmd { return program(t, dir, "serve", "--listen-addr=127.0.0.1:0") })
}

// wantOneOfTwo starts two servers at once: one of them runs, and the other one says that it does.
func wantOneOfTwo(t *testing.T, start func() *exec.Cmd) {
	t.Helper()
	var both []*runningProgram
	for range 2 {
		server := &runningProgram{cmd: start(), done: make(chan struct{})}
		server.start(t)
		defer server.stop()
		defer func() {
			if t.Failed() {
				t.Logf("a server said: %s%s", server.stdout(), server.log())
			}
		}()
		both = append(both, server)
	}
	eventually(t, patience, "one has ended and the other one is ready", func() bool {
		over, ready := 0, 0
		for _, p := range both {
			select {
			case <-p.done:
				over++
			default:
				if strings.Contains(p.stdout(), "To stop") {
					ready++
				}
			}
		}
		return over == 1 && ready == 1
	})
	for _, p := range both {
		select {
		case <-p.done:
			wantFailure(t, p.cmd.ProcessState.ExitCode(), p.stdout(), p.log(), "another server is running on it")
		default:
		}
	}
}

// Commands get their turn beside a server that lets go of the database for half a millisecond only, between two commits that each
// take as long as a slow disk does: `user role` was told that the database is locked.
func TestBesideBusyServer(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	path := filepath.Join(t.TempDir(), "grpcchatter.db")
	st, err := openStore(t.Context(), storeOptions{URL: "sqlite:" + path, Create: true})
	if err != nil {
		t.Fatal(err)
	}
	defer st.close()
	db := openSQL(t, path)
	var busy sync.WaitGroup
	defer busy.Wait()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	began := make(chan struct{})
	busy.Go(func() {
		for first := true; ctx.Err() == nil; first = false {
			if _, err := db.Exec("BEGIN IMMEDIATE"); err != nil {
				t.Error(err)
				return
			}
			if first {
				close(began)
			}
			time.Sleep(50 * time.Millisecond)
			if _, err := db.Exec("ROLLBACK"); err != nil {
				t.Error(err)
				return
			}
			for end := time.Now().Add(500 * time.Microsecond); time.Now().Before(end); { // more exact than a sleep
			}
		}
	})
	<-began
	for i := range 4 { // once is luck
		time.Sleep(150 * time.Millisecond) // the server, which has waited for the command before, is busy again
		if _, err := st.addUser(t.Context(), fmt.Sprint("user", i), "x", roleUser); err != nil {
			t.Fatal(err)
		}
	}
}

// While another program keeps the database locked, writing is refused with advice to come again, reading goes
// on, and nothing is confirmed that is not stored (error table: "database away").
func TestDatabaseLocked(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	r := newChatRoom(t, nil, "alice")
	conn := r.dial()
	s := openSession(t, r.api, r.tokens["alice"], -1)
	s.send(&pb.ChatRequest{Body: "before"})
	s.wantMessage(1, "alice", "before", "")
	db := openSQL(t, r.database())
	execSQL(t, db, "PRAGMA journal_mode = WAL", "BEGIN IMMEDIATE")
	var waiting sync.WaitGroup
	for i := range 5 { // they wait together, and not one behind the other
		waiting.Go(func() {
			began := time.Now()
			status, header, answer, err := post(r.addr, "/register", credentialsJSON(fmt.Sprint("late", i), testPassword))
			if status != 503 || answer["code"] != "DATABASE_UNAVAILABLE" || header.Get("Retry-After") == "" {
				t.Errorf("register, after %s: %d %v %v, want 503 DATABASE_UNAVAILABLE with Retry-After", time.Since(began), status, answer, err)
			}
		})
	}
	waiting.Go(func() {
		_, err := rawCall(t, conn, bearerHeader(r.users["alice"]), current+"CreateChatRoom", text(1, "a room"))
		wantError(t, err, codes.Unavailable, "DATABASE_UNAVAILABLE")
	})
	s.send(&pb.ChatRequest{Body: "during", ClientMessageId: "during"})
	wantError(t, s.end(), codes.Unavailable, "DATABASE_UNAVAILABLE")
	waiting.Wait()
	mustCall(t, conn, bearerHeader(r.users["alice"]), current+"ListChatRooms")
	mustCall(t, conn, bearerHeader(r.tokens["alice"]), current+"ListMessages")
	execSQL(t, db, "ROLLBACK")
	again := openSession(t, r.api, r.tokens["alice"], 0)
	again.wantMessage(1, "alice", "before", "")
	again.send(&pb.ChatRequest{Body: "during", ClientMessageId: "during"}) // the resend
	again.wantMessage(2, "alice", "during", "during")
	if status, _, answer, err := post(r.addr, "/register", credentialsJSON("late0", testPassword)); status != 200 {
		t.Errorf("register afterwards: %d %v %v", status, answer, err)
	}
}

// The data is for its owner's eyes only, and holds no password in clear (design: "file mode 0600").
func TestDatabaseIsPrivate(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	const password, roomPassword = "a password to look for", "a room password to look for"
	target := filepath.Join(t.TempDir(), "elsewhere.db")
	for name, path := range map[string]string{"a file": "", "a link to what is to be made": target} {
		t.Run(name, func(t *testing.T) {
			var args []string
			if path != "" {
				link := filepath.Join(t.TempDir(), "link.db")
				if err := os.Symlink(path, link); err != nil {
					t.Fatal(err)
				}
				args = []string{"--database-url=sqlite:" + link}
			}
			p := startServer(t, args...)
			if path == "" {
				path = p.database()
			}
			if status, _, answer, err := post(p.addr, "/register", credentialsJSON("ann", password)); status != 200 {
				t.Fatal(status, answer, err)
			}
			_, _, answer, err := post(p.addr, "/login", credentialsJSON("ann", password))
			if err != nil {
				t.Fatal(err)
			}
			token, _ := answer["token"].(string)
			mustCall(t, p.dial(), bearerHeader(token), current+"CreateChatRoom", text(1, "a room"), text(2, roomPassword))
			for _, suffix := range []string{"", "-wal", "-shm"} {
				info, err := os.Stat(path + suffix)
				if err != nil {
					t.Error(err)
					continue
				}
				if info.Mode().Perm() != 0o600 {
					t.Errorf("%s has the mode %v, want 0600", path+suffix, info.Mode())
				}
				b, err := os.ReadFile(path + suffix)
				if err != nil {
					t.Fatal(err)
				}
				for _, secret := range []string{password, roomPassword, token, strings.Split(token, ".")[2]} {
					if bytes.Contains(b, []byte(secret)) {
						t.Errorf("%s has %q in clear", path+suffix, secret)
					}
				}
			}
		})
	}
}
