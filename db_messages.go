package main

import (
	"context"
	"database/sql"
	"errors"
	"strings"
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

// lastSeq returns a room's newest seq, 0 if it has no message. errNotFound: the room is gone.
func (s *store) lastSeq(ctx context.Context, roomID int64) (seq uint64, err error) {
	err = s.r.QueryRowContext(ctx, `SELECT coalesce((SELECT max(seq) FROM messages WHERE room_id = r.id), 0)
		FROM rooms r WHERE r.id = $1 AND r.short_code IS NOT NULL`, roomID).Scan(&seq)
	return seq, dbError(err)
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

// batchStmts are one statement prepared for several numbers of rows, largest first.
type batchStmts []batchStmt

type batchStmt struct {
	rows int
	stmt *sql.Stmt
}

func (s *store) prepareBatches(ctx context.Context) (err error) {
	if s.insert, err = s.prepareBatch(ctx, `INSERT INTO messages (room_id, seq, user_id, sent_at, client_message_id, body) VALUES `,
		`(?, ?, ?, ?, ?, ?)`, ``, 64, 16, 4, 1); err != nil {
		return err
	}
	s.lookup, err = s.prepareBatch(ctx, `WITH wanted (room_id, user_id, id) AS (VALUES `,
		`(CAST(? AS bigint), CAST(? AS bigint), ?)`,
		`) SELECT m.room_id, m.seq, m.user_id, m.sent_at, m.client_message_id, m.body FROM wanted w CROSS JOIN messages m
		WHERE m.room_id = w.room_id AND m.user_id = w.user_id AND m.client_message_id = w.id`, 64, 8, 1)
	return err
}

// prepareBatch prepares head, then row as often as each of sizes says, then tail. The smallest size has to be 1.
// The parameters are plain question marks: SQLite looks a name like $384 up in a list, for every one.
func (s *store) prepareBatch(ctx context.Context, head, row, tail string, sizes ...int) (stmts batchStmts, err error) {
	for _, n := range sizes {
		rows := strings.TrimSuffix(strings.Repeat(row+", ", n), ", ")
		stmt, err := s.w.PrepareContext(ctx, head+rows+tail)
		if err != nil {
			return nil, err
		}
		stmts = append(stmts, batchStmt{n, stmt})
	}
	return stmts, nil
}

// chunks calls fn with a statement and the messages that it takes, until all are done.
func (b batchStmts) chunks(tx *sql.Tx, msgs []message, fn func(*sql.Stmt, []message) error) error {
	for _, s := range b {
		if len(msgs) < s.rows {
			continue
		}
		stmt := tx.Stmt(s.stmt)
		for ; len(msgs) >= s.rows; msgs = msgs[s.rows:] {
			if err := fn(stmt, msgs[:s.rows]); err != nil {
				return err
			}
		}
	}
	return nil
}

// addMessages stores messages in one transaction. When it returns nil they are on the disk. errConflict: a
// client_message_id is stored already, or a room is gone; nothing was stored. Only the committer calls it.
func (s *store) addMessages(msgs []message) error {
	args := make([]any, 0, 64*6)
	return s.write(context.Background(), func(ctx context.Context, tx *sql.Tx) error {
		return s.insert.chunks(tx, msgs, func(stmt *sql.Stmt, chunk []message) error {
			args = args[:0]
			for i := range chunk {
				m := &chunk[i]
				var id any
				if m.ClientMessageID != "" {
					id = m.ClientMessageID
				}
				args = append(args, m.RoomID, int64(m.Seq), m.UserID, m.SentAt, id, m.Body)
			}
			_, err := stmt.ExecContext(ctx, args...)
			return err
		})
	})
}

// storedBefore returns those of msgs that are stored already under their room, sender and ClientMessageID, as they
// are stored, but for UserName. Only the committer calls it.
func (s *store) storedBefore(msgs []message) (found []message, err error) {
	err = s.write(context.Background(), func(ctx context.Context, tx *sql.Tx) error {
		return s.lookup.chunks(tx, msgs, func(stmt *sql.Stmt, chunk []message) error {
			args := make([]any, 0, len(chunk)*3)
			for _, m := range chunk {
				args = append(args, m.RoomID, m.UserID, m.ClientMessageID)
			}
			rows, err := stmt.QueryContext(ctx, args...)
			if err != nil {
				return err
			}
			defer rows.Close()
			for rows.Next() {
				var m message
				if err := rows.Scan(&m.RoomID, &m.Seq, &m.UserID, &m.SentAt, &m.ClientMessageID, &m.Body); err != nil {
					return err
				}
				found = append(found, m)
			}
			return rows.Err()
		})
	})
	return found, err
}
