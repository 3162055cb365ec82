package main

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// user is a row of users. Two copies with the same Version have the same role, password and state.
type user struct {
	ID        int64
	CreatedAt time.Time
	Name      string
	Hash      string // of the password
	Role      string
	Disabled  bool
	Version   int64
	Deleted   bool // only its messages are left, under this name that nobody can have
}

// setRole gives u a role, and returns what the audit log is to say: nothing if u has it already.
func (u *user) setRole(role string) []auditEntry {
	if role == u.Role {
		return nil
	}
	entry := auditEntry{auditUserRole, u.Name, u.Role + " to " + role}
	u.Role = role
	return []auditEntry{entry}
}

// setDisabled disables u, or enables it, and returns what the audit log is to say: nothing if u is so already.
func (u *user) setDisabled(disabled bool) []auditEntry {
	if disabled == u.Disabled {
		return nil
	}
	u.Disabled = disabled
	if disabled {
		return []auditEntry{{auditUserDisabled, u.Name, ""}}
	}
	return []auditEntry{{auditUserEnabled, u.Name, ""}}
}

const (
	roleUser  = "USER"
	roleAdmin = "ADMIN"
)

// An account without a role is a USER: the original's scripts allow it.
const selectUser = `SELECT u.id, u.created_at, u.username, u.password, coalesce(r.name, 'USER'), u.disabled, u.version, u.deleted
	FROM users u LEFT JOIN roles r ON r.id = u.role_id `

// selectUserByName finds an account by its exact name, else by its name without regard to case.
const selectUserByName = selectUser + `WHERE (u.username = $1 OR u.name_key = $2) AND NOT u.deleted
	ORDER BY CASE WHEN u.username = $1 THEN 0 ELSE 1 END LIMIT 1`

func scanUser(row scanner) (u user, err error) {
	err = row.Scan(&u.ID, &u.CreatedAt, &u.Name, &u.Hash, &u.Role, &u.Disabled, &u.Version, &u.Deleted)
	return u, err
}

// noName tells a text that nothing is called by: a text of PostgreSQL is UTF-8 without U+0000.
func noName(text string) bool { return strings.Contains(text, "\x00") || !utf8.ValidString(text) }

func nameKey(name string) string { return strings.ToLower(name) }

// addUser stores a new account, and what the audit log is to say of that. errConflict: the name is taken.
func (s *store) addUser(ctx context.Context, name, hash, role string, entries ...auditEntry) (user, error) {
	u := user{Name: name, Hash: hash, Role: role, CreatedAt: time.Now().UTC().Truncate(time.Microsecond)}
	err := s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		err := tx.QueryRowContext(ctx, `INSERT INTO users (created_at, username, name_key, password, role_id)
			VALUES ($1, $2, $3, $4, (SELECT id FROM roles WHERE name = $5)) RETURNING id`,
			u.CreatedAt, name, nameKey(name), hash, role).Scan(&u.ID)
		if err != nil {
			return err
		}
		return addAudit(ctx, tx, user{}, entries...)
	})
	return u, err
}

// userByName finds an account by its exact name, else by its name without regard to case.
func (s *store) userByName(ctx context.Context, name string) (user, error) {
	if noName(name) {
		return user{}, errNotFound
	}
	return s.user(ctx, selectUserByName, name, nameKey(name))
}

func (s *store) userByID(ctx context.Context, id int64) (user, error) {
	return s.user(ctx, selectUser+`WHERE u.id = $1`, id)
}

func (s *store) user(ctx context.Context, query string, args ...any) (u user, err error) {
	err = s.row(ctx, func(row scanner) (err error) {
		u, err = scanUser(row)
		return err
	}, query, args...)
	return u, err
}

// allUsers lists every account by name.
func (s *store) allUsers(ctx context.Context) ([]user, error) {
	users, err := s.users(ctx, selectUser)
	slices.SortFunc(users, func(a, b user) int { return strings.Compare(a.Name, b.Name) }) // the databases differ in what is less
	return users, err
}

