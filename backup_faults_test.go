package main

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// fill makes a database with messages of 1 KB, and returns its address.
func fill(t testing.TB, path string, messages int) {
	t.Helper()
	st, err := openStore(t.Context(), storeOptions{URL: "sqlite:" + path, Synchronous: "normal", Create: true})
	if err != nil {
		t.Fatal(err)
	}
	u, err := st.addUser(t.Context(), "ann", "x", roleUser)
	if err == nil {
		err = st.addRoom(t.Context(), "ABCDEF", "room", "x", u.ID)
	}
	for seq := 1; err == nil && seq <= messages; seq += 500 {
		var msgs []message
		for i := seq; i < seq+500 && i <= messages; i++ {
			msgs = append(msgs, message{RoomID: 1, Seq: uint64(i), UserID: u.ID, SentAt: int64(i), ClientMessageID: fmt.Sprint(i), Body: strings.Repeat("x", 1000)})
		}
		err = st.addMessages(msgs)
	}
	if err = errors.Join(err, st.close()); err != nil {
		t.Fatal(err)
	}
}

// SIGKILL at any moment of a backup leaves a whole backup under its name, or none; of a restore, the old data or the new,
// with which a server starts.
func TestKilledBackupAndRestore(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	const kills, old, fresh = 6, 1500, 1000
	dir, backups := t.TempDir(), t.TempDir()
	target := filepath.Join(dir, "grpcchatter.db")
	fill(t, filepath.Join(backups, "data"), fresh)
	fill(t, target, old)
	good := filepath.Join(backups, "good")
	start := time.Now()
	mustRun(t, dir, "", "backup", good, "--database-url=sqlite:"+filepath.Join(backups, "data"))
	took := time.Since(start)
	made, killed := 0, 0
	for i := range kills {
		file := filepath.Join(backups, fmt.Sprint("backup", i))
		ran := killAfter(t, 2*took*time.Duration(i)/kills+rand.N(took/kills), program(t, dir, "backup", file))
		if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
			killed++
			continue
		}
		took = min(took, ran) // the first one may have met a busy machine
		made++
		if n := wantOpened(t, file, "a backup that was killed"); n != old {
			t.Errorf("a backup that was killed has %d messages", n)
		}
	}
	t.Logf("a backup takes %s; of %d that were killed %d were made", took.Round(time.Millisecond), kills, made)
	if killed == 0 {
		t.Error("no backup was killed")
	}

	// The old data has a log, as that of a server which was killed has.
	db := openSQL(t, target)
	execSQL(t, db, `UPDATE rooms SET name = 'in the log'`)
	data, log := readFile(t, target), readFile(t, target+"-wal")
	if err := db.Close(); err != nil || len(log) == 0 {
		t.Fatal(err, len(log))
	}
	putOld := func() {
		removeDatabase(target)
		writeFile(t, target, data)
		writeFile(t, target+"-wal", log)
	}
	wantOld := func(path string) {
		t.Helper()
		var name string
		db := openSQL(t, path)
		defer db.Close()
		if err := db.QueryRow(`SELECT name FROM rooms`).Scan(&name); err != nil || name != "in the log" {
			t.Errorf("%s has lost its log: %q, %v", path, name, err)
		}
	}
	start = time.Now()
	mustRun(t, t.TempDir(), "", "restore", good)
	took = time.Since(start)
	wasOld, wasNew := 0, 0
	for i := range kills {
		putOld()
		ran := killAfter(t, 2*took*time.Duration(i)/kills+rand.N(took/kills), program(t, dir, "restore", good, "--replace"))
		// As a server would find it.
		st, err := openStore(t.Context(), storeOptions{URL: "sqlite:" + target, Exclusive: true})
		if err != nil {
			t.Fatalf("after a restore that was killed: %v", err)
		}
		if err := st.close(); err != nil {
			t.Fatal(err)
		}
		switch n := wantOpened(t, target, "the data after a restore that was killed"); n {
		case old:
			wasOld++
			wantOld(target)
		case fresh:
			took = min(took, ran)
			wasNew++
		default:
			t.Fatalf("after a restore that was killed there are %d messages", n)
		}
	}
	t.Logf("a restore takes %s; after %d that were killed the data was the old one %d times and the new one %d times", took.Round(time.Millisecond), kills, wasOld, wasNew)
	if wasOld == 0 {
		t.Error("no restore was killed")
	}
	putOld()
	mustRun(t, dir, "", "restore", good, "--replace")
	if n := wantOpened(t, target, "the data"); n != fresh {
		t.Errorf("%d messages after a restore", n)
	}
	if left := glob(t, target+"-restoring*"); len(left) > 0 {
		t.Errorf("it has left %v", left)
	}
	kept := slices.DeleteFunc(glob(t, target+".replaced-*"), func(path string) bool { return strings.HasSuffix(path, "-wal") })
	if n := wantOpened(t, kept[len(kept)-1], "what was kept"); n != old {
		t.Errorf("%d messages are kept", n)
	}
	wantOld(kept[len(kept)-1])
}

