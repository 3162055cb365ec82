package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// migrateCommand copies all data from one database to another.
type migrateCommand struct {
	From string `required:"" env:"MIGRATE_FROM" placeholder:"URL" help:"The database to copy: sqlite:PATH or postgres://… No server may be running on it. Others on this machine can see a flag: where there is a password, the variable is safer."`
	To   string `required:"" env:"MIGRATE_TO" placeholder:"URL" help:"The database to fill. It must have no data."`
}

// copiedTable is a table and its columns. The order of the tables is that of their references.
type copiedTable struct {
	name    string
	key     string // what orders its rows, as in schema.sql
	columns []copiedColumn
}

type copiedColumn struct {
	name string
	kind columnKind
}

type columnKind int

const (
	kindInt columnKind = iota
	kindText
	kindBytes // text in SQLite, bytea in PostgreSQL
	kindTime
	kindBool
)

// copiedTables are all tables of a version of the schema, with all their columns.
func copiedTables(version int) []copiedTable {
	since := map[string]int{"users.deleted": 2, "rooms.purged_seq": 2, "bans": 2, "audit_log": 2, "certificates": 2} // others: 1
	tables := []copiedTable{
		{"settings", "name {bytewise}", []copiedColumn{{"name", kindText}, {"value", kindText}}},
		{"roles", "id", []copiedColumn{{"id", kindInt}, {"name", kindText}}},
		{"users", "id", []copiedColumn{{"id", kindInt}, {"created_at", kindTime}, {"username", kindText}, {"password", kindText},
			{"role_id", kindInt}, {"name_key", kindText}, {"disabled", kindBool}, {"version", kindInt}, {"deleted", kindBool}}},
		{"rooms", "id", []copiedColumn{{"id", kindInt}, {"created_at", kindTime}, {"short_code", kindText}, {"name", kindText},
			{"password", kindText}, {"owner_id", kindInt}, {"purged_seq", kindInt}}},
		{"members", "room_id, user_id", []copiedColumn{{"room_id", kindInt}, {"user_id", kindInt}}},
		{"bans", "room_id, user_id", []copiedColumn{{"room_id", kindInt}, {"user_id", kindInt}, {"created_at", kindTime}}},
		{"messages", "room_id, seq", []copiedColumn{{"room_id", kindInt}, {"seq", kindInt}, {"user_id", kindInt}, {"sent_at", kindInt},
			{"client_message_id", kindBytes}, {"body", kindBytes}}},
		{"audit_log", "id", []copiedColumn{{"id", kindInt}, {"created_at", kindTime}, {"actor", kindText}, {"action", kindText},
			{"target", kindText}, {"detail", kindText}}},
		{"certificates", "name {bytewise}", []copiedColumn{{"name", kindText}, {"value", kindBytes}}},
	}
	tables = slices.DeleteFunc(tables, func(t copiedTable) bool { return since[t.name] > version })
	for i, t := range tables {
		tables[i].columns = slices.DeleteFunc(t.columns, func(c copiedColumn) bool { return since[t.name+"."+c.name] > version })
	}
	return tables
}

func (t copiedTable) list() string {
	names := make([]string, len(t.columns))
	for i, c := range t.columns {
		names[i] = c.name
	}
	return strings.Join(names, ", ")
}

// copyBatch and copyBytes are how many rows, and about how many bytes, one INSERT has at most.
const (
	copyBatch = 500
	copyBytes = 4 << 20
)

func (c *migrateCommand) Run(ctx context.Context, std stdio) error {
	for _, flag := range []struct{ name, url string }{{"--from", c.From}, {"--to", c.To}} {
		if !isDatabase(flag.url) {
			return fmt.Errorf("%s: want sqlite:PATH or postgres://USER:PASSWORD@HOST:PORT/DATABASE", flag.name)
		}
	}
	if c.From == c.To {
		return errors.New("--from and --to are the same database")
	}
	log := slog.New(slog.NewTextHandler(std.err, nil))
	from, err := openStore(ctx, storeOptions{URL: c.From, Exclusive: true, Bare: true, Log: log})
	if err != nil {
		return err
	}
	defer from.close()
	if err := from.ours(ctx, from.w); err != nil {
		return fmt.Errorf("cannot copy the database %s: %w", from.place, err)
	}
	report, err := c.fill(ctx, from, log, std.err)
	if err != nil {
		return err
	}
	_, err = io.WriteString(std.out, report+"Both databases hold the same. The server can now be started with DATABASE_URL naming the new one.\n")
	return err
}

