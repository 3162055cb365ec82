package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/grpcchatter/grpcchatter/pb"
)

// skipStrace skips a test where strace cannot be had.
func skipStrace(t testing.TB, why any) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal("strace is needed: ", why)
	}
	t.Skip("SKIPPED: needs strace: ", why)
}

// underStrace makes a command run under strace, from its start to its end. It skips a test where strace cannot be had.
func underStrace(t testing.TB, cmd *exec.Cmd, args ...string) *exec.Cmd {
	t.Helper()
	if out, err := exec.Command("strace", "-o", os.DevNull, "true").CombinedOutput(); err != nil {
		skipStrace(t, fmt.Sprintf("%v %s", err, out))
	}
	args = append([]string{"-D", "-f", "-o", os.DevNull}, args...) // -D: the process that is started is the command's own
	under := exec.Command("strace", append(append(args, cmd.Path), cmd.Args[1:]...)...)
	under.Dir, under.Env = cmd.Dir, cmd.Env
	return under
}

// strace looks at the system calls of a server until the returned function is called, from now on. It skips a test where
// strace cannot be had.
func (p *serverProcess) strace(args ...string) (stop func()) {
	t := p.t
	t.Helper()
	exe, err := exec.LookPath("strace")
	if err != nil {
		skipStrace(t, err)
	}
	cmd := exec.Command(exe, append([]string{"-f", "-p", strconv.Itoa(p.cmd.Process.Pid)}, args...)...)
	said, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(said)
	if !lines.Scan() || !strings.Contains(lines.Text(), "attached") {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		skipStrace(t, lines.Text())
	}
	ended := make(chan error, 1)
	go func() {
		for lines.Scan() {
		}
		ended <- cmd.Wait()
	}()
	return func() {
		t.Helper()
		_ = cmd.Process.Signal(os.Interrupt) // lets go of the server
		select {
		case <-ended:
		case <-time.After(patience):
			_ = cmd.Process.Kill()
			t.Error("strace does not end")
		}
	}
}

// TestAckAfterSync is about promise 1 (reliability: ack after sync): of 10,000 messages none is on its way to a client before
// the write-ahead log that holds it was synced.
func TestAckAfterSync(t *testing.T) {
	onlySQLite(t)
	const n, inFlight = 10_000, 100
	r := newChatRoom(t, nil, "ann")
	s := openSession(t, r.api, r.tokens["ann"], 0)
	traced := filepath.Join(t.TempDir(), "trace")
	stop := r.strace("-o", traced, "-yy", "-s", "1000000", "-e", "trace=pwrite64,fsync,fdatasync,write,writev,sendmsg")
	for i := range n {
		s.send(&pb.ChatRequest{Body: fmt.Sprintf("<%05d>", i), ClientMessageId: fmt.Sprint(i)})
		if i >= inFlight {
			s.next()
		}
	}
	for range inFlight {
		s.next()
	}
	stop()
	f, err := os.Open(traced)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const written, synced, sent = 1, 2, 3
	state := map[string]int{} // of each message
	var unsynced []string
	began := map[string]int{} // how many of unsynced a thread's sync covers
	message := regexp.MustCompile(`<\d{5}>`)
	syncs, early, arrived := 0, 0, 0
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		line := lines.Text()
		thread, call, _ := strings.Cut(line, " ")
		call = strings.TrimLeft(call, " ")
		switch {
		case strings.HasPrefix(call, "pwrite64(") && strings.Contains(call, "-wal>"):
			for _, m := range message.FindAllString(call, -1) {
				if state[m] == 0 { // a page that has it already is written again with the next
					state[m] = written
					unsynced = append(unsynced, m)
				}
			}
		case strings.HasPrefix(call, "fdatasync(") || strings.HasPrefix(call, "fsync("):
			if strings.Contains(call, "-wal>") {
				began[thread] = len(unsynced)
			}
		case (strings.HasPrefix(call, "write") || strings.HasPrefix(call, "sendmsg(")) && strings.Contains(call, "<TCP:"):
			for _, m := range message.FindAllString(call, -1) {
				if state[m] < synced {
					early++
				}
				state[m] = sent
				arrived++
			}
		}
		if covered, ok := began[thread]; ok && strings.Contains(call, "sync") && strings.HasSuffix(call, "= 0") {
			for _, m := range unsynced[:covered] {
				if state[m] == written {
					state[m] = synced
				}
			}
			unsynced = unsynced[covered:]
			delete(began, thread)
			syncs++
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d messages written to the log in %d syncs, %d seen on their way", len(state), syncs, arrived)
	if early > 0 {
		t.Errorf("%d messages were on their way before they were synced", early)
	}
	// A frame's boundary may hide some from us.
	if len(state) != n || arrived < n*9/10 || syncs < n/(2*inFlight) {
		t.Errorf("the trace shows too little: %d messages written, %d sent, %d syncs", len(state), arrived, syncs)
	}
}

// TestSyncFails is about promise 1 (reliability: sync fails): a disk that cannot write what it has taken ends the server with
// an error. Nothing is acknowledged from then on, and after a start on a disk that works everything is there.
func TestSyncFails(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	p := startServer(t)
	members := pairs(t, p, 3)
	c := startCrowd(t, members)
	stopLoad := c.load(200, members...)
	defer stopLoad()
	eventually(t, patience, "the load runs", func() bool { return c.sum((*member).confirmed) > 200 })
	stopLoad()
	c.settle(t, patience)
	said := c.sum((*member).said)

	stop := p.strace("-o", os.DevNull, "-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:error=EIO")
	stopLoad = c.load(200, members...)
	defer stopLoad()
	select {
	case <-p.exit:
	case <-time.After(patience):
		t.Fatal("the server goes on, though the disk cannot write")
	}
	if code := p.cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(p.logText(), "so as to confirm nothing that is not stored") {
		t.Errorf("the server ended with status %d, want 1 and a sentence why", code)
	}
	p.cmd = nil
	stop()
	if got := c.sum((*member).confirmed); got != said {
		t.Errorf("%d messages were acknowledged that the disk could not write", got-said)
	}
	p.start()
	stopLoad()
	c.settle(t, 30*time.Second)
	c.leave()
	p.stop()
	c.audit(t, p)
}

// smallDisk mounts a file system of 16 MB. It skips a test that may not.
func smallDisk(t testing.TB) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := exec.Command("mount", "-t", "tmpfs", "-o", "size=16m", "grpcchatter-test", dir).Run(); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("a file system has to be mounted: ", err)
		}
		t.Skip("SKIPPED: needs to mount a file system, as root can on Linux: ", err)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v %s", err, out)
		}
	})
	return dir
}

