package client

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"sync"

	"google.golang.org/grpc/metadata"
)

// token is a bearer token of the server. Any number of goroutines may use it; when it is refused, one of
// them renews it and the others wait for the result.
type token struct {
	fetch    func(ctx context.Context, refusal error) (string, error) // gets a new one
	renewing chan struct{}                                            // holds an element while somebody renews

	mu    sync.Mutex // guards value
	value string
}

func newToken(value string, fetch func(ctx context.Context, refusal error) (string, error)) *token {
	return &token{fetch: fetch, renewing: make(chan struct{}, 1), value: value}
}

func (t *token) get() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.value
}

func (t *token) set(value string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.value = value
}

// renew returns a token that is not the refused one, which got the refusal.
func (t *token) renew(ctx context.Context, refused string, refusal error) (string, error) {
	select {
	case t.renewing <- struct{}{}:
		defer func() { <-t.renewing }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if value := t.get(); value != refused {
		return value, nil
	}
	value, err := t.fetch(ctx, refusal)
	if err != nil {
		return "", err
	}
	t.set(value)
	return value, nil
}

// authorize runs call with the token, and once more with a renewed one if it is refused.
func (t *token) authorize(ctx context.Context, call func(value string) error) error {
	value := t.get()
	err := call(value)
	if !refused(err) {
		return err
	}
	value, err = t.renew(ctx, value, err)
	if err != nil {
		return err
	}
	return call(value)
}

// noPassword is the refusal of a token that cannot be renewed, for there is no password to log in with.
type noPassword struct{ refusal error }

func (e noPassword) Error() string { return e.refusal.Error() }
func (e noPassword) Unwrap() error { return e.refusal }

// refused reports whether err says that another token may help.
func refused(err error) bool {
	return errors.Is(err, ErrTokenExpired) || errors.Is(err, ErrTokenInvalid)
}

func withToken(ctx context.Context, value string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+value)
}

// joinSeq reads the seq of the join from a room token: a JWT, whose signature is the server's business.
func joinSeq(roomToken string) (uint64, error) {
	_, rest, _ := strings.Cut(roomToken, ".")
	payload, _, ok := strings.Cut(rest, ".")
	if !ok {
		return 0, errors.New("client: the server's room token is not a JWT")
	}
	data, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		return 0, errors.New("client: the server's room token is not base64url")
	}
	var claims struct {
		Seq *uint64 `json:"seq"`
	}
	if err := json.Unmarshal(data, &claims); err != nil || claims.Seq == nil {
		return 0, errors.New("client: the server's room token does not say where the room stands")
	}
	return *claims.Seq, nil
}
