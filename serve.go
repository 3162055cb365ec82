package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/acme"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	"github.com/grpcchatter/grpcchatter/pb"
)

const (
	// stopTimeout is how long connections may take to end by themselves at shutdown.
	stopTimeout = 5 * time.Second
	// watchPause is how soon a change of an account by another process ends its streams.
	watchPause = 250 * time.Millisecond
	// A peer that has gone silent is found after pingAfter, and cut pingTimeout later.
	pingAfter   = 25 * time.Second
	pingTimeout = 10 * time.Second
	// maxRequest is how large a gRPC request may be in bytes, beside MAX_MESSAGE_SIZE. What is larger ends its
	// stream with RESOURCE_EXHAUSTED: grpc-go lets a peer send all that it has announced, and keeps it until its
	// end has come, so this and MAX_STREAMS_PER_CONNECTION bound the memory that a connection can take.
	maxRequest = 128 << 10
)

// server is a running server's parts, in the order in which they are made.
type server struct {
	cfg             config
	log             *slog.Logger
	listeners       []*listener
	conns           *connections
	store           *store
	hub             *hub
	committer       *committer
	chat            *chatServer
	rest            *restServer
	health          *health.Server
	grpc            *grpc.Server
	http            *http.Server
	metrics         *metrics // nil: not asked for, as are the next two
	metricsListener net.Listener
	metricsServer   *http.Server
	certificate     *certificate      // nil: no TLS
	notifySocket    string            // of the service manager; empty: none
	certs           *acmeCertificates // nil: no AUTOCERT_DOMAIN, or for the next two, AUTOCERT_HTTP_ADDR=off
	plainListener   net.Listener
	plain           *http.Server
	failed          chan error // what makes it impossible to go on
	// stopped ends the streams that are no session.
	stopped    context.Context
	endStreams context.CancelFunc
}