// killAfter runs a command, kills it after a while if it has not ended, and returns how long it ran.
func killAfter(t testing.TB, d time.Duration, cmd *exec.Cmd) (ran time.Duration) {
	t.Helper()
	cmd.Env = append(cmd.Env, noPause)
	start := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(d, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	_ = cmd.Wait() // says if it was killed
	return time.Since(start)
}

// servedData makes a folder with the data of a server that has ended, and a backup of it.
func servedData(t testing.TB) (dir, good string) {
	t.Helper()
	dir, good = t.TempDir(), filepath.Join(t.TempDir(), "good")
	mustRun(t, dir, testPassword, "user", "add", "ann")
	mustRun(t, dir, "", "backup", good)
	mustRun(t, dir, "", "restore", good, "--replace") // makes the -lock
	mustRun(t, dir, testPassword, "user", "add", "ben")
	for _, path := range glob(t, filepath.Join(dir, "*.replaced-*")) {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	return dir, good
}

// A server that has opened the file, and gets its lock only after a restore has replaced it, does not start: it confirmed
// what went into a file without a name.
func TestServerMeetsRestore(t *testing.T) {
	onlySQLite(t)
	for name, twice := range map[string]bool{"with a log": false, "just restored": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, good := servedData(t)
			if twice {
				mustRun(t, dir, "", "restore", good, "--replace")
			}
			serverMeetsRestore(t, dir, good, !twice)
		})
	}
}

// serverMeetsRestore has a server stop for a restore before it takes the lock. With a log the restore waits for the server, which
// has that open.
func serverMeetsRestore(t *testing.T, dir, good string, log bool) {
	target := filepath.Join(dir, "grpcchatter.db")
	server := &runningProgram{done: make(chan struct{}), cmd: underStrace(t, program(t, dir, "serve", "--listen-addr=127.0.0.1:0"),
		"-P", target+"-lock", "-e", "trace=pread64", "-e", "inject=pread64:signal=SIGSTOP:when=1")}
	server.start(t)
	defer server.stop()
	eventually(t, patience, "the server has opened the file, and the one of its lock, which it stops at before it takes it", func() bool {
		var open []string
		for _, fd := range glob(t, fmt.Sprintf("/proc/%d/fd/*", server.cmd.Process.Pid)) {
			path, _ := os.Readlink(fd)
			open = append(open, path)
		}
		return slices.Contains(open, target) && slices.Contains(open, target+"-lock")
	})
	restore := &runningProgram{done: make(chan struct{}), cmd: program(t, dir, "restore", good, "--replace")}
	restore.start(t)
	defer restore.stop()
	eventually(t, patience, "the restore has the lock and waits, or has ended", func() bool {
		select {
		case <-restore.done:
			return true
		default:
			return log && len(glob(t, target+freshSuffix)) > 0
		}
	})
	eventually(t, patience, "the server has ended, or is ready", func() bool {
		_ = server.cmd.Process.Signal(syscall.SIGCONT) // each of its threads may stop there once
		select {
		case <-server.done:
			return true
		default:
			return strings.Contains(server.stdout(), "To stop")
		}
	})
	<-restore.done
	t.Log(server.stdout(), server.log(), restore.stdout(), restore.log())
	if code := restore.cmd.ProcessState.ExitCode(); code != 0 && !(log && strings.Contains(restore.log(), "another program has it open")) {
		t.Errorf("the restore ended with status %d", code)
	}
	if out := server.stdout(); out != "" || !strings.Contains(server.log(), "restore") {
		t.Errorf("the server says %q, %q", out, server.log())
	}
}

