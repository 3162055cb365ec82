// Package client is the Go client of GRPCChatter, a self-hosted chat server.
//
// A Client stands for one server, at one address for both of its protocols, and for one user at a time. A Room
// is a room that the user has joined; a Client may have many. Everything here is safe for concurrent use, and
// every call that can wait takes a context first.
//
// A Room reconnects by itself, for ever: with pauses of random length, up to 10 seconds, and at least as long
// as the server asks for. It resumes after the last message it has seen, sends again what was not acknowledged,
// and renews its tokens, for which it needs the password of a Login. Receive hands every message over once, in the
// order of the room, and a Send that has returned without an error is stored for good.
//
// Errors are matched with errors.Is against the sentinels of this package, and with errors.AsType or errors.As
// against *Error for what the server said. A call whose context ends returns the error of the context.
package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/grpcchatter/grpcchatter/pb"
)

const (
	defaultTimeout = 10 * time.Second
	dialTimeout    = 10 * time.Second

	// hurryTimeout is how long a call waits for a connection that has just failed.
	hurryTimeout = time.Second

	// A server or a network that is gone without a word is noticed after both times.
	pingAfter   = 20 * time.Second
	pingTimeout = 10 * time.Second

	// streamWindow is how many bytes of a stream may be on their way, or unread.
	streamWindow = 512 << 10

	// maxRooms leaves some of the 1000 streams that the server allows on a connection to other calls.
	maxRooms = 900

	// leaveTimeout is how long Disconnect waits for what it has stopped. It promises to return in a second.
	leaveTimeout = 900 * time.Millisecond

	// maxFrame is the largest gRPC message that the client takes, in bytes.
	maxFrame = 64 << 20
)

// Client is a client of one server. It is safe for concurrent use by several goroutines. Make one with
// New, and give up what it holds with Disconnect.
type Client struct {
	addr    address
	log     *slog.Logger
	timeout time.Duration
	conn    *grpc.ClientConn
	rpc     pb.GRPCChatterClient
	http    *http.Client
	ctx     context.Context // ends with Disconnect
	cancel  context.CancelCauseFunc

	mu      sync.Mutex // guards the fields below
	session *session   // of the last Login or LoginWithToken; nil before
	rooms   map[*Room]struct{}
}

// New returns a Client for the server at addr: "host:port" or "http://host[:port]" in the clear,
// "https://host[:port]" with TLS. It does not connect yet, and fails only on an address or an option that
// makes no sense. Without TLS everybody on the way can read passwords, tokens, and messages.
//
// Proxies are taken from the environment: HTTP_PROXY for REST in the clear, HTTPS_PROXY for the rest, NO_PROXY
// for exceptions. A loopback address has none.
func New(addr string, opts ...Option) (*Client, error) {
	a, err := parseAddress(addr)
	if err != nil {
		return nil, err
	}
	s := settings{log: slog.New(slog.DiscardHandler), timeout: defaultTimeout}
	for _, opt := range opts {
		opt(&s)
	}
	switch {
	case s.timeout <= 0:
		return nil, fmt.Errorf("client: the timeout %v is not positive", s.timeout)
	case s.log == nil:
		return nil, errors.New("client: the logger is nil")
	case s.tls != nil && !a.tls:
		return nil, fmt.Errorf("client: a TLS configuration needs an https address, not %q", addr)
	}
	conn, err := grpc.NewClient(a.target(), dialOptions(a, s.tls)...)
	if err != nil {
		return nil, fmt.Errorf("client: address %q: %w", addr, err)
	}
	c := &Client{
		addr:    a,
		log:     s.log,
		timeout: s.timeout,
		conn:    conn,
		rpc:     pb.NewGRPCChatterClient(conn),
		http:    newHTTPClient(s.tls),
		rooms:   make(map[*Room]struct{}),
	}
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	return c, nil
}

