package main

import (
	"context"
	"database/sql"
	"errors"
	"strconv"
	"strings"
)

// roomRow is a room as a user sees it.
type roomRow struct {
	ID       int64
	Code     string
	Name     string
	Hash     string // of the room password
	OwnerID  int64
	Owner    string
	LastSeq  uint64 // of the newest message, 0 when there is none
	IsMember bool   // whether the user that asked is a member
}

// $1 is the user that asks. A deleted room has no short code.
const selectRoom = `SELECT r.id, r.short_code, r.name, r.password, r.owner_id, o.username,
	coalesce((SELECT max(seq) FROM messages WHERE room_id = r.id), 0), m.user_id IS NOT NULL
	FROM rooms r JOIN users o ON o.id = r.owner_id
	LEFT JOIN members m ON m.room_id = r.id AND m.user_id = $1
	WHERE r.short_code IS NOT NULL AND `

func scanRoom(row interface{ Scan(...any) error }) (r roomRow, err error) {
	err = row.Scan(&r.ID, &r.Code, &r.Name, &r.Hash, &r.OwnerID, &r.Owner, &r.LastSeq, &r.IsMember)
	return r, dbError(err)
}

// AddRoom stores a room and makes its owner a member. errConflict: the code is taken.
func (s *store) AddRoom(ctx context.Context, code, name, hash string, ownerID int64) error {
	return s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		var id int64
		err := tx.QueryRowContext(ctx, `INSERT INTO rooms (short_code, name, password, owner_id) VALUES ($1, $2, $3, $4) RETURNING id`,
			code, name, hash, ownerID).Scan(&id)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO members (room_id, user_id) VALUES ($1, $2)`, id, ownerID)
		return err
	})
}

// RoomByCode finds a room as userID sees it. errNotFound: there is none, or it was deleted.
func (s *store) RoomByCode(ctx context.Context, code string, userID int64) (roomRow, error) {
	return scanRoom(s.r.QueryRowContext(ctx, selectRoom+`r.short_code = $2`, userID, code))
}

// RoomByID is RoomByCode by id.
func (s *store) RoomByID(ctx context.Context, id, userID int64) (roomRow, error) {
	return scanRoom(s.r.QueryRowContext(ctx, selectRoom+`r.id = $2`, userID, id))
}

// RoomsOf lists the rooms that a user is a member of, by name.
func (s *store) RoomsOf(ctx context.Context, userID int64) (rooms []roomRow, err error) {
	err = s.each(ctx, func(rows *sql.Rows) error {
		r, err := scanRoom(rows)
		rooms = append(rooms, r)
		return err
	}, selectRoom+`m.user_id IS NOT NULL ORDER BY r.name, r.id`, userID)
	return rooms, err
}

// AddMember makes a user a member of a room, if it is not one yet and the room exists.
func (s *store) AddMember(ctx context.Context, roomID, userID int64) error {
	return s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO members (room_id, user_id)
			SELECT r.id, $2 FROM rooms r WHERE r.id = $1 AND r.short_code IS NOT NULL ON CONFLICT DO NOTHING`, roomID, userID)
		return err
	})
}

// DeleteRoom hides a room for ever. Its messages go with PurgeDeletedRooms. errNotFound: it is gone already.
func (s *store) DeleteRoom(ctx context.Context, id int64) error {
	return s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE rooms SET short_code = NULL WHERE id = $1 AND short_code IS NOT NULL`, id)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil {
			return err
		} else if n == 0 {
			return errNotFound
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM members WHERE room_id = $1`, id)
		return err
	})
}

// purgeStep is how many messages one transaction of PurgeDeletedRooms takes away: few enough not to be felt
// by those who wait to commit.
const purgeStep = 500

