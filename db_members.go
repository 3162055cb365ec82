package main

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// What an owner or an ADMIN does to a room and its members. may is asked in the transaction, when nobody else can change
// the room: its error is returned, and nothing done. errNotFound: there is no such room. errNoMember: there is no such
// member in it. errTokenInvalid: who does it is not what it was.

// inRoomTx runs fn on a room, and writes what it returns to the audit log.
func (s *store) inRoomTx(ctx context.Context, by user, id int64, may func(roomRow) error, fn func(context.Context, *sql.Tx, roomRow) ([]auditEntry, error)) error {
	return s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if err := sameVersion(ctx, tx, by); err != nil {
			return err
		}
		if err := s.holdRoom(ctx, tx, id); err != nil {
			return err
		}
		room, err := scanRoom(tx.QueryRowContext(ctx, selectRoom+`r.id = $2`, by.ID, id))
		if err != nil {
			return err
		}
		if err := may(room); err != nil {
			return err
		}
		entries, err := fn(ctx, tx, room)
		if errors.Is(err, errNotFound) || errors.Is(err, sql.ErrNoRows) {
			return errNoMember
		} else if err != nil {
			return err
		}
		return addAudit(ctx, tx, by, entries...)
	})
}

// deleteRoom hides a room for ever. Its messages go with purgeDeletedRooms.
func (s *store) deleteRoom(ctx context.Context, by user, id int64, may func(roomRow) error) error {
	return s.inRoomTx(ctx, by, id, may, func(ctx context.Context, tx *sql.Tx, room roomRow) ([]auditEntry, error) {
		return hideRoom(ctx, tx, room)
	})
}

func hideRoom(ctx context.Context, tx *sql.Tx, room roomRow) ([]auditEntry, error) {
	if _, err := tx.ExecContext(ctx, `UPDATE rooms SET short_code = NULL WHERE id = $1`, room.ID); err != nil {
		return nil, err
	}
	_, err := tx.ExecContext(ctx, `DELETE FROM members WHERE room_id = $1`, room.ID)
	return []auditEntry{{auditRoomDeleted, room.Code, fmt.Sprintf("%q of %s", room.Name, room.Owner)}}, err
}

// roomChange is what is to become of a room; nil: what it is.
type roomChange struct {
	Name *string
	Hash *string // of the room password
	Open bool    // that password is empty
	// Owner has to be a member.
	Owner *user
}

// changeRoom changes a room.
func (s *store) changeRoom(ctx context.Context, by user, id int64, change roomChange, may func(roomRow) error) error {
	return s.inRoomTx(ctx, by, id, may, func(ctx context.Context, tx *sql.Tx, room roomRow) (entries []auditEntry, err error) {
		if name := change.Name; name != nil && *name != room.Name {
			if _, err := tx.ExecContext(ctx, `UPDATE rooms SET name = $1 WHERE id = $2`, *name, id); err != nil {
				return nil, err
			}
			entries = append(entries, auditEntry{auditRoomRenamed, room.Code, fmt.Sprintf("%q to %q", room.Name, *name)})
		}
		if change.Hash != nil {
			if _, err := tx.ExecContext(ctx, `UPDATE rooms SET password = $1 WHERE id = $2`, *change.Hash, id); err != nil {
				return nil, err
			}
			detail := ""
			if change.Open {
				detail = "none any more"
			}
			entries = append(entries, auditEntry{auditRoomPassword, room.Code, detail})
		}
		if owner := change.Owner; owner != nil && owner.ID != room.OwnerID {
			more, err := handOver(ctx, tx, room, owner.ID, owner.Name)
			if err != nil {
				return nil, err
			}
			entries = append(entries, more)
		}
		return entries, nil
	})
}

// handOver gives a room to one of its members. errNotFound: it is none.
func handOver(ctx context.Context, tx *sql.Tx, room roomRow, id int64, name string) (auditEntry, error) {
	entry := auditEntry{auditRoomOwner, room.Code, room.Owner + " to " + name}
	return entry, one(tx.ExecContext(ctx, `UPDATE rooms SET owner_id = $1 WHERE id = $2 AND EXISTS
		(SELECT 1 FROM members WHERE room_id = $2 AND user_id = $1)`, id, room.ID))
}

// removeMember ends a membership. errMemberProtected: it is the owner's.
func (s *store) removeMember(ctx context.Context, by user, id int64, u user, may func(roomRow) error) error {
	return s.inRoomTx(ctx, by, id, may, func(ctx context.Context, tx *sql.Tx, room roomRow) ([]auditEntry, error) {
		if u.ID == room.OwnerID {
			return nil, errMemberProtected
		}
		action := auditMemberRemoved
		if u.ID == by.ID {
			action = auditMemberLeft
		}
		return []auditEntry{memberEntry(action, u, room)}, one(tx.ExecContext(ctx, `DELETE FROM members WHERE room_id = $1 AND user_id = $2`, id, u.ID))
	})
}

func memberEntry(action string, u user, room roomRow) auditEntry {
	return auditEntry{action, u.Name, "room " + room.Code}
}

