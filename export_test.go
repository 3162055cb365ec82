package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
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

	if runtime.GOOS == "windows" {
		return
	}
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
	if said.Len() > 0 || cmd.ProcessState.Success() {
		t.Errorf("into a broken pipe: %v, %q", cmd.ProcessState, said.String())
	}
}
