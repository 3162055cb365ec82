package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

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
	if err := c.checkFile(); err != nil {
		return err
	}
	restore := c.intoSQLite
	if isPostgres(c.DatabaseURL) {
		restore = c.intoPostgres
	}
	return interrupted(ctx, restore(ctx, std), "nothing is changed")
}

// refused says that the file is no backup, and why.
func (c *restoreCommand) refused(why error) error {
	return fmt.Errorf("%s is not a good backup of grpcchatter: %w", c.File, why)
}

// checkFile refuses what cannot be a backup, by its first bytes and by what lies beside it.
func (c *restoreCommand) checkFile() error {
	info, err := os.Stat(c.File)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return c.refused(errors.New("there is no such file"))
	case err != nil:
		return fmt.Errorf("cannot read the backup: %w", err)
	case !info.Mode().IsRegular():
		return c.refused(errors.New("it is not a file"))
	}
	f, err := os.Open(c.File)
	if err != nil {
		return fmt.Errorf("cannot read the backup: %w", err)
	}
	defer f.Close()
	const magic = "SQLite format 3\x00"
	head := make([]byte, len(magic))
	if _, err := io.ReadFull(f, head); err != nil || string(head) != magic {
		return c.refused(errors.New("it is not a SQLite database"))
	}
	if hasContent(c.File + walSuffix) {
		return c.refused(errors.New("with the -wal beside it, it is the data of a server; name it as DATABASE_URL instead, or make a backup of it"))
	}
	return nil
}

func hasContent(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Size() > 0
}

// intoSQLite restores to a file: the new one is made beside it, and takes its place in one step.
func (c *restoreCommand) intoSQLite(ctx context.Context, std stdio) (err error) {
	target, err := realPath(strings.TrimPrefix(c.DatabaseURL, "sqlite:"))
	if err != nil {
		return fmt.Errorf("cannot restore: %w", err)
	}
	failed := func(err error) error { return fmt.Errorf("cannot restore to %s: %w", target, err) }
	lock, err := takeLock(ctx, target)
	if err != nil {
		return failed(describeSQLite(err))
	}
	defer func() { err = errors.Join(err, lock.close()) }()
	like, err := c.checkTarget(target)
	if err != nil {
		return failed(err)
	}
	fresh := target + freshSuffix // one at a time has the lock
	defer removeDatabase(fresh)
	removeDatabase(fresh) // of one that was killed
	found, err := c.prepare(ctx, fresh)
	if err != nil {
		return err
	}
	for _, path := range []string{fresh, target + lockSuffix} {
		if err := giveTo(path, like); err != nil {
			return failed(err)
		}
	}
	kept, err := c.replace(ctx, fresh, target)
	if err != nil {
		return failed(err)
	}
	if err := syncFolder(target); err != nil {
		return changedError{fmt.Errorf("%s is restored, but perhaps not on the disk yet: %w", target, err)}
	}
	return c.done(std, target, found, kept)
}

// checkTarget refuses what a backup cannot be restored to, and returns the file, or folder, whose owner a new file gets.
func (c *restoreCommand) checkTarget(target string) (like fs.FileInfo, err error) {
	info, err := os.Stat(target)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	missing := err != nil
	if missing || info.Size() == 0 {
		if err := strayLog(target, walSuffix, journalSuffix); err != nil {
			return nil, err
		}
	}
	if missing {
		return os.Stat(filepath.Dir(target))
	}
	backup, err := os.Stat(c.File)
	switch {
	case err != nil:
		return nil, err
	case os.SameFile(info, backup):
		return nil, fmt.Errorf("%s is the database itself, not a backup of it", c.File)
	case !info.Mode().IsRegular():
		return nil, errors.New("it is not a file")
	case hardLinks(info) > 1:
		return nil, errors.New("it has another name too (a hard link), which would keep the old data")
	}
	return info, c.mayReplace(info)
}

func (c *restoreCommand) mayReplace(info fs.FileInfo) error {
	if info.Size() > 0 && !c.Replace {
		return errors.New("it has data already: with --replace the backup takes its place, and the old data is kept beside it")
	}
	return nil
}

// prepare copies the backup, which is only read, and makes the copy ready to be used.
func (c *restoreCommand) prepare(ctx context.Context, fresh string) (found contents, err error) {
	in, err := os.Open(c.File)
	if err == nil {
		err = errors.Join(copyFile(ctx, in, fresh), in.Close())
	}
	if err != nil {
		return found, fmt.Errorf("cannot copy the backup: %w", err)
	}
	found, err = prepareCopy(ctx, fresh)
	if errors.Is(err, errDiskFull) || ctx.Err() != nil {
		return found, err
	} else if err != nil {
		return found, c.refused(err)
	}
	_, err = syncFile(fresh)
	return found, err
}