// ban ends a membership, if there is one, and forbids another one. It does nothing to who is banned already.
// errMemberProtected, errBanAdmin: the user is the owner, or an ADMIN.
func (s *store) ban(ctx context.Context, by user, id int64, u user, may func(roomRow) error) error {
	return s.inRoomTx(ctx, by, id, may, func(ctx context.Context, tx *sql.Tx, room roomRow) ([]auditEntry, error) {
		if u.ID == room.OwnerID {
			return nil, errMemberProtected
		}
		now, err := scanUser(tx.QueryRowContext(ctx, selectUser+`WHERE u.id = $1 AND NOT u.deleted`, u.ID))
		switch {
		case err != nil:
			return nil, err
		case now.Role == roleAdmin:
			return nil, errBanAdmin
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM members WHERE room_id = $1 AND user_id = $2`, id, u.ID); err != nil {
			return nil, err
		}
		err = one(tx.ExecContext(ctx, `INSERT INTO bans (room_id, user_id, created_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`,
			id, u.ID, time.Now().UTC().Truncate(time.Microsecond)))
		if errors.Is(err, errNotFound) {
			return nil, nil
		}
		return []auditEntry{memberEntry(auditMemberBanned, u, room)}, err
	})
}

// unban lifts a ban. errNoBan: there is none.
func (s *store) unban(ctx context.Context, by user, id int64, u user, may func(roomRow) error) error {
	return s.inRoomTx(ctx, by, id, may, func(ctx context.Context, tx *sql.Tx, room roomRow) ([]auditEntry, error) {
		err := one(tx.ExecContext(ctx, `DELETE FROM bans WHERE room_id = $1 AND user_id = $2`, id, u.ID))
		if errors.Is(err, errNotFound) {
			err = errNoBan
		}
		return []auditEntry{memberEntry(auditMemberUnbanned, u, room)}, err
	})
}

// roomUser is a member of a room, or one who is banned from it.
type roomUser struct {
	ID       int64
	UserName string
	Since    time.Time // of a ban
}

// members lists the members of a room, by name.
func (s *store) members(ctx context.Context, roomID int64) ([]roomUser, error) {
	return s.roomUsers(ctx, `SELECT u.id, u.username, u.created_at FROM members x JOIN users u ON u.id = x.user_id WHERE x.room_id = $1`, roomID)
}

// bans lists who is banned from a room, by name.
func (s *store) bans(ctx context.Context, roomID int64) ([]roomUser, error) {
	return s.roomUsers(ctx, `SELECT u.id, u.username, x.created_at FROM bans x JOIN users u ON u.id = x.user_id WHERE x.room_id = $1 AND NOT u.deleted`, roomID)
}

func (s *store) roomUsers(ctx context.Context, query string, roomID int64) (list []roomUser, err error) {
	err = s.each(ctx, func(rows *sql.Rows) error {
		var u roomUser
		err := rows.Scan(&u.ID, &u.UserName, &u.Since)
		list = append(list, u)
		return err
	}, query, roomID)
	slices.SortFunc(list, func(a, b roomUser) int {
		return cmp.Or(strings.Compare(a.UserName, b.UserName), cmp.Compare(a.ID, b.ID))
	})
	return list, err
}

// leaveRooms takes an account that is being deleted out of the first rooms that it is in, at most limit, and returns how many those
// were. Those that it owns pass to the member with the oldest account; those without another member are deleted, and returned.
func (s *store) leaveRooms(ctx context.Context, tx *sql.Tx, u user, limit int) (left int, deleted []int64, entries []auditEntry, err error) {
	// As holdRoom: nobody can join them, or make it the owner of one, until the commit.
	var last int64
	if err := tx.QueryRowContext(ctx, s.inDialect(`SELECT count(*), coalesce(max(id), 0) FROM (SELECT id FROM rooms
		WHERE id IN (SELECT room_id FROM members WHERE user_id = $1 ORDER BY room_id LIMIT $2) ORDER BY id {for_update}) h`),
		u.ID, limit).Scan(&left, &last); err != nil {
		return 0, nil, nil, err
	}
	rows, err := tx.QueryContext(ctx, selectRoom+`r.owner_id = $2 AND r.id <= $3 ORDER BY r.id`, u.ID, u.ID, last)
	if err != nil {
		return 0, nil, nil, err
	}
	defer rows.Close()
	var owned []roomRow
	for rows.Next() {
		room, err := scanRoom(rows)
		if err != nil {
			return 0, nil, nil, err
		}
		owned = append(owned, room)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return 0, nil, nil, err
	}
	for _, room := range owned {
		var heir user
		var more []auditEntry
		err := tx.QueryRowContext(ctx, `SELECT u.id, u.username FROM members m JOIN users u ON u.id = m.user_id
			WHERE m.room_id = $1 AND m.user_id <> $2 ORDER BY u.id LIMIT 1`, room.ID, u.ID).Scan(&heir.ID, &heir.Name)
		if errors.Is(err, sql.ErrNoRows) {
			deleted = append(deleted, room.ID)
			more, err = hideRoom(ctx, tx, room)
		} else if err == nil {
			more = make([]auditEntry, 1)
			more[0], err = handOver(ctx, tx, room, heir.ID, heir.Name)
		}
		if err != nil {
			return 0, nil, nil, err
		}
		entries = append(entries, more...)
	}
	_, err = tx.ExecContext(ctx, `DELETE FROM members WHERE user_id = $1 AND room_id <= $2`, u.ID, last)
	return left, deleted, entries, err
}
