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
	path string
	file fs.FileInfo // that path named when it was taken
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
	l := &fileLock{path: path, db: db}
	if l.conn, err = db.Conn(ctx); err == nil {
		_, err = l.conn.ExecContext(ctx, "BEGIN EXCLUSIVE")
	}
	if isSQLite(err, sqlite3.SQLITE_BUSY) {
		err = errLocked
	}
	if err == nil {
		l.file, err = os.Stat(path)
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

// What a server stops for: what it would confirm is in no file of the database's name, or another one can begin to write it.
var (
	errFileGone = fmt.Errorf("%w: its file was moved, replaced or deleted while the server runs; what is stored is in the file that was moved", errBroken)
	errLockGone = fmt.Errorf("%w: the %s beside its file was moved or deleted, so that a second server could start on it", errBroken, lockSuffix)
)

// writable returns an error if the file, or the lock, of a server has lost its name. No restore takes one away from it.
func (e *sqliteEngine) writable() error {
	switch {
	case e.lock == nil:
		return nil
	case lostName(e.path, e.file):
		return errFileGone
	case lostName(e.lock.path, e.lock.file):
		return errLockGone
	}
	return nil
}

// lostName reports whether a path names another file now, or none. What cannot be looked at may be there.
func lostName(path string, file fs.FileInfo) bool {
	now, err := os.Stat(path)
	return err == nil && !os.SameFile(file, now) || errors.Is(err, fs.ErrNotExist)
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
