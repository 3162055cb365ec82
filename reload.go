package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"reflect"
	"slices"
	"syscall"
	"time"

	"golang.org/x/term"
)

// rereader reads the command line, the environment and the --config file anew.
type rereader func() (*serveCommand, error)

// hangups are the SIGHUPs of a server. They are the wish to reload, by `kill -HUP`; or, where the terminal that the
// server was started in has been closed, the wish to end, but for a server that nohup has started.
type hangups struct {
	signals  chan os.Signal // never one on Windows
	terminal int            // the descriptor of the terminal; -1: whatever happens to it does not matter
}

// watchHangups keeps SIGHUP from ending the program, until stop is called.
func watchHangups(in io.Reader) (h *hangups, stop func()) {
	h = &hangups{signals: make(chan os.Signal, 1), terminal: -1}
	if f, ok := in.(*os.File); ok && term.IsTerminal(int(f.Fd())) && !signal.Ignored(syscall.SIGHUP) {
		h.terminal = int(f.Fd())
	}
	signal.Notify(h.signals, syscall.SIGHUP)
	return h, func() { signal.Stop(h.signals) }
}

// serve calls reload for each SIGHUP until ctx ends, or until the terminal has gone: then it returns true.
func (h *hangups) serve(ctx context.Context, reload func()) (gone bool) {
	for {
		select {
		case <-ctx.Done():
			return false
		case <-h.signals:
			if h.terminal >= 0 && !term.IsTerminal(h.terminal) {
				return true
			}
			reload()
		}
	}
}

// reload takes over what can change without an end of the streams: LOG_LEVEL, and what is in the files of TLS_CERT and
// TLS_KEY. started is what the server was started with. After an error nothing has changed.
func (s *server) reload(started *serveCommand, reread rereader, level *slog.LevelVar) {
	s.notify("RELOADING=1")
	defer s.notify("READY=1")
	now, err := reread()
	var cfg config
	if err == nil {
		cfg, err = now.check()
	}
	if err == nil && s.certificate != nil {
		err = s.certificate.reload()
	}
	if err != nil {
		s.log.Error("the configuration cannot be read again: nothing has changed", "cause", err)
		return
	}
	level.Set(cfg.LogLevel)
	s.log.Info("the configuration was read again", "log_level", cfg.LogLevel)
	keys := differentKeys(started, now)
	if now.SecretFile != "" && now.SecretFile == started.SecretFile && cfg.Secret != s.cfg.Secret {
		keys = append(keys, "SECRET_FILE") // the same file, with another secret in it
		slices.Sort(keys)
	}
	if len(keys) > 0 {
		s.log.Warn("keys have changed that wait for the next start", "keys", keys)
	}
}

// differentKeys are those, but for LOG_LEVEL, that do not have the same value in both.
func differentKeys(a, b *serveCommand) (keys []string) {
	va, vb := reflect.ValueOf(a).Elem(), reflect.ValueOf(b).Elem()
	for _, field := range reflect.VisibleFields(va.Type()) {
		key := field.Tag.Get("env")
		if key != "" && key != "LOG_LEVEL" && va.FieldByIndex(field.Index).String() != vb.FieldByIndex(field.Index).String() {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// notify tells the service manager the state of the server, as sd_notify(3) does. systemd then knows when the
// server is ready, not only that it runs.
func (s *server) notify(state string) {
	if s.notifySocket == "" {
		return
	}
	conn, err := net.Dial("unixgram", s.notifySocket) // a leading @ is the abstract namespace, to Go as to systemd
	if err == nil {
		_ = conn.SetDeadline(time.Now().Add(time.Second)) // nobody waits for a manager that does not read
		_, err = conn.Write([]byte(state))
		err = errors.Join(err, conn.Close())
	}
	if err != nil {
		s.log.Warn("the service manager cannot be told the state of the server", "socket", s.notifySocket, "state", state, "cause", err)
	}
}
