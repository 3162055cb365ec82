package main

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
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
			s, err := openStore(ctx, storeOptions{URL: "sqlite:" + filepath.Join(b.TempDir(), "bench.db"), Synchronous: "full", Create: true})
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
			st, err := openStore(ctx, storeOptions{URL: "sqlite:" + filepath.Join(b.TempDir(), "bench.db"), Synchronous: "full", Create: true})
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
