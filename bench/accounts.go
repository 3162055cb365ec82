package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	_ "modernc.org/sqlite"

	"github.com/grpcchatter/grpcchatter/pb"
)

// joins measures JoinChatRoom by somebody who is a member: no password is hashed.
func joins(ctx context.Context, b *bencher) ([]row, error) {
	s, err := b.alternate(ctx, []string{"grpcchatter"}, func(kind string) (figures, error) {
		ctx, t, stop, err := b.launch(ctx, kind)
		if err != nil {
			return nil, err
		}
		defer stop()
		conn, err := dial(t.proc.addr)
		if err != nil {
			return nil, err
		}
		defer conn.Close()
		api := pb.NewGRPCChatterClient(conn)
		ctx = withToken(ctx, t.token)
		room, err := api.CreateChatRoom(ctx, &pb.CreateChatRoomRequest{RoomName: "room", RoomPassword: password})
		if err != nil {
			return nil, err
		}
		const total, workers = 20_000, 32
		var failed atomic.Int64
		begin := time.Now()
		var wg sync.WaitGroup
		for range workers {
			wg.Go(func() {
				for range total / workers {
					if _, err := api.JoinChatRoom(ctx, &pb.JoinChatRoomRequest{ShortCode: room.GetShortCode()}); err != nil {
						failed.Add(1)
					}
				}
			})
		}
		wg.Wait()
		if n := failed.Load(); n > 0 {
			return nil, fmt.Errorf("%d joins failed", n)
		}
		return figures{"rate": total / time.Since(begin).Seconds()}, nil
	})
	if err != nil {
		return nil, err
	}
	return []row{single("joins by a member", "joins/s", s["grpcchatter"], "rate", atLeast, 3000)}, nil
}

// logins measures what a chat feels of 500 log-ins at once.
func logins(ctx context.Context, b *bencher) ([]row, error) {
	s, err := b.alternate(ctx, []string{"grpcchatter"}, func(kind string) (figures, error) {
		ctx, t, stop, err := b.launch(ctx, kind, "room")
		if err != nil {
			return nil, err
		}
		defer stop()
		if err := b.restart(t); err != nil { // it has hashed a password, and has that memory still
			return nil, err
		}
		time.Sleep(time.Second)
		before, err := t.proc.resident()
		if err != nil {
			return nil, err
		}
		body, _ := json.Marshal(map[string]string{"user_name": "sender", "password": password})
		var ok, refused, other atomic.Int64
		var flood sync.WaitGroup
		for range 500 {
			flood.Go(func() {
				resp, err := http.Post("http://"+t.proc.addr+"/login", "application/json", bytes.NewReader(body))
				if err != nil {
					other.Add(1)
					return
				}
				resp.Body.Close()
				switch resp.StatusCode {
				case http.StatusOK:
					ok.Add(1)
				case http.StatusServiceUnavailable:
					refused.Add(1)
				default:
					other.Add(1)
				}
			})
		}
		times, err := roundTrips(ctx, t, "room", 500, time.Millisecond)
		flood.Wait()
		if err != nil {
			return nil, err
		}
		if n := other.Load(); n > 0 {
			return nil, fmt.Errorf("%d log-ins were answered neither 200 nor 503", n)
		}
		peak, err := t.proc.peak()
		return figures{"p99 ms": quantile(times, 0.99) / 1000, "MB": (peak - before) / 1024, "200": float64(ok.Load()), "503": float64(refused.Load())}, err
	})
	if err != nil {
		return nil, err
	}
	return []row{
		single("500 log-ins at once", "p99 ms of a chat meanwhile", s["grpcchatter"], "p99 ms", atMost, 100),
		single("", "MiB of memory more, at the peak", s["grpcchatter"], "MB", atMost, 100),
		single("", "log-ins that succeed", s["grpcchatter"], "200", none, 0),
		single("", "log-ins that are told 503", s["grpcchatter"], "503", none, 0),
	}, nil
}

// stored measures a server on a database with very many messages.
func stored(ctx context.Context, b *bencher) ([]row, error) {
	dir, err := os.MkdirTemp(b.dir, "stored")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	proc, err := b.startChatter(dir)
	if err != nil {
		return nil, err
	}
	t, err := newTarget(ctx, "grpcchatter", proc, "room")
	proc.stop()
	if err != nil {
		return nil, err
	}
	if err := b.fill(ctx, storedPath(dir)); err != nil {
		return nil, err
	}
	s, err := b.alternate(ctx, []string{"grpcchatter"}, func(string) (figures, error) {
		proc, err := b.startChatter(dir)
		if err != nil {
			return nil, err
		}
		defer proc.stop()
		conn, err := dial(proc.addr)
		if err != nil {
			return nil, err
		}
		defer conn.Close()
		api := pb.NewGRPCChatterClient(conn)
		ctx := withToken(ctx, t.rooms["room"])
		f := figures{"start": proc.ready.Seconds()}
		var times []float64
		for i := range 40_000 {
			if i == 2000 || i == 20_000 {
				kib, err := proc.resident()
				if err != nil {
					return nil, err
				}
				f[fmt.Sprintf("MiB after %d", i)] = kib / 1024
			}
			begin := time.Now()
			page, err := api.ListMessages(ctx, &pb.ListMessagesRequest{BeforeSeq: uint64(rand.IntN(b.stored)) + 2})
			if err != nil {
				return nil, err
			}
			if len(page.GetMessages()) == 0 {
				return nil, fmt.Errorf("an empty page of history")
			}
			times = append(times, float64(time.Since(begin).Microseconds())/1000)
		}
		f["p99"] = quantile(times, 0.99)
		kib, err := proc.resident()
		f["MiB"] = kib / 1024
		return f, err
	})
	if err != nil {
		return nil, err
	}
	ours := s["grpcchatter"]
	return []row{
		single(number(float64(b.stored))+" stored messages", "s to start", ours, "start", atMost, 1),
		single("", "p99 ms of a page of history", ours, "p99", atMost, 5),
		against("", "resident MiB after 40,000 pages", ours, "MiB", "after 2,000", "MiB after 2000", none, 0),
		against("", "resident MiB after 40,000 pages", ours, "MiB", "after 20,000", "MiB after 20000", none, 0),
	}, nil
}

// fill writes messages straight into the database of a server that is stopped.
func (b *bencher) fill(ctx context.Context, path string) error {
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=synchronous(OFF)&_pragma=cache_size(-200000)")
	if err != nil {
		return err
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	const step = 500_000
	for from := 0; from < b.stored; from += step {
		_, err := db.ExecContext(ctx, `INSERT INTO messages (room_id, seq, user_id, sent_at, client_message_id, body)
			WITH RECURSIVE n (i) AS (SELECT ? UNION ALL SELECT i + 1 FROM n WHERE i < ?)
			SELECT 1, i, 1, 1700000000000000 + i, printf('%012d', i), printf('message %056d', i) FROM n`, from+1, min(from+step, b.stored))
		if err != nil {
			return err
		}
		b.progress("%d of %d messages stored", min(from+step, b.stored), b.stored)
	}
	return nil
}
