package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	sqlite3 "modernc.org/sqlite/lib"
)

func (e *sqliteEngine) backup(ctx context.Context, _ *store, path string, _ io.Writer) error {
	if _, err := e.w.ExecContext(ctx, `VACUUM INTO $1`, path); err != nil {
		return ofWhole(err)
	}
	return e.unmoved()
}

func (*postgresEngine) backup(ctx context.Context, s *store, path string, progress io.Writer) error {
	to, err := openBare(ctx, path)
	if err != nil {
		return err
	}
	_, err = copyAll(ctx, s, to, progress)
	return errors.Join(err, to.close())
}

// ofWhole puts what stops SQLite from reading or writing a whole database into words.
func ofWhole(err error) error {
	switch {
	case errors.Is(sqliteKind(err), errDiskFull):
		return errDiskFull
	case isSQLite(err, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
		return errors.New("the data is damaged")
	}
	return err
}

func (c *contents) read(ctx context.Context, q querier) error {
	return q.QueryRowContext(ctx, `SELECT (SELECT count(*) FROM messages), (SELECT count(*) FROM rooms WHERE short_code IS NOT NULL),
		(SELECT count(*) FROM users), (SELECT max(sent_at) FROM messages)`).Scan(&c.messages, &c.rooms, &c.users, &c.newest)
}

// openBare opens a SQLite file as it is.
func openBare(ctx context.Context, path string) (*store, error) {
	return openStore(ctx, storeOptions{URL: "sqlite:" + path, Bare: true})
}

// readContents returns what a backup holds.
func readContents(ctx context.Context, path string) (c contents, err error) {
	st, err := openBare(ctx, path)
	if err != nil {
		return c, err
	}
	return c, errors.Join(c.read(ctx, st.w), st.close())
}

// prepareCopy makes a copy of a backup ready to be a database, and returns what it holds. The error says what is wrong with it.
func prepareCopy(ctx context.Context, path string) (c contents, err error) {
	st, err := openBare(ctx, path)
	if err != nil {
		if cause := errors.Unwrap(err); cause != nil {
			err = cause // without the name of the copy
		}
		return c, err
	}
	if c, err = st.check(ctx); err == nil {
		err = st.write(ctx, st.beginHistory)
	}
	return c, errors.Join(ofWhole(err), st.close())
}

// check brings a backup to schemaVersion, and reads all of it.
func (s *store) check(ctx context.Context) (c contents, err error) {
	if state, err := s.inspect(ctx, s.w); err != nil {
		return c, err
	} else if state != stateOurs {
		return c, errors.New("it is empty")
	}
	if err := checkIntegrity(ctx, s.w); err != nil {
		return c, err
	}
	if err := s.migrate(ctx, storeOptions{Upgrade: true}); err != nil {
		return c, err
	}
	for _, t := range copiedTables(schemaVersion) {
		rows, err := s.w.QueryContext(ctx, `SELECT `+t.list()+` FROM `+t.name+` LIMIT 0`)
		if err != nil {
			return c, fmt.Errorf("its table %s: %w", t.name, err)
		}
		_ = rows.Close()
	}
	if _, err := s.w.ExecContext(ctx, `PRAGMA journal_mode = DELETE`); err != nil { // one file
		return c, err
	}
	return c, c.read(ctx, s.w)
}

// checkIntegrity returns the first fault of a SQLite file.
func checkIntegrity(ctx context.Context, q querier) error {
	var answer string
	err := q.QueryRowContext(ctx, `PRAGMA integrity_check(1)`).Scan(&answer)
	if err == nil && answer != "ok" {
		line, _, _ := strings.Cut(strings.TrimPrefix(answer, "*** in database main ***\n"), "\n")
		err = fmt.Errorf("it is damaged (%s)", line)
	}
	return err
}

// holdSQLite makes a SQLite database one file, without a log, and keeps all others from it until release. Who has waited
// for that and finds that the file has lost its name changes nothing (unmoved). A file that is damaged is not held.
func holdSQLite(ctx context.Context, path string) (release func(), err error) {
	db, err := sql.Open("sqlite", sqliteURL(path, writeWait))
	if err != nil {
		return nil, err
	}
	conn, err := db.Conn(ctx)
	release = sync.OnceFunc(func() {
		if conn != nil {
			_ = conn.Close()
		}
		_ = db.Close()
	})
	if err == nil {
		err = holdOn(ctx, conn)
	}
	switch {
	case err == nil:
		return release, nil
	case isSQLite(err, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_IOERR):
		release()
		return func() {}, nil
	case isSQLite(err, sqlite3.SQLITE_BUSY):
		err = errInUse
	}
	release()
	return nil, describeSQLite(err)
}

var errInUse = errors.New("another program has it open")

func holdOn(ctx context.Context, conn *sql.Conn) error {
	if err := setJournal(ctx, conn, "DELETE"); err != nil { // as long as another one has the log open
		return err
	}
	if _, err := conn.ExecContext(ctx, `BEGIN EXCLUSIVE`); err != nil {
		return err
	}
	var mode string
	err := conn.QueryRowContext(ctx, `PRAGMA journal_mode`).Scan(&mode)
	if err == nil && mode != "delete" { // another one has opened it between the two
		err = errInUse
	}
	return err
}
