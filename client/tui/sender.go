package tui

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/grpcchatter/grpcchatter/client"
)

// maxUnderWay is how many lines may be waiting for their acknowledgement.
const maxUnderWay = 1000

// sending is a line of the input that is under way.
type sending struct {
	line   int
	stored func() (seq uint64, err error) // waits for what becomes of it
}

// send sends the lines of the input, many at a time, and returns when there are no more and every message
// has been acknowledged, or with the error that ended the room. Lines that could not be sent are named on
// Err, and counted in the error at the end.
func (p *plain) send(ctx context.Context) error {
	underWay := make(chan sending, maxUnderWay)
	ended := make(chan error, 1)
	go func() {
		ended <- p.queue(ctx, underWay)
		close(underWay)
	}()
	var last uint64
	failed, unconfirmed := 0, 0
	for s := range take(ctx, underWay) {
		seq, err := s.stored()
		switch {
		case err == nil:
			last = max(last, seq)
		case ctx.Err() != nil:
			unconfirmed++
			p.note.Printf("line %d was perhaps not sent", s.line)
		case err == errLineTooLong, err == errLineNotUTF8, errors.Is(err, client.ErrRejected):
			failed++
			p.note.Printf("line %d was not sent: %s", s.line, sentence(err))
		default:
			return err
		}
	}
	if ctx.Err() != nil {
		return givenUp(unconfirmed)
	}
	p.said.end(last)
	if err := <-ended; err != io.EOF {
		return fmt.Errorf("read a message: %w", err)
	}
	if failed > 0 {
		return fmt.Errorf("%s could not be sent", count(failed, "line"))
	}
	return nil
}

// take ranges over what comes from underWay, until it is closed; once ctx has ended, over what is there.
func take(ctx context.Context, underWay <-chan sending) iter.Seq[sending] {
	return func(yield func(sending) bool) {
		for {
			var s sending
			ok := false
			select {
			case s, ok = <-underWay:
			case <-ctx.Done():
				select {
				case s, ok = <-underWay:
				default:
				}
			}
			if !ok || !yield(s) {
				return
			}
		}
	}
}

// queue reads the input and puts every line under way, until the input or ctx ends. It returns io.EOF at the
// end of the input.
func (p *plain) queue(ctx context.Context, underWay chan<- sending) error {
	lines := newLineReader(p.o.In)
	for {
		line, err := lines.next()
		if err != nil && err != errLineTooLong && err != errLineNotUTF8 {
			return err
		}
		var stored func() (uint64, error)
		if err == nil {
			stored, err = p.room.Queue(ctx, line)
		}
		if err != nil {
			stored = func() (uint64, error) { return 0, err }
		}
		select {
		case underWay <- sending{lines.n, stored}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
