package main

import (
	"bufio"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/grpcchatter/grpcchatter/pb"
)

// A run passed that had lost one message and got another twice: only the sum was looked at.
func TestSequence(t *testing.T) {
	frame := func(seqs ...uint64) []byte {
		r := &pb.ChatResponse{}
		for _, seq := range seqs {
			r.Events = append(r.Events, &pb.ChatEvent{UserName: "sender", Body: "x", Seq: seq, ClientMessageId: "1"})
		}
		b, err := proto.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	json := func(seqs ...string) []byte {
		return []byte(`{"events":[{"userName":"sender"},{"body":"x","seq":"` + strings.Join(seqs, `"},{"body":"x","seq":"`) + `"}]}`)
	}
	for _, test := range []struct {
		name  string
		frame []byte
		json  []byte
		n     int // 0: an error
	}{
		{"all", frame(0, 8, 9, 10), json("8", "9", "10"), 3},
		{"one lost", frame(8, 10), json("8", "10"), 0},
		{"the first lost", frame(9), json("9"), 0},
		{"one twice", frame(8, 8), json("8", "8"), 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			for kind, count := range map[string]func() (int, error){
				"gRPC": func() (int, error) { return (&sequence{7}).countMessages(test.frame) },
				"JSON": func() (int, error) { return (&sequence{7}).countJSON(test.json) },
			} {
				if n, err := count(); n != test.n || (err == nil) != (test.n > 0) {
					t.Errorf("%s: %d messages and the error %v, want %d", kind, n, err, test.n)
				}
			}
		})
	}
}

func TestCountNATS(t *testing.T) {
	server, conn := net.Pipe()
	go func() {
		_, _ = io.WriteString(server, "MSG room 1 3\r\nxyz\r\nMSG room 1 $JS.ACK.1 12\r\nMSG room 1 3\r\nPING\r\n")
		_, _ = io.CopyN(io.Discard, server, int64(len("PONG\r\n")))
		_, _ = io.WriteString(server, "MSG room 1 0\r\n\r\n")
		_, _ = io.WriteString(server, "-ERR 'Slow Consumer'\r\n")
	}()
	total := 0
	err := countNATS(conn, bufio.NewReader(conn), func(n int) { total += n })
	if total != 3 || err == nil || errors.Is(err, io.EOF) {
		t.Errorf("%d messages and the error %v, want 3 and the server's", total, err)
	}
}

// A target that is a sum is missed as any other.
func TestSynced(t *testing.T) {
	bare := samples{{"p50": 100}}
	for p50, met := range map[float64]bool{359: true, 361: false} {
		if r := synced(samples{{"p50": p50, "sync": 200}}, bare); r.met != met || r.target == "" {
			t.Errorf("%v µs: met %v, target %q", p50, r.met, r.target)
		}
	}
}
