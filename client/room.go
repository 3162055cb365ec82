package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/grpcchatter/grpcchatter/pb"
)

// Message is a stored message of a room.
type Message struct {
	Seq      uint64 // 1, 2, 3, … in each room
	UserName string
	Body     string
	SentAt   time.Time // by the server's clock, in UTC
}

// Room is a room that the user has joined. It is safe for concurrent use by several goroutines. It lives
// until Disconnect, of the Room or of its Client, or until the server ends it for good: the room has been
// deleted (ErrRoomDeleted), what it has received is no more (ErrHistoryRestored), the user may no longer enter it
// (ErrRoomAccessDenied), or can no longer log in (ErrInvalidCredentials, ErrAccountDisabled; after LoginWithToken
// ErrTokenExpired, ErrTokenInvalid). Whatever else goes wrong, it tries again.
type Room struct {
	c         *Client
	session   *session
	shortCode string
	token     *token
	log       *slog.Logger
	in        *inbox
	out       *outbox
	notices   notices
	ctx       context.Context // ends with the room
	cancel    context.CancelCauseFunc
	open      chan struct{} // closed when the room has its first stream
	gone      chan struct{} // closed when all goroutines of the room have ended
}

// JoinChatRoom makes the user a member of a room, enters it, and returns it: from now on the user is present.
// A member needs no room password. The same room may be joined several times; each Room receives every message.
// A Client has up to 900 Rooms at a time, for they share a connection, on which the server allows 1000 streams.
//
// It does not try again: it returns ErrRoomAccessDenied, ErrUnavailable, ErrNotLoggedIn, ErrTooManyRooms, or what else the
// server answers. Once it has returned a Room, ctx no longer matters. The caller ends the Room with Disconnect.
func (c *Client) JoinChatRoom(ctx context.Context, shortCode, roomPassword string, opts ...JoinOption) (*Room, error) {
	ctx, cancel := c.callContext(ctx, c.ctx)
	defer cancel()
	r, err := c.newRoom(ctx, shortCode, roomPassword, opts)
	if err != nil {
		return nil, wrap("join chat room", err)
	}
	go r.live()
	select {
	case <-r.open:
		return r, nil
	case <-r.gone:
		err = r.cause()
	case <-ctx.Done():
		err = callError(ctx, c.ctx, ctx.Err())
	}
	r.Disconnect()
	return nil, wrap("join chat room", err)
}

// newRoom joins a room, and returns it still without life.
func (c *Client) newRoom(ctx context.Context, shortCode, roomPassword string, opts []JoinOption) (*Room, error) {
	s, err := c.current()
	if err != nil {
		return nil, err
	}
	value, err := c.join(ctx, c.ctx, s, shortCode, roomPassword)
	if err != nil {
		return nil, err
	}
	newest, err := joinSeq(value)
	if err != nil {
		return nil, err
	}
	settings := joinSettings{after: newest}
	for _, opt := range opts {
		opt(&settings)
	}
	r := &Room{
		c:         c,
		session:   s,
		shortCode: shortCode,
		log:       c.log.With("room", shortCode),
		in:        newInbox(min(settings.after, newest)), // what is still to come was not received yet
		out:       newOutbox(),
		notices:   notices{onState: settings.onState, onEvent: settings.onEvent},
		open:      make(chan struct{}),
		gone:      make(chan struct{}),
	}
	r.token = newToken(value, func(ctx context.Context, _ error) (string, error) {
		r.log.Info("renewing the room token")
		return c.rejoin(ctx, r.ctx, s, shortCode)
	})
	r.ctx, r.cancel = context.WithCancelCause(c.ctx)
	return r, c.add(r)
}

// join returns a room token.
func (c *Client) join(ctx, owner context.Context, s *session, shortCode, password string) (value string, err error) {
	if err := checkText(shortCode, password); err != nil {
		return "", err
	}
	err = c.unary(ctx, owner, s.token, func(ctx context.Context) error {
		resp, err := c.rpc.JoinChatRoom(ctx, &pb.JoinChatRoomRequest{ShortCode: shortCode, RoomPassword: password})
		value = resp.GetToken()
		return err
	})
	return value, err
}

// rejoin returns another room token of a member. Joining alone would make one again who was removed meanwhile, where no
// password is asked for.
func (c *Client) rejoin(ctx, owner context.Context, s *session, shortCode string) (string, error) {
	rooms, err := c.chatRooms(ctx, owner, s)
	if err != nil {
		return "", err
	}
	if !slices.ContainsFunc(rooms, func(room ChatRoom) bool { return sameRoom(room.ShortCode, shortCode) }) {
		return "", &Error{Code: "ROOM_ACCESS_DENIED", Message: "You are no longer a member of this room."}
	}
	return c.join(ctx, owner, s, shortCode, "")
}

// add counts r among the rooms that Disconnect ends.
func (c *Client) add(r *Room) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx.Err() != nil {
		return ErrClosed
	}
	if len(c.rooms) == maxRooms {
		return ErrTooManyRooms
	}
	c.rooms[r] = struct{}{}
	return nil
}

func (c *Client) remove(r *Room) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.rooms, r)
}

