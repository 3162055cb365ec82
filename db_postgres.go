package main

import (
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
)

const (
	// pgConns is how many connections a server has to PostgreSQL, beside the one that holds its lock.
	pgConns = 16
	// pgTimeout is how long a transaction may take. A COMMIT that has no answer by then may have taken place.
	pgTimeout = 30 * time.Second
	// pgConnect is how long a new connection may take.
	pgConnect = 5 * time.Second
	// pgWait is how long a server waits at its start for a database that is away.
	pgWait = time.Minute
	// pgCheck is how often the lock is looked at.
	pgCheck = time.Second
	// The advisory locks: of the one server, and of who makes the schema.
	pgServerLock, pgSchemaLock = 0x67727063, 0x67727064
)

// postgresEngine is a PostgreSQL database.
type postgresEngine struct {
	db     *sql.DB
	log    *slog.Logger
	lock   *sql.Conn     // the connection that holds the lock, of a server
	lost   atomic.Bool   // somebody else may have the lock: nothing may be written
	stop   chan struct{} // ends keepLock
	kept   chan struct{} // closed when keepLock has ended
	cancel context.CancelFunc
}

func isPostgres(url string) bool {
	return strings.HasPrefix(url, "postgres://") || strings.HasPrefix(url, "postgresql://")
}

func openPostgres(ctx context.Context, s *store, o storeOptions) error {
	e := &postgresEngine{log: o.Log, stop: make(chan struct{}), kept: make(chan struct{})}
	s.engine, s.place = e, "that DATABASE_URL names"
	cfg, err := pgx.ParseConfig(o.URL)
	if err != nil {
		return errors.New("DATABASE_URL is no address of a PostgreSQL database: want postgres://USER:PASSWORD@HOST:PORT/DATABASE") // err may hold the password
	}
	s.place = fmt.Sprintf("%s of PostgreSQL on %s", cfg.Database, net.JoinHostPort(cfg.Host, fmt.Sprint(cfg.Port)))
	cfg.ConnectTimeout = cmp.Or(cfg.ConnectTimeout, pgConnect)
	cfg.RuntimeParams["application_name"] = cmp.Or(cfg.RuntimeParams["application_name"], "grpcchatter")
	e.db = stdlib.OpenDB(*cfg)
	e.db.SetMaxOpenConns(pgConns + 1)
	e.db.SetMaxIdleConns(pgConns + 1)
	e.db.SetConnMaxIdleTime(time.Minute)
	s.w, s.r = e.db, e.db
	if o.Exclusive {
		if err := e.await(ctx); err != nil {
			return err
		}
		if err := e.awaitLock(ctx); err != nil {
			return err
		}
		go e.keepLock()
	} else {
		close(e.kept)
	}
	if o.Bare {
		_, err := s.inspect(ctx, s.w)
		return err
	}
	return s.migrate(ctx, o.Create)
}

// await waits for a database that cannot be reached, or is about to start.
func (e *postgresEngine) await(ctx context.Context) error {
	told := false
	for end := time.Now().Add(pgWait); ; {
		err := e.db.PingContext(ctx)
		if err == nil || !errors.Is(e.kind(err), errUnavailable) || time.Now().After(end) {
			return err
		}
		if !told {
			e.log.Warn("the database does not answer: waiting for it", "for", pgWait, "cause", e.describe(err))
			told = true
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pgCheck):
		}
	}
}

// awaitLock takes the lock. PostgreSQL may need a moment to see that a server has been killed.
func (e *postgresEngine) awaitLock(ctx context.Context) error {
	for end := time.Now().Add(pgConnect); ; time.Sleep(50 * time.Millisecond) {
		err := e.takeLock(ctx)
		if !errors.Is(err, errLocked) || time.Now().After(end) {
			return err
		}
	}
}

// takeLock makes this the only server on the database, or returns errLocked. The lock goes with the connection.
func (e *postgresEngine) takeLock(ctx context.Context) error {
	conn, err := e.db.Conn(ctx)
	if err != nil {
		return err
	}
	var got bool
	err = conn.QueryRowContext(ctx, `SELECT pg_try_advisory_lock($1)`, int64(pgServerLock)).Scan(&got)
	if err == nil && !got {
		err = errLocked
	}
	if err != nil {
		_ = conn.Close()
		return err
	}
	e.lock = conn
	return nil
}

