package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/grpcchatter/grpcchatter/pb"
)

// An export has every message once, in order, as JSON; of one room or of all, beside a server; also when nobody reads on.
func TestExport(t *testing.T) {
	t.Parallel()
	r := newChatRoom(t, nil, "alice")
	empty := createRoom(t, r.api, r.users["alice"])
	second := createRoom(t, r.api, r.users["alice"])
	gone := createRoom(t, r.api, r.users["alice"])
	bodies := []string{"<b>&amp;", "a\x00b\n", "ümläut 😀", strings.Repeat("x", 4000)}
	for len(bodies) < 700 {
		bodies = append(bodies, fmt.Sprint(len(bodies)))
	}
	for _, code := range []string{r.code, second, gone} {
		s := openSession(t, r.api, joinRoom(t, r.api, r.users["alice"], code), -1)
		for i, body := range bodies {
			s.send(&pb.ChatRequest{Body: body, ClientMessageId: fmt.Sprint(i)})
		}
		s.wantMessage(1, "alice", bodies[0], "0")
		for s.next().GetSeq() < uint64(len(bodies)) {
		}
		s.cancel()
	}
	if _, err := r.api.DeleteChatRoom(withToken(t.Context(), r.users["alice"]), &pb.DeleteChatRoomRequest{ShortCode: gone}); err != nil {
		t.Fatal(err)
	}
	check := func(out string, codes ...string) {
		t.Helper()
		lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
		if len(lines) != len(codes)*len(bodies) {
			t.Fatalf("%d lines, want %d", len(lines), len(codes)*len(bodies))
		}
		for i, line := range lines {
			var m map[string]any
			if err := json.Unmarshal([]byte(line), &m); err != nil {
				t.Fatalf("%v: %s", err, line)
			}
			at, err := time.Parse(time.RFC3339, m["sent_at"].(string))
			n := i % len(bodies)
			want := map[string]any{"short_code": codes[i/len(bodies)], "room_name": "a room", "seq": float64(n + 1), "user_name": "alice",
				"sent_at": m["sent_at"], "body": bodies[n], "client_message_id": fmt.Sprint(n)}
			if fmt.Sprint(m) != fmt.Sprint(want) || err != nil || time.Since(at).Abs() > time.Hour {
				t.Fatalf("line %d is %v, want %v", i, m, want)
			}
		}
	}
	check(mustRun(t, r.dir, "", "export"), r.code, second)
	check(mustRun(t, r.dir, "", "export", "--room", strings.ToLower(second)), second)
	if out := mustRun(t, r.dir, "", "export", "--room", empty); out != "" {
		t.Errorf("an empty room: %q", out)
	}
	status, out, errOut := runProgram(t, r.dir, nil, "", "export", "--room", gone)
	wantFailure(t, status, out, errOut, "no room")

	status, out, errOut = runProgram(t, r.dir, nil, "", "export", "--room=")
	wantFailure(t, status, out, errOut, "no room")

	// As after `export | head`: it ends by SIGPIPE, and says nothing.
	cmd := program(t, r.dir, "export")
	var said bytes.Buffer
	cmd.Stderr = &said
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(pipe).ReadString('\n'); err != nil {
		t.Error(err)
	}
	_ = pipe.Close()
	_ = cmd.Wait()
	if how := cmd.ProcessState.Sys().(syscall.WaitStatus); said.Len() > 0 || how.Signal() != syscall.SIGPIPE {
		t.Errorf("into a broken pipe: %v, %q", cmd.ProcessState, said.String())
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("SKIPPED: ", err)
	}
	defer full.Close()
	cmd = program(t, r.dir, "export")
	said.Reset()
	cmd.Stdout, cmd.Stderr = full, &said
	_ = cmd.Run()
	wantFailure(t, cmd.ProcessState.ExitCode(), "", said.String(), "no space left")
}

// An export that is overtaken by the end of a room says that it is not whole: it looked whole. What MESSAGE_RETENTION has
// removed is no reason to say so.
func TestExportOfWhatGoes(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	const n = 4000
	for _, args := range [][]string{{"export"}, {"export", "--room=ABCDEF"}} {
		dir := t.TempDir()
		path := filepath.Join(dir, "grpcchatter.db")
		fill(t, path, n)
		st, err := openStore(t.Context(), storeOptions{URL: "sqlite:" + path, Synchronous: "normal"})
		if err != nil {
			t.Fatal(err)
		}
		defer st.close()
		if removed, err := st.purgeMessages(t.Context(), 1, func(seq uint64, _ time.Time) bool { return seq <= 10 }); removed != 10 || err != nil {
			t.Fatal(removed, err)
		}
		if out := mustRun(t, dir, "", args...); strings.Count(out, "\n") != n-10 {
			t.Errorf("%d messages of %d are printed", strings.Count(out, "\n"), n-10)
		}
		cmd := program(t, dir, args...)
		var said bytes.Buffer
		cmd.Stderr = &said
		pipe, err := cmd.StdoutPipe() // takes a part only
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(pipe)
		if _, err := lines.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		if err := st.deleteRoom(t.Context(), user{}, 1, func(roomRow) error { return nil }); err != nil {
			t.Fatal(err)
		}
		for more := true; more; {
			if more, err = st.purgeDeletedRooms(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		rest, err := io.ReadAll(lines)
		if err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		if want := len(args) - 1; cmd.ProcessState.ExitCode() != want || !strings.Contains(said.String(), "ABCDEF was deleted meanwhile") || bytes.Count(rest, []byte("\n")) >= n-11 {
			t.Errorf("%v: status %d after %d lines: %q", args, cmd.ProcessState.ExitCode(), bytes.Count(rest, []byte("\n")), said.String())
		}
	}
}

// An export only reads: it makes no data, and nothing else of a backup that it is pointed at.
func TestExportOnlyReads(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	dir := t.TempDir()
	data, backup := filepath.Join(dir, "data"), filepath.Join(dir, "backup")
	fill(t, data, 3)
	mustRun(t, t.TempDir(), "", "backup", backup, "--database-url=sqlite:"+data)
	writeFile(t, filepath.Join(dir, "empty"), nil)
	before := files(t, dir)
	for name, says := range map[string]string{"empty": "holds no data", "missing": "there is none"} {
		status, out, errOut := runProgram(t, dir, nil, "", "export", "--database-url=sqlite:"+filepath.Join(dir, name))
		wantFailure(t, status, out, errOut, says)
	}
	for _, path := range []string{data, backup} {
		if out := mustRun(t, dir, "", "export", "--database-url=sqlite:"+path); strings.Count(out, "\n") != 3 {
			t.Errorf("of %s it prints %q", path, out)
		}
	}
	if after := files(t, dir); !maps.Equal(before, after) {
		t.Errorf("there were %v, and there are %v", sizes(before), sizes(after))
	}
}
