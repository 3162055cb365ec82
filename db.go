package main

import (
	"cmp"
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"
)

//go:embed schema.sql
var schemaSQL string

// schemaVersion is the version of schema.sql. A database of a later one is refused.
const schemaVersion = 2

// What a caller of the store matches. The driver's error stays wrapped, for the log.
var (
	errNotFound    = errors.New("no such row")
	errConflict    = errors.New("a unique or foreign key forbids it")
	errDiskFull    = errors.New("the disk is full")
	errUnavailable = errors.New("the database does not answer")
	errLocked      = errors.New("another server is running on it, or a restore")
	errOriginal    = errors.New("it is the original project's: start the server on it, which takes it over")
	errMoved       = errors.New("another file has got its name meanwhile, as by a restore: try again")
	// errBroken means that the database can no longer be trusted to keep what it confirms: the process has
	// to end (https://www.sqlite.org/atomiccommit.html, section 9).
	errBroken = errors.New("the database cannot be written reliably")
)

// store is all data, in a SQLite file or in PostgreSQL. It is safe for concurrent use, except where a method says
// so.
type store struct {
	engine
	w, r  *sql.DB // for transactions, and for reading
	place string  // where the data is, for a person
	// broken is set when a write has met errBroken: no other is tried, for a later sync may claim to have
	// written what an earlier one has lost. onBroken, set before the first write, is told.
	broken   atomic.Bool
	onBroken func(error)
	// damaged is set when a read has found the data so. Others may still be read, and writes tell for themselves.
	damaged atomic.Bool
	// regained has an element when another server may have written.
	regained chan struct{}
	metrics  *metrics // nil: none
}

// engine is what the two databases do differently.
type engine interface {
	// types are what stands for the words in braces of schema.sql and of queries, in turn.
	types() []string
	// state tells what a database holds, by the names of its tables.
	state(ctx context.Context, q querier) (state, error)
	// lockSchema and lockUsers let one transaction at a time make or adopt a schema, and change accounts. The first one
	// of an open store is lockSchema's: errMoved says that it is not the database any more.
	lockSchema(context.Context, *sql.Tx) error
	lockUsers(context.Context, *sql.Tx) error
	// writable returns an error while nothing may be written.
	writable() error
	// transact calls fn in a transaction, and returns the driver's errors: see store.write.
	transact(ctx context.Context, fn func(context.Context, *sql.Tx) error) error
	// forReading bounds how long a read may take, where it could take for ever.
	forReading(context.Context) (context.Context, context.CancelFunc)
	// insertMessages and findMessages are addMessages and storedBefore with the driver's errors.
	insertMessages(context.Context, []message) error
	findMessages(context.Context, []message) ([]message, error)
	// kind returns which of our errors one of the driver's is, nil if none.
	kind(error) error
	// value is a value for a column; override and numbered complete an INSERT of rows with all their columns, whose
	// parameters are question marks; lastID and setLastID are about the last number that a table has given.
	value(columnKind, any) any
	override() string
	numbered(string) string
	lastID(ctx context.Context, q querier, table string) (int64, error)
	setLastID(ctx context.Context, tx *sql.Tx, table string, id int64) error
	// walFile is the file of a write-ahead log that is the program's own to keep small; empty: there is none.
	walFile() string
	// tend does what is to be done as long as a server runs, until ctx ends.
	tend(ctx context.Context, log *slog.Logger)
	// backup writes one state of all data, of s, into an empty SQLite file.
	backup(ctx context.Context, s *store, path string, progress io.Writer) error
	// describe puts what stops a database from being opened into words for a person.
	describe(error) error
	// close ends the connections: an idle one at once, a busy one with its query.
	close() error
}

// querier is a *sql.DB or *sql.Tx.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// state is what a database holds.
type state int

const (
	stateEmpty    state = iota // nothing in the way of our tables
	stateOurs                  // our tables, of whatever version
	stateOriginal              // those of the original project
	stateForeign               // another program's
)

// storeOptions are how to open a store.
type storeOptions struct {
	URL         string // sqlite:PATH or postgres://…
	Synchronous string // full or normal; of SQLite
	Create      bool   // make a new database where there is none
	Exclusive   bool   // as a server: only one process at a time
	Adopt       bool   // take over a database of the original project
	Upgrade     bool   // bring an older version's schema up to date
	Bare        bool   // leave the schema as it is, which may be that of an older version
	ReadOnly    bool   // change nothing, and read this version only; there is no w
	Log         *slog.Logger
	Metrics     *metrics // nil: none
}

