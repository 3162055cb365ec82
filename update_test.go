package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/grpcchatter/grpcchatter/client"
)

// versionBefore is the last commit whose data has the schema before that of now.
const versionBefore = "5eaf2b3"

// TestUpdate is about updating: a new binary on the data of the version before, at the same address, under load. Every
// client of package client comes back by itself; nothing acknowledged is lost, nothing is doubled, and all see one order.
func TestUpdate(t *testing.T) {
	if !*slow {
		t.Skip("SKIPPED: it takes half a minute; -slow runs it")
	}
	before, now := buildBefore(t), filepath.Join(t.TempDir(), "now")
	compile(t, ".", now)

	p := &serverProcess{t: t, dir: t.TempDir(), addr: "127.0.0.1:" + freePort(t)}
	t.Cleanup(func() {
		if p.cmd != nil {
			p.stop()
		}
		if t.Failed() {
			t.Logf("log of the servers:\n%s", p.logText())
		}
	})
	run := func(exe string) {
		t.Helper()
		p.command = func(string) *exec.Cmd {
			cmd := program(t, p.dir, "serve", "--rate-limits=off", "--listen-addr="+p.addr, "--database-url="+databaseURL(t, p.dir))
			cmd.Path = exe
			return cmd
		}
		p.start()
	}
	run(before)
	const rooms = 10
	var guests []*guest
	for i := range rooms {
		owner := newGuest(t, p.addr, fmt.Sprint("owner", i))
		code, err := owner.client.CreateChatRoom(t.Context(), "a room", "")
		if err != nil {
			t.Fatal(err)
		}
		owner.enter(t, code)
		other := newGuest(t, p.addr, fmt.Sprint("other", i))
		other.enter(t, code)
		guests = append(guests, owner, other)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var sending sync.WaitGroup
	for _, g := range guests {
		sending.Go(func() { g.sendUntil(ctx) })
	}
	acknowledged := func() (n int) {
		for _, g := range guests {
			n += g.acknowledged()
		}
		return n
	}
	// loadGoesOn waits until every client has sent and received something more.
	loadGoesOn := func(when string) {
		t.Helper()
		sent, got := make([]int, len(guests)), make([]int, len(guests))
		for i, g := range guests {
			sent[i], got[i] = g.acknowledged(), g.received()
		}
		for i, g := range guests {
			eventually(t, patience, fmt.Sprintf("%s, %s goes on", when, g.name), func() bool { return g.acknowledged() > sent[i]+20 && g.received() > got[i]+40 })
		}
	}
	loadGoesOn("with the version before")
	old := acknowledged()
	for i, step := range []struct {
		what string
		kill bool
	}{{"the update", false}, {"a new start", false}, {"SIGKILL", true}, {"a new start", false}, {"a new start", false}} {
		began := time.Now()
		if step.kill {
			p.kill()
		} else if code := p.stop(); code != 0 {
			t.Errorf("step %d: the server ended with status %d", i, code)
		}
		run(now)
		away := time.Since(began)
		loadGoesOn("after " + step.what)
		t.Logf("%s: away for %s, everybody back after %s", step.what, away.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
	}
	stop()
	sending.Wait()
	for _, g := range guests {
		g.settle(t, guests)
	}
	t.Logf("%d messages acknowledged, %d of them by the version before", acknowledged(), old)
	for _, g := range guests {
		_ = g.client.Disconnect()
		<-g.gone
	}
	if code := p.stop(); code != 0 {
		t.Errorf("the server ended with status %d", code)
	}
	audit(t, p, guests)

	// There is no way back: the version before says so, and leaves the data alone.
	p.command = nil
	cmd := program(t, p.dir, "serve", "--listen-addr="+p.addr, "--database-url="+databaseURL(t, p.dir))
	cmd.Path = before
	status, out, errOut := runCommand(t, cmd, nil, "")
	wantFailure(t, status, out, errOut, "newer version")
	audit(t, p, guests)
}

// compile builds the program in a folder, as a release is compiled.
func compile(t *testing.T, dir, exe string) {
	t.Helper()
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", exe, ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build in %s: %v\n%s", dir, err, out)
	}
}

// buildBefore compiles the version before, from the history of this repository.
func buildBefore(t *testing.T) (exe string) {
	t.Helper()
	if err := exec.Command("git", "cat-file", "-e", versionBefore+"^{commit}").Run(); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("git does not have the commit %s: %v", versionBefore, err)
		}
		t.Skipf("SKIPPED: git does not have the commit %s, the version before: %v", versionBefore, err)
	}
	source := t.TempDir()
	archive := exec.Command("git", "archive", "--format=tar", versionBefore)
	unpack := exec.Command("tar", "-x", "-C", source)
	pipe, err := archive.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	unpack.Stdin = pipe
	if err := errors.Join(unpack.Start(), archive.Run(), unpack.Wait()); err != nil {
		t.Fatal(err)
	}
	exe = filepath.Join(source, "before")
	compile(t, source, exe)
	return exe
}

