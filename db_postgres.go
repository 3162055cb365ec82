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
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
)

const (
	// pgWriters and pgReaders are how many connections a server has to PostgreSQL, beside the one of its lock.
	pgWriters, pgReaders = 4, 12
	// pgTimeout is how long a transaction, or a read, may take. A COMMIT that has no answer by then may have taken place.
	pgTimeout = 10 * time.Second
	// pgConnect is how long a new connection may take.
	pgConnect = 5 * time.Second
	// pgWait is how long a server waits at its start for a database that is away.
	pgWait = time.Minute
	// pgSchemaLock is the advisory lock of who makes or adopts the schema.
	pgSchemaLock = 0x67727064
)

// postgresEngine is a PostgreSQL database.
type postgresEngine struct {
	// Who writes does not queue behind all who read.
	w, r *sql.DB
	lock *serverLock // nil: it is not a server's
}

func isPostgres(url string) bool {
	return strings.HasPrefix(url, "postgres://") || strings.HasPrefix(url, "postgresql://")
}

func openPostgres(ctx context.Context, s *store, o storeOptions) error {
	e := &postgresEngine{}
	s.engine, s.place = e, "that DATABASE_URL names"
	cfg, err := pgx.ParseConfig(o.URL)
	if err != nil {
		err = innermost(err)
		if _, bad := url.Parse(o.URL); bad != nil {
			err = errors.New("want postgres://USER:PASSWORD@HOST:PORT/DATABASE") // err may hold a part of the password
		}
		return fmt.Errorf("DATABASE_URL is no address of a PostgreSQL database: %w", err)
	}
	s.place = fmt.Sprintf("%s of PostgreSQL on %s", cfg.Database, net.JoinHostPort(cfg.Host, fmt.Sprint(cfg.Port)))
	cfg.ConnectTimeout = cmp.Or(cfg.ConnectTimeout, pgConnect)
	cfg.DialFunc = dialPostgres
	cfg.RuntimeParams["application_name"] = cmp.Or(cfg.RuntimeParams["application_name"], "grpcchatter")
	// The other side has to find out too that this one is gone: it would keep the lock for hours.
	for key, value := range map[string]string{"tcp_keepalives_idle": "10", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3",
		"tcp_user_timeout": "20000"} {
		cfg.RuntimeParams[key] = cmp.Or(cfg.RuntimeParams[key], value)
	}
	pool := func(conns int) *sql.DB {
		db := stdlib.OpenDB(*cfg)
		db.SetMaxOpenConns(conns)
		db.SetMaxIdleConns(conns)
		db.SetConnMaxIdleTime(time.Minute)
		return db
	}
	e.w, e.r = pool(pgWriters), pool(pgReaders)
	s.w, s.r = e.w, e.r
	if o.Exclusive {
		if err := await(ctx, e, o.Log); err != nil {
			return err
		}
		if e.lock, err = newServerLock(ctx, pool(1), o.Log, s.regained); err != nil {
			return err
		}
	}
	switch {
	case o.ReadOnly:
		return s.current(ctx)
	case o.Bare:
		_, err := s.inspect(ctx, s.w)
		return err
	}
	return s.migrate(ctx, o)
}

// dialPostgres makes a connection that ends when the other side is gone without a word.
func dialPostgres(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
	if tcp, ok := conn.(*net.TCPConn); ok {
		setAckTimeout(tcp, pgTimeout)
	}
	return conn, err
}

// await waits for a database that cannot be reached, or is about to start.
func await(ctx context.Context, e *postgresEngine, log *slog.Logger) error {
	told := false
	for end := time.Now().Add(pgWait); ; {
		err := e.r.PingContext(ctx)
		if err == nil || !isAway(err) || time.Now().After(end) {
			return err
		}
		if !told {
			log.Warn("the database does not answer: waiting for it", "for", pgWait, "cause", e.describe(err))
			told = true
		}
		if err := pause(ctx, pgCheck); err != nil {
			return err
		}
	}
}

// isAway tells what passes by itself from what somebody has to mend.
func isAway(err error) bool {
	var pg *pgconn.PgError
	var network net.Error
	switch {
	case errors.As(err, &pg):
		return pg.Code == "57P03" || pg.Code == "53300" // it is about to start; it has too many connections
	case errors.As(err, &network), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return true
	}
	return false
}

func (e *postgresEngine) close() error {
	if e.w == nil {
		return nil
	}
	errs := []error{e.w.Close(), e.r.Close()}
	if e.lock != nil {
		errs = append(errs, e.lock.close()) // the last: nobody else may write before
	}
	return errors.Join(errs...)
}

func (*postgresEngine) walFile() string { return "" }

func (*postgresEngine) tend(context.Context, *slog.Logger) {}

func (*postgresEngine) types() []string {
	return []string{
		"{identity}", "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
		"{timestamp}", "timestamptz",
		"{bytes}", "bytea",
		" {clustered}", "",
		"{bytewise}", `COLLATE "C"`,
		"{for_update}", "FOR NO KEY UPDATE",
	}
}

// state looks at the tables that a new one of ours would meet, also if this role may not read them.
func (*postgresEngine) state(ctx context.Context, q querier) (s state, err error) {
	rows, err := q.QueryContext(ctx, `SELECT c.relname, count(*) FILTER (WHERE a.attname IN ('id', 'created_at', 'username', 'password', 'role_id', 'name'))
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
		WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND a.attnum > 0 AND NOT a.attisdropped
		AND c.relname IN ('schema_version', 'settings', 'roles', 'users', 'rooms', 'members', 'messages', 'bans', 'audit_log', 'certificates')
		GROUP BY c.relname`)
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
	_, versioned := columns["schema_version"]
	switch {
	case rows.Err() != nil:
		return s, rows.Err()
	case len(columns) == 0:
		return stateEmpty, nil
	case versioned && len(columns) >= 7: // as many as version 1 had
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

func (e *postgresEngine) writable() error {
	if e.lock != nil && e.lock.lost.Load() {
		return errUnavailable
	}
	return nil
}

func (*postgresEngine) forReading(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, pgTimeout)
}

func (e *postgresEngine) transact(ctx context.Context, fn func(context.Context, *sql.Tx) error) error {
	begin := func(ctx context.Context, conn *sql.Conn) (*sql.Tx, error) { return conn.BeginTx(ctx, nil) }
	return inTransaction(ctx, e.w, pgTimeout, begin, fn)
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

// insertMessages takes one round trip: a statement alone is a transaction.
func (e *postgresEngine) insertMessages(ctx context.Context, msgs []message) error {
	ctx, cancel := context.WithTimeout(ctx, pgTimeout)
	defer cancel()
	_, err := e.w.ExecContext(ctx, `INSERT INTO messages (`+messageColumns+`)
		SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bytea[], $6::bytea[])`, columnsOf(msgs)...)
	return err
}

func (e *postgresEngine) findMessages(ctx context.Context, msgs []message) ([]message, error) {
	ctx, cancel := context.WithTimeout(ctx, pgTimeout)
	defer cancel()
	c := columnsOf(msgs)
	rows, err := e.w.QueryContext(ctx, `SELECT m.room_id, m.seq, m.user_id, m.sent_at, m.client_message_id, m.body
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
		errors.Is(err, pgconn.ErrConnClosed):
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
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("the connection to PostgreSQL has ended")
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