// fill copies everything to the target. A SQLite file that was made for it goes if that fails.
func (c *migrateCommand) fill(ctx context.Context, from *store, log *slog.Logger, progress io.Writer) (report string, err error) {
	if path, ok := strings.CutPrefix(c.To, "sqlite:"); ok {
		if _, missing := os.Lstat(path); errors.Is(missing, os.ErrNotExist) {
			defer func() {
				if err == nil {
					return
				}
				removeDatabase(path)
				_ = os.Remove(path + lockSuffix)
			}()
		}
	}
	to, err := openStore(ctx, storeOptions{URL: c.To, Create: true, Exclusive: true, Bare: true, Log: log})
	if errors.Is(err, errLocked) {
		return "", fmt.Errorf("%w, or it is the one to copy from", err)
	} else if err != nil {
		return "", err
	}
	report, err = copyAll(ctx, from, to, progress)
	return report, errors.Join(interrupted(ctx, err, "the target is as it was"), to.close())
}

// copyAll fills to in one transaction, and returns what it has compared. An older from is copied as it is, to an empty to.
func copyAll(ctx context.Context, from, to *store, progress io.Writer) (report string, err error) {
	read, err := from.r.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelSerializable, ReadOnly: true}) // one state for all tables
	if err != nil {
		return "", fmt.Errorf("cannot read the database %s: %w", from.place, from.describe(err))
	}
	defer read.Rollback() // it has only read
	version, err := from.version(ctx, read)
	if err != nil {
		return "", fmt.Errorf("cannot read the database %s: %w", from.place, from.describe(err))
	}
	// The answer to a COMMIT is waited for though ctx ends, but not for ever.
	lasting, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	write, err := to.w.BeginTx(lasting, nil)
	if err != nil {
		return "", fmt.Errorf("cannot fill the database %s: %w", to.place, to.describe(err))
	}
	defer write.Rollback() // does nothing after a commit
	if err := prepareTarget(ctx, to, write, version); err != nil {
		return "", fmt.Errorf("cannot fill the database %s: %w", to.place, to.describe(err))
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TABLE\tROWS\tSHA-256, FIRST 64 BITS")
	for _, t := range copiedTables(version) {
		failed := func(err error) error {
			return fmt.Errorf("cannot copy the table %s: %w", t.name, from.describe(to.describe(err)))
		}
		sum, err := t.copy(ctx, from, read, to, write, progress)
		if err != nil {
			return "", failed(err)
		}
		again, err := t.checksum(ctx, to, write, nil)
		if err != nil {
			return "", failed(err)
		}
		if sum != again {
			return "", fmt.Errorf("table %s: %d rows with the checksum %s were read, and %d with %s were written: nothing is changed", t.name, sum.rows, sum.hash, again.rows, again.hash)
		}
		fmt.Fprintf(w, "%s\t%d\t%s\n", t.name, sum.rows, sum.hash)
		if t.key == "id" {
			last, err := from.lastID(ctx, read, t.name)
			if err == nil {
				err = to.setLastID(ctx, write, t.name, last)
			}
			if err != nil {
				return "", failed(err)
			}
		}
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	defer context.AfterFunc(ctx, func() { time.AfterFunc(pgTimeout, cancel) })()
	if err := write.Commit(); err != nil {
		return "", changedError{fmt.Errorf("no good answer to COMMIT: look into the database %s before another try: %w", to.place, to.describe(err))}
	}
	_ = w.Flush() // to a strings.Builder
	return b.String(), nil
}

// prepareTarget makes the schema of a version, or checks that its tables are empty.
func prepareTarget(ctx context.Context, to *store, tx *sql.Tx, version int) error {
	if err := to.lockSchema(ctx, tx); err != nil {
		return err
	}
	state, err := to.inspect(ctx, tx)
	switch {
	case err != nil:
		return err
	case state == stateEmpty:
		err = to.upgrade(ctx, tx, 0, version)
	case state == stateOriginal:
		err = errors.New("it has data already")
	default:
		var has int
		if has, err = to.version(ctx, tx); err != nil {
			return err
		}
		if err := to.upgrade(ctx, tx, has, schemaVersion); err != nil {
			return err
		}
		for _, t := range copiedTables(schemaVersion) {
			var n int
			if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM `+t.name).Scan(&n); err != nil {
				return err
			}
			if n > 0 && t.name != "roles" && t.name != "settings" { // which a server fills at its first start
				return errors.New("it has data already")
			}
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM settings`)
	}
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `DELETE FROM roles`)
	return err
}

