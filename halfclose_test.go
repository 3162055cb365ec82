package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/grpcchatter/grpcchatter/pb"
)

// TestHalfClose: a client that has said all it has to say still gets every acknowledgement, and then a clean
// end. The writer once ended with the first frame, when more than one was still to be sent.
func TestHalfClose(t *testing.T) {
	t.Parallel()
	p := startServer(t)
	token := p.login("ann")
	api := pb.NewGRPCChatterClient(p.dial())
	stream := openChat(t, t.Context(), api, joinRoom(t, api, token, createRoom(t, api, token)), 0)
	const n = 1000
	for i := range n {
		if err := stream.Send(&pb.ChatRequest{Body: strings.Repeat("x", 1000), ClientMessageId: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	acked := 0
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		for _, e := range resp.GetEvents() {
			if e.GetClientMessageId() != fmt.Sprint(acked) {
				t.Fatalf("acknowledgement %d is for %q", acked, e.GetClientMessageId())
			}
			acked++
		}
	}
	if acked != n {
		t.Errorf("%d of %d messages were acknowledged", acked, n)
	}
}
