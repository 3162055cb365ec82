package client_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/grpcchatter/grpcchatter/client"
)

func TestChat(t *testing.T) {
	s := startServer(t)
	ann, bob := newUser(t, s.addr, "ann"), newUser(t, s.listen, "bob")
	ctx := t.Context()
	code, err := ann.CreateChatRoom(ctx, "Tea", "milk")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bob.JoinChatRoom(ctx, code, "lemon"); !errors.Is(err, client.ErrRoomAccessDenied) {
		t.Errorf("a wrong room password: %v", err)
	}
	a := join(t, ann, code)
	b, err := bob.JoinChatRoom(ctx, strings.ToLower(code), "milk")
	if err != nil {
		t.Fatal(err)
	}
	before := time.Now().Add(-time.Minute)
	for i, r := range []*client.Room{a, b, a} {
		if seq := send(t, r, fmt.Sprint("message ", i+1)); seq != uint64(i+1) {
			t.Errorf("Send returned %d, want %d", seq, i+1)
		}
	}
	for _, r := range []*client.Room{a, b} {
		messages := receive(t, r, 0, 3)
		for i, m := range messages {
			want := client.Message{Seq: uint64(i + 1), UserName: []string{"ann", "bob", "ann"}[i], Body: fmt.Sprint("message ", i+1), SentAt: m.SentAt}
			if m != want || m.SentAt.Before(before) || m.SentAt.After(time.Now().Add(time.Minute)) {
				t.Errorf("received %+v", m)
			}
		}
		listed, err := r.ListMessages(ctx, 3, 1)
		if err != nil || !slices.Equal(listed, messages[1:2]) {
			t.Errorf("ListMessages(3, 1) = %+v, %v", listed, err)
		}
		listed, err = r.ListMessages(ctx, 0, 0)
		if err != nil || !slices.Equal(listed, messages) {
			t.Errorf("ListMessages(0, 0) = %+v, %v", listed, err)
		}
		users, err := r.ListChatRoomUsers(ctx)
		if err != nil || !slices.Equal(users, []string{"ann", "bob"}) {
			t.Errorf("ListChatRoomUsers = %q, %v", users, err)
		}
	}
	rooms, err := bob.ListChatRooms(ctx)
	if want := []client.ChatRoom{{ShortCode: code, Name: "Tea", Owner: "ann", LastSeq: 3}}; err != nil || !slices.Equal(rooms, want) {
		t.Errorf("ListChatRooms = %+v, %v", rooms, err)
	}
	if a.ShortCode() != code || ann.UserName() != "ann" {
		t.Errorf("ShortCode %q, UserName %q", a.ShortCode(), ann.UserName())
	}
	b.Disconnect()
	eventually(t, "bob is gone", func() bool {
		users, err := a.ListChatRoomUsers(ctx)
		return err == nil && slices.Equal(users, []string{"ann"})
	})
	if err := bob.DeleteChatRoom(ctx, code); !errors.Is(err, client.ErrNotOwner) {
		t.Errorf("a member deletes the room: %v", err)
	}
	if err := ann.DeleteChatRoom(ctx, code); err != nil {
		t.Error(err)
	}
	if err := ann.DeleteChatRoom(ctx, code); !errors.Is(err, client.ErrRoomNotFound) {
		t.Errorf("deleting it again: %v", err)
	}
}

