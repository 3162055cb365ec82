package main

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// testdata/schemaN.sql is schema.sql as it was in version N, and never changes. A database of each is brought to
// today's version, and is then like a new one; with its data, and so is a backup of it. The last of them is schema.sql itself.
func TestOldSchemas(t *testing.T) {
	t.Parallel()
	for version := 1; version <= schemaVersion; version++ {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			frozen, err := os.ReadFile(fmt.Sprintf("testdata/schema%d.sql", version))
			if err != nil {
				t.Fatal(err)
			}
			if version == schemaVersion && string(frozen) != schemaSQL {
				t.Error("schema.sql was changed: raise schemaVersion, add the new version's statements at the end, and freeze it")
			}
			old, fresh := t.TempDir(), t.TempDir()
			made := openStoreIn(t, old, func(ctx context.Context, s *store, tx *sql.Tx) error {
				if err := s.execSchema(ctx, tx, string(frozen)); err != nil {
					return err
				}
				_, err := tx.ExecContext(ctx, `UPDATE schema_version SET version = $1`, version)
				return err
			})
			if _, err := made.addUser(t.Context(), "ann", "x", roleAdmin); err != nil {
				t.Fatal(err)
			}
			// A backup is of the version that the data has: with it one can go back to the program of that.
			backup, restored := filepath.Join(t.TempDir(), "backup"), filepath.Join(t.TempDir(), "grpcchatter.db")
			mustRun(t, old, "", "backup", backup, "--database-url="+databaseURL(t, old))
			var its int
			if err := openSQL(t, backup).QueryRow(`SELECT version FROM schema_version`).Scan(&its); err != nil || its != version {
				t.Errorf("the backup is of version %d, %v", its, err)
			}
			mustRun(t, old, "", "restore", backup, "--database-url=sqlite:"+restored)
			if list := mustRun(t, old, "", "user", "list", "--database-url=sqlite:"+restored); !strings.Contains(list, "ann") {
				t.Errorf("user list after a restore:\n%s", list)
			}
			if pgServer == nil {
				defer wantSameSchema(t, openData(t, filepath.Dir(restored)), openData(t, fresh))
			}
			if version < schemaVersion { // other commands leave the data as it is, which is a running server's perhaps
				for _, command := range [][]string{{"export"}, {"user", "list"}, {"user", "disable", "ann"}} {
					status, out, errOut := runProgram(t, old, nil, "", append(command, "--database-url="+databaseURL(t, old))...)
					wantFailure(t, status, out, errOut, "older version")
				}
				mustRun(t, old, "", "migrate", "--from="+databaseURL(t, old), "--to=sqlite:"+filepath.Join(t.TempDir(), "moved.db"))
				if err := made.w.QueryRow(`SELECT version FROM schema_version`).Scan(&its); err != nil || its != version {
					t.Errorf("a command has made version %d of it, %v", its, err)
				}
			}
			if err := made.close(); err != nil {
				t.Fatal(err)
			}
			server, err := openStore(t.Context(), storeOptions{URL: databaseURL(t, old), Exclusive: true, Upgrade: true})
			if err != nil {
				t.Fatal(err)
			}
			if err := server.close(); err != nil {
				t.Fatal(err)
			}
			list := mustRun(t, old, "", "user", "list", "--database-url="+databaseURL(t, old))
			if !strings.Contains(list, "ann") {
				t.Errorf("user list:\n%s", list)
			}
			mustRun(t, fresh, testPassword, "user", "add", "ann", "--database-url="+databaseURL(t, fresh))
			wantSameSchema(t, openData(t, old), openData(t, fresh))
		})
	}
}

// openStoreIn opens an empty database in a folder, and makes what is in it.
func openStoreIn(t testing.TB, dir string, make func(context.Context, *store, *sql.Tx) error) *store {
	t.Helper()
	if pgServer == nil {
		if err := os.WriteFile(filepath.Join(dir, "grpcchatter.db"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, err := openStore(t.Context(), storeOptions{URL: databaseURL(t, dir), Bare: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.write(t.Context(), func(ctx context.Context, tx *sql.Tx) error { return make(ctx, s, tx) }); err != nil {
		t.Fatal(err)
	}
	return s
}

// wantSameSchema compares columns, indexes and constraints of two databases.
func wantSameSchema(t testing.TB, a, b *sql.DB) {
	t.Helper()
	more := []string{`SELECT tbl_name, coalesce(sql, name) FROM sqlite_master WHERE type = 'index'`,
		`SELECT m.name, f."from" || ' -> ' || f."table" || ' ' || f."to" FROM sqlite_master m, pragma_foreign_key_list(m.name) f WHERE m.type = 'table'`}
	if pgServer != nil {
		more = []string{`SELECT tablename, indexdef FROM pg_indexes WHERE schemaname = current_schema()`,
			`SELECT conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = current_schema()::regnamespace`}
	}
	read := func(db *sql.DB) []string {
		all := columnsOfAll(t, db)
		for _, query := range more {
			all = append(all, readPairs(t, db, query)...)
		}
		slices.Sort(all)
		return all
	}
	got, want := read(a), read(b)
	if len(want) < 40 || !slices.Equal(got, want) {
		t.Errorf("the schema is\n%s\nand a new one\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// columnsOfAll lists "table: column and what it is" of a database.
func columnsOfAll(t testing.TB, db *sql.DB) []string {
	t.Helper()
	if pgServer == nil {
		return readPairs(t, db, `SELECT m.name, c.name || ' ' || c.type || ' ' || c."notnull" || ' ' || c.pk || ' ' || coalesce(c.dflt_value, '')
			FROM sqlite_master m, pragma_table_info(m.name) c WHERE m.type = 'table'`)
	}
	return readPairs(t, db, `SELECT table_name, column_name || ' ' || data_type || ' ' || coalesce(character_maximum_length, 0) || ' ' || is_nullable
		|| ' ' || replace(lower(coalesce(column_default, '')), 'current_timestamp', 'now()') || ' ' || coalesce(identity_generation, '')
		FROM information_schema.columns WHERE table_schema = current_schema()`)
}

func readPairs(t testing.TB, db *sql.DB, query string) (all []string) {
	t.Helper()
	rows, err := db.Query(query)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var table, what string
		if err := rows.Scan(&table, &what); err != nil {
			t.Fatal(err)
		}
		all = append(all, table+": "+what)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// migrate copies every column of every table.
func TestMigrateKnowsTheSchema(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	mustRun(t, dir, testPassword, "user", "add", "ann", "--database-url="+databaseURL(t, dir))
	db := openData(t, dir)
	tables := map[string][]string{}
	for _, line := range columnsOfAll(t, db) {
		table, column, _ := strings.Cut(line, ": ")
		column, _, _ = strings.Cut(column, " ")
		tables[table] = append(tables[table], column)
	}
	delete(tables, "schema_version")
	delete(tables, "sqlite_sequence")
	for _, table := range copiedTables(schemaVersion) {
		want, got := tables[table.name], strings.Split(table.list(), ", ")
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("of %s migrate copies %v, and there are %v", table.name, got, want)
		}
		delete(tables, table.name)
	}
	if len(tables) > 0 {
		t.Errorf("migrate does not know %v", tables)
	}
}
