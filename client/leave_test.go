package client_test

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"testing"
	"time"

	_ "modernc.org/sqlite"

	"github.com/grpcchatter/grpcchatter/client"
)

func TestLeaveChatRoom(t *testing.T) {
	s := startServer(t)
	ctx := t.Context()
	ann, bob := newUser(t, s.addr, "ann"), newUser(t, s.addr, "bob")
	code, other := createRoom(t, ann), createRoom(t, ann)
	a, b, elsewhere := join(t, ann, code), join(t, bob, code), join(t, bob, other)
	device := join(t, tokenLogin(t, s.addr, bob), code)
	send(t, b, "1")
	for _, r := range []*client.Room{b, device} { // what has not come to a device by then does not come to it any more
		receive(t, r, 0, 1)
	}
	if err := bob.LeaveChatRoom(ctx, strings.ToLower(code)); err != nil {
		t.Fatal(err)
	}
	for _, r := range []*client.Room{b, device} {
		_, err := r.Receive(ctx)
		if e, ok := errors.AsType[*client.Error](err); !ok || !errors.Is(err, client.ErrRoomAccessDenied) || !strings.Contains(e.Message, "left") {
			t.Errorf("Receive: %v", err)
		}
	}
	if rooms, err := bob.ListChatRooms(ctx); err != nil || len(rooms) != 1 || rooms[0].ShortCode != other {
		t.Errorf("bob is in %+v, %v", rooms, err)
	}
	send(t, elsewhere, "1")

	if err := ann.LeaveChatRoom(ctx, code); !errors.Is(err, client.ErrOwnerStays) {
		t.Errorf("the owner: %v", err)
	}
	send(t, a, "2")
	for _, code := range []string{code, "NOROOM", "..", "a/b"} {
		if err := bob.LeaveChatRoom(ctx, code); !errors.Is(err, client.ErrRoomNotFound) {
			t.Errorf("room %q: %v", code, err)
		}
	}
	for _, code := range []string{"", "\xff"} {
		if err := bob.LeaveChatRoom(ctx, code); !errors.Is(err, client.ErrInvalidField) {
			t.Errorf("room %q: %v", code, err)
		}
	}
	if err := newClient(t, s.addr).LeaveChatRoom(ctx, code); !errors.Is(err, client.ErrNotLoggedIn) {
		t.Errorf("before a Login: %v", err)
	}
	token := bob.Token()
	s.command(t, "user", "role", "bob", "ADMIN") // which ends bob's token
	if err := bob.LeaveChatRoom(ctx, code); !errors.Is(err, client.ErrUserNotFound) {
		t.Errorf("an administrator who is no member: %v", err)
	}
	if bob.Token() == token {
		t.Error("the token was not renewed")
	}
}

// A room that waits to connect again does not take the user back into the room.
func TestLeaveWhileReconnecting(t *testing.T) {
	s := startServer(t, "--rate-limits=on", "--limit-messages-per-user=1+1/1h")
	bob := newUser(t, s.addr, "bob")
	code := createRoom(t, newUser(t, s.addr, "ann"))
	lost := make(chan struct{}, 10)
	r := join(t, bob, code, client.OnState(func(state client.ConnState, _ error) {
		if state == client.Reconnecting {
			lost <- struct{}{}
		}
	}))
	send(t, r, "1")
	wait, err := r.Queue(t.Context(), "2")
	if err != nil {
		t.Fatal(err)
	}
	<-lost // for an hour
	if err := bob.LeaveChatRoom(t.Context(), code); err != nil {
		t.Fatal(err)
	}
	receive(t, r, 0, 1)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, received := r.Receive(ctx)
	if received == nil || ctx.Err() != nil {
		t.Fatalf("Receive: %v", received)
	}
	_, sent := wait()
	for _, err := range []error{received, sent} {
		if !errors.Is(err, client.ErrRoomAccessDenied) {
			t.Errorf("the room ended with %v", err)
		}
	}
}

// A device that was away when the user left, also if its tokens have ended meanwhile, does not take the user back into the room.
func TestLeaveWhileAway(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		tokens, away time.Duration // a token lives up to a second longer
		end          bool          // all tokens, by the server
	}{
		"shortly":            {24 * time.Hour, 0, false},
		"for long":           {5 * time.Second, 6 * time.Second, false},
		"while tokens ended": {24 * time.Hour, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t, "--token-duration="+c.tokens.String())
			p := startProxy(t, s)
			code := createRoom(t, newUser(t, s.addr, "ann"))
			device, bob := newUser(t, p.addr(), "bob"), newClient(t, s.addr)
			r := join(t, device, code)
			p.set(true, true)
			p.cut()
			if c.end {
				s.command(t, "user", "role", "bob", "ADMIN")
				s.command(t, "user", "role", "bob", "USER")
			}
			login(t, bob, "bob")
			if err := bob.LeaveChatRoom(t.Context(), code); err != nil {
				t.Fatal(err)
			}
			time.Sleep(c.away)
			p.set(false, false)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if _, err := r.Receive(ctx); !errors.Is(err, client.ErrRoomAccessDenied) {
				t.Errorf("Receive: %v", err)
			}
			if rooms, err := bob.ListChatRooms(t.Context()); err != nil || len(rooms) > 0 {
				t.Errorf("bob is a member again: %v %v", rooms, err)
			}
		})
	}
}

// Accounts of old databases have names that are no segment of a path.
func TestLeaveWithOldName(t *testing.T) {
	s := startServer(t)
	ann, bob := newUser(t, s.addr, "ann"), newClient(t, s.addr)
	code := createRoom(t, ann)
	if _, err := bob.Register(t.Context(), "bob", password); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"b o/b?#%2F", "..", "."} {
		s.stop()
		db, err := sql.Open("sqlite", "file:"+s.file)
		if err != nil {
			t.Fatal(err)
		}
		_, err = db.Exec(`UPDATE users SET username = $1, name_key = $1 WHERE username <> 'ann'`, name)
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
		s.start(t)
		login(t, bob, name)
		r := join(t, bob, code)
		if err := bob.LeaveChatRoom(t.Context(), code); err != nil {
			t.Fatalf("%q: %v", name, err)
		}
		if _, err := r.Receive(t.Context()); !errors.Is(err, client.ErrRoomAccessDenied) {
			t.Errorf("%q: Receive: %v", name, err)
		}
	}
}
