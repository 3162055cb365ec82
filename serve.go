package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

const (
	// stopTimeout is how long connections may take to end by themselves at shutdown.
	stopTimeout = 5 * time.Second
	// watchPause is how soon a change of an account by another process ends its streams.
	watchPause = 250 * time.Millisecond
)

// fail makes run end with err. The first call counts.
func (s *server) fail(err error) {
	select {
	case s.failed <- err:
	default:
	}
}

// closeListeners closes those of the chat: the metrics tell how it ends.
func (s *server) closeListeners() {
	for _, l := range s.listeners {
		_ = l.Close() // it is of no use any more
	}
}

// welcome tells whoever started the server what to do now.
func (s *server) welcome(out io.Writer) {
	for _, l := range s.listeners {
		fmt.Fprintf(out, "GRPCChatter is ready on %s\n", l.url())
	}
	self := "grpcchatter"
	if exe, err := os.Executable(); err == nil && isTemporary(exe) {
		self = "go run ."
	}
	fmt.Fprintf(out, "Its data is in %s\n", s.store.place)
	if s.metrics != nil {
		fmt.Fprintf(out, "Its metrics are at http://%s/metrics\n", s.metricsListener.Addr())
	}
	address := s.listeners[0].url()
	if s.certs != nil {
		address = "https://" + s.cfg.Autocert.Domains[0]
		fmt.Fprintf(out, "Its certificates are for %s\n", strings.Join(s.cfg.Autocert.Domains, ", "))
	}
	fmt.Fprintf(out, "To chat, open %s in a browser, or type in another terminal:  %s chat --server %s\n", address, self, address)
	fmt.Fprintln(out, "To stop, press Ctrl-C.")
}

// run serves until ctx ends, or until something fails that it cannot go on without.
func (s *server) run(ctx context.Context, out io.Writer) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var serving, background sync.WaitGroup
	for _, l := range s.listeners {
		serving.Go(func() { s.serve("listener", l.mux.Serve()) })
		serving.Go(func() { s.serve("gRPC", s.grpc.Serve(l.grpc)) })
		serving.Go(func() { s.serve("HTTP", s.http.Serve(l.http)) })
	}
	if s.plain != nil {
		l := patientListener{s.plainListener, s.conns}
		serving.Go(func() { s.serve("AUTOCERT_HTTP_ADDR", s.plain.Serve(l)) })
	}
	if s.certificate != nil {
		background.Go(func() { s.certificate.tend(ctx) })
	}
	if s.certs != nil {
		for _, domain := range s.cfg.Autocert.Domains {
			background.Go(func() { s.certs.tend(ctx, domain) })
		}
	}
	if s.metrics != nil {
		serving.Go(func() { s.serve("METRICS_ADDR", s.metricsServer.Serve(s.metricsListener)) })
	}
	go s.committer.run() // ends in stop
	background.Go(func() { s.hub.tend(ctx) })
	background.Go(func() { s.watchUsers(ctx) })
	background.Go(func() { s.chat.purge(ctx) })
	background.Go(func() { s.refresh(ctx) })
	background.Go(func() { s.store.tend(ctx, s.log) })
	background.Go(func() { s.store.watch(ctx) })
	s.welcome(out)
	var addrs []string
	for _, l := range s.listeners {
		addrs = append(addrs, l.Addr().String())
	}
	s.log.Info("ready", "listen", addrs, "data", s.store.place, "max_connections", s.conns.max)
	s.notify("READY=1")

	select {
	case <-ctx.Done():
	case err = <-s.failed:
	}
	cancel()
	s.stop()
	serving.Wait()
	background.Wait()
	return errors.Join(err, s.store.close())
}

// serve takes the end of a listener's loop, which is a failure unless the server is stopping.
func (s *server) serve(what string, err error) {
	if err != nil && !s.rest.stopping.Load() && !errors.Is(err, net.ErrClosed) {
		s.fail(fmt.Errorf("%s: %w", what, err))
	}
}

// stop ends everything but the database, in this order: say so, accept nothing, end the streams, wait for
// calls, and store what was handed over.
func (s *server) stop() {
	s.log.Info("stopping")
	s.notify("STOPPING=1")
	s.rest.stopping.Store(true)
	s.health.Shutdown()
	s.closeListeners()
	s.hub.shutDown(errShuttingDown)
	s.endStreams()

	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	// GracefulStop alone waits for ever for a stream whose client does not read (grpc-go #2888).
	hard := time.AfterFunc(stopTimeout, s.grpc.Stop)
	defer hard.Stop()
	var ending sync.WaitGroup
	ending.Go(s.grpc.GracefulStop)
	for _, server := range []*http.Server{s.http, s.plain} {
		if server == nil {
			continue
		}
		ending.Go(func() {
			if server.Shutdown(ctx) != nil {
				_ = server.Close()
			}
		})
	}
	ending.Wait()
	s.chat.sockets.Wait()
	s.chat.readers.Wait()
	s.committer.drain()
	s.chat.writers.Wait()
	if s.metrics != nil {
		_ = s.metricsServer.Close() // and with it a profile that is being made
	}
	s.log.Info("stopped")
}

// refresh brings the rooms up to date whenever another server may have written.
func (s *server) refresh(ctx context.Context) {
	var again <-chan time.Time // not nil: not all rooms could be
	for {
		select {
		case <-s.store.regained:
		case <-again:
		case <-ctx.Done():
			return
		}
		err := s.hub.refresh(ctx)
		if err != nil && again == nil && ctx.Err() == nil {
			s.log.Error("the rooms cannot be brought up to date yet", "cause", err)
		}
		again = nil
		if err != nil {
			again = time.After(watchPause)
		}
	}
}

// watchUsers ends the streams of accounts that another process has changed: their tokens are void.
func (s *server) watchUsers(ctx context.Context) {
	tick := time.NewTicker(watchPause)
	defer tick.Stop()
	version, failing := int64(0), false
	for {
		users, err := s.store.usersChangedSince(ctx, version)
		if err != nil && !failing && ctx.Err() == nil {
			s.log.Error("accounts cannot be watched", "cause", err)
		}
		failing = err != nil
		for _, u := range users {
			s.hub.endUser(u.ID, u.Version, errTokenInvalid)
			version = u.Version
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// isTemporary tells a program that `go run` has built.
func isTemporary(exe string) bool {
	return strings.HasPrefix(filepath.Base(filepath.Dir(filepath.Dir(filepath.Dir(exe)))), "go-build")
}