// openStore opens a database, of which the schema is made or checked.
func openStore(ctx context.Context, o storeOptions) (_ *store, err error) {
	o.Synchronous = cmp.Or(o.Synchronous, "full")
	o.Log = cmp.Or(o.Log, slog.New(slog.DiscardHandler))
	s := &store{regained: make(chan struct{}, 1), metrics: o.Metrics}
	open := openSQLite
	if isPostgres(o.URL) {
		open = openPostgres
	}
	if err := open(ctx, s, o); err != nil {
		if s.engine != nil {
			err = s.describe(err)
			_ = s.close()
		}
		return nil, fmt.Errorf("cannot open the database %s: %w", s.place, err)
	}
	return s, nil
}

// ping tells whether the database answers, and may be written.
func (s *store) ping(ctx context.Context) error {
	if s.broken.Load() || s.damaged.Load() {
		return errBroken
	}
	var one int
	return cmp.Or(s.row(ctx, func(row scanner) error { return row.Scan(&one) }, `SELECT 1 FROM schema_version`), s.writable())
}

// watch has onBroken told within a second, until ctx ends, also where nobody writes.
func (s *store) watch(ctx context.Context) {
	for pause(ctx, time.Second) == nil {
		s.tellBroken(s.writable())
	}
}

func (s *store) tellBroken(err error) {
	if errors.Is(err, errBroken) && !s.broken.Swap(true) && s.onBroken != nil {
		s.onBroken(err)
	}
}

// migrate makes the schema, or brings it to schemaVersion, as far as o allows that.
func (s *store) migrate(ctx context.Context, o storeOptions) error {
	return s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if err := s.lockSchema(ctx, tx); err != nil {
			return err
		}
		state, err := s.inspect(ctx, tx)
		if err != nil {
			return err
		}
		switch {
		case state == stateEmpty && !o.Create:
			return errors.New("it is empty: start the server once, or add an account")
		case state == stateEmpty:
			return s.upgrade(ctx, tx, 0, schemaVersion)
		case state == stateOriginal && !o.Adopt:
			return errOriginal
		case state == stateOriginal:
			return s.adopt(ctx, tx)
		}
		version, err := s.version(ctx, tx)
		switch {
		case err != nil:
			return err
		case version != schemaVersion && !o.Upgrade: // it is a server's of that version, which could not start again
			return olderSchema(version)
		}
		return s.upgrade(ctx, tx, version, schemaVersion)
	})
}

func olderSchema(version int) error {
	return fmt.Errorf("it was made by an older version of grpcchatter (its schema is %d, this program's %d): start the server on it once", version, schemaVersion)
}

// schemaSteps are the statements that make of each version the next, the first of an empty database.
func schemaSteps() []string { return strings.Split(schemaSQL, "\n-- Version ") }

// ours returns an error if the database does not hold our tables, of whatever version.
func (s *store) ours(ctx context.Context, q querier) error {
	switch state, err := s.inspect(ctx, q); {
	case err != nil:
		return err
	case state == stateOriginal:
		return errOriginal
	case state != stateOurs:
		return errors.New("it holds no data of grpcchatter")
	}
	return nil
}

// current returns an error if the database is not of this program's version.
func (s *store) current(ctx context.Context) error {
	if err := s.ours(ctx, s.r); err != nil {
		return err
	}
	version, err := s.version(ctx, s.r)
	if err == nil && version != schemaVersion {
		err = olderSchema(version)
	}
	return err
}

// upgrade brings the schema from a version to a later one; version 0 is an empty database.
func (s *store) upgrade(ctx context.Context, tx *sql.Tx, from, to int) error {
	for _, step := range schemaSteps()[from:to] {
		_, statements, _ := strings.Cut(step, "\n") // its first line is a number, or of the first comment
		if err := s.execSchema(ctx, tx, statements); err != nil {
			return err
		}
	}
	// SQLite opens what it may not write too, and says so at the first write only: this one.
	_, err := tx.ExecContext(ctx, `UPDATE schema_version SET version = $1`, to)
	return err
}

// inspect returns what a database holds, or an error if it is nothing for this program.
func (s *store) inspect(ctx context.Context, q querier) (state, error) {
	state, err := s.state(ctx, q)
	switch {
	case err != nil:
		return state, err
	case state == stateForeign:
		return state, errors.New("it is the database of another program")
	case state == stateOurs:
		_, err = s.version(ctx, q)
	}
	return state, err
}

// version returns that of a database of ours, or an error if this program does not know it.
func (s *store) version(ctx context.Context, q querier) (version int, err error) {
	err = q.QueryRowContext(ctx, `SELECT CAST(version AS bigint) FROM schema_version WHERE version > 0`).Scan(&version)
	switch {
	case errors.Is(err, sql.ErrNoRows), err == nil && version < 1:
		return 0, errors.New("its table schema_version holds no version: it is damaged")
	case err == nil && version > schemaVersion:
		err = fmt.Errorf("it was made by a newer version of grpcchatter (its schema is %d, this program knows %d): update the program", version, schemaVersion)
	}
	return version, err
}

