package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	sqlite3 "modernc.org/sqlite/lib"
)

// backupCommand writes all data into a new SQLite file, whatever database the server has.
type backupCommand struct {
	dataSettings
	File string `arg:"" type:"path" help:"The file to write. There must be none of this name."`
}

func (c *backupCommand) Run(ctx context.Context, std stdio) error {
	start := time.Now()
	if err := c.check(); err != nil {
		return err
	}
	if _, err := os.Lstat(c.File); err == nil {
		return fmt.Errorf("there is a file %s already: a backup needs a name of its own", c.File)
	} else if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot write the backup: %w", err)
	}
	// Bare: nothing is written to the database, whose disk may be full.
	from, err := openStore(ctx, storeOptions{URL: c.DatabaseURL, Synchronous: "full", Bare: true})
	if err != nil {
		return err
	}
	holds, size, err := c.write(ctx, from, std.err)
	if err = errors.Join(err, from.close()); err != nil && ctx.Err() != nil {
		return errors.New("interrupted: there is no backup")
	}
	return say(err, std, "%s holds %s: %.1f MB, in %s.", c.File, holds, float64(size)/1e6, time.Since(start).Round(time.Millisecond))
}

// write makes the backup under another name beside its own, which it gets when it is whole and on the disk.
func (c *backupCommand) write(ctx context.Context, from *store, progress io.Writer) (holds contents, size int64, err error) {
	switch state, err := from.inspect(ctx, from.w); {
	case err != nil:
		return holds, 0, err
	case state != stateOurs:
		return holds, 0, fmt.Errorf("the database %s holds no data of grpcchatter", from.place)
	}
	f, err := os.CreateTemp(filepath.Dir(c.File), filepath.Base(c.File)+".part-*") // of mode 0600
	if err != nil {
		return holds, 0, fmt.Errorf("cannot write the backup: %w", err)
	}
	part := f.Name()
	defer os.Remove(part) // has another name, if all went well
	if err := f.Close(); err != nil {
		return holds, 0, err
	}
	if err := from.backup(ctx, part, progress); err != nil {
		return holds, 0, err
	}
	if holds, err = readContents(ctx, part); err != nil {
		return holds, 0, err
	}
	if size, err = syncFile(part); err != nil {
		return holds, 0, err
	}
	// Not Rename, which would replace what somebody has put there meanwhile.
	if err := os.Link(part, c.File); errors.Is(err, os.ErrExist) {
		return holds, 0, fmt.Errorf("there is a file %s now: a backup needs a name of its own", c.File)
	} else if err != nil { // not every file system has links
		if err := os.Rename(part, c.File); err != nil {
			return holds, 0, err
		}
	} else if err := os.Remove(part); err != nil {
		return holds, 0, err
	}
	return holds, size, syncFolder(c.File)
}

// backup writes one state of all data into an empty SQLite file.
func (s *store) backup(ctx context.Context, path string, progress io.Writer) error {
	if e, ok := s.engine.(*sqliteEngine); ok {
		_, err := e.w.ExecContext(ctx, `VACUUM INTO $1`, path)
		if err != nil {
			return fmt.Errorf("cannot write the backup: %w", backupError(s.dbError(err)))
		}
		return nil
	}
	to, err := openStore(ctx, storeOptions{URL: "sqlite:" + path, Synchronous: "full", Bare: true})
	if err != nil {
		return err
	}
	_, err = copyAll(ctx, s, to, progress)
	return errors.Join(err, to.close())
}

// backupError puts what stops SQLite from reading or writing a whole database into words.
func backupError(err error) error {
	switch {
	case errors.Is(err, errDiskFull):
		return errDiskFull
	case isSQLite(err, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
		return errors.New("the data is damaged")
	}
	return err
}

// contents is what a database holds, in words.
type contents struct {
	messages, rooms, users int64
	newest                 sql.NullInt64 // microseconds since 1970
}

func (c contents) String() string {
	return counted(c.messages, "message") + ", " + counted(c.rooms, "room") + " and " + counted(c.users, "account")
}

func counted(n int64, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprint(n, " ", what)
}

func (c *contents) read(ctx context.Context, q querier) error {
	return q.QueryRowContext(ctx, `SELECT (SELECT count(*) FROM messages), (SELECT count(*) FROM rooms WHERE short_code IS NOT NULL),
		(SELECT count(*) FROM users), (SELECT max(sent_at) FROM messages)`).Scan(&c.messages, &c.rooms, &c.users, &c.newest)
}

func readContents(ctx context.Context, path string) (c contents, err error) {
	st, err := openStore(ctx, storeOptions{URL: "sqlite:" + path, Synchronous: "full", Bare: true})
	if err != nil {
		return c, err
	}
	return c, errors.Join(c.read(ctx, st.w), st.close())
}

// restoreCommand puts a backup in the place of the data.
type restoreCommand struct {
	dataSettings
	File    string `arg:"" type:"path" help:"A file that grpcchatter backup has written."`
	Replace bool   `help:"Restore where there is data already. The old data is kept beside it."`
}

func (c *restoreCommand) Run(ctx context.Context, std stdio) error {
	if err := c.check(); err != nil {
		return err
	}
	if err := checkBackupFile(c.File); err != nil {
		return err
	}
	restore := c.intoSQLite
	if isPostgres(c.DatabaseURL) {
		restore = c.intoPostgres
	}
	err := restore(ctx, std)
	if err != nil && ctx.Err() != nil {
		return errors.New("interrupted: nothing is changed")
	}
	return err
}

// checkBackupFile refuses what cannot be a backup, by its first bytes and by what lies beside it.
func checkBackupFile(path string) error {
	refused := func(why string) error { return fmt.Errorf("%s is not a backup of grpcchatter: %s", path, why) }
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return refused("there is no such file")
	case err != nil:
		return fmt.Errorf("cannot read the backup: %w", err)
	case !info.Mode().IsRegular():
		return refused("it is not a file")
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("cannot read the backup: %w", err)
	}
	defer f.Close()
	const magic = "SQLite format 3\x00"
	head := make([]byte, len(magic))
	if _, err := io.ReadFull(f, head); err != nil || string(head) != magic {
		return refused("it is not a SQLite database")
	}
	if wal, err := os.Stat(path + "-wal"); err == nil && wal.Size() > 0 {
		return refused("with the -wal beside it, it is the data of a server; name it as DATABASE_URL instead, or make a backup of it")
	}
	return nil
}

