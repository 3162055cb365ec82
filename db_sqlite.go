package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// readers is how many connections read a SQLite file at once; each has a page cache of about 2 MB.
const readers = 8

// sqliteEngine is a SQLite file.
type sqliteEngine struct {
	path string
	file fs.FileInfo // that path named when it was opened
	w, r *sql.DB     // w has one connection: SQLite has one writer
	lock *fileLock   // nil: it is not a server's

	insert, lookup batchStmts
}

func openSQLite(ctx context.Context, s *store, o storeOptions) error {
	path, err := filepath.Abs(strings.TrimPrefix(o.URL, "sqlite:"))
	if err != nil {
		return err
	}
	e := &sqliteEngine{}
	s.engine, s.place = e, path
	if o.Create {
		if err := refuseStrayLog(path); err != nil {
			return err
		}
		if err := createPrivate(path); err != nil {
			return err
		}
	}
	// The lock is one for all links to the file, which is there now.
	if e.path, err = filepath.EvalSymlinks(path); err != nil {
		return err
	}
	s.place = e.path
	e.file, err = os.Stat(e.path)
	switch {
	case err != nil:
		return err
	case !e.file.Mode().IsRegular():
		return errors.New("it is not a file")
	case o.Exclusive && hardLinks(e.file) > 1: // https://www.sqlite.org/howtocorrupt.html, section 2.5
		return errors.New("the file has another name too (a hard link), under which a second server could destroy it: make a copy instead")
	}
	dsn := func(more string) string {
		return sqliteURL(e.path, writeWait) + "&_time_format=sqlite&_pragma=foreign_keys(1)" + more
	}
	reading := func(mode string) (err error) {
		s.r, err = sql.Open("sqlite", dsn("&_pragma=query_only(1)&mode="+mode))
		if err == nil {
			s.r.SetMaxOpenConns(readers)
			s.r.SetMaxIdleConns(readers)
		}
		e.r = s.r
		return err
	}
	if o.ReadOnly {
		if err := reading("rw"); err != nil { // so that the last one to close it leaves no log behind
			return err
		}
		return s.current(ctx)
	}
	// First as it is: another program's database must not become one with a WAL.
	if s.w, err = sql.Open("sqlite", dsn("&_txlock=immediate&_pragma=temp_store(memory)&_pragma=synchronous("+o.Synchronous+")")); err != nil {
		return err
	}
	e.w = s.w
	s.w.SetMaxOpenConns(1)
	if _, err := s.inspect(ctx, s.w); err != nil {
		return err
	}
	if o.Exclusive {
		if e.lock, err = takeLock(ctx, e.path); err != nil {
			return err
		}
	}
	if o.Bare {
		s.r = s.w
		return nil
	}
	if err := s.migrate(ctx, o); err != nil {
		return err
	}
	if err := e.useWAL(ctx); err != nil {
		return err
	}
	if err := reading("ro"); err != nil {
		return err
	}
	return e.prepareBatches(ctx)
}

// sqliteURL is the address of a file for the driver. Others are waited for as long as wait says.
func sqliteURL(path string, wait time.Duration) string {
	return "file:" + (&url.URL{Path: path}).EscapedPath() + fmt.Sprintf("?_pragma=busy_timeout(%d)", wait.Milliseconds())
}

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

// useWAL turns the write-ahead log on, and opens it. As long as it is open, no restore can take the file's name away.
func (e *sqliteEngine) useWAL(ctx context.Context) error {
	conn, err := e.w.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close() // gives it back
	if err := setJournal(ctx, conn, "WAL"); err != nil {
		return err
	}
	var n int
	if err := conn.QueryRowContext(ctx, `SELECT count(*) FROM schema_version`).Scan(&n); err != nil {
		return err
	}
	return e.unmoved()
}

