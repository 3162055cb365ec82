package main

import (
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

//go:embed schema.sql
var schemaSQL string

// schemaVersion is the version of schema.sql. A database of a later one is refused.
const schemaVersion = 1

// What a caller of the store matches. The driver's error stays wrapped, for the log.
var (
	errNotFound    = errors.New("no such row")
	errConflict    = errors.New("a unique or foreign key forbids it")
	errDiskFull    = errors.New("the disk is full")
	errUnavailable = errors.New("the database does not answer")
	// errBroken means that the database can no longer be trusted to keep what it confirms: the process has
	// to end (https://www.sqlite.org/atomiccommit.html, section 9).
	errBroken = errors.New("the database cannot be written reliably")
)

// store is all data, in one SQLite file. It is safe for concurrent use, except where a method says so.
type store struct {
	w    *sql.DB // one connection: SQLite has one writer
	r    *sql.DB // read-only
	path string
	// lock and locked hold an exclusive transaction on a file beside the database for as long as a server
	// runs on it.
	lock   *sql.DB
	locked *sql.Conn
	// broken is set when a write has met errBroken: no other is tried, for a later sync may claim to have
	// written what an earlier one has lost. onBroken, set before the first write, is told.
	broken   atomic.Bool
	onBroken func(error)

	insert, lookup batchStmts
}

// storeOptions are how to open a store.
type storeOptions struct {
	URL         string // sqlite:PATH
	Synchronous string // full or normal
	Create      bool   // make a new database where there is none
	Exclusive   bool   // as a server: only one process at a time
}

// openStore opens a database, of which the schema is made or checked.
func openStore(ctx context.Context, o storeOptions) (_ *store, err error) {
	path, err := filepath.Abs(strings.TrimPrefix(o.URL, "sqlite:"))
	if err != nil {
		return nil, fmt.Errorf("DATABASE_URL: %w", err)
	}
	s := &store{path: path}
	defer func() {
		if err != nil {
			_ = s.close()
			err = fmt.Errorf("cannot open the database %s: %w", path, describe(err))
		}
	}()

	if o.Create {
		if err := createPrivate(path); err != nil {
			return nil, err
		}
	}
	// The lock is one for all links to the file, which is there now.
	file, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, err
	}
	path, s.path = file, file
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, errors.New("it is not a file")
	case o.Exclusive && hardLinks(info) > 1: // https://www.sqlite.org/howtocorrupt.html, section 2.5
		return nil, errors.New("the file has another name too (a hard link), under which a second server could destroy it: make a copy instead")
	}
	dsn := func(more string) string {
		return "file:" + (&url.URL{Path: path}).EscapedPath() + "?_time_format=sqlite&_pragma=busy_timeout(5000)&_pragma=foreign_keys(1)" + more
	}
	// First as it is: another program's database must not become one with a WAL.
	if s.w, err = sql.Open("sqlite", dsn("&_txlock=immediate&_pragma=temp_store(memory)&_pragma=synchronous("+o.Synchronous+")")); err != nil {
		return nil, err
	}
	s.w.SetMaxOpenConns(1)
	if _, err := inspect(ctx, s.w); err != nil {
		return nil, err
	}
	if o.Exclusive {
		if err := s.takeLock(ctx); err != nil {
			return nil, err
		}
	}
	if err := s.migrate(ctx); err != nil {
		return nil, err
	}
	if err := s.useWAL(ctx); err != nil {
		return nil, err
	}
	if s.r, err = sql.Open("sqlite", dsn("&mode=ro&_pragma=query_only(1)")); err != nil {
		return nil, err
	}
	s.r.SetMaxOpenConns(readers)
	s.r.SetMaxIdleConns(readers)
	return s, s.prepareBatches(ctx)
}

// readers is how many connections read at once; each has a page cache of about 2 MB.
const readers = 8

// createPrivate makes a file if there is none, for its mode's sake: SQLite gives -wal and -shm the same one.
// It has to happen before SQLite opens the file: to close a descriptor later would drop SQLite's locks.
func createPrivate(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			return err
		}
		f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) // a link to what is not there yet
	}
	if err != nil {
		return err
	}
	return f.Close()
}

// takeLock makes this the only server on the database. The lock goes with the process, however it ends.
func (s *store) takeLock(ctx context.Context) error {
	path := s.path + "-lock"
	err := createPrivate(path)
	if err != nil {
		return err
	}
	s.lock, err = sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?_pragma=busy_timeout(0)&_pragma=journal_mode(memory)")
	if err != nil {
		return err
	}
	s.locked, err = s.lock.Conn(ctx)
	if err == nil {
		_, err = s.locked.ExecContext(ctx, "BEGIN EXCLUSIVE")
	}
	if isSQLite(err, sqlite3.SQLITE_BUSY) {
		return errors.New("another server is running on it")
	}
	return err
}

// close waits for running queries.
func (s *store) close() error {
	var errs []error
	for _, db := range []*sql.DB{s.r, s.w, s.lock} {
		if db == s.lock && s.locked != nil {
			errs = append(errs, s.locked.Close())
		}
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	return errors.Join(errs...)
}

// ping tells whether the database answers.
func (s *store) ping(ctx context.Context) error {
	var one int
	return dbError(s.r.QueryRowContext(ctx, `SELECT 1 FROM schema_version`).Scan(&one))
}

func (s *store) migrate(ctx context.Context) error {
	return s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		version, err := inspect(ctx, tx)
		if err != nil {
			return err
		}
		if version == 0 {
			_, err = tx.ExecContext(ctx, strings.NewReplacer(
				"{identity}", "integer PRIMARY KEY AUTOINCREMENT",
				"{timestamp}", "timestamp",
				"{clustered}", "WITHOUT ROWID",
			).Replace(schemaSQL))
			return err
		}
		// SQLite opens what it may not write too, and says so at the first write only: this one.
		_, err = tx.ExecContext(ctx, `UPDATE schema_version SET version = $1`, schemaVersion)
		return err
	})
}

