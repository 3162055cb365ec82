package client

import (
	"crypto/tls"
	"log/slog"
	"time"
)

// An Option changes how New makes a Client.
type Option func(*settings)

type settings struct {
	tls     *tls.Config
	log     *slog.Logger
	timeout time.Duration
}

// WithTLSConfig sets how an https address is verified: other roots, a client certificate. The default is
// the system's roots. The configuration is copied. With an http address New fails, for nothing would be
// encrypted.
func WithTLSConfig(cfg *tls.Config) Option {
	return func(s *settings) { s.tls = cfg.Clone() }
}

// WithLogger makes the client log what it does by itself: reconnecting, renewing tokens, catching up. It
// logs no message bodies, no tokens, and no passwords. The default is to log nothing.
func WithLogger(log *slog.Logger) Option {
	return func(s *settings) { s.log = log }
}

// WithTimeout limits each call whose context has no deadline. The default is 10 seconds; New refuses a
// timeout that is not positive. Send, Queue, Receive and Messages have no limit but their context.
func WithTimeout(d time.Duration) Option {
	return func(s *settings) { s.timeout = d }
}

// A JoinOption changes how JoinChatRoom opens a room.
type JoinOption func(*joinSettings)

type joinSettings struct {
	after   uint64
	onState func(ConnState, error)
	onEvent func(Event)
}

// After starts with the message that follows seq, so that a program can go on where it stopped. After(0)
// starts with the room's first message. A seq that the room has not reached yet stands for its newest message.
// Without After a room starts with the first message after the join.
//
// A seq alone does not tell of what the server's data was when it was received: after a restore from a backup other messages
// have the seqs behind its end. A Room that lives through that ends with ErrHistoryRestored; a program that starts again
// with a seq which it has kept is not told, and has to be told by whoever restores.
func After(seq uint64) JoinOption {
	return func(s *joinSettings) { s.after = seq }
}

// OnState sets a function that is told when the room's connection changes. Reconnecting comes with its
// cause, Closed with the error that ended the room, or nil after Disconnect.
//
// The functions of OnState and OnEvent are called one at a time, in order, by a goroutine of the room. They
// delay nothing but each other: when 256 calls are waiting, further events are dropped, and a further state
// takes the place of the oldest call that waits. They must not call Disconnect, which waits for them.
func OnState(f func(ConnState, error)) JoinOption {
	return func(s *joinSettings) { s.onState = f }
}

// OnEvent sets a function that is told who comes, goes and types. Events are not stored: those that happen
// while the room is reconnecting are not made up for. See OnState for how it is called.
func OnEvent(f func(Event)) JoinOption {
	return func(s *joinSettings) { s.onEvent = f }
}