// setJournal sets a journal mode, which the database keeps. SQLite does not wait here for others who use it.
func setJournal(ctx context.Context, conn *sql.Conn, mode string) error {
	for end := time.Now().Add(writeWait); ; {
		_, err := conn.ExecContext(ctx, `PRAGMA journal_mode = `+mode)
		if !isSQLite(err, sqlite3.SQLITE_BUSY) || time.Now().After(end) {
			return err
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

func (e *sqliteEngine) close() error {
	var errs []error
	if e.r != nil {
		errs = append(errs, e.r.Close())
	}
	if e.w != nil {
		if e.lock != nil && lostName(e.path, e.file) { // SQLite itself would leave the log to the file that has the name now
			_, err := e.cutWAL(context.Background())
			errs = append(errs, err)
		}
		errs = append(errs, e.w.Close())
	}
	if e.lock != nil {
		errs = append(errs, e.lock.close()) // the last: nobody else may write before
	}
	return errors.Join(errs...)
}

func (*sqliteEngine) types() []string {
	return []string{
		"{identity}", "integer PRIMARY KEY AUTOINCREMENT",
		"{timestamp}", "timestamp",
		"{bytes}", "text",
		"{clustered}", "WITHOUT ROWID",
		"{bytewise}", "COLLATE BINARY",
		"{for_update}", "", // there is one writer
	}
}

func (*sqliteEngine) state(ctx context.Context, q querier) (s state, err error) {
	var tables, ours int
	err = q.QueryRowContext(ctx, `SELECT count(*), count(*) FILTER (WHERE name IN
		('schema_version', 'settings', 'roles', 'users', 'rooms', 'members', 'messages')) FROM sqlite_master WHERE type = 'table'`).Scan(&tables, &ours)
	switch {
	case err != nil:
		return s, err
	case tables == 0:
		return stateEmpty, nil
	case ours < 7: // those of version 1
		return stateForeign, nil
	}
	return stateOurs, nil
}

// SQLite's transactions are one at a time anyway. From this first one on no restore can take the file's name away.
func (e *sqliteEngine) lockSchema(context.Context, *sql.Tx) error { return e.unmoved() }
func (*sqliteEngine) lockUsers(context.Context, *sql.Tx) error    { return nil }

// transact has no limit: an interrupted statement would poison the one connection that all writers share.
func (e *sqliteEngine) transact(ctx context.Context, fn func(context.Context, *sql.Tx) error) error {
	if err := inTransaction(ctx, e.w, 0, e.begin, fn); err != nil {
		return err
	}
	return e.writable() // only what is in the file of this name is stored
}

// begin begins a transaction. A busy server lets go of the file for less than a millisecond between two commits: SQLite looks ten
// times a second whether it does, and so a command beside it would hardly ever get its turn within writeWait.
func (e *sqliteEngine) begin(ctx context.Context, conn *sql.Conn) (*sql.Tx, error) {
	if e.lock != nil { // the server itself
		return conn.BeginTx(ctx, nil)
	}
	if err := setBusyTimeout(ctx, conn, 0); err != nil {
		return nil, err
	}
	for end := time.Now().Add(writeWait); ; time.Sleep(time.Millisecond / 2) {
		tx, err := conn.BeginTx(ctx, nil)
		if isSQLite(err, sqlite3.SQLITE_BUSY) && time.Now().Before(end) {
			continue
		}
		if again := setBusyTimeout(ctx, conn, writeWait); err == nil && again != nil {
			_ = tx.Rollback()
			return nil, again
		}
		return tx, err
	}
}

// setBusyTimeout sets how long SQLite itself waits for others.
func setBusyTimeout(ctx context.Context, conn *sql.Conn, wait time.Duration) error {
	_, err := conn.ExecContext(ctx, fmt.Sprint(`PRAGMA busy_timeout = `, wait.Milliseconds()))
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

func (*sqliteEngine) kind(err error) error { return sqliteKind(err) }

func sqliteKind(err error) error {
	switch {
	case isSQLite(err, sqlite3.SQLITE_CONSTRAINT):
		return errConflict
	case isSQLite(err, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE):
		return errDiskFull
	case isSQLite(err, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
		return errBroken
	case isSQLite(err, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY), errors.Is(err, sql.ErrConnDone):
		return errUnavailable
	}
	return nil
}

func (*sqliteEngine) describe(err error) error { return describeSQLite(err) }

func describeSQLite(err error) error {
	switch {
	case isSQLite(err, sqlite3.SQLITE_READONLY_DBMOVED):
		return errMoved
	case isSQLite(err, sqlite3.SQLITE_NOTADB):
		return errors.New("the file is not a SQLite database")
	case isSQLite(err, sqlite3.SQLITE_READONLY), errors.Is(err, os.ErrPermission):
		return errors.New("no permission to write to it or to its folder")
	case errors.Is(err, os.ErrNotExist):
		return errors.New("there is none, or not even its folder")
	case errors.Is(sqliteKind(err), errDiskFull):
		return errDiskFull
	case isSQLite(err, sqlite3.SQLITE_CANTOPEN):
		return errors.New("it, or a file beside it, cannot be opened")
	case isSQLite(err, sqlite3.SQLITE_BUSY):
		return errors.New("another program keeps it locked")
	}
	return err
}

// batchStmts are one statement prepared for several numbers of rows, largest first.
type batchStmts []batchStmt

type batchStmt struct {
	rows int
	stmt *sql.Stmt
}

func (e *sqliteEngine) prepareBatches(ctx context.Context) (err error) {
	if e.insert, err = e.prepareBatch(ctx, `INSERT INTO messages (`+messageColumns+`) VALUES `,
		`(?, ?, ?, ?, ?, ?)`, ``, 64, 16, 4, 1); err != nil {
		return err
	}
	e.lookup, err = e.prepareBatch(ctx, `WITH wanted (room_id, user_id, id) AS (VALUES `,
		`(CAST(? AS bigint), CAST(? AS bigint), ?)`,
		`) SELECT m.room_id, m.seq, m.user_id, m.sent_at, m.client_message_id, m.body FROM wanted w CROSS JOIN messages m
		WHERE m.room_id = w.room_id AND m.user_id = w.user_id AND m.client_message_id = w.id`, 64, 8, 1)
	return err
}

// prepareBatch prepares head, then row as often as each of sizes says, then tail. The smallest size has to be 1.
// The parameters are plain question marks: SQLite looks a name like $384 up in a list, for every one.
func (e *sqliteEngine) prepareBatch(ctx context.Context, head, row, tail string, sizes ...int) (stmts batchStmts, err error) {
	for _, n := range sizes {
		rows := strings.TrimSuffix(strings.Repeat(row+", ", n), ", ")
		stmt, err := e.w.PrepareContext(ctx, head+rows+tail)
		if err != nil {
			return nil, err
		}
		stmts = append(stmts, batchStmt{n, stmt})
	}
	return stmts, nil
}

// chunks calls fn with a statement and the messages that it takes, until all are done.
func (b batchStmts) chunks(tx *sql.Tx, msgs []message, fn func(*sql.Stmt, []message) error) error {
	for _, s := range b {
		if len(msgs) < s.rows {
			continue
		}
		stmt := tx.Stmt(s.stmt)
		for ; len(msgs) >= s.rows; msgs = msgs[s.rows:] {
			if err := fn(stmt, msgs[:s.rows]); err != nil {
				return err
			}
		}
	}
	if len(msgs) > 0 {
		return errors.New("no statement was prepared")
	}
	return nil
}

func (e *sqliteEngine) walFile() string { return e.path + walSuffix }

// forReading adds nothing: a file answers, and the driver would need a goroutine for every read.
func (*sqliteEngine) forReading(ctx context.Context) (context.Context, context.CancelFunc) {
	return ctx, func() {}
}

func (e *sqliteEngine) insertMessages(ctx context.Context, msgs []message) error {
	args := make([]any, 0, 64*6)
	return e.transact(ctx, func(ctx context.Context, tx *sql.Tx) error {
		return e.insert.chunks(tx, msgs, func(stmt *sql.Stmt, chunk []message) error {
			args = args[:0]
			for i := range chunk {
				m := &chunk[i]
				var id any
				if m.ClientMessageID != "" {
					id = m.ClientMessageID
				}
				args = append(args, m.RoomID, int64(m.Seq), m.UserID, m.SentAt, id, m.Body)
			}
			_, err := stmt.ExecContext(ctx, args...)
			return err
		})
	})
}

func (e *sqliteEngine) findMessages(ctx context.Context, msgs []message) (found []message, err error) {
	err = e.transact(ctx, func(ctx context.Context, tx *sql.Tx) error {
		return e.lookup.chunks(tx, msgs, func(stmt *sql.Stmt, chunk []message) error {
			args := make([]any, 0, len(chunk)*3)
			for _, m := range chunk {
				args = append(args, m.RoomID, m.UserID, m.ClientMessageID)
			}
			rows, err := stmt.QueryContext(ctx, args...)
			if err != nil {
				return err
			}
			more, err := scanMessages(rows)
			found = append(found, more...)
			return err
		})
	})
	return found, err
}

func (*sqliteEngine) value(_ columnKind, v any) any { return v }

func (*sqliteEngine) override() string { return "" }

func (*sqliteEngine) numbered(query string) string { return query }

func (*sqliteEngine) lastID(ctx context.Context, q querier, table string) (id int64, err error) {
	err = q.QueryRowContext(ctx, `SELECT seq FROM sqlite_sequence WHERE name = $1`, table).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil // nothing was ever in it
	}
	return id, err
}

func (*sqliteEngine) setLastID(ctx context.Context, tx *sql.Tx, table string, id int64) error {
	if _, err := tx.ExecContext(ctx, `DELETE FROM sqlite_sequence WHERE name = $1`, table); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO sqlite_sequence (name, seq) VALUES ($1, $2)`, table, id)
	return err
}
