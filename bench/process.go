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
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", binary, "..")
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
	return start(b.binary, append([]string{"serve", "--listen-addr=127.0.0.1:0", "--rate-limits=off", "--log-level=error",
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

// resident is the memory that the process has, in bytes.
func (p *process) resident() float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.cmd.Process.Pid))
	if err != nil {
		panic(err)
	}
	pages, _ := strconv.Atoi(strings.Fields(string(b))[1])
	return float64(pages * os.Getpagesize())
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

// syncTime is the median time that a small write takes to reach the disk of dir.
func syncTime(dir string) (time.Duration, error) {
	f, err := os.Create(filepath.Join(dir, "sync"))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var times []float64
	block := make([]byte, 4096)
	for range 200 {
		begin := time.Now()
		if _, err := f.Write(block); err != nil {
			return 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, err
		}
		times = append(times, float64(time.Since(begin)))
	}
	return time.Duration(median(times)), nil
}
