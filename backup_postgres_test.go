package main

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// filledPostgres makes a database with messages of 1 KB, and returns its address.
func filledPostgres(t testing.TB, messages int) (address string, db *sql.DB) {
	t.Helper()
	address, db = emptyDatabase(t)
	mustRun(t, t.TempDir(), testPassword, "user", "add", "ann", "--database-url="+address)
	execSQL(t, db, `INSERT INTO rooms (short_code, name, password, owner_id) VALUES ('ABCDEF', 'room', 'x', 1)`,
		fmt.Sprintf(`INSERT INTO messages (room_id, seq, user_id, sent_at, body) SELECT 1, n, 1, n, convert_to(repeat('x', 1000), 'UTF8') FROM generate_series(1, %d) n`, messages))
	return address, db
}

// testLock is an advisory lock of a test's own database.
const testLock = "4711"

// heldLock holds testLock until it is released, or until the end of the test.
type heldLock struct{ db *sql.DB }

func holdLock(t testing.TB, address string) heldLock {
	t.Helper()
	db, err := sql.Open("pgx", address)
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1) // whose session it is
	t.Cleanup(func() { _ = db.Close() })
	execSQL(t, db, `SELECT pg_advisory_lock(`+testLock+`)`)
	return heldLock{db}
}

func (l heldLock) release() { _ = l.db.Close() }

// A backup to a disk that is full leaves nothing there.
func TestBackupToFullDisk(t *testing.T) {
	onlyPostgres(t)
	t.Parallel()
	disk := smallDisk(t)
	address, _ := filledPostgres(t, 20_000)
	status, out, errOut := runProgram(t, t.TempDir(), nil, "", "backup", filepath.Join(disk, "backup"), "--database-url="+address)
	if status != 1 || out != "" || !strings.HasSuffix(errOut, "the disk is full\n") { // behind the progress, if it takes long
		t.Errorf("status %d, %q, %q", status, out, errOut)
	}
	wantFolder(t, disk, nil)
}

// An interrupted restore waits for the answer to a COMMIT that is under way: it said that nothing was changed.
func TestInterruptedCommit(t *testing.T) {
	onlyPostgres(t)
	t.Parallel()
	from, _ := filledPostgres(t, 1)
	file := filepath.Join(t.TempDir(), "backup")
	mustRun(t, t.TempDir(), "", "backup", file, "--database-url="+from)
	address, db := emptyDatabase(t)
	held := holdLock(t, address)
	execSQL(t, db, // a COMMIT that waits for the lock, in tables that are still to be made
		`CREATE SCHEMA slow`,
		`CREATE FUNCTION slow.commit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock_shared(`+testLock+`); RETURN NULL; END $$`,
		`CREATE FUNCTION slow.made() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
			IF to_regclass('rooms') IS NOT NULL AND NOT EXISTS (SELECT FROM pg_trigger WHERE tgname = 'slow') THEN
				CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON rooms DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow.commit();
			END IF; END $$`,
		`CREATE EVENT TRIGGER slow ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION slow.made()`)
	restore := &runningProgram{cmd: program(t, t.TempDir(), "restore", file, "--database-url="+address), done: make(chan struct{})}
	restore.start(t)
	defer restore.stop()
	eventually(t, patience, "it commits", func() bool {
		var n int
		err := db.QueryRow(`SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' AND query ILIKE 'commit%'`).Scan(&n)
		return err == nil && n == 1
	})
	if err := restore.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond) // for it to give up, if it does
	held.release()
	<-restore.done
	var rooms int
	err := db.QueryRow(`SELECT count(*) FROM rooms`).Scan(&rooms)
	if code := restore.cmd.ProcessState.ExitCode(); code != 0 || err != nil || rooms != 1 || !strings.Contains(restore.stdout(), "holds what") {
		t.Errorf("status %d, %q, %q; %d rooms, %v", code, restore.stdout(), restore.log(), rooms, err)
	}
}

// A role that may not read is told that, and not that there is nothing.
func TestBackupWithoutPermission(t *testing.T) {
	onlyPostgres(t)
	t.Parallel()
	address, db := filledPostgres(t, 1)
	role := fmt.Sprintf("reader_%x", time.Now().UnixNano())
	execSQL(t, db, `CREATE ROLE `+role+` LOGIN PASSWORD 'reader'`, `GRANT USAGE ON SCHEMA public TO `+role)
	t.Cleanup(func() {
		execSQL(t, db, `DROP OWNED BY `+role, `DROP ROLE `+role)
	})
	u := mustParse(t, address)
	u.User = nil
	reader := strings.Replace(u.String(), "://", "://"+role+":reader@", 1)
	dir := t.TempDir()
	status, out, errOut := runProgram(t, dir, nil, "", "backup", filepath.Join(dir, "backup"), "--database-url="+reader)
	wantFailure(t, status, out, errOut, "permission denied")
	wantFolder(t, dir, nil)
}

// A restore that is killed leaves its copy beside the backup, which it is as secret as, and not among everybody's files.
func TestKilledPostgresRestore(t *testing.T) {
	onlyPostgres(t)
	t.Parallel()
	from, _ := filledPostgres(t, 5_000)
	dir, temp := t.TempDir(), t.TempDir()
	file := filepath.Join(dir, "backup")
	mustRun(t, temp, "", "backup", file, "--database-url="+from)
	address, db := emptyDatabase(t)
	held := holdLock(t, address)
	execSQL(t, db, // the first table waits for the lock
		`CREATE SCHEMA slow`,
		`CREATE FUNCTION slow.made() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock_shared(`+testLock+`); END $$`,
		`CREATE EVENT TRIGGER slow ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION slow.made()`)
	restore := &runningProgram{cmd: program(t, temp, "restore", file, "--database-url="+address), done: make(chan struct{})}
	restore.cmd.Env = append(restore.cmd.Env, "TMPDIR="+temp)
	restore.start(t)
	eventually(t, patience, "a copy", func() bool { return len(glob(t, filepath.Join(dir, "backup.restoring-*", "*"))) > 0 })
	if err := restore.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-restore.done
	held.release()
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("it leaves %v, %v", left, err)
	}
	eventually(t, patience, "PostgreSQL has seen that it is gone", func() bool {
		var n int
		err := db.QueryRow(`SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`).Scan(&n)
		return err == nil && n == 0
	})
	mustRun(t, temp, "", "restore", file, "--database-url="+address)
	wantFolder(t, temp, nil)
}
