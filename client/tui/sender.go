package tui

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/grpcchatter/grpcchatter/client"
)

// send sends the lines of the input, and returns when there are no more and every message has been
// acknowledged, or with the error that ended the room. Lines that could not be sent are named on Err, and
// counted in the error at the end.
func (p *plain) send(ctx context.Context) error {
	lines := newLineReader(p.o.In)
	var last uint64
	var end error
	failed := 0
	for {
		line, err := lines.next()
		if err != nil && err != errLineTooLong && err != errLineNotUTF8 {
			end = err
			break
		}
		var seq uint64
		if err == nil {
			seq, err = p.room.Send(ctx, line)
		}
		switch {
		case err == nil:
			last = max(last, seq)
		case err == errLineTooLong, err == errLineNotUTF8, errors.Is(err, client.ErrRejected):
			failed++
			p.note.Printf("line %d was not sent: %s", lines.n, sentence(err))
		default:
			return err
		}
	}
	p.said.end(last)
	switch {
	case end != io.EOF:
		return fmt.Errorf("read a message: %w", end)
	case failed > 0:
		return fmt.Errorf("%s could not be sent", count(failed, "line"))
	}
	return nil
}