// guest is a user of package client, who writes down what was acknowledged and received.
type guest struct {
	t      *testing.T
	name   string
	client *client.Client
	room   *client.Room
	gone   chan struct{} // closed when nothing is received any more

	mu    sync.Mutex // guards the fields below
	acked map[string]uint64
	got   []client.Message
}

func newGuest(t *testing.T, addr, name string) *guest {
	t.Helper()
	c, err := client.New(addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Disconnect() })
	if _, err := c.Register(t.Context(), name, testPassword); err != nil {
		t.Fatal(err)
	}
	if err := c.Login(t.Context(), name, testPassword); err != nil {
		t.Fatal(err)
	}
	return &guest{t: t, name: name, client: c, gone: make(chan struct{}), acked: map[string]uint64{}}
}

// enter joins a room and receives until the client disconnects.
func (g *guest) enter(t *testing.T, code string) {
	t.Helper()
	room, err := g.client.JoinChatRoom(t.Context(), code, "", client.After(0))
	if err != nil {
		t.Fatal(err)
	}
	g.room = room
	go func() {
		defer close(g.gone)
		for m, err := range room.Messages(context.Background()) {
			if err != nil {
				if !errors.Is(err, client.ErrClosed) {
					t.Errorf("%s: the room ended with %v", g.name, err)
				}
				return
			}
			g.mu.Lock()
			g.got = append(g.got, m)
			g.mu.Unlock()
		}
	}()
}

// sendUntil sends a message every 20 ms, also while earlier ones wait for their acknowledgement, until ctx ends. It
// returns when all are acknowledged.
func (g *guest) sendUntil(ctx context.Context) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var waiting sync.WaitGroup
	defer waiting.Wait()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		body := fmt.Sprint(g.name, " ", i)
		stored, err := g.room.Queue(context.Background(), body)
		if err != nil {
			g.t.Errorf("%s: %v", body, err)
			return
		}
		waiting.Go(func() {
			seq, err := stored()
			if err != nil {
				g.t.Errorf("%s: %v", body, err)
				return
			}
			g.mu.Lock()
			defer g.mu.Unlock()
			g.acked[body] = seq
		})
	}
}

func (g *guest) acknowledged() int { g.mu.Lock(); defer g.mu.Unlock(); return len(g.acked) }
func (g *guest) received() int     { g.mu.Lock(); defer g.mu.Unlock(); return len(g.got) }

// settle waits until the guest has received all that was acknowledged in its room.
func (g *guest) settle(t *testing.T, guests []*guest) {
	t.Helper()
	said := 0
	for _, other := range guests {
		if other.room.ShortCode() == g.room.ShortCode() {
			said += other.acknowledged()
		}
	}
	eventually(t, patience, fmt.Sprintf("%s has all %d messages", g.name, said), func() bool { return g.received() >= said })
}

// audit compares what the guests wrote down with the database: each acknowledged message is stored, once, and everybody
// got all that is stored, in its order.
func audit(t *testing.T, p *serverProcess, guests []*guest) {
	t.Helper()
	db := p.openReadOnly()
	defer db.Close()
	stored := storedIn(t, db)
	for _, g := range guests {
		g.mu.Lock()
		defer g.mu.Unlock()
		rows, bodies := stored[g.room.ShortCode()], map[string]bool{}
		for i, row := range rows {
			if row.Seq != uint64(i+1) || bodies[row.Body] {
				t.Fatalf("room of %s: %q is row %d with the seq %d: a gap, or it is doubled", g.name, row.Body, i+1, row.Seq)
			}
			bodies[row.Body] = true
		}
		for body, seq := range g.acked {
			if seq > uint64(len(rows)) || rows[seq-1].Body != body || !strings.EqualFold(rows[seq-1].User, g.name) {
				t.Errorf("lost: %q was acknowledged with the seq %d, and is not stored there", body, seq)
			}
		}
		if len(g.got) != len(rows) {
			t.Errorf("%s got %d messages of %d", g.name, len(g.got), len(rows))
		}
		for i, m := range g.got {
			if i >= len(rows) || rows[i].Seq != m.Seq || rows[i].Body != m.Body || rows[i].User != m.UserName {
				t.Fatalf("%s got %v as message %d, which is not what is stored", g.name, m, i+1)
			}
		}
	}
}
