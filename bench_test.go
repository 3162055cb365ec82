package main

import (
	"context"
	"fmt"
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
