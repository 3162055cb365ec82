package main

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"time"

	sqlite3 "modernc.org/sqlite/lib"
)

// fileLock is an exclusive transaction on a file beside a database, of the one server on it or of a restore. It goes with
// the process, however that ends.
type fileLock struct {
	db   *sql.DB
	conn *sql.Conn
}

// lockWait is how long it is waited for: of two that come at once one has to give way for a moment.
const lockWait = 200 * time.Millisecond

// takeLock takes the lock of a database, or returns errLocked.
func takeLock(ctx context.Context, database string) (*fileLock, error) {
	path := database + lockSuffix
	if err := createPrivate(path); err != nil {
		return nil, err
	}
	db, err := sql.Open("sqlite", sqliteURL(path, lockWait)+"&_pragma=journal_mode(memory)")
	if err != nil {
		return nil, err
	}
	l := &fileLock{db: db}
	if l.conn, err = db.Conn(ctx); err == nil {
		_, err = l.conn.ExecContext(ctx, "BEGIN EXCLUSIVE")
	}
	if isSQLite(err, sqlite3.SQLITE_BUSY) {
		err = errLocked
	}
	if err != nil {
		return nil, errors.Join(err, l.close())
	}
	return l, nil
}

func (l *fileLock) close() error {
	var err error
	if l.conn != nil {
		err = l.conn.Close()
	}
	return errors.Join(err, l.db.Close())
}

// unmoved returns errMoved if the file has lost its name since it was opened. What is written to it would be lost, and
// SQLite would take the log of the file that has the name now for its own.
func (e *sqliteEngine) unmoved() error {
	if now, err := os.Stat(e.path); err != nil || !os.SameFile(e.file, now) {
		return errMoved
	}
	return nil
}
