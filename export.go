package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// exportCommand prints messages, beside a running server.
type exportCommand struct {
	dataSettings
	Room *string `placeholder:"CODE" help:"Only the room with this short code."`
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
	return c.withStore(ctx, storeOptions{ReadOnly: true}, func(st *store) error {
		out := bufio.NewWriterSize(std.out, 64<<10)
		err := c.export(ctx, st, out, std.err)
		err = cmp.Or(err, out.Flush())
		return interrupted(ctx, err, "what is printed is not all")
	})
}

func (c *exportCommand) export(ctx context.Context, st *store, out, told io.Writer) error {
	lines := json.NewEncoder(out)
	lines.SetEscapeHTML(false)
	if c.Room != nil {
		room, err := findRoom(ctx, st, *c.Room)
		if err != nil {
			return err
		}
		return exportRoom(ctx, st, room, lines)
	}
	for last := int64(0); ; {
		room, err := st.roomAfter(ctx, last)
		if errors.Is(err, errNotFound) {
			return nil
		} else if err != nil {
			return err
		}
		switch err := exportRoom(ctx, st, room, lines); {
		case errors.Is(err, errNotAll):
			fmt.Fprintln(told, "grpcchatter:", err)
		case err != nil:
			return err
		}
		last = room.ID
	}
}

func findRoom(ctx context.Context, st *store, written string) (room roomRow, err error) {
	code, err := readCode(written)
	if err == nil {
		room, err = st.roomByCode(ctx, code, 0)
	}
	var rule *apiError
	if errors.Is(err, errNotFound) || errors.As(err, &rule) {
		err = fmt.Errorf("there is no room %q", written)
	}
	return room, err
}

var errNotAll = errors.New("not all of its messages are printed")

// exportRoom writes what a room has now. It reads page by page: one long read would keep SQLite's WAL growing.
// errNotAll: it was deleted meanwhile, and something is missing.
func exportRoom(ctx context.Context, st *store, room roomRow, lines *json.Encoder) error {
	gaps := false // MESSAGE_RETENTION makes them too
	for seq := uint64(0); seq < room.LastSeq; {
		page, err := st.messagesAfter(ctx, room.ID, seq, catchUpPage, catchUpBytes)
		if err != nil {
			return err
		}
		if len(page) == 0 {
			gaps = true
			break
		}
		for _, m := range page {
			gaps = gaps || m.Seq != seq+1
			if seq = m.Seq; seq > room.LastSeq {
				break
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
	if !gaps {
		return nil
	}
	_, err := st.roomByID(ctx, room.ID, 0)
	if errors.Is(err, errNotFound) {
		return fmt.Errorf("the room %s was deleted meanwhile: %w", room.Code, errNotAll)
	}
	return err
}
