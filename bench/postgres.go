package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// postgres is a PostgreSQL server of the benchmark's own, as Debian's package installs it, with its default of
// synchronous_commit=on.
type postgres struct {
	bin, dir string
	url      string
}

func startPostgres() (*postgres, error) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		return nil, errors.New("there is no PostgreSQL on this machine (Debian's package postgresql)")
	}
	slices.Sort(found)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	port := l.Addr().(*net.TCPAddr).Port
	_ = l.Close()
	dir, err := os.MkdirTemp("", "bench-postgres")
	if err != nil {
		return nil, err
	}
	p := &postgres{bin: filepath.Dir(found[len(found)-1]), dir: dir,
		url: fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres?sslmode=disable", port)}
	if os.Geteuid() == 0 { // PostgreSQL refuses to run as root
		u, err := user.Lookup("postgres")
		if err != nil {
			return nil, err
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		if err := os.Chown(dir, uid, gid); err != nil {
			return nil, err
		}
	}
	options := fmt.Sprintf("-p %d -c listen_addresses=127.0.0.1 -c unix_socket_directories=", port)
	err = p.run("initdb", "-D", p.dir, "-U", "postgres", "-A", "trust", "-E", "UTF8")
	if err == nil {
		err = p.run("pg_ctl", "-D", p.dir, "-w", "-l", filepath.Join(p.dir, "log"), "-o", options, "start")
	}
	if err != nil {
		_ = os.RemoveAll(p.dir)
		return nil, err
	}
	return p, nil
}

// run runs one of PostgreSQL's programs as the owner of its folder.
func (p *postgres) run(name string, args ...string) error {
	cmd := exec.Command(filepath.Join(p.bin, name), args...)
	cmd.Dir = p.dir
	info, err := os.Stat(p.dir)
	if err != nil {
		return err
	}
	if stat := info.Sys().(*syscall.Stat_t); os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: stat.Uid, Gid: stat.Gid}}
	}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func (p *postgres) stop() {
	_ = p.run("pg_ctl", "-D", p.dir, "-w", "-m", "immediate", "stop")
	_ = os.RemoveAll(p.dir)
}

// pids are its processes.
func (p *postgres) pids() (pids []int) {
	first, err := os.ReadFile(filepath.Join(p.dir, "postmaster.pid"))
	if err != nil {
		return nil
	}
	parent, _, _ := strings.Cut(string(first), "\n")
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if f[1] == parent || strconv.Itoa(pid) == parent {
			pids = append(pids, pid)
		}
	}
	return pids
}
