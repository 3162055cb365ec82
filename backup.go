package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"
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
	found, size, err := c.write(ctx, from, std.err)
	err = errors.Join(interrupted(ctx, err, "there is no backup"), from.close())
	return say(err, std, "%s holds %s: %.1f MB, in %s.", c.File, found, float64(size)/1e6, time.Since(start).Round(time.Millisecond))
}

// write makes the backup under another name beside its own, which it gets when it is whole and on the disk.
func (c *backupCommand) write(ctx context.Context, from *store, progress io.Writer) (found contents, size int64, err error) {
	if err := from.ours(ctx, from.w); err != nil {
		return found, 0, fmt.Errorf("cannot back up the database %s: %w", from.place, err)
	}
	if err := c.checkName(from.place); err != nil {
		return found, 0, err
	}
	f, err := os.CreateTemp(filepath.Dir(c.File), filepath.Base(c.File)+".part-*") // of mode 0600
	if err != nil {
		return found, 0, fmt.Errorf("cannot write the backup: %w", err)
	}
	part := f.Name()
	defer removeDatabase(part) // has another name, if all went well
	if err := f.Close(); err != nil {
		return found, 0, err
	}
	if err := from.backup(ctx, from, part, progress); err != nil {
		return found, 0, fmt.Errorf("cannot write the backup: %w", err)
	}
	if found, err = readContents(ctx, part); err != nil {
		return found, 0, err
	}
	if size, err = syncFile(part); err != nil {
		return found, 0, err
	}
	// Not Rename, which would replace what somebody has put there meanwhile.
	if err := os.Link(part, c.File); errors.Is(err, os.ErrExist) {
		return found, 0, fmt.Errorf("there is a file %s now: a backup needs a name of its own", c.File)
	} else if err != nil { // not every file system has links
		if err := os.Rename(part, c.File); err != nil {
			return found, 0, err
		}
	}
	if err := syncFolder(c.File); err != nil {
		return found, 0, changedError{fmt.Errorf("%s is written, but perhaps not on the disk yet: %w", c.File, err)}
	}
	return found, size, nil
}

// checkName refuses a name that SQLite, or this program, uses for a file beside the database.
func (c *backupCommand) checkName(database string) error {
	path, err := realPath(c.File)
	if err != nil {
		return fmt.Errorf("cannot write the backup: %w", err)
	}
	for _, suffix := range []string{"-wal", "-shm", "-journal", "-lock", "-restoring"} {
		if path == database+suffix {
			return fmt.Errorf("%s is the name of a file that belongs to the database: a backup needs a name of its own", c.File)
		}
	}
	return nil
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

// copyFile copies a file to a new one of mode 0600.
func copyFile(ctx context.Context, in io.Reader, to string) error {
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
