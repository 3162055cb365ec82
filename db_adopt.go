package main

import (
	"context"
	"database/sql"
	"errors"
	"strings"
)

// adopt makes a database of the original project one of this program. No account changes: where names differ in
// case only, the first one is found by either spelling, the others by their own.
func (s *store) adopt(ctx context.Context, tx *sql.Tx) error {
	for _, statement := range []string{
		`INSERT INTO roles (name) VALUES ('USER'), ('ADMIN') ON CONFLICT DO NOTHING`,
		`ALTER TABLE users ADD COLUMN name_key text UNIQUE, ADD COLUMN disabled boolean NOT NULL DEFAULT false, ADD COLUMN version bigint NOT NULL DEFAULT 0`,
	} {
		if _, err := tx.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	if err := s.fillNameKeys(ctx, tx); err != nil {
		return err
	}
	// The rest of version 1, without the two tables that are there.
	_, rest, ok1 := strings.Cut(schemaSteps()[0], "CREATE TABLE schema_version")
	before, after, ok2 := strings.Cut(rest, "CREATE TABLE roles")
	_, after, ok3 := strings.Cut(after, "CREATE INDEX users_version")
	if !ok1 || !ok2 || !ok3 {
		return errors.New("schema.sql is not what adopt expects")
	}
	if err := s.execSchema(ctx, tx, "CREATE TABLE schema_version"+before+"CREATE INDEX users_version"+after); err != nil {
		return err
	}
	return s.upgrade(ctx, tx, 1, schemaVersion)
}

func (s *store) fillNameKeys(ctx context.Context, tx *sql.Tx) error {
	rows, err := tx.QueryContext(ctx, `SELECT id, username FROM users ORDER BY id`)
	if err != nil {
		return err
	}
	defer rows.Close()
	var ids []int64
	var keys []string
	taken := map[string]bool{}
	for rows.Next() {
		var id int64
		var name string
		if err := rows.Scan(&id, &name); err != nil {
			return err
		}
		if key := nameKey(name); !taken[key] {
			taken[key] = true
			ids, keys = append(ids, id), append(keys, key)
		}
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `UPDATE users u SET name_key = k.key FROM unnest($1::bigint[], $2::text[]) AS k (id, key) WHERE u.id = k.id`, ids, keys)
	return err
}
