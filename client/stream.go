package client

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/grpcchatter/grpcchatter/pb"
)

// openTimeout is how long the server may take to open a stream on a connection that it has accepted.
const openTimeout = 30 * time.Second

// live keeps the room's stream open until the room ends, and then waits for its goroutines.
func (r *Room) live() {
	defer close(r.gone)
	defer r.c.remove(r)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(r.notices.run)
	wg.Go(r.catchUp)

	var retries retries
	for {
		began := time.Now()
		seen, answered := r.in.seen(), r.out.answered()
		err := r.converse()
		if final(err) || !r.opened() {
			r.end(err)
		}
		if r.ctx.Err() != nil {
			break
		}
		if r.in.seen() > seen || r.out.answered() > answered || time.Since(began) > maxPause {
			retries.reset() // it was of use
		}
		pause := retries.pause(err)
		r.log.Info("reconnecting", "cause", err, "pause", pause)
		r.notices.state(Reconnecting, err)
		sleep(r.ctx, pause)
	}
	if r.opened() {
		r.closed(r.cause())
	}
	r.notices.end()
}

// opened reports whether the room has ever had a stream.
func (r *Room) opened() bool {
	select {
	case <-r.open:
		return true
	default:
		return false
	}
}

// connected tells that the server has opened the room's stream.
func (r *Room) connected() {
	if !r.opened() {
		close(r.open)
	}
	r.log.Info("connected")
	r.notices.state(Connected, nil)
}

// closed tells that the room is over.
func (r *Room) closed(cause error) {
	r.log.Info("closed", "cause", cause)
	if cause == ErrClosed {
		cause = nil
	}
	r.notices.state(Closed, cause)
}

// final reports whether err ends a room for good.
func final(err error) bool {
	if _, ok := errors.AsType[noPassword](err); ok {
		return true
	}
	for _, target := range []error{ErrRoomDeleted, ErrHistoryRestored, ErrRoomAccessDenied, ErrInvalidCredentials, ErrAccountDisabled} {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

// converse opens a stream and carries messages both ways. It returns why the stream ended; never nil.
func (r *Room) converse() error {
	value := r.token.get()
	ctx, cancel := context.WithCancelCause(withToken(r.ctx, value))
	defer cancel(nil)
	stream, err := r.c.rpc.Chat(ctx, grpc.WaitForReady(true), grpc.ForceCodecV2(newCodec()))
	if err != nil {
		return fromStatus(err)
	}
	r.out.rewind()
	var writer sync.WaitGroup
	writer.Go(func() {
		if err := r.write(ctx, stream); err != nil {
			cancel(err)
		}
	})
	late := time.AfterFunc(openTimeout, func() {
		cancel(&Error{Code: "UNAVAILABLE", Message: "the server does not open the stream"})
	})
	header, _ := stream.Header() // nil when the stream has ended before it was opened; read knows why
	if late.Stop() && header != nil {
		r.connected()
	}
	cancel(r.read(stream))
	writer.Wait()
	err = context.Cause(ctx) // the first of the reader's, the writer's and the room's
	if header != nil {
		r.out.broke(err)
	}
	if refused(err) {
		if _, err := r.token.renew(r.ctx, value, err); err != nil {
			return err
		}
	}
	return err
}

// write sends what the outbox holds, for as long as the stream lives. It alone sends on the stream. An error
// is its own; that of the stream is for read to report.
func (r *Room) write(ctx context.Context, stream chatStream) error {
	after := r.in.seen()
	req := &pb.ChatRequest{Start: &pb.ChatStart{AfterSeq: &after}}
	for {
		switch err := stream.Send(req); {
		case err == io.EOF:
			return nil
		case err != nil:
			return fromStatus(err)
		}
		var err error
		if req, err = r.out.next(ctx); err != nil {
			return nil
		}
	}
}

// read takes in what the server sends, until the stream ends. It waits for the program, but never for long.
func (r *Room) read(stream chatStream) error {
	var f frame
	for {
		err := stream.RecvMsg(&f)
		if err == io.EOF {
			return &Error{Code: "UNAVAILABLE", Message: "the server has ended the stream"}
		}
		if err != nil {
			return fromStatus(err)
		}
		r.out.settle(f.events, r.session.is)
		r.notices.take(f.events)
		r.in.offer(f.events, r.deadline)
	}
}

type chatStream = grpc.BidiStreamingClient[pb.ChatRequest, pb.ChatResponse]

// deadline returns until when the stream may wait for the program: a message that was sent must not wait
// long for its acknowledgement.
func (r *Room) deadline() time.Time { return r.out.oldest().Add(patience) }