// inDialect replaces the words in braces of SQL by what the database calls them.
func (s *store) inDialect(text string) string { return strings.NewReplacer(s.types()...).Replace(text) }

// execSchema runs statements that end with a semicolon and a line break.
func (s *store) execSchema(ctx context.Context, tx *sql.Tx, statements string) error {
	for _, statement := range strings.SplitAfter(s.inDialect(statements), ";\n") {
		if strings.TrimSpace(statement) == "" {
			continue
		}
		if _, err := tx.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

// writeWait is how long a transaction may wait to begin.
const writeWait = 5 * time.Second

// inTransaction runs fn in a transaction on a connection of db, for which it waits as long as ctx and writeWait let it. begin
// begins it there. What has begun goes through even if ctx ends, within limit if that is not 0: fn gets a context for that.
func inTransaction(ctx context.Context, db *sql.DB, limit time.Duration, begin func(context.Context, *sql.Conn) (*sql.Tx, error), fn func(context.Context, *sql.Tx) error) error {
	waiting, cancel := context.WithTimeout(ctx, writeWait)
	defer cancel()
	conn, err := db.Conn(waiting)
	if err != nil && ctx.Err() == nil && waiting.Err() != nil {
		return fmt.Errorf("%w: %v", errUnavailable, err) // the one before has waited for it too
	} else if err != nil {
		return err
	}
	defer conn.Close() // gives it back
	ctx = context.WithoutCancel(ctx)
	if limit > 0 {
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	tx, err := begin(ctx, conn)
	if err != nil {
		return err
	}
	if err = fn(ctx, tx); err != nil {
		_ = tx.Rollback()
		return err
	}
	return tx.Commit()
}

// write runs fn in a transaction. Once begun it goes through even if ctx ends: fn gets a context that does not.
func (s *store) write(ctx context.Context, fn func(context.Context, *sql.Tx) error) error {
	return s.writing(func() error { return s.transact(ctx, fn) })
}

// writing calls fn, which writes, unless that is not to be trusted any more.
func (s *store) writing(fn func() error) error {
	if s.broken.Load() {
		return errBroken
	}
	err := s.writable()
	if err != nil {
		s.metrics.databaseFailed(err)
	} else {
		err = s.dbError(fn())
	}
	s.tellBroken(err)
	return err
}

// dbError turns a driver's error into one of ours, which it wraps.
func (s *store) dbError(err error) error {
	switch {
	case err == nil, errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, sql.ErrNoRows):
		return errNotFound
	}
	switch kind := s.kind(err); {
	case kind == nil || errors.Is(err, kind):
	case errors.Is(err, context.DeadlineExceeded):
		err = fmt.Errorf("%w: %v", kind, err) // it was our time that was over, and not the caller's
	default:
		err = fmt.Errorf("%w: %w", kind, err)
	}
	s.metrics.databaseFailed(err)
	return err
}

// setting returns the value kept under name, first stored from make if there is none.
func (s *store) setting(ctx context.Context, name string, make func() string) (value string, err error) {
	err = s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING`, name, make()); err != nil {
			return err
		}
		return tx.QueryRowContext(ctx, `SELECT value FROM settings WHERE name = $1`, name).Scan(&value)
	})
	return value, err
}

// row runs a query for one row on a reader.
func (s *store) row(ctx context.Context, scan func(scanner) error, query string, args ...any) error {
	bounded, done := s.forReading(ctx)
	defer done()
	return s.readError(ctx, scan(s.r.QueryRowContext(bounded, query, args...)))
}

// each runs a query on a reader and calls fn for every row.
func (s *store) each(ctx context.Context, fn func(*sql.Rows) error, query string, args ...any) error {
	bounded, done := s.forReading(ctx)
	defer done()
	rows, err := s.r.QueryContext(bounded, query, args...)
	if err != nil {
		return s.readError(ctx, err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := fn(rows); err != nil {
			return s.readError(ctx, err)
		}
	}
	return s.readError(ctx, rows.Err())
}

// readError is dbError, but for what the caller's own time has ended.
func (s *store) readError(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	err = s.dbError(err)
	if errors.Is(err, errBroken) {
		s.damaged.Store(true)
	}
	return err
}

// pause waits for d, or returns the error of ctx.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// scanner is a *sql.Row or *sql.Rows.
type scanner interface{ Scan(...any) error }