func TestRegisterAndLogin(t *testing.T) {
	s := startServer(t)
	c := newClient(t, s.addr)
	ctx := t.Context()
	if _, err := c.CreateChatRoom(ctx, "x", ""); !errors.Is(err, client.ErrNotLoggedIn) {
		t.Errorf("before Login: %v", err)
	}
	if c.UserName() != "" {
		t.Errorf("UserName before Login = %q", c.UserName())
	}
	u, err := c.Register(ctx, "Ann", password)
	if err != nil || u.UserName != "Ann" || u.Role != "USER" || u.ID == 0 || time.Since(u.CreatedAt).Abs() > time.Minute {
		t.Errorf("Register = %+v, %v", u, err)
	}
	if _, err := c.Register(ctx, "ann", password); !errors.Is(err, client.ErrNameTaken) {
		t.Errorf("a taken name: %v", err)
	}
	_, err = c.Register(ctx, "x", password)
	if e, ok := errors.AsType[*client.Error](err); !ok || !errors.Is(err, client.ErrInvalidField) || e.Code != "INVALID_FIELD" || e.Message == "" {
		t.Errorf("a short name: %v", err)
	}
	// JSON would make one of all that is not UTF-8, and a protobuf message cannot have it.
	bad := "\xff\xff\xff\xff\xff\xff\xff\xff"
	_, err = c.Register(ctx, "bad", bad)
	for _, err := range []error{err, c.Login(ctx, "ann", bad)} {
		if !errors.Is(err, client.ErrInvalidField) {
			t.Errorf("a password that is not UTF-8: %v", err)
		}
	}
	for _, name := range []string{"ann", "nobody"} {
		if err := c.Login(ctx, name, "wrong password"); !errors.Is(err, client.ErrInvalidCredentials) {
			t.Errorf("a wrong password of %s: %v", name, err)
		}
	}
	s.command(t, "user", "disable", "ann")
	if err := c.Login(ctx, "ann", password); !errors.Is(err, client.ErrAccountDisabled) {
		t.Errorf("a disabled account: %v", err)
	}
	closed := startServer(t, "--registration", "closed")
	if _, err := newClient(t, closed.addr).Register(ctx, "ann", password); !errors.Is(err, client.ErrRegistrationClosed) {
		t.Errorf("registration is closed: %v", err)
	}
}

func TestNew(t *testing.T) {
	for _, test := range []struct {
		addr string
		opt  client.Option
		ok   bool
	}{
		{"localhost:8080", client.WithTimeout(time.Second), true},
		{"https://localhost", client.WithTLSConfig(&tls.Config{}), true},
		{"localhost", client.WithTimeout(time.Second), false},
		{"localhost:8080", client.WithTimeout(0), false},
		{"localhost:8080", client.WithLogger(nil), false},
		{"localhost:8080", client.WithTLSConfig(&tls.Config{}), false},
	} {
		c, err := client.New(test.addr, test.opt)
		if (err == nil) != test.ok {
			t.Errorf("New(%q): %v", test.addr, err)
		}
		if err == nil {
			c.Disconnect()
		}
	}
}

// TLS ends in a proxy, which offers HTTP/1.1 before HTTP/2.
func TestTLS(t *testing.T) {
	s := startServer(t)
	web := httptest.NewTLSServer(nil)
	defer web.Close()
	roots := x509.NewCertPool()
	roots.AddCert(web.Certificate())
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: web.TLS.Certificates,
		NextProtos:   []string{"http/1.1", "h2"},
	})
	if err != nil {
		t.Fatal(err)
	}
	proxyOn(t, l, s)
	addr := "https://" + l.Addr().String()

	cfg := &tls.Config{RootCAs: roots}
	c := newUser(t, addr, "ann", client.WithTLSConfig(cfg))
	cfg.RootCAs = nil // it was copied
	r := join(t, c, createRoom(t, c))
	send(t, r, "1")
	receive(t, r, 0, 1)

	stranger := newClient(t, addr)
	if err := stranger.Login(t.Context(), "ann", password); !errors.Is(err, client.ErrUnavailable) {
		t.Errorf("Login at a server that nobody vouches for: %v", err)
	}
}

