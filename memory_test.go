package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/grpcchatter/grpcchatter/pb"
)

// enough is more than what a test of this file may take of the server's memory, the race detector's part
// included, and much less than what it tries to take.
const enough = 250 << 20

// A client that has every message rejected and reads nothing must not fill the server's memory with the
// answers (promise 5; design: "Nobody's slowness takes memory").
func TestRejectedTakesNoMemory(t *testing.T) {
	t.Parallel()
	r := newChatRoom(t, nil, "mallory")
	before := residentMemory(t, r.cmd.Process.Pid)
	s := openRaw(t, r.dial(), bearerHeader(r.tokens["mallory"]), current+"Chat")
	s.send()
	id := strings.Repeat("i", maxRequest-8)
	var sent atomic.Int32
	var sender sync.WaitGroup
	sender.Go(func() {
		for sent.Load() < 2400 && s.SendMsg(text(2, id)) == nil {
			sent.Add(1)
		}
	})
	done := make(chan struct{})
	go func() { sender.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(10 * time.Second): // the server makes its sender wait: well done
	}
	if after := residentMemory(t, r.cmd.Process.Pid); after-before > enough {
		t.Errorf("after %d rejected messages of 128 KiB, none of them read, the server has %d MiB more", sent.Load(), (after-before)>>20)
	}
}

// The requests of one connection that never end cannot fill the server's memory: it has MAX_STREAMS_PER_CONNECTION, of
// maxRequest and a message each, and who has no token is refused before its request is read (promise 5; promise 7).
func TestUnfinishedRequestsTakeNoMemory(t *testing.T) {
	t.Parallel()
	// As long as is allowed, and one byte longer, but for the last two bytes.
	longest, tooLong := unfinished(maxRequest+4096), unfinished(maxRequest+4097)
	for _, test := range []struct {
		method string
		data   []byte
		token  bool
	}{
		{current + "CreateChatRoom", longest, false},
		{current + "Chat", longest, true},
		{original + "Chat", tooLong, false},
		{"/grpc.health.v1.Health/Check", longest, false},
		{"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", longest, false},
	} {
		t.Run(fmt.Sprint(test.method, len(test.data), test.token), func(t *testing.T) {
			p := startServer(t)
			var token []string
			if test.token {
				token = []string{"authorization", "Bearer " + joinedToken(t, p)}
			}
			before := residentMemory(t, p.cmd.Process.Pid)
			c := dialHTTP2(t, p.addr)
			w := newWindows(c)
			sent := 0
			end := time.Now().Add(8 * time.Second)
			for i := 0; i < 300 && time.Now().Before(end); i++ {
				sent += w.begin(test.method, test.data, token...)
			}
			if after := residentMemory(t, p.cmd.Process.Pid); after-before > enough {
				t.Errorf("after %d MiB of unfinished requests the server has %d MiB more", sent>>20, (after-before)>>20)
			}
			if status, _, _, err := request(p.addr, "GET", "/readyz", ""); status != 200 {
				t.Errorf("readyz: %d %v", status, err)
			}
			stopInTime(t, p) // nor do they hold up the end
		})
	}
}

// joinedToken returns a room token.
func joinedToken(t testing.TB, p *serverProcess) string {
	api, token := pb.NewGRPCChatterClient(p.dial()), p.login("mallory")
	return joinRoom(t, api, token, createRoom(t, api, token))
}

// unfinished is all but the last two bytes of a message of n bytes.
func unfinished(n int) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(n)), make([]byte, n-2)...)
}

// windows is what the server lets a http2Conn send.
type windows struct {
	c    *http2Conn
	mu   sync.Mutex // guards the fields below
	left map[uint32]int
	over map[uint32]bool // streams that the server has ended
}

func newWindows(c *http2Conn) *windows {
	w := &windows{c: c, left: map[uint32]int{0: 65535}, over: map[uint32]bool{}}
	go w.read()
	return w
}

// read ends with the connection.
func (w *windows) read() {
	for {
		frame, err := w.c.fr.ReadFrame()
		if err != nil {
			return
		}
		w.mu.Lock()
		id := frame.Header().StreamID
		switch f := frame.(type) {
		case *http2.WindowUpdateFrame:
			w.left[id] += int(f.Increment)
		case *http2.PingFrame:
			if !f.IsAck() { // or the window does not grow
				_ = w.c.fr.WritePing(true, f.Data)
			}
		case *http2.MetaHeadersFrame, *http2.RSTStreamFrame:
			w.over[id] = true
		}
		w.mu.Unlock()
	}
}

