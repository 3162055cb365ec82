package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
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
	if c.File == "-" { // which kong leaves as it is
		return errors.New("a backup is written into a file, not to stdout: give its name (./- if it is -)")
	}
	if _, err := os.Lstat(c.File); err == nil {
		return fmt.Errorf("there is a file %s already: a backup needs a name of its own", c.File)
	} else if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot write the backup: %w", err)
	}
	// Bare: nothing is written to the database, whose disk may be full.
	from, err := openStore(ctx, storeOptions{URL: c.DatabaseURL, Bare: true})
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
	for _, suffix := range append(sqliteSuffixes(), lockSuffix, freshSuffix) {
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