// PurgeDeletedRooms takes one step towards removing what deleted rooms have left, and tells whether there is
// more to do.
func (s *store) PurgeDeletedRooms(ctx context.Context) (more bool, err error) {
	var id int64
	err = dbError(s.r.QueryRowContext(ctx, `SELECT id FROM rooms WHERE short_code IS NULL LIMIT 1`).Scan(&id))
	if errors.Is(err, errNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `DELETE FROM messages WHERE room_id = $1 AND seq IN
			(SELECT seq FROM messages WHERE room_id = $1 ORDER BY seq LIMIT $2)`, id, purgeStep)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n > 0 {
			return err
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM rooms WHERE id = $1`, id)
		return err
	})
}

// message is a stored message.
type message struct {
	RoomID   int64
	Seq      uint64
	UserID   int64
	UserName string // not stored with the message, but read with it
	SentAt   int64  // microseconds since 1970
	ClientID string // client_message_id; empty: none
	Body     string
}

// LastSeq returns a room's newest seq, 0 if it has no message. errNotFound: the room is gone.
func (s *store) LastSeq(ctx context.Context, roomID int64) (seq uint64, err error) {
	err = s.r.QueryRowContext(ctx, `SELECT coalesce((SELECT max(seq) FROM messages WHERE room_id = r.id), 0)
		FROM rooms r WHERE r.id = $1 AND r.short_code IS NOT NULL`, roomID).Scan(&seq)
	return seq, dbError(err)
}

// MessagesAfter returns the messages that follow seq, oldest first: at most limit of them and about maxBytes
// of bodies, but one at least if there is one.
func (s *store) MessagesAfter(ctx context.Context, roomID int64, seq uint64, limit, maxBytes int) ([]message, error) {
	return s.page(ctx, `m.seq > $2 ORDER BY m.seq`, roomID, seq, limit, maxBytes)
}

// MessagesBefore returns the messages that precede seq, newest first, bounded like MessagesAfter.
func (s *store) MessagesBefore(ctx context.Context, roomID int64, seq uint64, limit, maxBytes int) ([]message, error) {
	return s.page(ctx, `m.seq < $2 ORDER BY m.seq DESC`, roomID, seq, limit, maxBytes)
}

func (s *store) page(ctx context.Context, where string, roomID int64, seq uint64, limit, maxBytes int) (page []message, err error) {
	size := 0
	full := errors.New("page is full")
	err = s.each(ctx, func(rows *sql.Rows) error {
		m := message{RoomID: roomID}
		if err := rows.Scan(&m.Seq, &m.UserID, &m.UserName, &m.SentAt, &m.ClientID, &m.Body); err != nil {
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

// prepareBatch prepares head, then row as often as each of sizes says, then tail. Question marks in row are
// numbered through.
func (s *store) prepareBatch(ctx context.Context, head, row, tail string, sizes ...int) (stmts batchStmts, err error) {
	for _, n := range sizes {
		rows := strings.TrimSuffix(strings.Repeat(row+", ", n), ", ")
		stmt, err := s.w.PrepareContext(ctx, numberParameters(head+rows+tail))
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

// AddMessages stores messages in one transaction. When it returns nil they are on the disk. errConflict: a
// client_message_id is stored already, or a room is gone; nothing was stored. Only the committer calls it.
func (s *store) AddMessages(msgs []message) error {
	args := make([]any, 0, 64*6)
	return s.write(context.Background(), func(ctx context.Context, tx *sql.Tx) error {
		return s.insert.chunks(tx, msgs, func(stmt *sql.Stmt, chunk []message) error {
			args = args[:0]
			for i := range chunk {
				m := &chunk[i]
				var id any
				if m.ClientID != "" {
					id = m.ClientID
				}
				args = append(args, m.RoomID, int64(m.Seq), m.UserID, m.SentAt, id, m.Body)
			}
			_, err := stmt.ExecContext(ctx, args...)
			return err
		})
	})
}

// StoredBefore returns those of msgs that are stored already under their room, sender and ClientID, as they
// are stored, but for UserName.
func (s *store) StoredBefore(msgs []message) (found []message, err error) {
	err = s.write(context.Background(), func(ctx context.Context, tx *sql.Tx) error {
		return s.lookup.chunks(tx, msgs, func(stmt *sql.Stmt, chunk []message) error {
			args := make([]any, 0, len(chunk)*3)
			for _, m := range chunk {
				args = append(args, m.RoomID, m.UserID, m.ClientID)
			}
			rows, err := stmt.QueryContext(ctx, args...)
			if err != nil {
				return err
			}
			defer rows.Close()
			for rows.Next() {
				var m message
				if err := rows.Scan(&m.RoomID, &m.Seq, &m.UserID, &m.SentAt, &m.ClientID, &m.Body); err != nil {
					return err
				}
				found = append(found, m)
			}
			return rows.Err()
		})
	})
	return found, err
}

// numberParameters writes $1, $2, … for the question marks of a query: both drivers take that form.
func numberParameters(query string) string {
	var b strings.Builder
	n := 0
	for part := range strings.SplitSeq(query, "?") {
		if n > 0 {
			b.WriteString("$" + strconv.Itoa(n))
		}
		b.WriteString(part)
		n++
	}
	return b.String()
}
