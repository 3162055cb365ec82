package main

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"
	"time"
)

// roomRow is a room as a user sees it.
type roomRow struct {
	ID       int64
	Code     string
	Name     string
	Hash     string // of the room password
	OwnerID  int64
	Owner    string
	LastSeq  uint64 // of the newest message, 0 when there was none
	IsMember bool   // whether the user that asked is a member
	IsBanned bool   // and whether it may not become one
}

// $1 is the user that asks. A deleted room has no short code.
const selectRoom = `SELECT r.id, r.short_code, r.name, r.password, r.owner_id, o.username,
	coalesce((SELECT max(seq) FROM messages WHERE room_id = r.id), r.purged_seq), m.user_id IS NOT NULL, b.user_id IS NOT NULL
	FROM rooms r JOIN users o ON o.id = r.owner_id
	LEFT JOIN members m ON m.room_id = r.id AND m.user_id = $1
	LEFT JOIN bans b ON b.room_id = r.id AND b.user_id = $1
	WHERE r.short_code IS NOT NULL AND `

// scanRoom reads a row of selectRoom, and more columns behind it.
func scanRoom(row scanner, more ...any) (r roomRow, err error) {
	err = row.Scan(append([]any{&r.ID, &r.Code, &r.Name, &r.Hash, &r.OwnerID, &r.Owner, &r.LastSeq, &r.IsMember, &r.IsBanned}, more...)...)
	return r, err
}