// Who has opened a file that was then replaced does not write: SQLite would read the old file, and write to the new one's log.
func TestOldFileMeetsNewLog(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	dir, good := servedData(t)
	target := filepath.Join(dir, "grpcchatter.db")
	mustRun(t, dir, "", "restore", good, "--replace") // has no log, which would keep a restore away
	st, err := openStore(t.Context(), storeOptions{URL: "sqlite:" + target, Bare: true})
	if err != nil {
		t.Fatal(err)
	}
	mustRun(t, dir, "", "restore", good, "--replace")
	execSQL(t, openSQL(t, target), `PRAGMA journal_mode = WAL`, `UPDATE users SET disabled = false`)
	if err := st.migrate(t.Context(), storeOptions{}); !errors.Is(err, errMoved) {
		t.Errorf("the old file is written to: %v", err)
	}
	if err := st.backup(t.Context(), st, filepath.Join(dir, "backup"), io.Discard); !errors.Is(err, errMoved) {
		t.Errorf("a backup is made of the old file and the new log: %v", err)
	}
	if err := st.close(); err != nil {
		t.Error(err)
	}
}

// What a command confirms while a restore takes place is in the new data or in the old, which is kept: it went into the old
// file when that had been copied, and was lost.
func TestUserMeetsRestore(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	dir, good := servedData(t)
	target := filepath.Join(dir, "grpcchatter.db")
	restore := &runningProgram{done: make(chan struct{}), cmd: underStrace(t, program(t, dir, "restore", good, "--replace"),
		"-e", "trace=?rename,?renameat,?renameat2", "-e", "inject=?rename,?renameat,?renameat2:delay_enter=1500000")}
	restore.start(t)
	defer restore.stop()
	eventually(t, patience, "the old data is kept", func() bool { return len(glob(t, target+".replaced-*")) > 0 })
	status, said, why := runProgram(t, dir, nil, testPassword, "user", "add", "zoe")
	<-restore.done
	if code := restore.cmd.ProcessState.ExitCode(); code != 0 {
		t.Fatalf("restore: %d %s", code, restore.log())
	}
	kept := glob(t, target+".replaced-*")[0]
	if list := accountsIn(t, kept); !strings.Contains(list, "ben") {
		t.Errorf("the old data has\n%s", list)
	}
	if status == 0 && !strings.Contains(accountsIn(t, kept)+accountsIn(t, target), "zoe") {
		t.Errorf("user add says %q, and the account is nowhere", said)
	}
	if status != 0 && !strings.Contains(why, "restore") && !strings.Contains(why, "locked") {
		t.Errorf("user add says %q", why)
	}
	if list := accountsIn(t, target); !strings.Contains(list, "ann") || strings.Contains(list, "ben") {
		t.Errorf("the new data has\n%s", list)
	}
}

func accountsIn(t testing.TB, path string) string {
	t.Helper()
	return mustRun(t, t.TempDir(), "", "user", "list", "--database-url=sqlite:"+path)
}