// newServer opens the listeners, then the data: a port in use leaves the data untouched.
func newServer(ctx context.Context, cfg config, databaseURL string, log *slog.Logger) (_ *server, err error) {
	s := &server{cfg: cfg, log: log, failed: make(chan error, 1)}
	s.stopped, s.endStreams = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			s.closeListeners()
			for _, l := range []net.Listener{s.plainListener, s.metricsListener} {
				if l != nil {
					_ = l.Close()
				}
			}
			if s.store != nil {
				_ = s.store.close()
			}
		}
	}()
	if cfg.MetricsAddr != "" {
		if s.metricsListener, err = listenTCP("METRICS_ADDR", cfg.MetricsAddr); err != nil {
			return nil, err
		}
		s.metrics = newMetrics()
		s.metricsServer = s.metrics.server(cfg.Timeouts, log)
	}
	s.conns = newConnections(cfg, s.metrics, log)
	var secure *tls.Config
	switch {
	case cfg.TLSCert != "":
		cert, err := loadCertificate(cfg.TLSCert, cfg.TLSKey, log)
		if err != nil {
			return nil, err
		}
		s.certificate, secure = cert, tlsConfig(cert.get)
	case len(cfg.Autocert.Domains) > 0:
		s.certs = newACME(cfg.Autocert, log)
		secure = tlsConfig(s.certs.get, acme.ALPNProto)
	}
	for _, addr := range cfg.Listen {
		l, err := listen(cmp.Or(cfg.ListenKeys[addr], "LISTEN_ADDR"), addr, secure, s.conns, cfg.Timeouts.Handshake)
		if err != nil {
			return nil, err
		}
		s.listeners = append(s.listeners, l)
	}
	if s.certs != nil && cfg.Autocert.HTTPAddr != "" {
		if s.plainListener, err = listenTCP("AUTOCERT_HTTP_ADDR", cfg.Autocert.HTTPAddr); err != nil {
			return nil, err
		}
		s.plain = cfg.Timeouts.httpServer(s.certs.handler(), log)
	}
	s.store, err = openStore(ctx, storeOptions{URL: databaseURL, Synchronous: cfg.Synchronous, Create: true, Exclusive: true, Adopt: true, Upgrade: true, Log: log, Metrics: s.metrics})
	if err != nil {
		return nil, err
	}
	if s.certs != nil {
		s.certs.manager.Cache = certificateCache{s.store, s.stopped}
	}
	s.store.onBroken = func(err error) {
		s.fail(fmt.Errorf("the server stops, so as to confirm nothing that is not stored: %w", err))
	}
	secret := cfg.Secret
	if secret == "" {
		if secret, err = s.store.setting(ctx, "secret", newSecret); err != nil {
			return nil, err
		}
	}
	if secret == originalSecret {
		log.Warn("SECRET is the one that the original project has published: anybody can make tokens for this server. Set another one, or none")
	}
	auth, err := newAuth(s.store, log, secret, cfg.TokenDuration)
	if err != nil {
		return nil, err
	}
	if auth.history, err = s.store.history(ctx); err != nil {
		return nil, err
	}
	auth.stopped, auth.metrics, auth.trusted = s.stopped, s.metrics, cfg.Proxies
	if cfg.RateLimits {
		auth.openCalls = newConcurrent(maxOpenCalls)
	}
	passwords := newPasswords()
	limits := cfg.Limits
	s.metrics.countRefusals(limits)
	s.hub = newHub(cfg.RingMessages, s.store.lastSeq)
	s.committer = newCommitter(s.store, log, cfg.MaxMessage)
	s.hub.metrics, s.committer.metrics = s.metrics, s.metrics
	s.metrics.watch(s.hub, s.store)
	s.chat = &chatServer{store: s.store, auth: auth, passwords: passwords, limits: limits, hub: s.hub, committer: s.committer,
		log: log, metrics: s.metrics, codeLength: cfg.CodeLength, maxMessage: cfg.MaxMessage, retention: cfg.Retention, deleted: make(chan struct{}, 1)}
	if cfg.RateLimits {
		s.chat.byProxy = newConcurrent(cfg.MaxConnectionsPerAddress)
	}
	assets, err := assets()
	if err != nil {
		return nil, err
	}
	s.rest = &restServer{store: s.store, chat: s.chat, assets: assets, auth: auth, passwords: passwords, limits: limits, known: newKnown(), log: log, metrics: s.metrics, registrationOpen: cfg.RegistrationOpen,
		trusted: cfg.Proxies, timeout: cfg.Timeouts.Request}
	s.health = health.NewServer()
	s.grpc = grpc.NewServer(
		grpc.Creds(plainCredentials{insecure.NewCredentials()}),
		grpc.ForceServerCodecV2(newCodec()),
		grpc.UnaryInterceptor(auth.unary),
		grpc.StreamInterceptor(auth.stream),
		grpc.MaxRecvMsgSize(maxRequest+cfg.MaxMessage),
		grpc.MaxHeaderListSize(maxHeader),
		grpc.MaxConcurrentStreams(uint32(cfg.MaxStreams)),
		grpc.ConnectionTimeout(cfg.Timeouts.Handshake),
		grpc.ReadBufferSize(readBuffer),
		// Windows that grow with the bandwidth (to 16 MiB) would be memory that a stream can fill unread.
		grpc.StaticStreamWindowSize(64<<10),
		grpc.StaticConnWindowSize(1<<20),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingAfter, Timeout: pingTimeout, MaxConnectionIdle: cfg.Timeouts.Idle}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
	)
	s.grpc.RegisterService(auth.guard(&pb.GRPCChatter_ServiceDesc), s.chat)
	s.grpc.RegisterService(auth.guard(originalDesc()), s.chat)
	s.grpc.RegisterService(auth.guard(&grpc_health_v1.Health_ServiceDesc), s.health)
	if err := registerReflection(s.grpc); err != nil {
		return nil, err
	}
	for name := range s.grpc.GetServiceInfo() {
		s.health.SetServingStatus(name, grpc_health_v1.HealthCheckResponse_SERVING)
	}
	s.http = cfg.Timeouts.httpServer(s.rest.handler(), log)
	s.http.ConnContext, s.http.ConnState = connContext, connState
	return s, nil
}

// httpServer makes a server with these timeouts.
func (t timeouts) httpServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:                      h,
		ReadHeaderTimeout:            t.Header,
		ReadTimeout:                  t.Request,
		WriteTimeout:                 t.Request,
		IdleTimeout:                  t.Idle,
		MaxHeaderBytes:               maxHeader,
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

type overTLSKey struct{}

// connContext tells the requests of a connection whether it speaks TLS, which cmux hides.
func connContext(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, overTLSKey{}, overTLS(c))
}

func isOverTLS(ctx context.Context) bool {
	secure, _ := ctx.Value(overTLSKey{}).(bool)
	return secure
}

// connState counts what a connection is used for.
func connState(c net.Conn, state http.ConnState) {
	conn := clientConnOf(c)
	switch {
	case conn == nil:
	case state == http.StateNew:
		conn.speaks(transportHTTP)
	case state == http.StateHijacked:
		conn.speaks(transportSocket)
	}
}

func newSecret() string {
	b := make([]byte, 32)
	rand.Read(b) // never fails
	return base64.RawStdEncoding.EncodeToString(b)
}

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
	for {
		select {
		case <-s.store.regained:
			s.hub.refresh(ctx, errRoomDeleted)
		case <-ctx.Done():
			return
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
