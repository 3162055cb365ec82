package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Somebody moves the file of a running server away, puts another one in its place, or deletes it. The server ends rather than
// confirm what the file of that name does not have, and what it has confirmed is in the file that was moved.
func TestFileMoved(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	for name, move := range map[string]func(t *testing.T, p *serverProcess, away string){
		"moved": func(t *testing.T, p *serverProcess, away string) {
			rename(t, p.database(), away)
		},
		"replaced": func(t *testing.T, p *serverProcess, away string) {
			backup := filepath.Join(p.dir, "backup")
			mustRun(t, p.dir, "", "backup", backup)
			if err := os.Link(p.database(), away); err != nil { // to see what has become of it
				t.Fatal(err)
			}
			rename(t, backup, p.database())
		},
		"deleted": func(t *testing.T, p *serverProcess, away string) {
			if err := os.Link(p.database(), away); err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(p.database()); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newChatRoom(t, nil, "alice")
			away := filepath.Join(r.dir, "away.db")
			path := "/rooms/" + r.code + "/messages"
			stored := 0
			post := func(id string) int {
				a := r.call("POST", path, r.tokens["alice"], fmt.Sprintf(`{"body":"hello","client_message_id":%q}`, id))
				if a.status == http.StatusOK {
					stored++
				}
				return a.status
			}
			for i := range 3 {
				if status := post(fmt.Sprint(i)); status != http.StatusOK {
					t.Fatalf("a message: %d", status)
				}
			}
			move(t, r.serverProcess, away)
			if status := post("late"); status == http.StatusOK {
				t.Error("a message is confirmed that the file of this name does not have")
			}
			wantOwnEnd(t, r.serverProcess, "moved, replaced or deleted")
			if n := wantOpened(t, away, "the file that was moved"); n < stored {
				t.Errorf("%d messages were confirmed, and the file has %d", stored, n)
			}
			if _, err := os.Stat(r.database()); err == nil {
				if n := wantOpened(t, r.database(), "the file in its place"); n != stored {
					t.Errorf("the backup has %d messages, want %d", n, stored)
				}
			}
		})
	}
}

// Nobody writes: the server ends all the same. And without its lock, a second one could start.
func TestFileMovedInSilence(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	for suffix, cause := range map[string]string{"": "its file was moved", lockSuffix: lockSuffix + " beside its file was moved"} {
		p := startServer(t)
		rename(t, p.database()+suffix, p.database()+".old")
		wantOwnEnd(t, p, cause)
	}
}

// wantOwnEnd waits for the end of a server that has a cause for it.
func wantOwnEnd(t *testing.T, p *serverProcess, cause string) {
	t.Helper()
	select {
	case <-p.exit:
	case <-time.After(patience):
		t.Fatal("the server goes on without its file")
	}
	code := p.cmd.ProcessState.ExitCode()
	p.cmd = nil
	if code != 1 || !strings.Contains(p.logText(), cause) {
		t.Errorf("status %d\n%s", code, p.logText())
	}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

// A file that was moved away from a server that was killed needs its log: a new file of the name does not get it.
func TestLogLeftBehind(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	r := newChatRoom(t, nil, "alice")
	r.must(200, "", "POST", "/rooms/"+r.code+"/messages", r.tokens["alice"], `{"body":"hello","client_message_id":"1"}`)
	r.kill()
	away := filepath.Join(r.dir, "away.db")
	rename(t, r.database(), away)
	for _, command := range [][]string{{"serve", "--listen-addr=127.0.0.1:0"}, {"user", "add", "bob"}} {
		cmd := program(t, r.dir, command...)
		cmd.Stdin = strings.NewReader(testPassword + "\n")
		if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "move it along") {
			t.Errorf("%s: %v: %s", command, err, out)
		}
	}
	if _, err := os.Stat(r.database()); err == nil {
		t.Error("there is a new file")
	}
	rename(t, r.database()+walSuffix, away+walSuffix)
	if n := wantOpened(t, away, "the file that was moved, with its log"); n != 1 {
		t.Errorf("it has %d messages", n)
	}
}

// What a read has found damaged makes the server unready; what is whole can still be read.
func TestDamagedIsNotReady(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	r := newChatRoom(t, nil, "alice")
	path := "/rooms/" + r.code + "/messages"
	r.must(200, "", "POST", path, r.tokens["alice"], `{"body":"hello","client_message_id":"1"}`)
	r.stop()
	var page, size int64
	if err := r.openReadOnly().QueryRow(`SELECT rootpage, (SELECT page_size FROM pragma_page_size) FROM sqlite_master WHERE name = 'messages'`).Scan(&page, &size); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(r.database(), os.O_RDWR, 0)
	if err == nil {
		_, err = f.WriteAt(bytes.Repeat([]byte{0xff}, int(size)), (page-1)*size)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	r.start()
	r.must(503, "DATABASE_UNAVAILABLE", "GET", path, r.tokens["alice"], "")
	if status, _, _, _ := request(r.addr, "GET", "/readyz", ""); status != 503 {
		t.Errorf("/readyz: %d", status)
	}
	r.must(200, "", "GET", "/account", r.users["alice"], "")
}
