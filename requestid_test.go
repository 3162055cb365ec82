package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/grpcchatter/grpcchatter/pb"
)

// Every REST answer has an id, that of the request if it brought a valid one, and the log has it too.
func TestRequestIDOfREST(t *testing.T) {
	t.Parallel()
	p := startServer(t, "--log-level=debug")
	random := regexp.MustCompile(`^[A-Z2-7]{12}$`)
	seen := map[string]bool{}
	for _, path := range []string{"/healthz", "/nothing", "/", "/rooms", "/chat", "/rooms/", "//x"} {
		id := p.call("GET", path, "", "").header.Get("X-Request-Id")
		if !random.MatchString(id) || seen[id] {
			t.Errorf("GET %s: the id is %q, after %v", path, id, seen)
		}
		seen[id] = true
		eventually(t, patience, "the log has a line with the id "+id, func() bool { return strings.Contains(p.logText(), "request_id="+id) })
	}
	for _, id := range []string{"a", "A-9_z.0", "0af76519-16cd-43dd-8448-eb211c80319c", strings.Repeat("x", 64)} {
		if got := p.call("GET", "/healthz", "", "", "X-Request-Id", id).header.Get("X-Request-Id"); got != id {
			t.Errorf("the id %q became %q", id, got)
		}
	}
	for _, id := range []string{"", strings.Repeat("x", 65), "a b", "a\tb", "ä", "<b>", `"`, "a=b", "a,b", "a;b"} {
		if got := p.call("GET", "/healthz", "", "", "X-Request-Id", id).header.Get("X-Request-Id"); !random.MatchString(got) {
			t.Errorf("the id %q became %q, want a new one", id, got)
		}
	}
}

// A gRPC call has its id in the trailer, however it ends, and in the log.
func TestRequestIDOfGRPC(t *testing.T) {
	t.Parallel()
	p := startServer(t, "--log-level=debug", "--log-format=json")
	token := p.login("alice")
	conn := p.dial()
	api := pb.NewGRPCChatterClient(conn)
	room := joinRoom(t, api, token, createRoom(t, api, token))

	wantLogged := func(what string, trailer metadata.MD, own string) {
		t.Helper()
		id := strings.Join(trailer.Get("x-request-id"), ",")
		if own != "" && id != own || own == "" && len(id) != 12 {
			t.Errorf("%s: the id is %q, want %q", what, id, own)
		}
		eventually(t, patience, what+": the log has a call with the id "+id, func() bool {
			return regexp.MustCompile(`"msg":"call".*"request_id":"` + id + `"`).MatchString(p.logText())
		})
	}
	for what, ctx := range map[string]context.Context{
		"a call that is answered": withToken(t.Context(), token), "a call without a token": t.Context(), "a call with the wrong token": withToken(t.Context(), room),
	} {
		for _, own := range []string{"", "its-own"} {
			var trailer metadata.MD
			if own != "" {
				ctx = metadata.AppendToOutgoingContext(ctx, "X-Request-Id", own)
			}
			_, _ = api.CreateChatRoom(ctx, &pb.CreateChatRoomRequest{RoomName: "x"}, grpc.Trailer(&trailer))
			wantLogged(what, trailer, own)
		}
	}
	for what, token := range map[string]string{"a stream": room, "a stream without a right": token} {
		for _, own := range []string{"", "of-a-stream"} {
			ctx := withToken(t.Context(), token)
			if own != "" {
				ctx = metadata.AppendToOutgoingContext(ctx, "x-request-id", own)
			}
			stream, err := api.Chat(ctx)
			if err != nil {
				t.Fatal(err)
			}
			_ = stream.Send(&pb.ChatRequest{})
			_ = stream.CloseSend()
			for err == nil {
				_, err = stream.Recv()
			}
			if token == room && !errors.Is(err, io.EOF) {
				t.Error(err)
			}
			wantLogged(what, stream.Trailer(), own)
		}
	}
}

// What goes wrong is logged with the id, also by a logger that has attributes and groups of its own.
func TestRequestIDOfAnError(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := slog.New(requestLog{slog.NewTextHandler(&out, nil)})
	ctx := withRequestID(t.Context(), "one")
	_ = grpcError(ctx, log, fmt.Errorf("x: %w", errDiskFull))
	_ = grpcError(ctx, log.With("a", 1), errors.New("y"))
	log.WithGroup("g").ErrorContext(ctx, "z")
	for line := range strings.Lines(out.String()) {
		if !strings.Contains(line, "request_id=one") {
			t.Errorf("no id in %q", line)
		}
	}
	out.Reset()
	log.Info("of no request")
	if strings.Contains(out.String(), "request_id") {
		t.Error(out.String())
	}
}