// keepLock takes the lock again whenever its connection is lost, until close. Meanwhile nothing is written.
func (e *postgresEngine) keepLock() {
	defer close(e.kept)
	tick := time.NewTicker(pgCheck)
	defer tick.Stop()
	for {
		select {
		case <-e.stop:
			return
		case <-tick.C:
		}
		ctx, cancel := context.WithTimeout(context.Background(), pgConnect)
		if e.lock != nil {
			if _, err := e.lock.ExecContext(ctx, `SELECT 1`); err != nil {
				e.lost.Store(true)
				e.log.Error("the connection that holds the server's lock is lost: nothing is stored until it is back", "cause", err)
				_ = e.lock.Raw(func(any) error { return driver.ErrBadConn }) // it must not go back to the others with a lock
				_ = e.lock.Close()
				e.lock = nil
			}
		}
		if e.lock == nil && e.takeLock(ctx) == nil {
			e.lost.Store(false)
			e.log.Info("the server has its lock again")
		}
		cancel()
	}
}

// close lets go of the lock.
func (e *postgresEngine) close() error {
	select {
	case <-e.kept: // there is no keepLock, or it has ended
	default:
		if e.lock != nil {
			close(e.stop)
			<-e.kept
		}
	}
	if e.lock != nil {
		_ = e.lock.Close() // with the connections of the pool
	}
	if e.db == nil {
		return nil
	}
	return e.db.Close()
}

func (*postgresEngine) types() []string {
	return []string{
		"{identity}", "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
		"{timestamp}", "timestamptz",
		"{bytes}", "bytea",
		" {clustered}", "",
	}
}

// state looks at the tables that a new one of ours would meet.
func (*postgresEngine) state(ctx context.Context, q querier) (s state, err error) {
	rows, err := q.QueryContext(ctx, `SELECT table_name, count(*) FILTER (WHERE column_name IN ('id', 'created_at', 'username', 'password', 'role_id', 'name'))
		FROM information_schema.columns WHERE table_schema = current_schema()
		AND table_name IN ('schema_version', 'settings', 'roles', 'users', 'rooms', 'members', 'messages') GROUP BY table_name`)
	if err != nil {
		return s, err
	}
	defer rows.Close()
	columns := map[string]int{} // of those that the original has
	for rows.Next() {
		var table string
		var n int
		if err := rows.Scan(&table, &n); err != nil {
			return s, err
		}
		columns[table] = n
	}
	_, ours := columns["schema_version"]
	switch {
	case rows.Err() != nil:
		return s, rows.Err()
	case len(columns) == 0:
		return stateEmpty, nil
	case ours:
		return stateOurs, nil
	case len(columns) == 2 && columns["users"] == 5 && columns["roles"] == 2:
		return stateOriginal, nil
	}
	return stateForeign, nil
}

func (*postgresEngine) lockSchema(ctx context.Context, tx *sql.Tx) error {
	_, err := tx.ExecContext(ctx, `SELECT pg_advisory_xact_lock($1)`, int64(pgSchemaLock))
	return err
}

func (*postgresEngine) lockUsers(ctx context.Context, tx *sql.Tx) error {
	_, err := tx.ExecContext(ctx, `LOCK TABLE users IN SHARE ROW EXCLUSIVE MODE`)
	return err
}

// writable returns errUnavailable if another server may be writing.
func (e *postgresEngine) writable() error {
	if e.lost.Load() {
		return errUnavailable
	}
	return nil
}

func (e *postgresEngine) transact(ctx context.Context, fn func(context.Context, *sql.Tx) error) error {
	if err := e.writable(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pgTimeout)
	defer cancel()
	tx, err := e.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err = fn(ctx, tx); err != nil {
		_ = tx.Rollback()
		return err
	}
	return tx.Commit()
}

// columnsOf are messages as arrays: one for each column of messageColumns.
func columnsOf(msgs []message) []any {
	n := len(msgs)
	rooms, seqs, users, sent := make([]int64, n), make([]int64, n), make([]int64, n), make([]int64, n)
	ids, bodies := make([][]byte, n), make([][]byte, n)
	for i, m := range msgs {
		rooms[i], seqs[i], users[i], sent[i], bodies[i] = m.RoomID, int64(m.Seq), m.UserID, m.SentAt, []byte(m.Body)
		if m.ClientMessageID != "" {
			ids[i] = []byte(m.ClientMessageID)
		}
	}
	return []any{rooms, seqs, users, sent, ids, bodies}
}

// addMessages takes one round trip: a statement alone is a transaction.
func (e *postgresEngine) addMessages(ctx context.Context, msgs []message) error {
	if err := e.writable(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, pgTimeout)
	defer cancel()
	_, err := e.db.ExecContext(ctx, `INSERT INTO messages (`+messageColumns+`)
		SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bytea[], $6::bytea[])`, columnsOf(msgs)...)
	return err
}

