//go:build unix

package tui

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// window is a program in a window of tmux, a real terminal that can be looked at.
type window struct {
	t      *testing.T
	socket string
	pid    string // the file with the program's process id
	mark   int
}

// openWindow runs `grpcchatter chat` with these flags in a terminal of 80 columns. When it has ended, the
// window says "status N", and "echo" if the terminal shows what is typed, as it should.
func openWindow(t *testing.T, flags ...string) *window {
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
	w := &window{t: t, socket: filepath.Join(dir, "s"), pid: filepath.Join(dir, "pid")}
	t.Cleanup(func() {
		w.command("kill-server").Run()
		os.RemoveAll(dir)
	})
	const script = `sh -c 'echo $$ >"$0"; exec "$@"' "$@"; echo "status $?"; stty -a | grep -ow -e "-\?echo"; exec cat`
	args := []string{"-u", "-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "30", "--"}
	args = append(args, "sh", "-c", script, "sh", w.pid, program, "chat")
	args = append(args, flags...)
	if out, err := w.command(args...).CombinedOutput(); err != nil {
		t.Fatalf("tmux: %v: %s", err, out)
	}
	return w
}

func (w *window) command(args ...string) *exec.Cmd {
	cmd := exec.Command("tmux", append([]string{"-S", w.socket}, args...)...)
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

// keys presses keys, by the names that tmux has for them or as text.
func (w *window) keys(keys ...string) {
	w.t.Helper()
	w.run(append([]string{"send-keys"}, keys...)...)
}

// enter types a line.
func (w *window) enter(line string) {
	w.t.Helper()
	w.run("send-keys", "-l", line)
	w.keys("Enter")
}

// answer waits for a question and answers it.
func (w *window) answer(question, line string) {
	w.t.Helper()
	w.awaitEnd(question)
	w.enter(line)
}

// all is everything that the terminal has shown, wrapped lines as one.
func (w *window) all() string {
	w.t.Helper()
	return w.run("capture-pane", "-p", "-J", "-S", "-")
}

// await waits until a text has been shown since the last await, and returns what came up to its end.
func (w *window) await(text string) string {
	w.t.Helper()
	all := eventually(w.t, w.all, func(s string) bool { return strings.Contains(s[min(w.mark, len(s)):], text) }, text)
	from := w.mark
	w.mark += strings.Index(all[from:], text) + len(text)
	return all[from:w.mark]
}

// awaitEnd waits until the last line of the terminal is this one.
func (w *window) awaitEnd(line string) string {
	w.t.Helper()
	return eventually(w.t, w.all, func(s string) bool { return lastLine(s) == strings.TrimRight(line, " ") }, line)
}

func lastLine(s string) string {
	s = strings.TrimRight(s, "\n ")
	return s[strings.LastIndex(s, "\n")+1:]
}

// chats waits for the empty line of input of a room.
func (w *window) chats() {
	w.t.Helper()
	w.awaitEnd(">")
}

// ended waits for the end of the program: its status, and a terminal as it was before.
func (w *window) ended(status int) {
	w.t.Helper()
	w.await(fmt.Sprintf("status %d\necho\n", status))
}

// once checks that a line was shown exactly once. Lines of a chat are given without their time.
func (w *window) once(line string) {
	w.t.Helper()
	n, all := 0, w.all()
	for l := range strings.Lines(all) {
		l = strings.TrimSpace(l)
		if l == line || len(l) > 6 && l[2] == ':' && l[6:] == line {
			n++
		}
	}
	if n != 1 {
		w.t.Errorf("%q was shown %d times:\n%s", line, n, all)
	}
}

// signal sends a signal to the program in the window.
func (w *window) signal(sig syscall.Signal) {
	w.t.Helper()
	b, err := os.ReadFile(w.pid)
	if err != nil {
		w.t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err == nil {
		err = syscall.Kill(pid, sig)
	}
	if err != nil {
		w.t.Fatalf("send a signal: %v", err)
	}
}
