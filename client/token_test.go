package client_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/grpcchatter/grpcchatter/client"
)

// tokenLogin returns a Client that is logged in with the token of another one.
func tokenLogin(t *testing.T, addr string, of *client.Client, opts ...client.Option) *client.Client {
	t.Helper()
	c := newClient(t, addr, opts...)
	if _, err := c.LoginWithToken(patient(t), of.Token()); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestLoginWithToken(t *testing.T) {
	s := startServer(t)
	ctx := t.Context()
	ann := newClient(t, s.addr)
	registered, err := ann.Register(ctx, "Ann", password)
	if err != nil || ann.Token() != "" {
		t.Fatalf("before a Login the token is %q, %v", ann.Token(), err)
	}
	login(t, ann, "ann")
	code := createRoom(t, ann)
	first := join(t, ann, code)

	c := newClient(t, s.addr)
	for name, token := range map[string]string{"none": "", "wrong": "x" + ann.Token(), "with a new line": ann.Token() + "\n", "no ASCII": "é"} {
		_, err := c.LoginWithToken(ctx, token)
		if e, ok := errors.AsType[*client.Error](err); !ok || !errors.Is(err, client.ErrTokenInvalid) || !errors.Is(err, client.ErrUnauthenticated) || e.Message == "" {
			t.Errorf("a token, %s: %v", name, err)
		}
		if c.UserName() != "" || c.Token() != "" {
			t.Errorf("a token, %s: it is of %q", name, c.UserName())
		}
	}
	u, err := c.LoginWithToken(ctx, ann.Token())
	if err != nil || u != registered || c.UserName() != "Ann" || c.Token() != ann.Token() {
		t.Errorf("LoginWithToken = %+v, %v, want %+v; the name is %q", u, err, registered, c.UserName())
	}
	closed := make(chan error, 1)
	second := join(t, c, code, client.OnState(func(state client.ConnState, err error) {
		if state == client.Closed {
			closed <- err
		}
	}))
	send(t, first, "1")
	send(t, second, "2")
	for _, r := range []*client.Room{first, second} {
		if m := receive(t, r, 0, 2)[1]; m.UserName != "Ann" || m.Body != "2" {
			t.Errorf("received %+v", m)
		}
	}

	// The token is no longer taken, and nothing renews it.
	s.command(t, "user", "disable", "ann")
	if err := <-closed; !errors.Is(err, client.ErrTokenInvalid) {
		t.Errorf("the room was closed with %v", err)
	}
	_, received := second.Receive(ctx)
	_, sent := second.Send(ctx, "3")
	_, listed := c.ListChatRooms(ctx)
	_, joined := c.JoinChatRoom(ctx, code, "")
	_, again := newClient(t, s.addr).LoginWithToken(ctx, c.Token())
	for call, err := range map[string]error{"Receive": received, "Send": sent, "ListChatRooms": listed, "JoinChatRoom": joined,
		"LeaveChatRoom": c.LeaveChatRoom(ctx, code), "LoginWithToken": again} {
		if !errors.Is(err, client.ErrTokenInvalid) {
			t.Errorf("%s: %v", call, err)
		}
	}
	s.stop()
	if _, err := c.LoginWithToken(ctx, c.Token()); !errors.Is(err, client.ErrUnavailable) {
		t.Errorf("LoginWithToken without a server: %v", err)
	}
	c.Disconnect()
	if c.Token() != "" {
		t.Error("there is a token after Disconnect")
	}
	if _, err := c.LoginWithToken(ctx, "x"); !errors.Is(err, client.ErrClosed) {
		t.Errorf("LoginWithToken after Disconnect: %v", err)
	}
}

// Tokens live ten seconds. A room ends for good when the token cannot be renewed; a Login with the password before that
// keeps it.
func TestTokenLoginExpires(t *testing.T) {
	t.Parallel()
	s := startServer(t, "--token-duration", "10s") // within them ann's token has to log in twice, and open two rooms
	p := startProxy(t, s)
	ctx := t.Context()
	ann := newUser(t, s.addr, "ann")
	code := createRoom(t, ann)
	log := &testLog{}
	short, long := tokenLogin(t, p.addr(), ann), tokenLogin(t, p.addr(), ann, client.WithLogger(log.logger()))
	first := short.Token()
	states := make(chan client.ConnState, 1000)
	ends := join(t, short, code, client.OnState(func(state client.ConnState, _ error) { states <- state }))
	stays := join(t, long, code)
	login(t, long, "Ann")
	if long.UserName() != "Ann" {
		t.Errorf("the name is %q", long.UserName())
	}
	eventually(t, "the token of the room is refused, and then that of the user", func() bool {
		_, err := ends.ListMessages(ctx, 0, 0)
		return errors.Is(err, client.ErrTokenExpired)
	})
	p.cut()
	soon, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if _, err := ends.Receive(soon); !errors.Is(err, client.ErrTokenExpired) {
		t.Fatalf("Receive: %v", err)
	}
	send(t, stays, "1")
	receive(t, stays, 0, 1)
	eventually(t, "both tokens of the room that stays are renewed", func() bool {
		_, roomErr := stays.ListMessages(ctx, 0, 0)
		_, err := long.ListChatRooms(ctx)
		return roomErr == nil && err == nil && strings.Contains(log.String(), "logging in again") && strings.Contains(log.String(), "renewing the room token")
	})
	for state := range states {
		if state == client.Closed {
			break
		}
	}
	if _, err := short.ListChatRooms(ctx); !errors.Is(err, client.ErrTokenExpired) {
		t.Errorf("ListChatRooms: %v", err)
	}
	if _, err := newClient(t, s.addr).LoginWithToken(ctx, first); !errors.Is(err, client.ErrTokenExpired) {
		t.Errorf("LoginWithToken: %v", err)
	}
	if long.Token() == first || short.Token() != first {
		t.Error("Token is not the token that is in use")
	}
	login(t, short, "ann")
	if m := receive(t, join(t, short, code, client.After(0)), 0, 1)[0]; m.UserName != "ann" || m.Body != "1" {
		t.Errorf("received %+v", m)
	}
}
