package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"

	"github.com/grpcchatter/grpcchatter/client/tui"
)

// exportCommand prints messages, beside a running server.
type exportCommand struct {
	dataSettings
	Room string `placeholder:"CODE" help:"Only the room with this short code."`
}

// exportedMessage is a line of an export.
type exportedMessage struct {
	ShortCode       string `json:"short_code"`
	RoomName        string `json:"room_name"`
	Seq             uint64 `json:"seq"`
	UserName        string `json:"user_name"`
	SentAt          string `json:"sent_at"`
	Body            string `json:"body"`
	ClientMessageID string `json:"client_message_id"`
}

func (c *exportCommand) Run(ctx context.Context, std stdio) error {
	return c.withStore(ctx, false, func(st *store) error {
		out := bufio.NewWriterSize(std.out, 64<<10)
		err := c.export(ctx, st, out)
		switch err = errors.Join(err, out.Flush()); {
		case errors.Is(err, syscall.EPIPE):
			return tui.ErrOutputClosed
		case ctx.Err() != nil:
			return errors.New("interrupted")
		}
		return err
	})
}

func (c *exportCommand) export(ctx context.Context, st *store, out io.Writer) error {
	lines := json.NewEncoder(out)
	lines.SetEscapeHTML(false)
	if c.Room != "" {
		code, err := readCode(c.Room)
		if err == nil {
			var room roomRow
			if room, err = st.roomByCode(ctx, code, 0); err == nil {
				return exportRoom(ctx, st, room, lines)
			}
		}
		var rule *apiError
		if errors.Is(err, errNotFound) || errors.As(err, &rule) {
			return fmt.Errorf("there is no room %q", c.Room)
		}
		return err
	}
	for last := int64(0); ; {
		room, err := st.roomAfter(ctx, last)
		if errors.Is(err, errNotFound) {
			return nil
		} else if err != nil {
			return err
		}
		if err := exportRoom(ctx, st, room, lines); err != nil {
			return err
		}
		last = room.ID
	}
}

// exportRoom writes what a room has now. It reads page by page: one long read would keep SQLite's WAL growing.
func exportRoom(ctx context.Context, st *store, room roomRow, lines *json.Encoder) error {
	for seq := uint64(0); seq < room.LastSeq; {
		page, err := st.messagesAfter(ctx, room.ID, seq, catchUpPage, catchUpBytes)
		if err != nil {
			return err
		}
		if len(page) == 0 {
			return nil // deleted meanwhile
		}
		for _, m := range page {
			if seq = m.Seq; seq > room.LastSeq {
				return nil
			}
			err := lines.Encode(exportedMessage{
				ShortCode: room.Code, RoomName: room.Name, Seq: m.Seq, UserName: m.UserName,
				SentAt: time.UnixMicro(m.SentAt).UTC().Format(time.RFC3339Nano), Body: m.Body, ClientMessageID: m.ClientMessageID,
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}