// ShortCode returns the code that the room was joined with.
func (r *Room) ShortCode() string { return r.shortCode }

// Send sends a message, and returns its seq once the server has stored it. The Room connects and sends
// again for as long as that takes; a resent message is stored once. Messages are sent in the order in which
// Send was called; up to 1024 at a time may be waiting for their acknowledgement, and a further Send waits
// for its turn.
//
// When ctx ends first, Send returns its error and the Room forgets the message. It may have been sent by
// then, and may still be stored and delivered.
//
// A message that breaks a rule of the server (empty, too long, not UTF-8) gets ErrRejected with the reason.
// When the room ends Send returns what Receive returns; such a message may have been stored as well.
func (r *Room) Send(ctx context.Context, body string) (seq uint64, err error) {
	return r.out.send(ctx, body)
}

// Queue is the first half of Send, for a program that has more to send before it hears of the first: it
// returns once the message has its place in the order. The other half is the function that it returns; it
// waits and returns what Send does, and has to be called once. Both end with ctx.
func (r *Room) Queue(ctx context.Context, body string) (stored func() (seq uint64, err error), err error) {
	o, err := r.out.enqueue(ctx, body)
	if err != nil {
		return nil, err
	}
	return func() (uint64, error) { return r.out.await(ctx, o) }, nil
}

// Receive returns the next message; the user's own come too. Every message is returned once, in the order of
// the room: by several goroutines, each to one of them.
//
// Up to 1024 messages wait in memory to be received. What comes on top of that is dropped and read again from
// the server's history, so a program that never receives costs nothing more.
//
// It returns the error of ctx, ErrClosed at once after Disconnect, or, when what was still waiting has been
// received, the error that ended the room.
func (r *Room) Receive(ctx context.Context) (Message, error) {
	return r.in.receive(ctx)
}

// Messages ranges over the messages as Receive returns them. The last pair of the sequence, and no other, has
// an error: the one that Receive ended with.
func (r *Room) Messages(ctx context.Context) iter.Seq2[Message, error] {
	return func(yield func(Message, error) bool) {
		for {
			m, err := r.Receive(ctx)
			if !yield(m, err) || err != nil {
				return
			}
		}
	}
}

// Typing tells the others in the room that the user is writing; the server passes on one hint a second. Typing
// returns at once; while the room is reconnecting the hint is dropped. It returns the error of ctx or, when the
// room has ended, what Receive returns.
func (r *Room) Typing(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return r.out.sendTyping()
}

// ListChatRoomUsers returns the names of the users who are present now, each once, sorted.
func (r *Room) ListChatRoomUsers(ctx context.Context) ([]string, error) {
	var names []string
	err := r.call(ctx, func(ctx context.Context) error {
		resp, err := r.c.rpc.ListChatRoomUsers(ctx, &emptypb.Empty{})
		for _, u := range resp.GetUsers() {
			names = append(names, u.GetUserName())
		}
		return err
	})
	return names, wrap("list chat room users", err)
}

// ListMessages returns up to limit messages with a seq below beforeSeq, oldest first: those just before it,
// or the newest of the room when beforeSeq is 0. The limit is at most 200; 0 stands for 50. There may be fewer
// than that although there are older ones: an answer holds about 2 MiB. It has no effect on what Receive returns.
func (r *Room) ListMessages(ctx context.Context, beforeSeq uint64, limit int) ([]Message, error) {
	if limit < 0 || limit > math.MaxInt32 {
		err := &Error{Code: "INVALID_FIELD", Message: fmt.Sprintf("the limit %d is out of range", limit)}
		return nil, wrap("list messages", err)
	}
	messages, err := r.history(ctx, beforeSeq, uint32(limit))
	return messages, wrap("list messages", err)
}

func (r *Room) history(ctx context.Context, before uint64, limit uint32) ([]Message, error) {
	var messages []Message
	err := r.call(ctx, func(ctx context.Context) error {
		resp, err := r.c.rpc.ListMessages(ctx, &pb.ListMessagesRequest{BeforeSeq: before, Limit: limit})
		for _, e := range resp.GetMessages() {
			messages = append(messages, Message{e.GetSeq(), e.GetUserName(), e.GetBody(), e.GetSentAt().AsTime()})
		}
		return err
	})
	return messages, err
}

// call runs a unary call with the room token.
func (r *Room) call(ctx context.Context, call func(context.Context) error) error {
	err := r.c.unary(ctx, r.ctx, r.token, call)
	if errors.Is(err, ErrClosed) {
		return r.cause()
	}
	return err
}

// cause returns why the room, which has ended, did.
func (r *Room) cause() error { return cmp.Or(r.in.cause(), ErrClosed) }

// Disconnect leaves the room. Receive and Send return ErrClosed at once, messages that still wait are
// dropped. It returns within a second, whatever the network does, and always nil; it may be called more
// than once.
func (r *Room) Disconnect() error {
	r.end(ErrClosed)
	await(r.gone)
	return nil
}

// end ends the room because of err. The first error of the server's is kept; ErrClosed comes before all.
func (r *Room) end(err error) {
	r.cancel(err)
	r.in.end(err)
	r.out.end(err)
}
