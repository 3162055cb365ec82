package main

import (
	"context"
	"database/sql"
	"slices"
	"strings"
	"time"
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
}

const (
	roleUser  = "USER"
	roleAdmin = "ADMIN"
)

// An account without a role is a USER: the original's scripts allow it.
const selectUser = `SELECT u.id, u.created_at, u.username, u.password, coalesce(r.name, 'USER'), u.disabled, u.version
	FROM users u LEFT JOIN roles r ON r.id = u.role_id `

// selectUserByName finds an account by its exact name, else by its name without regard to case.
const selectUserByName = selectUser + `WHERE u.username = $1 OR u.name_key = $2
	ORDER BY CASE WHEN u.username = $1 THEN 0 ELSE 1 END LIMIT 1`

func scanUser(row scanner) (u user, err error) {
	err = row.Scan(&u.ID, &u.CreatedAt, &u.Name, &u.Hash, &u.Role, &u.Disabled, &u.Version)
	return u, err
}

// hasNUL tells a text that nothing is called by: a text of PostgreSQL cannot have U+0000.
func hasNUL(text string) bool { return strings.Contains(text, "\x00") }

func nameKey(name string) string { return strings.ToLower(name) }

// addUser stores a new account. errConflict: the name is taken.
func (s *store) addUser(ctx context.Context, name, hash, role string) (user, error) {
	u := user{Name: name, Hash: hash, Role: role, CreatedAt: time.Now().UTC().Truncate(time.Microsecond)}
	err := s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		return tx.QueryRowContext(ctx, `INSERT INTO users (created_at, username, name_key, password, role_id)
			VALUES ($1, $2, $3, $4, (SELECT id FROM roles WHERE name = $5)) RETURNING id`,
			u.CreatedAt, name, nameKey(name), hash, role).Scan(&u.ID)
	})
	return u, err
}

// userByName finds an account by its exact name, else by its name without regard to case.
func (s *store) userByName(ctx context.Context, name string) (user, error) {
	if hasNUL(name) {
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
// No other change ever gets the same version. errNotFound: there is no such account.
func (s *store) changeUser(ctx context.Context, name string, fn func(*user)) error {
	return s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if err := s.lockUsers(ctx, tx); err != nil {
			return err
		}
		if hasNUL(name) {
			return errNotFound
		}
		u, err := scanUser(tx.QueryRowContext(ctx, selectUserByName, name, nameKey(name)))
		if err != nil {
			return err
		}
		fn(&u)
		_, err = tx.ExecContext(ctx, `UPDATE users SET password = $1, role_id = (SELECT id FROM roles WHERE name = $2),
			disabled = $3, version = (SELECT max(version) + 1 FROM users) WHERE id = $4`, u.Hash, u.Role, u.Disabled, u.ID)
		return err
	})
}
