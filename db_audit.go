package main

import (
	"context"
	"database/sql"
	"time"
)

// auditEntry is what is to be written down of a change: what was done, to whom or what, and more about it. Never a
// password or a message.
type auditEntry struct{ Action, Target, Detail string }

// The actions. The target is a user name, of those that begin with room_ a short code.
const (
	auditUserCreated    = "user_created"
	auditUserRole       = "user_role"
	auditUserDisabled   = "user_disabled"
	auditUserEnabled    = "user_enabled"
	auditUserPassword   = "user_password"
	auditUserSessions   = "user_sessions_ended"
	auditUserDeleted    = "user_deleted"
	auditRoomDeleted    = "room_deleted"
	auditRoomRenamed    = "room_renamed"
	auditRoomPassword   = "room_password"
	auditRoomOwner      = "room_owner"
	auditMemberRemoved  = "member_removed"
	auditMemberLeft     = "member_left"
	auditMemberBanned   = "member_banned"
	auditMemberUnbanned = "member_unbanned"
)

// auditRow is an entry of the audit log. Nothing ever deletes one.
type auditRow struct {
	ID        int64
	CreatedAt time.Time
	Actor     string // a user name as it was then; empty: a command on the server's machine
	auditEntry
}

// addAudit writes entries in the transaction of what they are about. by is who did it.
func addAudit(ctx context.Context, tx *sql.Tx, by user, entries ...auditEntry) error {
	for _, e := range entries {
		if _, err := tx.ExecContext(ctx, `INSERT INTO audit_log (created_at, actor, action, target, detail) VALUES ($1, $2, $3, $4, $5)`,
			time.Now().UTC().Truncate(time.Microsecond), by.Name, e.Action, e.Target, e.Detail); err != nil {
			return err
		}
	}
	return nil
}

// auditBefore lists the entries before an id, newest first, at most limit of those with the query in their actor, action or
// target: without regard to the case of ASCII letters at least.
func (s *store) auditBefore(ctx context.Context, query string, before uint64, limit int) (rows []auditRow, err error) {
	if noName(query) {
		return nil, nil
	}
	_, folded := like(query)
	err = s.each(ctx, func(row *sql.Rows) error {
		var r auditRow
		err := row.Scan(&r.ID, &r.CreatedAt, &r.Actor, &r.Action, &r.Target, &r.Detail)
		rows = append(rows, r)
		return err
	}, `SELECT id, created_at, actor, action, target, detail FROM audit_log WHERE id < $1
		AND (lower(actor) LIKE $2 ESCAPE '\' OR action LIKE $2 ESCAPE '\' OR lower(target) LIKE $2 ESCAPE '\') ORDER BY id DESC LIMIT $3`, int64(before), folded, limit)
	return rows, err
}