// TestDiskFull is about a disk that has no room (reliability: disk full): whoever sends is told so by a code, reading and
// logging in go on, and writing works again once there is room, without a restart. Nothing acknowledged is lost.
func TestDiskFull(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	disk := smallDisk(t)
	p := startServer(t, "--database-url=sqlite:"+filepath.Join(disk, "grpcchatter.db"))
	user := p.login("ann")
	api := pb.NewGRPCChatterClient(p.connect())
	code := createRoom(t, api, user)
	room := joinRoom(t, api, user, code)
	ballast := filepath.Join(disk, "ballast")
	fill := func() {
		t.Helper()
		f, err := os.Create(ballast)
		if err != nil {
			t.Fatal(err)
		}
		for block := bytes.Repeat([]byte{1}, 64<<10); err == nil; {
			if _, err = f.Write(block); errors.Is(err, syscall.ENOSPC) && len(block) > 1 {
				block, err = block[:1], nil // to the last page
			}
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	send := func(s *chatSession, i int) bool {
		id := fmt.Sprint("id ", i)
		if s.Send(&pb.ChatRequest{ClientMessageId: id, Body: id + strings.Repeat("x", 4000)}) != nil {
			return false
		}
		e, ok := <-s.events
		if ok && e.GetClientMessageId() != id {
			t.Fatalf("got %.100v for %s", e, id)
		}
		return ok
	}
	acknowledged := 0
	for round := range 3 { // once is luck
		fill()
		s := openSession(t, api, room, int64(acknowledged))
		tries := 0
		for ; send(s, acknowledged); tries++ { // the log has room that it has had before
			if acknowledged++; tries > 10_000 {
				t.Fatal("a full disk takes messages without an end")
			}
		}
		wantError(t, s.end(), codes.ResourceExhausted, "STORAGE_FULL")
		if a := p.call("POST", "/rooms/"+code+"/messages", room, `{"body":"`+strings.Repeat("x", 4000)+`"}`); a.status != 507 || a.code() != "STORAGE_FULL" {
			t.Errorf("round %d: a message by REST: %d %s", round, a.status, a.body)
		}
		if status, answer := p.rest("POST", "/login", map[string]string{"user_name": "ann", "password": testPassword}); status != 200 {
			t.Errorf("round %d: a log-in: %d %v", round, status, answer)
		}
		reader := openSession(t, api, room, 0)
		for seq := 1; seq <= acknowledged; seq++ {
			if e := reader.next(); e.GetSeq() != uint64(seq) || e.GetClientMessageId() != fmt.Sprint("id ", seq-1) {
				t.Fatalf("round %d: message %d is %.100v", round, seq, e)
			}
		}
		reader.cancel()
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		s = openSession(t, api, room, int64(acknowledged))
		for range 10 {
			if !send(s, acknowledged) { // the same id as the one that was refused
				t.Fatalf("round %d: with room again: %v", round, s.end())
			}
			acknowledged++
		}
		s.cancel()
	}
	t.Logf("%d messages acknowledged beside three full disks", acknowledged)
	if code := p.stop(); code != 0 {
		t.Errorf("the server ended with status %d", code)
	}
}
