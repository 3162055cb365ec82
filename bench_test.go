package main

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// BenchmarkAddMessages stores messages of 64 bytes, 128 in one transaction that is synced: of one room, or of eight.
func BenchmarkAddMessages(b *testing.B) {
	const batch = 128
	for _, rooms := range []int{1, 8} {
		b.Run(fmt.Sprintf("rooms=%d", rooms), func(b *testing.B) {
			ctx := context.Background()
			s, err := openStore(ctx, storeOptions{URL: "sqlite:" + filepath.Join(b.TempDir(), "bench.db"), Create: true})
			if err != nil {
				b.Fatal(err)
			}
			defer s.close()
			u, err := s.addUser(ctx, "alice", "x", roleUser)
			if err != nil {
				b.Fatal(err)
			}
			for i := range rooms {
				if err := s.addRoom(ctx, strconv.Itoa(i), "room", "x", u.ID); err != nil {
					b.Fatal(err)
				}
			}
			body := strings.Repeat("x", 64)
			msgs := make([]message, batch)
			n := 0
			b.ResetTimer()
			for b.Loop() {
				for i := range msgs {
					room, seq := i*rooms/batch, uint64(n*batch/rooms+i%(batch/rooms))+1
					msgs[i] = message{RoomID: int64(room + 1), Seq: seq, UserID: u.ID, SentAt: time.Now().UnixMicro(),
						ClientMessageID: strconv.FormatUint(seq, 10), Body: body}
				}
				n++
				if err := s.addMessages(msgs); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(n*batch), "µs/message")
		})
	}
}

// BenchmarkResend commits 128 messages of one room, with one of another that is stored already or not.
func BenchmarkResend(b *testing.B) {
	for _, resend := range []bool{false, true} {
		b.Run(fmt.Sprintf("resend=%v", resend), func(b *testing.B) {
			ctx := context.Background()
			st, err := openStore(ctx, storeOptions{URL: "sqlite:" + filepath.Join(b.TempDir(), "bench.db"), Create: true})
			if err != nil {
				b.Fatal(err)
			}
			defer st.close()
			u, err := st.addUser(ctx, "alice", "x", roleUser)
			if err != nil {
				b.Fatal(err)
			}
			h := newHub(255, st.lastSeq)
			var posters [2]*session
			for i := range posters {
				if err := st.addRoom(ctx, fmt.Sprint("code", i), "room", "x", u.ID); err != nil {
					b.Fatal(err)
				}
				r, err := h.acquire(ctx, int64(i+1))
				if err != nil {
					b.Fatal(err)
				}
				posters[i] = newSession(r, u, maxInFlight)
			}
			c := newCommitter(st, slog.New(slog.DiscardHandler), 4096)
			n := 0
			for b.Loop() {
				var batch []submission
				add := func(s *session, id string) {
					s.hold()
					s.slots <- struct{}{}
					batch = append(batch, submission{s, "a message of some length, which is about what people write", id})
				}
				for range 127 {
					n++
					add(posters[0], fmt.Sprint(n))
				}
				if resend {
					add(posters[1], "same")
				} else {
					add(posters[1], fmt.Sprint(n))
				}
				c.commit(batch)
				posters[1].answers(nil)
			}
		})
	}
}

// BenchmarkPurge commits one message at a time while MESSAGE_RETENTION removes old ones, or while it has nothing to remove.
func BenchmarkPurge(b *testing.B) {
	for _, old := range []int{0, 300_000} {
		b.Run(fmt.Sprintf("old=%d", old), func(b *testing.B) {
			ctx, cancel := context.WithCancel(context.Background())
			st, err := openStore(ctx, storeOptions{URL: "sqlite:" + filepath.Join(b.TempDir(), "bench.db"), Create: true})
			if err != nil {
				b.Fatal(err)
			}
			defer st.close()
			u, err := st.addUser(ctx, "alice", "x", roleUser)
			if err != nil {
				b.Fatal(err)
			}
			for i := range 2 {
				if err := st.addRoom(ctx, fmt.Sprint("code", i), "room", "x", u.ID); err != nil {
					b.Fatal(err)
				}
			}
			long := time.Now().Add(-1000 * time.Hour).UnixMicro()
			for seq := 1; seq <= old; {
				var msgs []message
				for ; len(msgs) < 4096 && seq <= old; seq++ {
					msgs = append(msgs, message{RoomID: 1, Seq: uint64(seq), UserID: u.ID, SentAt: long, ClientMessageID: fmt.Sprint(seq), Body: strings.Repeat("x", 64)})
				}
				if err := st.addMessages(msgs); err != nil {
					b.Fatal(err)
				}
			}
			s := &chatServer{store: st, log: slog.New(slog.DiscardHandler), retention: retention{age: 2 * time.Hour}}
			done := make(chan struct{})
			go func() { s.purge(ctx); close(done) }()
			var took []time.Duration
			for b.Loop() {
				m := message{RoomID: 2, Seq: uint64(len(took) + 1), UserID: u.ID, SentAt: time.Now().UnixMicro(), Body: strings.Repeat("x", 64)}
				began := time.Now()
				if err := st.addMessages([]message{m}); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "µs-p50")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "µs-p99")
			var left int64
			if err := st.row(ctx, func(row scanner) error { return row.Scan(&left) }, `SELECT count(*) FROM messages WHERE room_id = 1`); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(left), "left")
			cancel()
			<-done
		})
	}
}