// begin opens a stream and writes data to it, as far as the server lets it within a moment. It returns how much.
func (w *windows) begin(path string, data []byte, headers ...string) (sent int) {
	w.mu.Lock()
	w.c.begin(path, true, headers...)
	id := w.c.id
	w.left[id] += 65535
	w.mu.Unlock()
	for stuck := time.Now(); sent < len(data) && time.Since(stuck) < 10*time.Millisecond; {
		w.mu.Lock()
		n := min(w.left[0], w.left[id], 16<<10, len(data)-sent)
		if w.over[id] {
			n = -1
		}
		if n > 0 {
			_ = w.c.fr.WriteData(id, false, data[sent:sent+n])
			w.left[0] -= n
			w.left[id] -= n
			sent += n
			stuck = time.Now()
		}
		w.mu.Unlock()
		switch {
		case n < 0:
			return sent
		case n == 0:
			time.Sleep(time.Millisecond)
		}
	}
	return sent
}

// A commit of a busy room was one block of up to 16 MB, and each member that did not read kept one, as did the ring of
// every room: 150 stalled members took 800 MB.
func TestBlocksAreSmall(t *testing.T) {
	for name, sizes := range map[string][]int{
		"tiny":              slices.Repeat([]int{1}, 5000),
		"mixed":             {1, 4096, 70_000, 1, 200_000, 1 << 20, 5, 60_000, 60_000, maxFrame},
		"just a frame each": slices.Repeat([]int{maxFrame - 60}, 5),
	} {
		var msgs []message
		for i, size := range sizes {
			msgs = append(msgs, message{Seq: uint64(i + 1), UserName: "ann", SentAt: 1, ClientMessageID: "x", Body: strings.Repeat("x", size)})
		}
		if name == "tiny" { // a block has no gap
			msgs = slices.Delete(msgs, 10, 12)
		}
		i := 0
		for _, b := range makeBlocks(msgs) {
			if len(b.data) > maxFrame && len(b.marks) > 1 || cap(b.data) > len(b.data)+100*len(b.marks) {
				t.Errorf("%s: a block has %d messages in %d bytes of %d", name, len(b.marks), len(b.data), cap(b.data))
			}
			for j := range b.marks {
				if e := b.event(j); e != messageEvent(msgs[i]) || b.first+uint64(j) != msgs[i].Seq {
					t.Fatalf("%s: message %d came out as seq %d", name, msgs[i].Seq, e.seq)
				}
				i++
			}
		}
		if i != len(msgs) {
			t.Errorf("%s: %d messages became %d", name, len(msgs), i)
		}
	}
}

// What comes and goes in a room where nobody says anything is dropped too: the ring has no end of events that
// are not stored (design: "Presence and typing … are dropped, never stored").
func TestEventsTakeNoMemory(t *testing.T) {
	t.Parallel()
	for _, messages := range []int{0, 1} {
		h := newHub(255, func(context.Context, int64) (uint64, error) { return 0, nil })
		s, err := h.enter(t.Context(), 1, user{ID: 1, Name: "ann"}, 0, false)
		if err != nil {
			t.Fatal(err)
		}
		for i := range messages {
			s.room.publish(makeBlocks([]message{{Seq: uint64(i + 1), Body: "hello"}}))
		}
		const events = 100_000
		for range events {
			s.typing()
		}
		if n := s.room.ring.bytes; n > 4<<20 {
			t.Errorf("after %d messages and %d times typing the ring has %d blocks of about %d MiB", messages, events, len(s.room.ring.blocks), n>>20)
		}
		s.leave()
	}
}

// residentMemory returns the bytes of memory that a process has. Only Linux tells.
func residentMemory(t testing.TB, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Skip("SKIPPED: how much memory a process has is not known here: ", err)
	}
	_, after, _ := strings.Cut(string(b), "VmRSS:")
	var kib int
	if _, err := fmt.Sscan(after, &kib); err != nil {
		t.Fatal(err)
	}
	return kib << 10
}