// addRoom stores a room and makes its owner a member. errConflict: the code is taken. errNotFound: the owner's account
// was deleted.
func (s *store) addRoom(ctx context.Context, code, name, hash string, ownerID int64) error {
	return s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if err := s.holdUser(ctx, tx, ownerID); err != nil {
			return err
		}
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

// roomByCode finds a room as userID sees it. errNotFound: there is none, or it was deleted.
func (s *store) roomByCode(ctx context.Context, code string, userID int64) (roomRow, error) {
	if noName(code) {
		return roomRow{}, errNotFound
	}
	return s.roomWhere(ctx, `r.short_code = $2`, userID, code)
}

// roomByID is roomByCode by id.
func (s *store) roomByID(ctx context.Context, id, userID int64) (roomRow, error) {
	return s.roomWhere(ctx, `r.id = $2`, userID, id)
}

func (s *store) roomWhere(ctx context.Context, where string, userID int64, key any) (r roomRow, err error) {
	err = s.row(ctx, func(row scanner) (err error) {
		r, err = scanRoom(row)
		return err
	}, selectRoom+where, userID, key)
	return r, err
}

// roomAfter finds the first room with an id above one, as nobody sees it. errNotFound: there is none.
func (s *store) roomAfter(ctx context.Context, id int64) (roomRow, error) {
	return s.roomWhere(ctx, `r.id > $2 ORDER BY r.id LIMIT 1`, 0, id)
}

// roomsOf lists the rooms that a user is a member of, by name.
func (s *store) roomsOf(ctx context.Context, userID int64) (rooms []roomRow, err error) {
	err = s.each(ctx, func(rows *sql.Rows) error {
		r, err := scanRoom(rows)
		rooms = append(rooms, r)
		return err
	}, selectRoom+`m.user_id IS NOT NULL`, userID)
	slices.SortFunc(rooms, func(a, b roomRow) int { return cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
	return rooms, err
}

// foundRoom is a room as an ADMIN sees it.
type foundRoom struct {
	roomRow
	CreatedAt time.Time
	Members   int
}

// findRooms lists rooms by id, from the one after an id on, at most limit of those with the query in their name, their
// short code or their owner's name: without regard to the case of ASCII letters at least.
func (s *store) findRooms(ctx context.Context, query string, after uint64, limit int) (found []foundRoom, err error) {
	if noName(query) {
		return nil, nil
	}
	exact, folded := like(query)
	err = s.each(ctx, func(rows *sql.Rows) error {
		var r foundRoom
		var err error
		r.roomRow, err = scanRoom(rows, &r.CreatedAt, &r.Members)
		found = append(found, r)
		return err
	}, `SELECT q.*, t.created_at, (SELECT count(*) FROM members WHERE room_id = q.id) FROM (`+selectRoom+`r.id > $2
		AND (r.name LIKE $3 ESCAPE '\' OR lower(r.name) LIKE $4 ESCAPE '\' OR lower(r.short_code) LIKE $4 ESCAPE '\' OR lower(o.username) LIKE $4 ESCAPE '\')
		ORDER BY r.id LIMIT $5) q JOIN rooms t ON t.id = q.id ORDER BY q.id`, 0, int64(after), exact, folded, limit)
	return found, err
}

// standing tells what version an account has, and whether a room is there and has it as a member.
func (s *store) standing(ctx context.Context, userID, roomID int64) (version int64, room, member bool, err error) {
	err = s.row(ctx, func(row scanner) error { return row.Scan(&version, &room, &member) }, `SELECT u.version, r.short_code IS NOT NULL, m.user_id IS NOT NULL
		FROM users u LEFT JOIN rooms r ON r.id = $2 LEFT JOIN members m ON m.room_id = $2 AND m.user_id = u.id WHERE u.id = $1`, userID, roomID)
	return version, room, member, err
}

// addMember makes a user a member of a room, if it is not one yet. errNotFound: the room or the account was deleted, or
// the user is banned.
func (s *store) addMember(ctx context.Context, roomID, userID int64) error {
	return s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if err := s.holdUser(ctx, tx, userID); err != nil {
			return err
		}
		if err := s.holdRoom(ctx, tx, roomID); err != nil {
			return err
		}
		room, err := scanRoom(tx.QueryRowContext(ctx, selectRoom+`r.id = $2`, userID, roomID))
		switch {
		case err != nil || room.IsMember:
			return err
		case room.IsBanned:
			return errNotFound
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO members (room_id, user_id) VALUES ($1, $2)`, roomID, userID)
		return err
	})
}

// holdRoom and holdUser keep a row as it is until the commit: PostgreSQL would let others change it meanwhile. A transaction
// that needs both begins with the user. sql.ErrNoRows: it was deleted.
func (s *store) holdRoom(ctx context.Context, tx *sql.Tx, id int64) error {
	return s.hold(ctx, tx, `SELECT id FROM rooms WHERE id = $1 AND short_code IS NOT NULL {for_update}`, id)
}

func (s *store) holdUser(ctx context.Context, tx *sql.Tx, id int64) error {
	return s.hold(ctx, tx, `SELECT id FROM users WHERE id = $1 AND NOT deleted {for_update}`, id)
}

func (s *store) hold(ctx context.Context, tx *sql.Tx, query string, id int64) error {
	return tx.QueryRowContext(ctx, s.inDialect(query), id).Scan(&id)
}

// one returns errNotFound for a statement that has found no row.
func one(res sql.Result, err error) error {
	if err != nil {
		return err
	}
	n, err := res.RowsAffected()
	if err == nil && n == 0 {
		err = errNotFound
	}
	return err
}

// purgeDeletedRooms takes one step towards removing what deleted rooms have left, and tells whether there is
// more to do.
func (s *store) purgeDeletedRooms(ctx context.Context) (more bool, err error) {
	var id int64
	err = s.row(ctx, func(row scanner) error { return row.Scan(&id) }, `SELECT id FROM rooms WHERE short_code IS NULL LIMIT 1`)
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
		for _, table := range []string{"members", "bans"} {
			if _, err := tx.ExecContext(ctx, `DELETE FROM `+table+` WHERE room_id = $1`, id); err != nil {
				return err
			}
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM rooms WHERE id = $1`, id)
		return err
	})
}

// nextRoom returns the id of the first room with an id above one, 0 if there is none.
func (s *store) nextRoom(ctx context.Context, id int64) (next int64, err error) {
	err = s.row(ctx, func(row scanner) error { return row.Scan(&next) },
		`SELECT coalesce(min(id), 0) FROM rooms WHERE id > $1 AND short_code IS NOT NULL`, id)
	return next, err
}

// purgeMessages removes the oldest messages of a room as far as they are expired, up to purgeStep of them, and returns
// how many these were. The room's seqs go on as if they were there.
func (s *store) purgeMessages(ctx context.Context, roomID int64, expired func(seq uint64, sentAt time.Time) bool) (n int, err error) {
	var last uint64
	seen, now := 0, time.Now()
	kept := errors.New("this one is kept")
	err = s.each(ctx, func(rows *sql.Rows) error {
		var seq uint64
		var sentAt int64
		if err := rows.Scan(&seq, &sentAt); err != nil {
			return err
		}
		seen++
		switch at := time.UnixMicro(sentAt); {
		case expired(seq, at):
			last, n = seq, seen
		case !at.After(now): // else a clock was wrong then: what follows tells
			return kept
		}
		return nil
	}, `SELECT seq, sent_at FROM messages WHERE room_id = $1 ORDER BY seq LIMIT $2`, roomID, purgeStep)
	if err != nil && !errors.Is(err, kept) || n == 0 {
		return 0, err
	}
	return n, s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `UPDATE rooms SET purged_seq = $2 WHERE id = $1`, roomID, last); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `DELETE FROM messages WHERE room_id = $1 AND seq <= $2`, roomID, last)
		return err
	})
}