func dialOptions(a address, cfg *tls.Config) []grpc.DialOption {
	creds := insecure.NewCredentials()
	if a.tls {
		creds = credentials.NewTLS(cfg)
	}
	return []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingAfter, Timeout: pingTimeout}),
		// A jitter of 1 makes each pause a random time up to twice the delay, as in the type retries.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: minPause / 2, Multiplier: 2, Jitter: 1, MaxDelay: maxPause / 2},
			MinConnectTimeout: dialTimeout,
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxFrame)),
		// Larger than the default of 64 KiB, which has to be renewed after every few frames of a busy room.
		grpc.WithStaticStreamWindowSize(streamWindow),
		grpc.WithStaticConnWindowSize(2 * streamWindow),
		grpc.WithDisableServiceConfig(),
	}
}

// CreateChatRoom makes a room that the user owns and is a member of, and returns its short code. A room
// with an empty password can be joined with the short code alone. It returns ErrInvalidField or
// ErrNotLoggedIn.
func (c *Client) CreateChatRoom(ctx context.Context, roomName, roomPassword string) (shortCode string, err error) {
	if err := checkText(roomName, roomPassword); err != nil {
		return "", wrap("create chat room", err)
	}
	err = c.userCall(ctx, "create chat room", func(ctx context.Context) error {
		resp, err := c.rpc.CreateChatRoom(ctx, &pb.CreateChatRoomRequest{RoomName: roomName, RoomPassword: roomPassword})
		shortCode = resp.GetShortCode()
		return err
	})
	return shortCode, err
}

// DeleteChatRoom deletes a room with all its messages. Rooms that are open on it end with ErrRoomDeleted.
// It returns ErrRoomNotFound, ErrNotOwner, or ErrNotLoggedIn.
func (c *Client) DeleteChatRoom(ctx context.Context, shortCode string) error {
	if err := checkText(shortCode); err != nil {
		return wrap("delete chat room", err)
	}
	return c.userCall(ctx, "delete chat room", func(ctx context.Context) error {
		_, err := c.rpc.DeleteChatRoom(ctx, &pb.DeleteChatRoomRequest{ShortCode: shortCode})
		return err
	})
}

// LeaveChatRoom ends the user's membership of a room, on all devices; Disconnect of a Room does not. Rooms that are open
// on it end with ErrRoomAccessDenied. It returns ErrRoomNotFound, ErrOwnerStays, ErrRateLimited, or ErrNotLoggedIn; to an
// administrator who is no member of the room, ErrUserNotFound.
func (c *Client) LeaveChatRoom(ctx context.Context, shortCode string) error {
	const operation = "leave chat room"
	if err := checkText(shortCode); err != nil {
		return wrap(operation, err)
	}
	s, err := c.current()
	if err != nil {
		return err
	}
	ctx, cancel := c.callContext(ctx, c.ctx)
	defer cancel()
	path := "/rooms/" + segment(shortCode) + "/members/" + segment(s.account().UserName)
	err = s.token.authorize(ctx, func(value string) error {
		return c.rest(ctx, http.MethodDelete, path, value, nil, &struct{}{})
	})
	if err == nil {
		c.left(s, shortCode)
	}
	return wrap(operation, callError(ctx, c.ctx, err))
}

// left ends the Rooms of a room that the user has left. The server ends their streams, but one that is reconnecting would
// join again.
func (c *Client) left(s *session, shortCode string) {
	c.mu.Lock()
	var rooms []*Room
	for r := range c.rooms {
		if r.session == s && sameRoom(r.shortCode, shortCode) {
			rooms = append(rooms, r)
		}
	}
	c.mu.Unlock()
	for _, r := range rooms {
		r.end(&Error{Code: "ROOM_ACCESS_DENIED", Message: "You have left this room."})
	}
}

func sameRoom(a, b string) bool {
	return strings.EqualFold(strings.TrimSpace(a), strings.TrimSpace(b))
}

// ChatRoom is a room that the user is a member of.
type ChatRoom struct {
	ShortCode string
	Name      string
	Owner     string
	LastSeq   uint64 // the seq of the newest message; 0 when there is none
}

// ListChatRooms returns the rooms that the user is a member of. It returns ErrNotLoggedIn.
func (c *Client) ListChatRooms(ctx context.Context) ([]ChatRoom, error) {
	s, err := c.current()
	if err != nil {
		return nil, err
	}
	rooms, err := c.chatRooms(ctx, c.ctx, s)
	return rooms, wrap("list chat rooms", err)
}

