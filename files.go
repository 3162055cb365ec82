package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
)

// What lies beside a database file, by the end of its name.
const (
	walSuffix     = "-wal" // SQLite's log, and its index
	shmSuffix     = "-shm"
	journalSuffix = "-journal"   // its log in the other mode
	lockSuffix    = "-lock"      // takeLock's
	freshSuffix   = "-restoring" // the new file of a restore
)

// sqliteSuffixes are those of SQLite itself.
func sqliteSuffixes() []string { return []string{walSuffix, shmSuffix, journalSuffix} }

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
	_ = os.Remove(path)
	for _, suffix := range sqliteSuffixes() {
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
