package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
)

// history is what a restore writes into the settings. A restore takes messages, accounts and rooms back, and their
// numbers are given anew: a token says in which history it was made, so that nobody takes the new ones for the old.
type history struct {
	ID   string `json:"id"`   // empty: nothing was ever restored
	From string `json:"from"` // the one in which the backup was made
	// The last numbers of the backup. What has a higher one in From is lost.
	LastUser    int64 `json:"last_user"`
	LastVersion int64 `json:"last_version"`
	LastRoom    int64 `json:"last_room"`
}

// knows tells whether the backup, of a history, has an account with a version of it. What it has not is lost, and another
// account may have got its number.
func (h history) knows(of string, userID, version int64) bool {
	return of == h.From && userID <= h.LastUser && version <= h.LastVersion
}

const (
	historySetting = "history"
	// historySeq and a room's id name the setting that has the room's last seq of the backup.
	historySeq = "history.seq."
)

// history returns the one that the data belongs to.
func (s *store) history(ctx context.Context) (h history, err error) {
	err = s.row(ctx, h.scan, `SELECT value FROM settings WHERE name = $1`, historySetting)
	if errors.Is(err, errNotFound) {
		err = nil
	}
	return h, err
}

func (h *history) scan(row scanner) error {
	var text string
	if err := row.Scan(&text); err != nil {
		return err
	}
	return json.Unmarshal([]byte(text), h)
}

// restoredSeq returns the last seq that a room had in the backup, 0 if it was not in it.
func (s *store) restoredSeq(ctx context.Context, roomID int64) (uint64, error) {
	var text string
	err := s.row(ctx, func(row scanner) error { return row.Scan(&text) }, `SELECT value FROM settings WHERE name = $1`, historySeq+strconv.FormatInt(roomID, 10))
	if errors.Is(err, errNotFound) {
		return 0, nil
	} else if err != nil {
		return 0, err
	}
	return strconv.ParseUint(text, 10, 64)
}

// beginHistory makes restored data a history of its own.
func (s *store) beginHistory(ctx context.Context, tx *sql.Tx) error {
	var old history
	if err := old.scan(tx.QueryRowContext(ctx, `SELECT value FROM settings WHERE name = $1`, historySetting)); err != nil && !errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("its setting %s: %w", historySetting, err)
	}
	h := history{ID: newSecret()[:16], From: old.ID}
	var err error
	if h.LastUser, err = s.lastID(ctx, tx, "users"); err != nil {
		return err
	}
	if h.LastRoom, err = s.lastID(ctx, tx, "rooms"); err != nil {
		return err
	}
	if err := tx.QueryRowContext(ctx, `SELECT coalesce(max(version), 0) FROM users`).Scan(&h.LastVersion); err != nil {
		return err
	}
	text, err := json.Marshal(h)
	if err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM settings WHERE name = $1 OR name LIKE $2`, historySetting, historySeq+"%"); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO settings (name, value) VALUES ($1, $2)`, historySetting, string(text)); err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO settings (name, value) SELECT $1 || id, coalesce((SELECT max(seq) FROM messages WHERE room_id = r.id), purged_seq)
		FROM rooms r WHERE short_code IS NOT NULL AND (purged_seq > 0 OR EXISTS (SELECT 1 FROM messages WHERE room_id = r.id))`, historySeq)
	return err
}
