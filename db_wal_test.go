package main

import (
	"bytes"
	"context"
	"database/sql"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Where reads always overlap, SQLite would let its log grow for ever: it is cut all the same. A program that reads without an
// end cannot be stopped: commits go on, the log tells who is to blame, and once it has ended the file gets small again
// (reliability of keeping: "WAL kept bounded under a reader that never ends").
func TestWALBounded(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	path := filepath.Join(t.TempDir(), "grpcchatter.db")
	st, err := openStore(t.Context(), storeOptions{URL: "sqlite:" + path, Synchronous: "normal", Create: true})
	if err != nil {
		t.Fatal(err)
	}
	defer st.close()
	u, err := st.addUser(t.Context(), "ann", "x", roleUser)
	if err == nil {
		err = st.addRoom(t.Context(), "CODE", "room", "x", u.ID)
	}
	if err != nil {
		t.Fatal(err)
	}
	wal := func() int64 {
		info, err := os.Stat(path + "-wal")
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	seq := uint64(0)
	commit := func() { // 64 KB
		t.Helper()
		var msgs []message
		for range 32 {
			seq++
			msgs = append(msgs, message{RoomID: 1, Seq: seq, UserID: u.ID, SentAt: 1, Body: strings.Repeat("x", 2000)})
		}
		if err := st.addMessages(msgs); err != nil {
			t.Fatal(err)
		}
	}
	const limit, large = 1 << 20, 12 << 20
	read := func() *sql.Tx {
		tx, err := st.r.BeginTx(context.Background(), &sql.TxOptions{ReadOnly: true})
		if err != nil {
			t.Error(err)
			return nil
		}
		var n int
		if err := tx.QueryRow(`SELECT count(*) FROM users`).Scan(&n); err != nil {
			t.Error(err)
		}
		return tx
	}
	var stopped atomic.Bool
	var overlapping sync.WaitGroup
	overlap := func() {
		stopped.Store(false)
		overlapping.Go(func() {
			for tx := read(); tx != nil; {
				time.Sleep(5 * time.Millisecond)
				next := (*sql.Tx)(nil)
				if !stopped.Load() {
					next = read()
				}
				_ = tx.Rollback()
				tx = next
			}
		})
	}
	grow := func() {
		for end := time.Now().Add(2 * patience); wal() < large; commit() {
			if time.Now().After(end) {
				t.Fatalf("the log is kept small without our help: this test shows nothing (%d bytes)", wal())
			}
		}
	}
	bound := func() (said func() string, stop func()) {
		var mu sync.Mutex
		var log bytes.Buffer
		ctx, cancel := context.WithCancel(context.Background())
		var bounding sync.WaitGroup
		bounding.Go(func() {
			st.engine.(*sqliteEngine).boundWAL(ctx, slog.New(slog.NewTextHandler(keptOutput{&mu, &log}, nil)), limit)
		})
		stop = func() { cancel(); bounding.Wait() }
		t.Cleanup(stop)
		return func() string { mu.Lock(); defer mu.Unlock(); return log.String() }, stop
	}
	overlap()
	grow()
	_, stop := bound() // it may complain if a reader is held up for a moment
	eventually(t, 2*patience, "the log is cut among readers", func() bool { commit(); return wal() < limit })
	stop()
	stopped.Store(true)
	overlapping.Wait()

	endless := read()
	said, stop := bound()
	grow()
	eventually(t, 2*patience, "a try in vain", func() bool { return said() != "" })
	before := wal()
	commit()
	if wal() < before || before < large {
		t.Errorf("the log has %d bytes, and had %d, under a reader that needs it", wal(), before)
	}
	if err := endless.Rollback(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 2*patience, "the log is cut after the endless reader", func() bool { commit(); return wal() < limit })
	stop()
	if n := strings.Count(said(), "level=WARN"); n != 1 || !strings.Contains(said(), "another program has been reading") {
		t.Errorf("the log has %d warnings, want one that names the cause:\n%s", n, said())
	}
	if page, err := st.messagesBefore(t.Context(), 1, maxSeq, 1, 1000); err != nil || len(page) != 1 || page[0].Seq != seq {
		t.Errorf("the last message is %v (%v), want seq %d", page, err, seq)
	}
}

// A server that stops while it waits for its turn to cut the log was told to have met a reader that never ends.
func TestWALEnd(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	st, err := openStore(t.Context(), storeOptions{URL: "sqlite:" + filepath.Join(t.TempDir(), "grpcchatter.db"), Synchronous: "normal", Create: true})
	if err != nil {
		t.Fatal(err)
	}
	defer st.close()
	writer, err := st.w.Conn(t.Context()) // the only one
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	var log bytes.Buffer // of boundWAL alone, until it has returned
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var bounding sync.WaitGroup
	bounding.Go(func() {
		st.engine.(*sqliteEngine).boundWAL(ctx, slog.New(slog.NewTextHandler(&log, nil)), 0)
	})
	eventually(t, patience, "it waits for the writer", func() bool { return st.w.Stats().WaitCount > 0 })
	cancel()
	bounding.Wait()
	if log.Len() > 0 {
		t.Errorf("the log says %q", log.String())
	}
}
