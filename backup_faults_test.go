package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
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
		killAfter(t, 2*took*time.Duration(i)/kills+rand.N(took/kills), program(t, dir, "backup", file))
		if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
			killed++
			continue
		}
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
		killAfter(t, 2*took*time.Duration(i)/kills+rand.N(took/kills), program(t, dir, "restore", good, "--replace"))
		// As a server would find it.
		st, err := openStore(t.Context(), storeOptions{URL: "sqlite:" + target, Synchronous: "full", Exclusive: true})
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

// killAfter runs a command and kills it after a while, if it has not ended.
func killAfter(t testing.TB, d time.Duration, cmd *exec.Cmd) {
	t.Helper()
	cmd.Env = append(cmd.Env, noPause)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(d)
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // says that it was killed
}