// replace gives the file fresh the name of a database. Old data gets another name, which is returned. As nobody can write to
// the old file meanwhile, nothing that was acknowledged is in neither of the two.
func (c *restoreCommand) replace(ctx context.Context, fresh, target string) (kept string, err error) {
	_, missing := os.Lstat(target)
	if err := createPrivate(target); err != nil { // else another program could, and write to it
		return "", err
	}
	release, err := holdSQLite(ctx, target)
	if err != nil {
		return "", err
	}
	defer release()
	old, err := os.Open(target)
	if err != nil {
		return "", err
	}
	defer old.Close() // not before: to close any descriptor of a file drops SQLite's locks on it
	info, err := old.Stat()
	if err != nil {
		return "", err
	}
	if missing != nil && info.Size() == 0 {
		defer func() {
			if err != nil {
				_ = os.Remove(target)
			}
		}()
	}
	if err := c.mayReplace(info); err != nil {
		return "", err
	}
	if info.Size() > 0 {
		if kept, err = keepOld(ctx, old, info, target); err != nil {
			return "", fmt.Errorf("cannot keep the old data: %w", err)
		}
	}
	if runtime.GOOS == "windows" { // what is open keeps its name there
		_ = old.Close()
		release()
	}
	if err = moveIn(ctx, fresh, target, kept); err != nil && kept != "" {
		for _, log := range []string{walSuffix, journalSuffix} {
			_ = os.Rename(kept+log, target+log) // if it was moved
		}
		_ = os.Remove(kept)
	}
	return kept, err
}

// moveIn is the one step. The new file must not meet the log of a damaged one, which is kept; others have none any more.
func moveIn(ctx context.Context, fresh, target, kept string) error {
	for _, log := range sqliteSuffixes() {
		if err := moveAway(target+log, kept, log); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return os.Rename(fresh, target)
}

// keepOld copies a database to a name beside it, which is returned.
func keepOld(ctx context.Context, old *os.File, info fs.FileInfo, target string) (kept string, err error) {
	kept = target + ".replaced-" + time.Now().UTC().Format("20060102T150405.000")
	err = copyFile(ctx, old, kept)
	if err == nil {
		_, err = syncFile(kept)
	}
	if err == nil {
		err = giveTo(kept, info)
	}
	if err != nil {
		_ = os.Remove(kept)
	}
	return kept, err
}

// moveAway lets what lies beside a database under a suffix, if anything does, go with what is kept of it, if anything is.
func moveAway(path, kept, suffix string) error {
	switch _, err := os.Lstat(path); {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case kept == "" || suffix == shmSuffix:
		return os.Remove(path)
	}
	return os.Rename(path, kept+suffix)
}

// intoPostgres restores to an empty database, in one transaction.
func (c *restoreCommand) intoPostgres(ctx context.Context, std stdio) error {
	if c.Replace {
		return errors.New("--replace is for SQLite: a PostgreSQL database has to be empty; create another one, or drop its tables yourself")
	}
	// Beside the backup it is no less safe than that; but not every backup can be written beside.
	dir, err := os.MkdirTemp(filepath.Dir(c.File), filepath.Base(c.File)+".restoring-*")
	if err != nil {
		dir, err = os.MkdirTemp("", "grpcchatter-restoring-*")
	}
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	fresh := filepath.Join(dir, "backup.db")
	log := slog.New(slog.NewTextHandler(std.err, nil))
	to, err := openStore(ctx, storeOptions{URL: c.DatabaseURL, Exclusive: true, Bare: true, Log: log})
	if err != nil {
		return err
	}
	defer to.close() // after a commit, or with nothing changed
	found, err := c.prepare(ctx, fresh)
	if err != nil {
		return err
	}
	from, err := openStore(ctx, storeOptions{URL: "sqlite:" + fresh, Synchronous: "normal", Bare: true})
	if err != nil {
		return err
	}
	defer from.close() // it has only been read
	if _, err = copyAll(ctx, from, to, std.err); err != nil {
		return err
	}
	return c.done(std, to.place, found, "")
}

func (c *restoreCommand) done(std stdio, place string, found contents, kept string) error {
	fmt.Fprintf(std.out, "The database %s holds what %s has: %s.\n", place, c.File, found)
	if found.newest.Valid {
		fmt.Fprintf(std.out, "The newest message is of %s. What came later is not in it.\n", time.UnixMicro(found.newest.Int64).UTC().Format(time.RFC3339))
	}
	if kept != "" {
		fmt.Fprintf(std.out, "The old data is kept as %s\n", kept)
	}
	_, err := fmt.Fprintln(std.out, "The server can be started now.")
	return err
}
