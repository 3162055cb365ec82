package main

import (
	"database/sql"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/url"
	"os"
	"os/exec"
	osuser "os/user"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
)

// pgServer is the PostgreSQL on whose databases this round of the tests runs; nil: it runs on SQLite.
var pgServer *postgresServer

// postgresServer is a PostgreSQL of the tests' own, or the one that TEST_DATABASE_URL names.
type postgresServer struct {
	url string // of a database from which others can be created
	dir string // its data; empty: not ours
	bin string

	mu   sync.Mutex // guards made
	made map[string]bool
}

// startPostgres returns errNoPostgres if there is none on this machine.
func startPostgres() (*postgresServer, error) {
	if u := os.Getenv("TEST_DATABASE_URL"); u != "" {
		return &postgresServer{url: u, made: map[string]bool{}}, nil
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		return nil, errNoPostgres
	}
	slices.Sort(found)
	dir, err := os.MkdirTemp("", "grpcchatter-postgres")
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	port := l.Addr().(*net.TCPAddr).Port
	_ = l.Close()
	s := &postgresServer{
		url: fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres?sslmode=disable", port), dir: dir,
		bin: filepath.Dir(found[len(found)-1]), made: map[string]bool{},
	}
	if os.Geteuid() == 0 { // PostgreSQL refuses to run as root
		u, err := osuser.Lookup("postgres")
		if err != nil {
			return nil, err
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		if err := os.Chown(dir, uid, gid); err != nil {
			return nil, err
		}
	}
	if err := s.command("initdb", "-D", dir, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8"); err != nil {
		return nil, err
	}
	settings := fmt.Sprintf("port = %d\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\nmax_connections = 400\nshared_buffers = 64MB\n", port)
	f, err := os.OpenFile(filepath.Join(dir, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	_, err = f.WriteString(settings)
	// Only this account has to give a password.
	hba := "host all needspassword 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n"
	if err := errors.Join(err, f.Close(), os.WriteFile(filepath.Join(dir, "pg_hba.conf"), []byte(hba), 0o600)); err != nil {
		return nil, err
	}
	return s, s.start()
}

var errNoPostgres = errors.New("there is no PostgreSQL on this machine (Debian's package postgresql), and TEST_DATABASE_URL is not set")

// command runs one of PostgreSQL's programs as the user postgres.
func (s *postgresServer) command(name string, args ...string) error {
	cmd := exec.Command(filepath.Join(s.bin, name), args...)
	cmd.Dir = s.dir
	if os.Geteuid() == 0 {
		info, err := os.Stat(s.dir)
		if err != nil {
			return err
		}
		stat := info.Sys().(*syscall.Stat_t)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: stat.Uid, Gid: stat.Gid}}
	}
	// pg_ctl leaves a server behind that would keep a pipe open.
	out, err := os.CreateTemp("", name)
	if err != nil {
		return err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		said, _ := os.ReadFile(out.Name())
		return fmt.Errorf("%s: %w\n%s", name, err, said)
	}
	return nil
}

func (s *postgresServer) start() error {
	return s.command("pg_ctl", "-D", s.dir, "-w", "-t", "60", "-l", filepath.Join(s.dir, "log"), "start")
}

// halt stops it, by mode fast (as a person does) or immediate (as a crash does).
func (s *postgresServer) halt(mode string) error {
	return s.command("pg_ctl", "-D", s.dir, "-w", "-m", mode, "stop")
}

func (s *postgresServer) close() {
	if s.dir != "" {
		if err := s.halt("immediate"); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		_ = os.RemoveAll(s.dir)
	}
}

// with returns the address of another database of it.
func (s *postgresServer) with(database string) string {
	u, err := url.Parse(s.url)
	if err != nil {
		panic(err)
	}
	u.Path = "/" + database
	return u.String()
}

// create makes a database, whose name it returns, for a folder; always the same one for the same folder.
func (s *postgresServer) create(t testing.TB, dir string) string {
	t.Helper()
	h := fnv.New64a()
	fmt.Fprint(h, os.Getpid(), dir)
	name := fmt.Sprintf("grpcchatter_%x", h.Sum64())
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.made[name] {
		return name
	}
	db, err := sql.Open("pgx", s.url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(`CREATE DATABASE ` + name); err != nil {
		t.Fatal(err)
	}
	s.made[name] = true
	if s.dir == "" {
		t.Cleanup(func() {
			db, err := sql.Open("pgx", s.url)
			if err == nil {
				_, err = db.Exec(`DROP DATABASE ` + name + ` WITH (FORCE)`)
				err = errors.Join(err, db.Close())
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	return name
}

// databaseURL is where a program in a folder has its data, in this round of the tests.
func databaseURL(t testing.TB, dir string) string {
	t.Helper()
	if pgServer == nil {
		return "sqlite:" + filepath.Join(dir, "grpcchatter.db")
	}
	return pgServer.with(pgServer.create(t, dir))
}

// openData opens the data of a program in a folder, as another program would.
func openData(t testing.TB, dir string) *sql.DB {
	t.Helper()
	driver, dsn := "sqlite", "file:"+filepath.Join(dir, "grpcchatter.db")+"?_txlock=immediate&_pragma=busy_timeout(5000)"
	if pgServer != nil {
		driver, dsn = "pgx", databaseURL(t, dir)
	}
	db, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// onlySQLite ends a test that is about SQLite's files, or that the database does not matter to, in the round on PostgreSQL.
func onlySQLite(t testing.TB) {
	if pgServer != nil {
		t.Skip("on SQLite only")
	}
}

// onlyPostgres ends a test that is about PostgreSQL in the round on SQLite.
func onlyPostgres(t testing.TB) {
	if pgServer == nil {
		t.Skip("on PostgreSQL only")
	}
}

// ownPostgres ends a test that changes or stops a PostgreSQL, where there is only somebody else's.
func ownPostgres(t testing.TB) *postgresServer {
	onlyPostgres(t)
	if pgServer.dir == "" {
		t.Skip("on a PostgreSQL of the tests' own only")
	}
	return pgServer
}