// checksum is what two tables are compared by.
type checksum struct {
	rows int
	hash string
}

// copy reads a table, writes it to another database, and returns the checksum of what it read.
func (t copiedTable) copy(ctx context.Context, from *store, read *sql.Tx, to *store, write *sql.Tx, progress io.Writer) (checksum, error) {
	var total int
	if err := read.QueryRowContext(ctx, `SELECT count(*) FROM `+t.name).Scan(&total); err != nil {
		return checksum{}, err
	}
	row := "(?" + strings.Repeat(", ?", len(t.columns)-1) + "), "
	var args []any
	rows, done, size := 0, 0, 0
	told := time.Now()
	flush := func() error {
		if rows == 0 {
			return nil
		}
		query := `INSERT INTO ` + t.name + ` (` + t.list() + `) ` + to.override() + ` VALUES ` + to.numbered(strings.TrimSuffix(strings.Repeat(row, rows), ", "))
		_, err := write.ExecContext(ctx, query, args...)
		done += rows
		clear(args)
		args, rows, size = args[:0], 0, 0
		if time.Since(told) > time.Second {
			told = time.Now()
			fmt.Fprintf(progress, "%s: %d of %d\n", t.name, done, total)
		}
		return err
	}
	sum, err := t.checksum(ctx, from, read, func(values []any) error {
		for i, v := range values {
			args = append(args, to.value(t.columns[i].kind, v))
			if text, ok := v.(string); ok {
				size += len(text)
			}
		}
		if rows++; rows == copyBatch || size >= copyBytes {
			return flush()
		}
		return nil
	})
	if err == nil {
		err = flush()
	}
	return sum, err
}

// checksum reads a table, calls each for every row if it is not nil, and returns the checksum.
func (t copiedTable) checksum(ctx context.Context, s *store, tx *sql.Tx, each func([]any) error) (sum checksum, err error) {
	rows, err := tx.QueryContext(ctx, `SELECT `+t.list()+` FROM `+t.name+` ORDER BY `+s.inDialect(t.key))
	if err != nil {
		return sum, err
	}
	defer rows.Close()
	h := sha256.New()
	values, scanned := make([]any, len(t.columns)), make([]any, len(t.columns))
	for i, c := range t.columns {
		scanned[i] = c.kind.target()
	}
	for rows.Next() {
		if err := rows.Scan(scanned...); err != nil {
			return sum, err
		}
		for i := range scanned {
			values[i] = plain(scanned[i])
			hashValue(h, values[i])
		}
		sum.rows++
		if each != nil {
			if err := each(values); err != nil {
				return sum, err
			}
		}
	}
	sum.hash = hex.EncodeToString(h.Sum(nil))[:16]
	return sum, rows.Err()
}

// target is what a column is scanned into.
func (k columnKind) target() any {
	switch k {
	case kindInt:
		return new(sql.NullInt64)
	case kindTime:
		return new(sql.NullTime)
	case kindBool:
		return new(sql.NullBool)
	default:
		return new(sql.NullString)
	}
}

// plain is what was scanned, nil for NULL.
func plain(scanned any) any {
	switch s := scanned.(type) {
	case *sql.NullInt64:
		if s.Valid {
			return s.Int64
		}
	case *sql.NullTime:
		if s.Valid {
			return s.Time.UTC().Truncate(time.Microsecond)
		}
	case *sql.NullBool:
		if s.Valid {
			return s.Bool
		}
	case *sql.NullString:
		if s.Valid {
			return s.String
		}
	}
	return nil
}

// hashValue adds a value to a checksum, so that no two rows look alike.
func hashValue(h hash.Hash, v any) {
	var b bytes.Buffer
	switch v := v.(type) {
	case nil:
		b.WriteByte('0')
	case int64:
		b.WriteByte('i')
		_ = binary.Write(&b, binary.BigEndian, v)
	case time.Time:
		b.WriteByte('t')
		_ = binary.Write(&b, binary.BigEndian, v.UnixMicro())
	case bool:
		fmt.Fprint(&b, v)
	case string:
		fmt.Fprintf(&b, "s%d:", len(v))
		b.WriteString(v)
	}
	h.Write(b.Bytes())
}