// Nobody listens there: every call says so, at once or when its context ends.
func TestNoServer(t *testing.T) {
	s := startServer(t)
	c := newUser(t, s.addr, "ann")
	code := createRoom(t, c)
	s.stop()
	ctx := t.Context()
	if err := c.Login(ctx, "ann", password); !errors.Is(err, client.ErrUnavailable) {
		t.Errorf("Login: %v", err)
	}
	if _, err := c.JoinChatRoom(ctx, code, ""); !errors.Is(err, client.ErrUnavailable) {
		t.Errorf("JoinChatRoom: %v", err)
	}
	short, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := c.ListChatRooms(short); !errors.Is(err, context.Canceled) {
		t.Errorf("ListChatRooms with a context that has ended: %v", err)
	}
}

// The connection's pauses grow while there is no server. A call does not wait for their end.
func TestServerIsBack(t *testing.T) {
	s := startServer(t)
	clients := []*client.Client{newUser(t, s.addr, "ann")}
	for range 7 { // each pauses for another time
		clients = append(clients, tokenLogin(t, s.addr, clients[0]))
	}
	each := func(do func(c *client.Client)) {
		var all sync.WaitGroup
		for _, c := range clients {
			all.Go(func() { do(c) })
		}
		all.Wait()
	}
	var through atomic.Int32
	for tries := 0; tries < 3 && through.Load() <= int32(len(clients)/2); tries++ { // a busy machine may disturb one try, not each
		s.kill()
		end := time.Now().Add(5 * time.Second) // by then most pauses are longer than the second that a call waits for the connection
		each(func(c *client.Client) {
			for time.Now().Before(end) {
				if _, err := c.ListChatRooms(t.Context()); !errors.Is(err, client.ErrUnavailable) {
					t.Errorf("without a server: %v", err)
					return
				}
			}
		})
		s.start(t)
		through.Store(0)
		each(func(c *client.Client) {
			if _, err := c.ListChatRooms(t.Context()); err == nil {
				through.Add(1)
			}
		})
	}
	if n := through.Load(); int(n) <= len(clients)/2 {
		t.Errorf("with the server back, %d of %d calls got through", n, len(clients))
	}
}

// A server that takes a connection and says nothing holds a call no longer than the timeout.
func TestTimeout(t *testing.T) {
	s := startServer(t)
	p := startProxy(t, s)
	c := newUser(t, p.addr(), "ann", client.WithTimeout(300*time.Millisecond))
	code := createRoom(t, c)
	r := join(t, c, code)
	p.set(true, true)
	if err := c.Login(t.Context(), "ann", password); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Login: %v", err)
	}
	if _, err := c.JoinChatRoom(t.Context(), code, ""); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("JoinChatRoom: %v", err)
	}
	if _, err := r.ListMessages(t.Context(), 0, 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ListMessages: %v", err)
	}
}

