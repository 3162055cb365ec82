package main

import (
	"context"
	"database/sql"
	"errors"
)

// message is a stored message.
type message struct {
	RoomID          int64
	Seq             uint64
	UserID          int64
	UserName        string // not stored with the message, but read with it
	SentAt          int64  // microseconds since 1970
	ClientMessageID string // client_message_id; empty: none
	Body            string
}

// lastSeq returns a room's newest seq, 0 if it never had a message. errNotFound: the room is gone.
func (s *store) lastSeq(ctx context.Context, roomID int64) (seq uint64, err error) {
	err = s.row(ctx, func(row scanner) error { return row.Scan(&seq) }, `SELECT coalesce((SELECT max(seq) FROM messages WHERE room_id = r.id), r.purged_seq)
		FROM rooms r WHERE r.id = $1 AND r.short_code IS NOT NULL`, roomID)
	return seq, err
}

// messagesAfter returns the messages that follow seq, oldest first: at most limit of them and about maxBytes
// of bodies, but one at least if there is one.
func (s *store) messagesAfter(ctx context.Context, roomID int64, seq uint64, limit, maxBytes int) ([]message, error) {
	return s.page(ctx, `m.seq > $2 ORDER BY m.seq`, roomID, seq, limit, maxBytes)
}

// messagesBefore returns the messages that precede seq, newest first, bounded like messagesAfter.
func (s *store) messagesBefore(ctx context.Context, roomID int64, seq uint64, limit, maxBytes int) ([]message, error) {
	return s.page(ctx, `m.seq < $2 ORDER BY m.seq DESC`, roomID, seq, limit, maxBytes)
}

func (s *store) page(ctx context.Context, where string, roomID int64, seq uint64, limit, maxBytes int) (page []message, err error) {
	size := 0
	full := errors.New("page is full")
	err = s.each(ctx, func(rows *sql.Rows) error {
		m := message{RoomID: roomID}
		if err := rows.Scan(&m.Seq, &m.UserID, &m.UserName, &m.SentAt, &m.ClientMessageID, &m.Body); err != nil {
			return err
		}
		page = append(page, m)
		if size += len(m.Body); size >= maxBytes {
			return full
		}
		return nil
	}, `SELECT m.seq, m.user_id, u.username, m.sent_at, coalesce(m.client_message_id, ''), m.body
		FROM messages m JOIN users u ON u.id = m.user_id WHERE m.room_id = $1 AND `+where+` LIMIT $3`, roomID, int64(seq), limit)
	if errors.Is(err, full) {
		err = nil
	}
	return page, err
}

// messageColumns are the columns of messages.
const messageColumns = `room_id, seq, user_id, sent_at, client_message_id, body`

// addMessages stores messages in one transaction. When it returns nil they are on the disk. errConflict: a
// client_message_id is stored already, or a room is gone; nothing was stored. Only the committer calls it.
func (s *store) addMessages(msgs []message) error {
	return s.writing(func() error { return s.insertMessages(context.Background(), msgs) })
}

// storedBefore returns those of msgs that are stored already under their room, sender and ClientMessageID, as they
// are stored, but for UserName. Only the committer calls it.
func (s *store) storedBefore(msgs []message) (found []message, err error) {
	err = s.writing(func() (err error) {
		found, err = s.findMessages(context.Background(), msgs)
		return err
	})
	return found, err
}

// scanMessages reads rows of messageColumns, and closes them.
func scanMessages(rows *sql.Rows) (msgs []message, err error) {
	defer rows.Close()
	for rows.Next() {
		var m message
		if err := rows.Scan(&m.RoomID, &m.Seq, &m.UserID, &m.SentAt, &m.ClientMessageID, &m.Body); err != nil {
			return nil, err
		}
		msgs = append(msgs, m)
	}
	return msgs, rows.Err()
}
