package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
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

// errFileGone says that what would be confirmed is in no file of the database's name.
var errFileGone = fmt.Errorf("%w: its file was moved, replaced or deleted while the server runs; what is stored is in the file that was moved", errBroken)

// writable returns errFileGone if the file has lost its name to a server, whose lock no restore takes away.
func (e *sqliteEngine) writable() error {
	if e.lock == nil {
		return nil
	}
	now, err := os.Stat(e.path)
	if err == nil && !os.SameFile(e.file, now) || errors.Is(err, fs.ErrNotExist) {
		return errFileGone
	}
	return nil // what cannot be looked at may be there
}

// refuseStrayLog returns an error if a new file at path would get the log of one that was moved away: SQLite would empty it.
func refuseStrayLog(path string) error {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	if info, err := os.Stat(path); err == nil && info.Size() > 0 {
		return nil
	}
	return strayLog(path, walSuffix) // with a journal the file is empty until the first start has stored something
}

// strayLog returns an error if a database of this name that is empty, or not there, has a log.
func strayLog(path string, suffixes ...string) error {
	for _, log := range suffixes {
		if hasContent(path + log) {
			return fmt.Errorf("beside it is %s, the log of a database that was moved away and needs it: move it along", path+log)
		}
	}
	return nil
}
