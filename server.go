package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net"
	"net/http"
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
			s.giveUp()
		}
	}()
	if err := s.openListeners(); err != nil {
		return nil, err
	}
	if err := s.openData(ctx, databaseURL); err != nil {
		return nil, err
	}
	auth, err := s.newAuth(ctx)
	if err != nil {
		return nil, err
	}
	s.metrics.countRefusals(cfg.Limits)
	s.hub = newHub(cfg.RingMessages, s.store.lastSeq)
	s.committer = newCommitter(s.store, log, cfg.MaxMessage)
	s.hub.metrics, s.committer.metrics = s.metrics, s.metrics
	s.metrics.watch(s.hub, s.store)
	passwords := newPasswords()
	s.chat = &chatServer{
		store:      s.store,
		auth:       auth,
		passwords:  passwords,
		limits:     cfg.Limits,
		hub:        s.hub,
		committer:  s.committer,
		log:        log,
		metrics:    s.metrics,
		codeLength: cfg.CodeLength,
		maxMessage: cfg.MaxMessage,
		retention:  cfg.Retention,
		deleted:    make(chan struct{}, 1),
	}
	if cfg.RateLimits {
		s.chat.byProxy = newConcurrent(cfg.MaxConnectionsPerAddress)
	}
	assets, err := assets()
	if err != nil {
		return nil, err
	}
	s.rest = &restServer{
		store:            s.store,
		chat:             s.chat,
		assets:           assets,
		auth:             auth,
		passwords:        passwords,
		limits:           cfg.Limits,
		known:            newKnown(),
		log:              log,
		metrics:          s.metrics,
		registrationOpen: cfg.RegistrationOpen,
		trusted:          cfg.Proxies,
		timeout:          cfg.Timeouts.Request,
	}
	s.http = cfg.Timeouts.httpServer(s.rest.handler(), log)
	s.http.ConnContext, s.http.ConnState = connContext, connState
	if err := s.newGRPC(auth); err != nil {
		return nil, err
	}
	return s, nil
}

// giveUp closes what newServer has opened.
func (s *server) giveUp() {
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

// openListeners opens all addresses, and makes what they need: the metrics, the limits of connections, and the certificates.
func (s *server) openListeners() (err error) {
	cfg, log := s.cfg, s.log
	if cfg.MetricsAddr != "" {
		if s.metricsListener, err = listenTCP("METRICS_ADDR", cfg.MetricsAddr); err != nil {
			return err
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
			return err
		}
		s.certificate, secure = cert, tlsConfig(cert.get)
		s.metrics.watchCertificate(cert.ends)
	case len(cfg.Autocert.Domains) > 0:
		s.certs = newACME(cfg.Autocert, log)
		secure = tlsConfig(s.certs.get, acme.ALPNProto)
		s.metrics.watchCertificate(s.certs.ends)
	}
	for _, addr := range cfg.Listen {
		l, err := listen(cmp.Or(cfg.ListenKeys[addr], "LISTEN_ADDR"), addr, secure, s.conns, cfg.Timeouts.Handshake)
		if err != nil {
			return err
		}
		s.listeners = append(s.listeners, l)
	}
	if s.certs != nil && cfg.Autocert.HTTPAddr != "" {
		if s.plainListener, err = listenTCP("AUTOCERT_HTTP_ADDR", cfg.Autocert.HTTPAddr); err != nil {
			return err
		}
		s.plain = cfg.Timeouts.httpServer(s.certs.handler(), log)
		s.plain.ConnState = connState
	}
	return nil
}

// openData opens the database, as the one server that it has.
func (s *server) openData(ctx context.Context, url string) (err error) {
	s.store, err = openStore(ctx, storeOptions{
		URL:         url,
		Synchronous: s.cfg.Synchronous,
		Create:      true,
		Exclusive:   true,
		Adopt:       true,
		Upgrade:     true,
		Log:         s.log,
		Metrics:     s.metrics,
	})
	if err != nil {
		return err
	}
	if s.certs != nil {
		s.certs.manager.Cache = certificateCache{s.store, s.stopped}
	}
	s.store.onBroken = func(err error) {
		s.fail(fmt.Errorf("the server stops, so as to confirm nothing that is not stored: %w", err))
	}
	return nil
}

// newAuth makes the auth of the data, with its SECRET.
func (s *server) newAuth(ctx context.Context) (*auth, error) {
	secret := s.cfg.Secret
	if secret == "" {
		var err error
		if secret, err = s.store.setting(ctx, "secret", newSecret); err != nil {
			return nil, err
		}
	}
	if secret == originalSecret {
		s.log.Warn("SECRET is the one that the original project has published: anybody can make tokens for this server. Set another one, or none")
	}
	history, err := s.store.history(ctx)
	if err != nil {
		return nil, err
	}
	var openCalls *concurrent
	if s.cfg.RateLimits {
		openCalls = newConcurrent(maxOpenCalls)
	}
	return newAuth(secret, auth{
		store:     s.store,
		log:       s.log,
		duration:  s.cfg.TokenDuration,
		metrics:   s.metrics,
		stopped:   s.stopped,
		history:   history,
		trusted:   s.cfg.Proxies,
		openCalls: openCalls,
	})
}

// newGRPC makes the gRPC server with all its services.
func (s *server) newGRPC(auth *auth) error {
	s.health = health.NewServer()
	s.grpc = grpc.NewServer(
		grpc.Creds(plainCredentials{insecure.NewCredentials()}),
		grpc.ForceServerCodecV2(newCodec()),
		grpc.UnaryInterceptor(auth.unary),
		grpc.StreamInterceptor(auth.stream),
		grpc.MaxRecvMsgSize(maxRequest+s.cfg.MaxMessage),
		grpc.MaxHeaderListSize(maxHeader),
		grpc.MaxConcurrentStreams(uint32(s.cfg.MaxStreams)),
		grpc.ConnectionTimeout(s.cfg.Timeouts.Handshake),
		grpc.ReadBufferSize(readBuffer),
		// Windows that grow with the bandwidth (to 16 MiB) would be memory that a stream can fill unread.
		grpc.StaticStreamWindowSize(64<<10),
		grpc.StaticConnWindowSize(1<<20),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingAfter, Timeout: pingTimeout, MaxConnectionIdle: s.cfg.Timeouts.Idle}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
	)
	s.grpc.RegisterService(auth.guard(&pb.GRPCChatter_ServiceDesc), s.chat)
	s.grpc.RegisterService(auth.guard(originalDesc()), s.chat)
	s.grpc.RegisterService(auth.guard(&grpc_health_v1.Health_ServiceDesc), s.health)
	if err := registerReflection(s.grpc); err != nil {
		return err
	}
	for name := range s.grpc.GetServiceInfo() {
		s.health.SetServingStatus(name, grpc_health_v1.HealthCheckResponse_SERVING)
	}
	return nil
}

// timeToRead is how long the answer to an HTTP request may take to be read if the request took REQUEST_TIMEOUT to come, and
// the answer as long to be made.
const timeToRead = 5 * time.Second

// httpServer makes a server with these timeouts.
func (t timeouts) httpServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:                      h,
		ReadHeaderTimeout:            t.Header,
		ReadTimeout:                  t.Request,
		WriteTimeout:                 2*t.Request + timeToRead, // from the header on
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