// usersChangedSince lists, by version, the accounts whose version is above v.
func (s *store) usersChangedSince(ctx context.Context, v int64) ([]user, error) {
	return s.users(ctx, selectUser+`WHERE u.version > $1 ORDER BY u.version`, v)
}

func (s *store) users(ctx context.Context, query string, args ...any) (users []user, err error) {
	err = s.each(ctx, func(rows *sql.Rows) error {
		u, err := scanUser(rows)
		users = append(users, u)
		return err
	}, query, args...)
	return users, err
}

// replaceHash stores a better hash of the same password. It does nothing if the password was changed.
func (s *store) replaceHash(ctx context.Context, id int64, old, hash string) error {
	return s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE users SET password = $1 WHERE id = $2 AND password = $3`, hash, id, old)
		return err
	})
}

// changeUser applies fn to an account, by name, and raises its version: every token that it has stops working.
// No other change ever gets the same version. fn returns what the audit log is to say; if that is nothing, nothing is
// changed. by is who does it, the zero value for a command on the server's machine, and the account as it is now is
// returned. errNotFound: there is no such account. errTokenInvalid: by is not as it was. errLastAdmin: no ADMIN would be
// left that can log in; a command may do that.
func (s *store) changeUser(ctx context.Context, by user, name string, fn func(*user) ([]auditEntry, error)) (u user, err error) {
	err = s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if u, err = s.lockUser(ctx, tx, by, name); err != nil {
			return err
		}
		before := u
		entries, err := fn(&u)
		if err != nil || len(entries) == 0 {
			return err
		}
		if by.ID != 0 {
			if err := keepAdmin(ctx, tx, before, u); err != nil {
				return err
			}
		}
		err = tx.QueryRowContext(ctx, `UPDATE users SET password = $1, role_id = (SELECT id FROM roles WHERE name = $2),
			disabled = $3, version = (SELECT max(version) + 1 FROM users) WHERE id = $4 RETURNING version`,
			u.Hash, u.Role, u.Disabled, u.ID).Scan(&u.Version)
		if err != nil {
			return err
		}
		return addAudit(ctx, tx, by, entries...)
	})
	return u, err
}

// lockUser finds an account by its name, and keeps all accounts as they are until the end of the transaction.
func (s *store) lockUser(ctx context.Context, tx *sql.Tx, by user, name string) (user, error) {
	if err := s.lockUsers(ctx, tx); err != nil {
		return user{}, err
	}
	if err := sameVersion(ctx, tx, by); err != nil {
		return user{}, err
	}
	if noName(name) {
		return user{}, errNotFound
	}
	return scanUser(tx.QueryRowContext(ctx, selectUserByName, name, nameKey(name)))
}

// sameVersion returns errTokenInvalid if u, who does something, is not what the database has any more.
func sameVersion(ctx context.Context, tx *sql.Tx, u user) error {
	if u.ID == 0 {
		return nil
	}
	var version int64
	err := tx.QueryRowContext(ctx, `SELECT version FROM users WHERE id = $1`, u.ID).Scan(&version)
	if err == nil && version != u.Version {
		err = errTokenInvalid
	}
	return err
}

// keepAdmin returns errLastAdmin if with the change of an account no ADMIN is left that can log in.
func keepAdmin(ctx context.Context, tx *sql.Tx, before, after user) error {
	can := func(u user) bool { return u.Role == roleAdmin && !u.Disabled }
	if !can(before) || can(after) {
		return nil
	}
	var others int
	err := tx.QueryRowContext(ctx, `SELECT count(*) FROM users u JOIN roles r ON r.id = u.role_id
		WHERE r.name = $1 AND NOT u.disabled AND u.id <> $2`, roleAdmin, before.ID).Scan(&others)
	if err == nil && others == 0 {
		err = errLastAdmin
	}
	return err
}

// deleteUser deletes the account of u by its own wish: it keeps its id, for its messages, and nothing else. The rooms
// that it owns pass to the member with the oldest account; those without another member are deleted, and returned, also with
// an error. It leaves so many rooms at a time, so that nobody waits for somebody who has very many.
func (s *store) deleteUser(ctx context.Context, u user) (after user, deletedRooms []int64, err error) {
	for after.Version == 0 {
		var deleted []int64
		err := s.write(ctx, func(ctx context.Context, tx *sql.Tx) (err error) {
			after, deleted, err = s.leaveOrDelete(ctx, tx, u)
			return err
		})
		if err != nil {
			return after, deletedRooms, err
		}
		deletedRooms = append(deletedRooms, deleted...)
		ctx = context.WithoutCancel(ctx) // what has begun goes through
	}
	return after, deletedRooms, nil
}

const roomsLeftAtOnce = 100

// leaveOrDelete is a step of deleteUser: it takes the account out of some rooms, or deletes it, if those are all. Then after is what
// it is now.
func (s *store) leaveOrDelete(ctx context.Context, tx *sql.Tx, u user) (after user, deletedRooms []int64, err error) {
	now, err := s.lockUser(ctx, tx, u, u.Name)
	if err != nil {
		return after, nil, err
	}
	if err := s.holdUser(ctx, tx, u.ID); err != nil { // who is about to join a room, or to make one, comes before or not at all
		return after, nil, err
	}
	now.Role, now.Disabled, now.Deleted = roleUser, true, true
	if err := keepAdmin(ctx, tx, u, now); err != nil {
		return after, nil, err
	}
	left, deletedRooms, entries, err := s.leaveRooms(ctx, tx, u, roomsLeftAtOnce)
	if err != nil {
		return after, nil, err
	}
	if left == roomsLeftAtOnce {
		return after, deletedRooms, addAudit(ctx, tx, u, entries...)
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM bans WHERE user_id = $1`, u.ID); err != nil {
		return after, nil, err
	}
	if now.Name, err = nameOfDeleted(ctx, tx, u.ID); err != nil {
		return after, nil, err
	}
	// The last: it waits for who has a room and is about to refer to this row.
	err = tx.QueryRowContext(ctx, `UPDATE users SET username = $1, name_key = $2, password = '', role_id = (SELECT id FROM roles WHERE name = $3),
		disabled = $4, deleted = $5, version = (SELECT max(version) + 1 FROM users) WHERE id = $6 RETURNING version`,
		now.Name, nameKey(now.Name), now.Role, true, true, u.ID).Scan(&now.Version)
	if err != nil {
		return after, nil, err
	}
	return now, deletedRooms, addAudit(ctx, tx, u, append(entries, auditEntry{auditUserDeleted, u.Name, "now " + now.Name})...)
}