// inspect returns the version of a database's schema, 0 if the database is empty, or an error if it is not one for
// this program.
func inspect(ctx context.Context, db interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}) (version int, err error) {
	var tables, ours int
	err = db.QueryRowContext(ctx, `SELECT count(*), count(*) FILTER (WHERE name = 'schema_version') FROM sqlite_master WHERE type = 'table'`).Scan(&tables, &ours)
	switch {
	case err != nil || tables == 0:
		return 0, err
	case ours == 0:
		return 0, errors.New("it is the database of another program")
	}
	err = db.QueryRowContext(ctx, `SELECT version FROM schema_version WHERE typeof(version) = 'integer' AND version > 0`).Scan(&version)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return 0, errors.New("its table schema_version holds no version: it is damaged")
	case err == nil && version > schemaVersion:
		err = fmt.Errorf("it was made by a newer version of grpcchatter (its schema is %d, this program knows %d): update the program", version, schemaVersion)
	}
	return version, err
}

// useWAL turns the write-ahead log on, which stays so. SQLite does not wait here for others who do it too.
func (s *store) useWAL(ctx context.Context) error {
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		_, err := s.w.ExecContext(ctx, `PRAGMA journal_mode = WAL`)
		if !isSQLite(err, sqlite3.SQLITE_BUSY) || time.Now().After(end) {
			return err
		}
	}
}

// write runs fn in a transaction of the one writer. Once begun it goes through even if ctx ends: fn gets a
// context that does not, because an interrupted statement would poison the connection that all share.
func (s *store) write(ctx context.Context, fn func(context.Context, *sql.Tx) error) error {
	if s.broken.Load() {
		return errBroken
	}
	waiting, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := s.w.Conn(waiting)
	if err != nil && ctx.Err() == nil && waiting.Err() != nil {
		return errUnavailable // the one before has waited for it too
	} else if err != nil {
		return dbError(err)
	}
	defer conn.Close() // gives it back
	ctx = context.WithoutCancel(ctx)
	tx, err := conn.BeginTx(ctx, nil)
	if err != nil {
		return dbError(err)
	}
	if err = fn(ctx, tx); err != nil {
		_ = tx.Rollback()
	} else {
		err = tx.Commit()
	}
	err = dbError(err)
	if errors.Is(err, errBroken) && !s.broken.Swap(true) && s.onBroken != nil {
		s.onBroken(err)
	}
	return err
}

func isSQLite(err error, codes ...int) bool {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return false
	}
	for _, c := range codes {
		if e.Code() == c || e.Code()&0xff == c {
			return true
		}
	}
	return false
}

// dbError turns a driver's error into one of ours, which it wraps.
func dbError(err error) error {
	var kind error
	switch {
	case err == nil, errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, sql.ErrNoRows):
		return errNotFound
	case isSQLite(err, sqlite3.SQLITE_CONSTRAINT):
		kind = errConflict
	case isSQLite(err, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE):
		kind = errDiskFull
	case isSQLite(err, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
		kind = errBroken
	case isSQLite(err, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY), errors.Is(err, sql.ErrConnDone):
		kind = errUnavailable
	default:
		return err
	}
	return fmt.Errorf("%w: %w", kind, err)
}

// describe puts what stops a database from being opened into words for a person.
func describe(err error) error {
	switch {
	case isSQLite(err, sqlite3.SQLITE_NOTADB):
		return errors.New("the file is not a SQLite database")
	case isSQLite(err, sqlite3.SQLITE_READONLY), errors.Is(err, os.ErrPermission):
		return errors.New("no permission to write to it or to its folder")
	case errors.Is(err, os.ErrNotExist):
		return errors.New("there is none, or not even its folder")
	case errors.Is(dbError(err), errDiskFull):
		return errDiskFull
	case isSQLite(err, sqlite3.SQLITE_CANTOPEN):
		return errors.New("it, or a file beside it, cannot be opened")
	case isSQLite(err, sqlite3.SQLITE_BUSY):
		return errors.New("another program keeps it locked")
	}
	return err
}

// setting returns the value kept under name, first stored from make if there is none.
func (s *store) setting(ctx context.Context, name string, make func() string) (value string, err error) {
	err = s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		err := tx.QueryRowContext(ctx, `SELECT value FROM settings WHERE name = $1`, name).Scan(&value)
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		value = make()
		_, err = tx.ExecContext(ctx, `INSERT INTO settings (name, value) VALUES ($1, $2)`, name, value)
		return err
	})
	return value, err
}

// each runs a query on a reader and calls fn for every row.
func (s *store) each(ctx context.Context, fn func(*sql.Rows) error, query string, args ...any) error {
	rows, err := s.r.QueryContext(ctx, query, args...)
	if err != nil {
		return dbError(err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := fn(rows); err != nil {
			return dbError(err)
		}
	}
	return dbError(rows.Err())
}

// scanner is a *sql.Row or *sql.Rows.
type scanner interface{ Scan(...any) error }