func TestRejected(t *testing.T) {
	s := startServer(t, "--max-message-size", "100")
	r := join(t, newUser(t, s.addr, "ann"), createRoom(t, newUser(t, s.addr, "bob")))
	for name, body := range map[string]string{
		"empty":     "",
		"too long":  strings.Repeat("x", 101),
		"not UTF-8": "\xff",
		"too large": strings.Repeat("x", 5<<20), // the server's gRPC does not even read it, and ends the stream
	} {
		_, err := r.Send(t.Context(), body)
		if e, ok := errors.AsType[*client.Error](err); !ok || !errors.Is(err, client.ErrRejected) || e.Message == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if seq := send(t, r, "fine"); seq != 1 {
		t.Errorf("the first message got the seq %d", seq)
	}
	if _, err := r.ListMessages(t.Context(), 0, 201); !errors.Is(err, client.ErrInvalidField) {
		t.Errorf("ListMessages(0, 201): %v", err)
	}
	if _, err := r.ListMessages(t.Context(), 0, -1); !errors.Is(err, client.ErrInvalidField) {
		t.Errorf("ListMessages(0, -1): %v", err)
	}
}

// A message that ends every stream it is sent on must not take those beside it along.
func TestRejectedAmongOthers(t *testing.T) {
	s := startServer(t)
	r := join(t, newUser(t, s.addr, "ann"), createRoom(t, newUser(t, s.addr, "bob")))
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			body := fmt.Sprint("message ", i)
			if i%10 == 5 {
				body = strings.Repeat("x", 5<<20)
			}
			if _, err := r.Send(t.Context(), body); i%10 == 5 && !errors.Is(err, client.ErrRejected) || i%10 != 5 && err != nil {
				t.Errorf("Send %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	receive(t, r, 0, 45)
}

func TestEvents(t *testing.T) {
	s := startServer(t)
	ann, bob := newUser(t, s.addr, "ann"), newUser(t, s.addr, "bob")
	code := createRoom(t, ann)
	events := make(chan client.Event, 16)
	states := make(chan client.ConnState, 16)
	a := join(t, ann, code,
		client.OnEvent(func(e client.Event) { events <- e }),
		client.OnState(func(s client.ConnState, err error) {
			if err != nil {
				t.Errorf("%v: %v", s, err)
			}
			states <- s
		}))
	want := func(e client.Event) {
		t.Helper()
		select {
		case got := <-events:
			if got != e {
				t.Errorf("got %v, want %v", got, e)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("%v never came", e)
		}
	}
	b := join(t, bob, code)
	want(client.Event{Kind: client.UserJoined, UserName: "bob"})
	if err := b.Typing(t.Context()); err != nil {
		t.Error(err)
	}
	want(client.Event{Kind: client.Typing, UserName: "bob"})
	b.Disconnect()
	want(client.Event{Kind: client.UserLeft, UserName: "bob"})
	a.Disconnect()
	if s := <-states; s != client.Connected {
		t.Errorf("first %v", s)
	}
	if s := <-states; s != client.Closed {
		t.Errorf("then %v", s)
	}
	if err := b.Typing(t.Context()); !errors.Is(err, client.ErrClosed) {
		t.Errorf("Typing after Disconnect: %v", err)
	}
}

func TestAfter(t *testing.T) {
	s := startServer(t)
	c := newUser(t, s.addr, "ann")
	code := createRoom(t, c)
	r := join(t, c, code)
	for i := range 10 {
		send(t, r, fmt.Sprint(i+1))
	}
	receive(t, join(t, c, code, client.After(0)), 0, 10)
	receive(t, join(t, c, code, client.After(7)), 7, 3)
	late, early := join(t, c, code), join(t, c, code, client.After(1000))
	send(t, r, "11")
	receive(t, late, 10, 1)
	receive(t, early, 10, 1)
}

func TestSeveralRooms(t *testing.T) {
	s := startServer(t)
	c := newUser(t, s.addr, "ann")
	for range 10 {
		r := join(t, c, createRoom(t, c))
		t.Run(r.ShortCode(), func(t *testing.T) {
			t.Parallel()
			for i := range 20 {
				if seq := send(t, r, "x"); seq != uint64(i+1) {
					t.Errorf("seq %d, want %d", seq, i+1)
				}
			}
			receive(t, r, 0, 20)
		})
	}
}

// Several goroutines share what comes: each message goes to one of them.
func TestConcurrentReceive(t *testing.T) {
	s := startServer(t)
	c := newUser(t, s.addr, "ann")
	r := join(t, c, createRoom(t, c))
	const n = 500
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var mu sync.Mutex
	seen := map[uint64]bool{}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			last := uint64(0)
			for m, err := range r.Messages(ctx) {
				if err != nil {
					if !errors.Is(err, context.Canceled) {
						t.Error(err)
					}
					return
				}
				mu.Lock()
				if seen[m.Seq] || m.Seq <= last {
					t.Errorf("seq %d came after %d, or twice", m.Seq, last)
				}
				seen[m.Seq], last = true, m.Seq
				if len(seen) == n {
					cancel()
				}
				mu.Unlock()
			}
		})
	}
	for range 5 {
		wg.Go(func() {
			for range n / 5 {
				if _, err := r.Send(t.Context(), "x"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}