// nameOfDeleted is what a deleted account is called: with a space, so nobody can register it. The original's names may
// have one.
func nameOfDeleted(ctx context.Context, tx *sql.Tx, id int64) (string, error) {
	for name := fmt.Sprint("deleted ", id); ; name += "." {
		var taken int
		err := tx.QueryRowContext(ctx, `SELECT count(*) FROM users WHERE username = $1 OR name_key = $1`, name).Scan(&taken)
		if err != nil || taken == 0 {
			return name, err
		}
	}
}

// findUsers lists accounts by id, from the one after an id on, at most limit of those with the query in their name: without
// regard to the case of ASCII letters at least.
func (s *store) findUsers(ctx context.Context, query string, after uint64, limit int) ([]user, error) {
	if noName(query) {
		return nil, nil
	}
	exact, folded := like(query)
	return s.users(ctx, selectUser+`WHERE u.id > $1 AND NOT u.deleted
		AND (u.username LIKE $2 ESCAPE '\' OR lower(u.username) LIKE $3 ESCAPE '\') ORDER BY u.id LIMIT $4`, int64(after), exact, folded, limit)
}

// like returns patterns for what has a text in it: as it is, and in lower case.
func like(text string) (exact, folded string) {
	pattern := "%" + strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`).Replace(text) + "%"
	return pattern, strings.ToLower(pattern)
}
