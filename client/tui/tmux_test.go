//go:build unix

package tui

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"
)

// window is a program in a window of tmux, a real terminal that can be looked at.
type window struct {
	t      *testing.T
	dir    string // short, for the socket's name
	config string // what the program remembers things in
}

// terminalKind is what a window is like.
type terminalKind struct {
	width, height int
	config        string   // of another window; "" for a new one
	env           []string // more of it
	background    string   // its colour; "" for one that the terminal does not tell
}

var ordinary = terminalKind{width: 80, height: 24}

// openWindow runs `grpcchatter chat` with these flags in a terminal. When it has ended, the window says "status N", and
// "echo" if the terminal shows what is typed, as it should.
func openWindow(t *testing.T, kind terminalKind, flags ...string) *window {
	t.Helper()
	if _, err := exec.LookPath("tmux"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("tmux is missing")
		}
		t.Skip("SKIPPED: there is no tmux to open a terminal with")
	}
	dir, err := os.MkdirTemp("", "tmux") // t.TempDir is too long for a socket's name
	if err != nil {
		t.Fatal(err)
	}
	w := &window{t: t, dir: dir, config: kind.config}
	if w.config == "" {
		w.config = t.TempDir()
	}
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := w.command("capture-pane", "-p").CombinedOutput()
			t.Logf("a window shows\n%s", out)
		}
		_ = w.command("kill-server").Run()
		if b, err := os.ReadFile(w.pidFile()); err == nil { // what it remembers, it writes now
			pid, _ := strconv.Atoi(strings.TrimSpace(string(b)))
			for end := time.Now().Add(30 * time.Second); syscall.Kill(pid, 0) == nil && time.Now().Before(end); {
				time.Sleep(10 * time.Millisecond)
			}
		}
		if races, _ := filepath.Glob(filepath.Join(dir, "race.*")); len(races) > 0 {
			report, _ := os.ReadFile(races[0])
			t.Errorf("the program has a data race: %s", report)
		}
		os.RemoveAll(dir)
	})
	const script = `sh -c 'echo $$ >"$0"; exec "$@"' "$@"; echo "status $?"; stty -a | grep -ow -e "-\?echo"; exec cat`
	settings := "/dev/null"
	if kind.background != "" {
		settings = filepath.Join(dir, "conf")
		if err := os.WriteFile(settings, []byte("set -g window-style bg="+kind.background+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{"-u", "-f", settings, "new-session", "-d", "-x", strconv.Itoa(kind.width), "-y", strconv.Itoa(kind.height)}
	for _, e := range append(kind.env, "XDG_CONFIG_HOME="+w.config, "HOME="+w.config, "GORACE=log_path="+filepath.Join(dir, "race")) {
		args = append(args, "-e", e)
	}
	args = append(args, "--", "sh", "-c", script, "sh", w.pidFile(), program, "chat")
	args = append(args, flags...)
	if out, err := w.command(args...).CombinedOutput(); err != nil {
		t.Fatalf("tmux: %v: %s", err, out)
	}
	return w
}

func (w *window) pidFile() string { return filepath.Join(w.dir, "pid") }

func (w *window) command(args ...string) *exec.Cmd {
	cmd := exec.Command("tmux", append([]string{"-S", filepath.Join(w.dir, "s")}, args...)...)
	cmd.Env = environ("LC_ALL=C.UTF-8", "TZ=UTC", "SHELL=/bin/sh")
	return cmd
}

func (w *window) run(args ...string) string {
	w.t.Helper()
	out, err := w.command(args...).CombinedOutput()
	if err != nil {
		w.t.Fatalf("tmux %s: %v: %s", args[0], err, out)
	}
	return string(out)
}

// keys presses keys, by the names that tmux has for them.
func (w *window) keys(keys ...string) {
	w.t.Helper()
	w.run(append([]string{"send-keys"}, keys...)...)
}

// types types a text.
func (w *window) types(text string) {
	w.t.Helper()
	w.run("send-keys", "-l", text)
}

// enter types a line.
func (w *window) enter(line string) {
	w.t.Helper()
	w.types(line)
	w.keys("Enter")
}

// paste pastes a text as a terminal does that tells a paste apart.
func (w *window) paste(text string) {
	w.t.Helper()
	file := filepath.Join(w.dir, "paste")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	w.run("load-buffer", file)
	w.run("paste-buffer", "-p", "-r")
}

// screen is what can be seen.
func (w *window) screen() string {
	w.t.Helper()
	return w.run("capture-pane", "-p")
}

// rows are the rows of the screen.
func (w *window) rows() []string {
	w.t.Helper()
	return strings.Split(strings.TrimSuffix(w.screen(), "\n"), "\n")
}

// await waits until the screen shows all these texts.
func (w *window) await(texts ...string) string {
	w.t.Helper()
	return eventually(w.t, w.screen, func(s string) bool {
		for _, text := range texts {
			if !strings.Contains(s, text) {
				return false
			}
		}
		return true
	}, strings.Join(texts, "\" and \""))
}

// awaitGone waits until the screen shows a text no more.
func (w *window) awaitGone(text string) {
	w.t.Helper()
	eventually(w.t, w.screen, func(s string) bool { return !strings.Contains(s, text) }, "no "+text)
}

// awaitInput waits until the input holds these rows.
func (w *window) awaitInput(lines ...string) {
	w.t.Helper()
	want := "> " + strings.Join(lines, "\n  ")
	eventually(w.t, w.input, func(s string) bool { return s == strings.TrimRight(want, " ") }, want)
}

// settled is the screen once it has stopped changing.
func (w *window) settled() string {
	w.t.Helper()
	var last string
	return eventually(w.t, func() string {
		time.Sleep(100 * time.Millisecond)
		return w.screen()
	}, func(s string) bool {
		same := s == last
		last = s
		return same
	}, "a screen that stays")
}

// undamaged checks that the screen is what it would be if it were drawn anew. What goes away by itself has to be gone.
func (w *window) undamaged() {
	w.t.Helper()
	w.awaitGone(" types …")
	w.awaitGone(" waiting")
	before := w.settled()
	w.keys("C-l")
	time.Sleep(300 * time.Millisecond) // until it has been
	if after := w.settled(); after != before {
		w.t.Errorf("drawn anew,\n%s\nbecomes\n%s", before, after)
	}
}

// input is what stands between the rule and the status line.
func (w *window) input() string {
	rows := w.rows()
	for i := len(rows) - 2; i >= 0; i-- {
		if strings.HasPrefix(rows[i], "──") {
			return strings.Join(rows[i+1:len(rows)-1], "\n")
		}
	}
	return ""
}

// ended waits for the end of the program: its status, and a terminal as it was before.
func (w *window) ended(status int) string {
	w.t.Helper()
	return w.await(fmt.Sprintf("status %d\necho\n", status))
}

// count is how many rows of the screen end with a text.
func (w *window) count(text string) int {
	n := 0
	for row := range strings.Lines(w.settled()) {
		if strings.HasSuffix(strings.TrimRight(row, " \n"), text) {
			n++
		}
	}
	return n
}

// signal sends a signal to the program in the window.
func (w *window) signal(sig syscall.Signal) {
	w.t.Helper()
	if err := syscall.Kill(w.pid(), sig); err != nil {
		w.t.Fatalf("send a signal: %v", err)
	}
}

func (w *window) pid() int {
	w.t.Helper()
	b, err := os.ReadFile(w.pidFile())
	if err != nil {
		w.t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		w.t.Fatal(err)
	}
	return pid
}

// resize changes the size of the window, and waits until the program, if it shows a room, has drawn for it: tmux waits for a
// quarter of a second before it tells the program. The status is the last that is drawn.
func (w *window) resize(width, height int) {
	w.t.Helper()
	status := regexp.MustCompile(`^ [●○] `)
	rows := w.rows()
	inRoom := status.MatchString(rows[len(rows)-1])
	w.run("resize-window", "-x", strconv.Itoa(width), "-y", strconv.Itoa(height))
	if !inRoom {
		return
	}
	eventually(w.t, w.screen, func(s string) bool {
		rows := strings.Split(strings.TrimSuffix(s, "\n"), "\n")
		return len(rows) == height && status.MatchString(rows[height-1]) && slices.ContainsFunc(rows, func(row string) bool {
			return strings.HasPrefix(row, "──") && utf8.RuneCountInString(row) == width
		})
	}, fmt.Sprintf("a screen of %d × %d", width, height))
}

// record has all that the program writes from now on kept, and returns what there is by then: what is shown for a moment only
// may be missed on the screen.
func (w *window) record() func() string {
	w.t.Helper()
	raw := filepath.Join(w.t.TempDir(), "raw")
	w.run("pipe-pane", "cat >"+raw)
	return func() string {
		b, _ := os.ReadFile(raw)
		return string(b)
	}
}

// awaitIn waits until a record has a text that is written in one piece.
func (w *window) awaitIn(record func() string, text string) {
	w.t.Helper()
	eventually(w.t, record, func(s string) bool { return strings.Contains(s, text) }, text)
}

var update = flag.Bool("update", false, "write the golden captures anew")

// golden compares the screen with testdata/name.txt, once it looks like it; -update writes the file. What is another one
// each time is made the same: times, ports, and the room's code.
func (w *window) golden(name, code string) {
	w.t.Helper()
	path := filepath.Join("testdata", name+".txt")
	shown := func() string {
		s := w.screen()
		if code != "" {
			s = strings.ReplaceAll(s, code, "K7P2QX")
		}
		return general(s)
	}
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			w.t.Fatal(err)
		}
		w.settled()
		if err := os.WriteFile(path, []byte(shown()), 0o644); err != nil {
			w.t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		w.t.Fatal(err)
	}
	eventually(w.t, shown, func(s string) bool { return s == string(want) }, string(want))
}

var generals = []struct {
	re  *regexp.Regexp
	now string
}{
	{regexp.MustCompile(` *(\w+@)127\.0\.0\.1:\d+`), "  ${1}127.0.0.1:8080"},
	{regexp.MustCompile(`\b\d\d:\d\d\b`), "12:34"},
	{regexp.MustCompile(`─+ \w+day, \d+ \w+ \d{4} ─+`), "── Monday, 2 January 2006 ──"},
}

// general is a screen without what differs from one run to the next: the port, with the spaces that its length takes,
// times, the date.
func general(s string) string {
	for _, g := range generals {
		s = g.re.ReplaceAllString(s, g.now)
	}
	var rows []string
	for row := range strings.Lines(s) {
		rows = append(rows, strings.TrimRight(row, " \n"))
	}
	return strings.Join(rows, "\n") + "\n"
}