// intoSQLite restores to a file: the new one is made beside it, and takes its place in one step.
func (c *restoreCommand) intoSQLite(ctx context.Context, std stdio) (err error) {
	target, err := realPath(strings.TrimPrefix(c.DatabaseURL, "sqlite:"))
	if err != nil {
		return fmt.Errorf("cannot restore: %w", err)
	}
	info, err := os.Stat(target)
	if err == nil {
		backup, err := os.Stat(c.File)
		switch {
		case err != nil:
			return err
		case os.SameFile(info, backup):
			return fmt.Errorf("%s is the database itself, not a backup of it", c.File)
		case !info.Mode().IsRegular():
			return fmt.Errorf("cannot restore to %s: it is not a file", target)
		case hardLinks(info) > 1:
			return fmt.Errorf("cannot restore to %s: it has another name too (a hard link), which would keep the old data", target)
		case info.Size() > 0 && !c.Replace:
			return fmt.Errorf("the database %s has data already: with --replace the backup takes its place, and the old data is kept beside it", target)
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot restore: %w", err)
	}
	lock := &sqliteEngine{path: target}
	defer func() { err = errors.Join(err, lock.close()) }()
	if err := lock.takeLock(ctx); err != nil {
		return fmt.Errorf("cannot restore to %s: %w", target, lock.describe(err))
	}
	part := target + "-restoring" // one at a time has the lock
	defer removeDatabase(part)
	removeDatabase(part) // of one that was killed
	holds, err := prepareBackup(ctx, c.File, part)
	if err != nil {
		return err
	}
	kept := ""
	if info != nil && info.Size() > 0 {
		if kept, err = keepOld(ctx, target); err != nil {
			return fmt.Errorf("cannot keep the old data: %w", err)
		}
	}
	// The new file must not meet the old one's log, which is empty now, or of a damaged database, and kept.
	for _, suffix := range []string{"-wal", "-shm", "-journal"} {
		if err := os.Remove(target + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := errors.Join(os.Rename(part, target), syncFolder(target)); err != nil {
		return fmt.Errorf("cannot restore to %s: %w", target, err)
	}
	return c.done(std, target, holds, kept)
}

// intoPostgres restores to an empty database, in one transaction.
func (c *restoreCommand) intoPostgres(ctx context.Context, std stdio) error {
	if c.Replace {
		return errors.New("--replace is for SQLite: a PostgreSQL database has to be empty; create another one, or drop its tables yourself")
	}
	dir, err := os.MkdirTemp("", "grpcchatter-restore-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	part := filepath.Join(dir, "backup.db")
	log := slog.New(slog.NewTextHandler(std.err, nil))
	to, err := openStore(ctx, storeOptions{URL: c.DatabaseURL, Exclusive: true, Bare: true, Log: log})
	if err != nil {
		return err
	}
	defer to.close() // after a commit, or with nothing changed
	holds, err := prepareBackup(ctx, c.File, part)
	if err != nil {
		return err
	}
	from, err := openStore(ctx, storeOptions{URL: "sqlite:" + part, Synchronous: "normal"})
	if err != nil {
		return err
	}
	_, err = copyAll(ctx, from, to, std.err)
	if err = errors.Join(err, from.close()); err != nil {
		return err
	}
	return c.done(std, to.place, holds, "")
}

func (c *restoreCommand) done(std stdio, place string, holds contents, kept string) error {
	fmt.Fprintf(std.out, "The database %s holds what %s has: %s.\n", place, c.File, holds)
	if holds.newest.Valid {
		fmt.Fprintf(std.out, "The newest message is of %s. What came later is not in it.\n", time.UnixMicro(holds.newest.Int64).UTC().Format(time.RFC3339))
	}
	if kept != "" {
		fmt.Fprintf(std.out, "The old data is kept as %s\n", kept)
	}
	_, err := fmt.Fprintln(std.out, "The server can be started now.")
	return err
}

// prepareBackup copies a backup, checks the copy, and makes it ready to be used. The backup itself is only read.
func prepareBackup(ctx context.Context, file, part string) (holds contents, err error) {
	if err := copyFile(ctx, file, part); err != nil {
		return holds, fmt.Errorf("cannot copy the backup: %w", err)
	}
	st, err := openStore(ctx, storeOptions{URL: "sqlite:" + part, Synchronous: "full", Bare: true})
	if err != nil {
		if cause := errors.Unwrap(err); cause != nil {
			err = cause // without the name of the copy
		}
		return holds, fmt.Errorf("%s is not a backup of grpcchatter: %w", file, backupError(err))
	}
	defer func() { err = errors.Join(err, st.close()) }()
	wrong := func(err error) error {
		if err = backupError(st.dbError(err)); errors.Is(err, errDiskFull) || ctx.Err() != nil {
			return err
		}
		return fmt.Errorf("%s is not a good backup of grpcchatter: %w", file, err)
	}
	state, err := st.inspect(ctx, st.w)
	if err == nil && state != stateOurs {
		err = errors.New("it is empty")
	}
	if err != nil {
		return holds, wrong(err)
	}
	if err := checkIntegrity(ctx, st.w); err != nil {
		return holds, wrong(err)
	}
	if err := st.migrate(ctx, storeOptions{}); err != nil { // that of an older version
		return holds, wrong(err)
	}
	for _, t := range copiedTables() {
		var n int
		if err := st.w.QueryRowContext(ctx, `SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = $1`, t.name).Scan(&n); err != nil || n == 0 {
			return holds, wrong(errors.Join(err, fmt.Errorf("it has no table %s", t.name)))
		}
	}
	if _, err := st.w.ExecContext(ctx, `PRAGMA journal_mode = DELETE`); err != nil { // one file
		return holds, wrong(err)
	}
	if err := holds.read(ctx, st.w); err != nil {
		return holds, wrong(err)
	}
	if err := st.write(ctx, st.beginHistory); err != nil {
		return holds, wrong(err)
	}
	_, err = syncFile(part)
	return holds, err
}

// checkIntegrity returns the first fault of a SQLite file.
func checkIntegrity(ctx context.Context, q querier) error {
	var answer string
	err := q.QueryRowContext(ctx, `PRAGMA integrity_check(1)`).Scan(&answer)
	if err == nil && answer != "ok" {
		line, _, _ := strings.Cut(strings.TrimPrefix(answer, "*** in database main ***\n"), "\n")
		err = fmt.Errorf("it is damaged (%s)", line)
	}
	return err
}

// keepOld copies a database to a new name beside it, which it returns. The database stays what it is.
func keepOld(ctx context.Context, path string) (kept string, err error) {
	// What is in the log only goes into the file, if the database is not damaged.
	if st, err := openStore(ctx, storeOptions{URL: "sqlite:" + path, Synchronous: "full", Bare: true}); err == nil {
		_, _ = st.w.ExecContext(ctx, `PRAGMA wal_checkpoint(TRUNCATE)`) // else the log is copied too
		if err := st.close(); err != nil {
			return "", err
		}
	}
	kept = path + ".replaced-" + time.Now().UTC().Format("20060102T150405.000")
	for _, suffix := range []string{"-wal", ""} {
		err := copyFile(ctx, path+suffix, kept+suffix)
		if suffix != "" && errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil {
			_, err = syncFile(kept + suffix)
		}
		if err != nil {
			removeDatabase(kept)
			return "", err
		}
	}
	return kept, syncFolder(kept)
}

// copyFile copies a file to a new one of mode 0600.
func copyFile(ctx context.Context, from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	for err == nil && ctx.Err() == nil { // in pieces, to be interrupted
		_, err = io.CopyN(out, in, 64<<20)
	}
	if err == io.EOF {
		err = nil
	}
	return errors.Join(err, ctx.Err(), out.Close())
}

// removeDatabase removes a SQLite file and what SQLite puts beside it, as far as they are there.
func removeDatabase(path string) {
	for _, suffix := range []string{"", "-wal", "-shm", "-journal"} {
		_ = os.Remove(path + suffix)
	}
}

// realPath resolves links, of a file that need not be there.
func realPath(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	if real, err := filepath.EvalSymlinks(path); !errors.Is(err, os.ErrNotExist) {
		return real, err
	}
	if _, err := os.Lstat(path); err == nil {
		return "", fmt.Errorf("%s is a link to a file that is not there", path)
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	return filepath.Join(dir, filepath.Base(path)), err
}

// syncFile waits until a file is on the disk, and returns its size.
func syncFile(path string) (size int64, err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	if info, err := f.Stat(); err == nil {
		size = info.Size()
	}
	return size, errors.Join(f.Sync(), f.Close())
}

// syncFolder waits until the name of a file is on the disk.
func syncFolder(path string) error {
	if runtime.GOOS == "windows" {
		return nil // there is no such thing
	}
	f, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
