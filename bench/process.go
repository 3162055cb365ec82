package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// build makes the program to measure, as a release is made.
func build(ctx context.Context, dir string) (string, error) {
	binary := filepath.Join(dir, "grpcchatter")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", binary, ".")
	cmd.Dir = ".." // its dependencies are in its own go.mod
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return binary, nil
}

// process is a running server.
type process struct {
	cmd      *exec.Cmd
	addr     string
	postgres *postgres // where its data is, if it has one of its own
	// ready is how long it took from its start.
	ready time.Duration
}

var addrOf = regexp.MustCompile(`ready on (?:\w+://)?(\S+)`)

// start runs a server and waits for its address.
func start(name string, args ...string) (*process, error) {
	p := &process{cmd: exec.Command(name, args...)}
	p.cmd.Env = []string{"GOMAXPROCS=" + os.Getenv("GOMAXPROCS"), "TMPDIR=" + os.TempDir()}
	if os.Getenv("GOMAXPROCS") == "" {
		p.cmd.Env = p.cmd.Env[1:]
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.cmd.Stderr = os.Stderr
	begin := time.Now()
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if m := addrOf.FindStringSubmatch(lines.Text()); m != nil {
			p.ready = time.Since(begin)
			p.addr = m[1]
			go func() {
				for lines.Scan() {
				}
			}()
			return p, nil
		}
	}
	_ = p.cmd.Wait()
	return nil, errors.New("the server ended at its start")
}

// restart stops a server and starts it on the data that it had.
func (b *bencher) restart(t *target) error {
	t.proc.stop()
	proc, err := start(t.proc.cmd.Args[0], t.proc.cmd.Args[1:]...)
	if err == nil {
		*t.proc = *proc
	}
	return err
}

// startChatter runs the program to measure, on data in dir.
func (b *bencher) startChatter(dir string, args ...string) (*process, error) {
	return start(b.binary, append([]string{"serve", "--listen-addr=127.0.0.1:0", "--rate-limits=off", "--max-streams-per-connection=100000", "--log-level=error",
		"--database-url=sqlite:" + filepath.Join(dir, "bench.db")}, args...)...)
}

func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	_ = p.cmd.Wait()
	if p.postgres != nil {
		p.postgres.stop()
	}
}

// cpu is the processor time used so far, user and system, in steps of 10 ms; that of its PostgreSQL included.
func (p *process) cpu() time.Duration {
	used := cpuOf(p.cmd.Process.Pid)
	if p.postgres != nil {
		for _, pid := range p.postgres.pids() {
			used += cpuOf(pid)
		}
	}
	return used
}

// cpuOf is that of a process and of those of its children that have ended; 0 if it has ended itself.
func cpuOf(pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	ticks := 0
	for _, field := range f[11:15] { // utime, stime, cutime, cstime: proc(5)
		n, _ := strconv.Atoi(field)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// resident is the memory that the process has, in KiB.
func (p *process) resident() (float64, error) { return p.status("VmRSS") }

// peak is the most memory that it has had, in KiB.
func (p *process) peak() (float64, error) { return p.status("VmHWM") }

// status is a field of /proc/PID/status that is in kB: proc_pid_status(5).
func (p *process) status(field string) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if name, value, _ := strings.Cut(line, ":"); name == field {
			return strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64)
		}
	}
	return 0, fmt.Errorf("the server has ended: no %s", field)
}

func cpuModel() string {
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(b)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown processor"
}

// commitPages are how many pages of 4 KiB a commit of one message writes into the WAL, at least: one of the table, one of
// the index. It is 2.6 by average, for pages split.
const commitPages = 2

// syncTime is how many microseconds a commit's pages take to reach the disk of dir: the median of 512, one after the
// other into a file that is allocated already, as a WAL is that has been checkpointed once.
func syncTime(dir string) (float64, error) {
	f, err := os.Create(filepath.Join(dir, "sync"))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	commit := make([]byte, commitPages*4096)
	times := make([]float64, 512)
	if _, err := f.Write(make([]byte, len(commit)*len(times))); err != nil {
		return 0, err
	}
	if err := f.Sync(); err != nil {
		return 0, err
	}
	for i := range times {
		begin := time.Now()
		if _, err := f.WriteAt(commit, int64(i*len(commit))); err != nil {
			return 0, err
		}
		if err := syscall.Fdatasync(int(f.Fd())); err != nil {
			return 0, err
		}
		times[i] = float64(time.Since(begin).Nanoseconds()) / 1000
	}
	return median(times), nil
}