// A restore gives up where another program has the database open, and where it cannot put the new file in its place, and
// says where it cannot know how it will end.
func TestRestoreGivesUp(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	dir, good := servedData(t)
	target := filepath.Join(dir, "grpcchatter.db")
	mustRun(t, dir, "", "restore", good, "--replace")                          // to a file that has never had a log
	open, err := openStore(t.Context(), storeOptions{URL: "sqlite:" + target}) // as a command does, before it writes
	if err != nil {
		t.Fatal(err)
	}
	status, out, errOut := runProgram(t, dir, nil, "", "restore", good, "--replace")
	wantFailure(t, status, out, errOut, "another program has it open")
	if err := open.close(); err != nil {
		t.Fatal(err)
	}
	mustRun(t, dir, testPassword, "user", "add", "ben")
	for _, path := range glob(t, target+".replaced-*") {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	busy := []string{"-P", target, "-e", "trace=pread64,?rename,?renameat,?renameat2", "-e", "inject=?rename,?renameat,?renameat2:error=EBUSY"}
	before := files(t, dir)
	status, out, errOut = runCommand(t, underStrace(t, program(t, dir, "restore", good, "--replace"), busy...), nil, "")
	wantFailure(t, status, out, errOut, "cannot restore to "+target)
	if after := files(t, dir); len(after) != len(before) {
		t.Errorf("after a rename that failed there are %v", sizes(after))
	}
	if list := accountsIn(t, target); !strings.Contains(list, "ben") {
		t.Errorf("after a rename that failed the data has\n%s", list)
	}

	// What the disk cannot read is kept with its log, or goes on with it.
	db := openSQL(t, target)
	execSQL(t, db, `PRAGMA journal_mode = WAL`, `UPDATE users SET username = 'in the log' WHERE username = 'ben'`)
	data, log := readFile(t, target), readFile(t, target+"-wal")
	if err := db.Close(); err != nil || len(log) == 0 {
		t.Fatal(err, len(log))
	}
	writeFile(t, target, data)
	writeFile(t, target+"-wal", log)
	unreadable := []string{"-P", target, "-e", "trace=pread64,?rename,?renameat,?renameat2", "-e", "inject=pread64:error=EIO"}
	before = files(t, dir)
	status, out, errOut = runCommand(t, underStrace(t, program(t, dir, "restore", good, "--replace"), append(busy, "-e", "inject=pread64:error=EIO")...), nil, "")
	wantFailure(t, status, out, errOut, "cannot restore to "+target)
	wantSameFiles(t, "after a rename that failed, of what cannot be read", before, files(t, dir))
	status, _, errOut = runCommand(t, underStrace(t, program(t, dir, "restore", good, "--replace"), unreadable...), nil, "")
	if status != 0 {
		t.Errorf("what cannot be read does not make way: %s", errOut)
	}
	if kept := glob(t, target+".replaced-*"); len(kept) != 2 || !strings.Contains(accountsIn(t, kept[0]), "in the log") {
		t.Errorf("%v are kept", kept)
	}

	cmd := underStrace(t, program(t, dir, "restore", good, "--replace"), "-P", dir, "-e", "trace=fsync", "-e", "inject=fsync:error=EIO")
	status, out, errOut = runCommand(t, cmd, nil, "")
	wantFailure(t, status, out, errOut, "is restored, but perhaps not on the disk yet")
	if list := accountsIn(t, target); strings.Contains(list, "ben") {
		t.Errorf("the data has\n%s", list)
	}
}

// Where a database was moved away without its log, a restore leaves the log: it removed it, with what it alone had.
func TestRestoreBesideLog(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	_, good := servedData(t)
	for _, name := range []string{"grpcchatter.db-wal", "grpcchatter.db-journal"} {
		dir := t.TempDir()
		writeFile(t, filepath.Join(dir, name), []byte("messages"))
		for range 2 {
			before := files(t, dir)
			for _, more := range [][]string{nil, {"--replace"}} {
				status, out, errOut := runProgram(t, dir, nil, "", append([]string{"restore", good}, more...)...)
				wantFailure(t, status, out, errOut, name)
			}
			wantSameFiles(t, name, before, files(t, dir))
			writeFile(t, filepath.Join(dir, "grpcchatter.db"), nil) // and once more with an empty one
		}
	}
}

// What root restores belongs to the owner of the old data, or of the folder: a server that is not root has to start on it.
func TestRestoreByRoot(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: needs root")
	}
	_, good := servedData(t)
	dir := t.TempDir()
	if err := os.Chown(dir, 12345, 12346); err != nil {
		t.Fatal(err)
	}
	want := func(owner uint32) {
		t.Helper()
		for path := range files(t, dir) {
			if info, err := os.Stat(path); err != nil || info.Sys().(*syscall.Stat_t).Uid != owner {
				t.Errorf("%s: %+v, %v, want the owner %d", path, info.Sys(), err, owner)
			}
		}
	}
	mustRun(t, dir, "", "restore", good)
	want(12345)
	for path := range files(t, dir) {
		if err := os.Chown(path, 23456, 23457); err != nil {
			t.Fatal(err)
		}
	}
	mustRun(t, dir, "", "restore", good, "--replace")
	if len(files(t, dir)) != 3 {
		t.Errorf("there are %v", sizes(files(t, dir)))
	}
	want(23456)
}
