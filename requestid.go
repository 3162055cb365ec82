package main

import (
	"context"
	"crypto/rand"
	"log/slog"
	"strings"

	"google.golang.org/grpc/metadata"
)

// requestIDHeader is what a request's id is called, in REST and in gRPC.
const requestIDHeader = "X-Request-Id"

// maxRequestID is how long a caller's own id may be, in bytes.
const maxRequestID = 64

type requestIDKey struct{}

// withRequestID gives a request its id, which all of its log lines have: the caller's own, such as a proxy's, if that is
// one to 64 letters, digits, dots, underscores and hyphens; else one of 60 random bits.
func withRequestID(ctx context.Context, own string) context.Context {
	if !isRequestID(own) {
		own = rand.Text()[:12]
	}
	return context.WithValue(ctx, requestIDKey{}, own)
}

// withCallID is withRequestID for gRPC.
func withCallID(ctx context.Context) context.Context {
	own := ""
	if v := metadata.ValueFromIncomingContext(ctx, requestIDHeader); len(v) > 0 {
		own = v[0]
	}
	return withRequestID(ctx, own)
}

// callIDTrailer tells the caller the id: at the end, for an idle stream would have to keep a header.
func callIDTrailer(ctx context.Context) metadata.MD {
	return metadata.Pairs(requestIDHeader, requestIDOf(ctx))
}

func isRequestID(s string) bool {
	return s != "" && len(s) <= maxRequestID && !strings.ContainsFunc(s, func(c rune) bool {
		return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.')
	})
}

// requestIDOf returns the id of the request that ctx belongs to, empty if there is none.
func requestIDOf(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}

// requestLog is a slog.Handler that adds the request's id, from the context.
type requestLog struct{ slog.Handler }

func (h requestLog) Handle(ctx context.Context, r slog.Record) error {
	if id := requestIDOf(ctx); id != "" {
		r.AddAttrs(slog.String("request_id", id))
	}
	return h.Handler.Handle(ctx, r)
}

func (h requestLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	return requestLog{h.Handler.WithAttrs(attrs)}
}

func (h requestLog) WithGroup(name string) slog.Handler {
	return requestLog{h.Handler.WithGroup(name)}
}