func (c *Client) chatRooms(ctx, owner context.Context, s *session) (rooms []ChatRoom, err error) {
	err = c.unary(ctx, owner, s.token, func(ctx context.Context) error {
		resp, err := c.rpc.ListChatRooms(ctx, &emptypb.Empty{})
		for _, r := range resp.GetRooms() {
			rooms = append(rooms, ChatRoom{r.GetShortCode(), r.GetRoomName(), r.GetOwner(), r.GetLastSeq()})
		}
		return err
	})
	return rooms, err
}

// userCall runs a unary call with the user token.
func (c *Client) userCall(ctx context.Context, name string, call func(context.Context) error) error {
	s, err := c.current()
	if err != nil {
		return err
	}
	return wrap(name, c.unary(ctx, c.ctx, s.token, call))
}

// unary runs a unary call with a token. It ends with ctx, with the owner's context, or with the Client's
// timeout when ctx has no deadline.
func (c *Client) unary(ctx, owner context.Context, t *token, call func(context.Context) error) error {
	ctx, cancel := c.callContext(ctx, owner)
	defer cancel()
	c.hurry(ctx)
	return callError(ctx, owner, t.authorize(ctx, func(value string) error {
		return fromStatus(call(withToken(ctx, value)))
	}))
}

// hurry makes a connection that failed, and pauses before the next try, try now: a call that somebody waits
// for is not to fail for what was true some seconds ago.
func (c *Client) hurry(ctx context.Context) {
	if c.conn.GetState() != connectivity.TransientFailure {
		return
	}
	c.conn.ResetConnectBackoff()
	ctx, cancel := context.WithTimeout(ctx, hurryTimeout)
	defer cancel()
	c.conn.WaitForStateChange(ctx, connectivity.TransientFailure)
}

// callContext returns the context of a call: it ends with ctx and with owner, and has a deadline.
func (c *Client) callContext(ctx, owner context.Context) (context.Context, context.CancelFunc) {
	ctx, cancelCause := context.WithCancelCause(ctx)
	if owner.Err() != nil {
		cancelCause(ErrClosed)
	}
	stop := context.AfterFunc(owner, func() { cancelCause(ErrClosed) })
	cancel := func() {
		stop()
		cancelCause(nil)
	}
	if _, ok := ctx.Deadline(); ok {
		return ctx, cancel
	}
	ctx, cancelTimeout := context.WithTimeout(ctx, c.timeout)
	return ctx, func() {
		cancelTimeout()
		cancel()
	}
}

// callError returns the error of a call: that of its context, if that is why the call ended. The end of owner may not have
// reached the context when the closed connection ends the call.
func callError(ctx, owner context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil && !errors.Is(context.Cause(ctx), ErrClosed):
		return ctx.Err()
	case ctx.Err() != nil, owner.Err() != nil:
		return ErrClosed
	}
	return err
}

// Disconnect leaves every room, ends the calls that are under way with ErrClosed, and closes the
// connection. It returns within a second whatever the network does; what could not be ended by then, such
// as a write to a network that is gone, ends by itself some seconds later. It may be called more than
// once, and always returns nil. The Client cannot be used again.
func (c *Client) Disconnect() error {
	c.mu.Lock()
	c.cancel(ErrClosed)
	c.session = nil
	rooms := make([]*Room, 0, len(c.rooms))
	for r := range c.rooms {
		rooms = append(rooms, r)
	}
	c.mu.Unlock()

	for _, r := range rooms {
		r.end(ErrClosed)
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		c.conn.Close()
		for _, r := range rooms {
			<-r.gone
		}
	}()
	await(gone)
	return nil
}

// await waits for a channel to be closed, but no longer than Disconnect may take.
func await(gone <-chan struct{}) {
	t := time.NewTimer(leaveTimeout)
	defer t.Stop()
	select {
	case <-gone:
	case <-t.C:
	}
}

// wrap names the operation that failed.
func wrap(operation string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", operation, err)
}