func (e *postgresEngine) storedBefore(ctx context.Context, msgs []message) ([]message, error) {
	ctx, cancel := context.WithTimeout(ctx, pgTimeout)
	defer cancel()
	c := columnsOf(msgs)
	rows, err := e.db.QueryContext(ctx, `SELECT m.room_id, m.seq, m.user_id, m.sent_at, m.client_message_id, m.body
		FROM unnest($1::bigint[], $2::bigint[], $3::bytea[]) AS w (room_id, user_id, id)
		JOIN messages m ON m.room_id = w.room_id AND m.user_id = w.user_id AND m.client_message_id = w.id`, c[0], c[2], c[4])
	if err != nil {
		return nil, err
	}
	return scanMessages(rows)
}

// kind knows PostgreSQL's codes (https://www.postgresql.org/docs/current/errcodes-appendix.html).
func (*postgresEngine) kind(err error) error {
	var pg *pgconn.PgError
	var network net.Error
	var connect *pgconn.ConnectError
	switch {
	case errors.As(err, &pg):
		switch {
		case strings.HasPrefix(pg.Code, "23"): // integrity constraint violation
			return errConflict
		case pg.Code == "53100":
			return errDiskFull
		case strings.HasPrefix(pg.Code, "53"), strings.HasPrefix(pg.Code, "08"), strings.HasPrefix(pg.Code, "57P"),
			strings.HasPrefix(pg.Code, "40"), pg.Code == "25006", pg.Code == "55P03", pg.Code == "57014":
			// too few resources, connection, shutdown, rollback, read-only, lock, timeout
			return errUnavailable
		}
		return nil
	case errors.As(err, &connect), errors.As(err, &network), errors.Is(err, driver.ErrBadConn), errors.Is(err, sql.ErrConnDone),
		errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed), errors.Is(err, context.DeadlineExceeded),
		err != nil && strings.Contains(err.Error(), "conn closed"):
		return errUnavailable
	}
	return nil
}

func (e *postgresEngine) describe(err error) error {
	var pg *pgconn.PgError
	var network *net.OpError
	var connect *pgconn.ConnectError
	switch {
	case errors.As(err, &pg):
		return fmt.Errorf("PostgreSQL says: %s (%s)", pg.Message, pg.Code)
	case errors.As(err, &network):
		return network
	case errors.As(err, &connect):
		return innermost(connect)
	case errors.Is(err, context.Canceled):
		return errors.New("interrupted")
	}
	return err
}

// innermost is the last of the errors that err wraps, or the first one of several.
func innermost(err error) error {
	for {
		switch e := err.(type) {
		case interface{ Unwrap() error }:
			if e.Unwrap() == nil {
				return err
			}
			err = e.Unwrap()
		case interface{ Unwrap() []error }:
			if len(e.Unwrap()) == 0 {
				return err
			}
			err = e.Unwrap()[0]
		default:
			return err
		}
	}
}

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
	// The rest of the schema, without the two tables that are there.
	_, rest, _ := strings.Cut(schemaSQL, "CREATE TABLE schema_version")
	before, after, _ := strings.Cut(rest, "CREATE TABLE roles")
	_, after, _ = strings.Cut(after, "CREATE INDEX users_version")
	return s.execSchema(ctx, tx, "CREATE TABLE schema_version"+before+"CREATE INDEX users_version"+after)
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

func (*postgresEngine) value(kind columnKind, v any) any {
	if text, ok := v.(string); ok && kind == kindBytes {
		return []byte(text)
	}
	return v
}

func (*postgresEngine) override() string { return "OVERRIDING SYSTEM VALUE" }

func (*postgresEngine) numbered(query string) string {
	var b strings.Builder
	n := 0
	for part := range strings.SplitAfterSeq(query, "?") {
		if before, ok := strings.CutSuffix(part, "?"); ok {
			n++
			part = fmt.Sprint(before, "$", n)
		}
		b.WriteString(part)
	}
	return b.String()
}

func (*postgresEngine) lastID(ctx context.Context, q querier, table string) (id int64, err error) {
	err = q.QueryRowContext(ctx, `SELECT coalesce(pg_sequence_last_value(pg_get_serial_sequence($1, 'id')::regclass), 0)`, table).Scan(&id)
	return id, err
}

func (*postgresEngine) setLastID(ctx context.Context, tx *sql.Tx, table string, id int64) error {
	if id == 0 {
		return nil
	}
	_, err := tx.ExecContext(ctx, `SELECT setval(pg_get_serial_sequence($1, 'id'), $2)`, table, id)
	return err
}
