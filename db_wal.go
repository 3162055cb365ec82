package main

import (
	"context"
	"log/slog"
	"os"
	"time"
)

// SQLite begins its write-ahead log anew only at a commit which finds the whole of it in the file and nobody reading. Among
// readers that always overlap there is no such moment, and the log would grow (https://www.sqlite.org/wal.html, "Avoiding
// Excessively Large WAL Files").
const (
	// walLimit is how large the log may get, in bytes, before commits wait for the readers of the moment.
	walLimit = 16 << 20
	// walWait is how long they wait at most. This process reads pages, which takes less; another program may read for long.
	walWait = 100 * time.Millisecond
	// walPause is how long after a try that was in vain comes the next, at first and at most.
	walPause, walPauseMost = time.Second, time.Minute
)

func (e *sqliteEngine) tend(ctx context.Context, log *slog.Logger) { e.boundWAL(ctx, log, walLimit) }

// boundWAL keeps the log below about limit bytes until ctx ends.
func (e *sqliteEngine) boundWAL(ctx context.Context, log *slog.Logger, limit int64) {
	wait, told := walPause, false
	for pause(ctx, wait) == nil {
		info, err := os.Stat(e.walFile())
		if err != nil || info.Size() < limit {
			wait = walPause
			continue
		}
		switch cut, err := e.cutWAL(ctx); {
		case ctx.Err() != nil:
			return
		case err != nil:
			log.Error("the database's log cannot be cut", "cause", err)
			wait = walPauseMost
		case !cut:
			if !told {
				log.Warn("another program has been reading the database for long: until it ends, the log beside the file grows by all that is written", "bytes", info.Size(), "log", e.walFile())
			}
			told = true
			wait = min(2*wait, walPauseMost)
		default:
			wait, told = walPause, false
		}
	}
}

// cutWAL writes the log into the file and empties it, unless somebody reads for longer than walWait. Nobody commits meanwhile.
func (e *sqliteEngine) cutWAL(ctx context.Context) (cut bool, err error) {
	conn, err := e.w.Conn(ctx)
	if err != nil {
		return false, err
	}
	defer conn.Close() // gives it back
	ctx = context.WithoutCancel(ctx)
	if err := setBusyTimeout(ctx, conn, walWait); err != nil {
		return false, err
	}
	var busy, size, done int
	err = conn.QueryRowContext(ctx, `PRAGMA wal_checkpoint(TRUNCATE)`).Scan(&busy, &size, &done)
	if again := setBusyTimeout(ctx, conn, writeWait); err == nil {
		err = again
	}
	return busy == 0, err
}
