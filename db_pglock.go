package main

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"
)

const (
	// pgServerLock is the advisory lock of the one server, with the schema's name as its second number.
	pgServerLock = 0x67727063
	// pgCheck is how often it is looked at.
	pgCheck = time.Second
)

// serverLock makes this the only server on a PostgreSQL database: an advisory lock, which goes with the connection that
// took it. While it is lost, another server may have it, and nothing may be written. What was being written at the moment
// of the loss does no harm: two messages with one seq cannot both be stored.
type serverLock struct {
	db       *sql.DB // of one connection
	log      *slog.Logger
	pid      int // of the backend that has the lock, or had it last; of take
	lost     atomic.Bool
	regained chan<- struct{}
	stop     context.CancelFunc
	kept     chan struct{} // closed when keep has ended
}

// newServerLock takes the lock, or returns errLocked. PostgreSQL may need a moment to see that a server was killed.
func newServerLock(ctx context.Context, db *sql.DB, log *slog.Logger, regained chan<- struct{}) (*serverLock, error) {
	l := &serverLock{db: db, log: log, regained: regained, kept: make(chan struct{})}
	for end := time.Now().Add(pgConnect); ; {
		conn, err := l.take(ctx)
		if err == nil {
			ctx, l.stop = context.WithCancel(context.Background())
			go l.keep(ctx, conn)
			return l, nil
		}
		if errors.Is(err, errLocked) && time.Now().Before(end) {
			if err = pause(ctx, 50*time.Millisecond); err == nil {
				continue
			}
		}
		return nil, errors.Join(err, db.Close())
	}
}

func (l *serverLock) take(ctx context.Context) (*sql.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, pgConnect)
	defer cancel()
	conn, err := l.db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	if l.pid != 0 {
		// Our own connection from before, if it is silent and not ended.
		_, err = conn.ExecContext(ctx, `SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND classid = $1 AND granted
			AND pid = $2 AND pid <> pg_backend_pid() AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`,
			int64(pgServerLock), l.pid)
		if err != nil {
			return nil, errors.Join(err, conn.Close())
		}
	}
	var got bool
	var pid int
	err = conn.QueryRowContext(ctx, `SELECT pg_try_advisory_lock($1, hashtext(current_schema())), pg_backend_pid()`, int32(pgServerLock)).Scan(&got, &pid)
	if err == nil && got {
		l.pid = pid
		return conn, nil
	} else if err == nil {
		err = errLocked
	}
	return nil, errors.Join(err, conn.Close())
}

// keep takes the lock again whenever its connection is lost, until ctx ends.
func (l *serverLock) keep(ctx context.Context, conn *sql.Conn) {
	defer close(l.kept)
	told := false
	for pause(ctx, pgCheck) == nil {
		if conn != nil {
			if err := l.check(ctx, conn); err == nil || ctx.Err() != nil {
				continue
			} else {
				l.lost.Store(true)
				l.log.Error("the connection that holds the server's lock is lost: nothing is stored until it is back", "cause", err)
			}
			drop(conn)
			conn, told = nil, false
		}
		var err error
		switch conn, err = l.take(ctx); {
		case err == nil:
			l.lost.Store(false)
			l.log.Info("the server has its lock again")
			select {
			case l.regained <- struct{}{}:
			default:
			}
		case errors.Is(err, errLocked) && !told:
			l.log.Error("another server has the lock: nothing is stored until it ends")
			told = true
		}
	}
	if conn != nil {
		drop(conn)
	}
}

func (l *serverLock) check(ctx context.Context, conn *sql.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, pgConnect)
	defer cancel()
	_, err := conn.ExecContext(ctx, `SELECT 1`)
	return err
}

// drop ends a connection, and with it the lock.
func drop(conn *sql.Conn) {
	_ = conn.Raw(func(any) error { return driver.ErrBadConn }) // not back to the pool
	_ = conn.Close()
}

func (l *serverLock) close() error {
	l.stop()
	<-l.kept
	return l.db.Close()
}
