package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"os"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc/status"
)

// profileTimeout is how long a profile of METRICS_ADDR may take, and any answer there to be read: a profile takes 30 s if
// nothing else is asked for.
const profileTimeout = 2 * time.Minute

// metrics are what METRICS_ADDR shows. No label has a user or a room. A nil *metrics counts nothing, and takes no time;
// else the methods on the way of a message are called once a batch or a frame, and take no lock. It is safe for
// concurrent use.
type metrics struct {
	registry *prometheus.Registry
	began    time.Time // what times are counted from

	sessions  *prometheus.GaugeVec   // by transport
	opened    *prometheus.CounterVec // by transport
	resumed   prometheus.Counter
	stalled   prometheus.Counter
	stored    prometheus.Counter
	commit    prometheus.Histogram
	batch     prometheus.Histogram
	delivery  prometheus.Histogram
	calls     *prometheus.CounterVec // by method and code
	requests  *prometheus.CounterVec // by route and status
	badLogins prometheus.Counter
	limited   *prometheus.CounterVec // by limit
	dbErrors  *prometheus.CounterVec // by kind
	conns     *prometheus.GaugeVec   // by transport
	refused   *prometheus.CounterVec // by reason
}

// newMetrics returns metrics with a registry of their own.
func newMetrics() *metrics {
	m := &metrics{registry: prometheus.NewRegistry(), began: time.Now()}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "grpcchatter_" + name, Help: help})
		m.registry.MustRegister(c)
		return c
	}
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "grpcchatter_" + name, Help: help}, labels)
		m.registry.MustRegister(c)
		return c
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "grpcchatter_" + name, Help: help, Buckets: buckets})
		m.registry.MustRegister(h)
		return h
	}
	times := []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}

	m.sessions = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "grpcchatter_sessions", Help: "Open sessions (Chat streams and WebSockets)."}, []string{"transport"})
	m.opened = counters("sessions_opened_total", "Sessions that were opened.", "transport")
	m.resumed = counter("sessions_resumed_total", "Sessions that were opened with after_seq.")
	m.stalled = counter("sessions_stalled_total", fmt.Sprintf("Sessions that were cut because their client did not read for %d s.", wholeSeconds(stallLimit)))
	m.stored = counter("messages_stored_total", "Messages that were stored.")
	m.commit = histogram("commit_seconds", "Time from the start of a batch to its commit, synced.", times)
	m.batch = histogram("batch_messages", "Messages of a commit.", prometheus.ExponentialBuckets(1, 2, 13))
	m.delivery = histogram("delivery_seconds", "Time from a commit until the frame with its messages was handed to the transport; of a frame, its oldest message.", times)
	m.calls = counters("grpc_calls_total", "gRPC calls that have ended, by method and code.", "method", "code")
	m.requests = counters("http_requests_total", "HTTP requests, by route and status.", "route", "status")
	m.badLogins = counter("logins_failed_total", "Log-ins with a wrong name or password.")
	m.limited = counters("rate_limited_total", "What a limit has refused, by the limit: its key without LIMIT_, in lower case.", "limit")
	m.dbErrors = counters("database_errors_total", "Errors of the database, by kind.", "kind")
	m.conns = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "grpcchatter_connections", Help: "Open connections of clients, by what they are used for."}, []string{"transport"})
	m.refused = counters("connections_refused_total", "Connections that were closed at once, for there were too many: in all, or from one address.", "reason")
	for _, transport := range []string{transportNew, transportGRPC, transportHTTP, transportSocket} {
		m.conns.WithLabelValues(transport)
	}
	for _, reason := range []string{refusedTotal, refusedAddress} {
		m.refused.WithLabelValues(reason)
	}
	for _, transport := range []string{transportGRPC, transportOriginal, transportSocket} {
		m.sessions.WithLabelValues(transport)
		m.opened.WithLabelValues(transport)
	}
	for _, kind := range databaseErrors() {
		m.dbErrors.WithLabelValues(kind.label)
	}
	b := readBuild()
	info := prometheus.NewGauge(prometheus.GaugeOpts{Name: "grpcchatter_build_info", Help: "1, with what the program was built of.",
		ConstLabels: prometheus.Labels{"version": b.version, "commit": b.commit, "go": b.goVersion, "platform": b.platform}})
	info.Set(1)
	m.registry.MustRegister(m.sessions, m.conns, info, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// watch adds what is looked at when somebody asks.
func (m *metrics) watch(h *hub, s *store) {
	if m == nil {
		return
	}
	gauge := func(name, help string, value func() float64) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "grpcchatter_" + name, Help: help}, value))
	}
	gauge("rooms", "Rooms that somebody is in.", func() float64 { return float64(h.size()) })
	if wal := s.walFile(); wal != "" {
		gauge("sqlite_wal_bytes", "Size of SQLite's write-ahead log.", func() float64 {
			info, err := os.Stat(wal) // never opened: to close it would drop SQLite's locks
			if err != nil {
				return 0
			}
			return float64(info.Size())
		})
	}
}

// watchCertificate adds when the certificate ends that is served; of several, the first one. Zero: one is not there yet.
func (m *metrics) watchCertificate(ends func() time.Time) {
	if m == nil {
		return
	}
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "grpcchatter_certificate_expires_seconds",
		Help: "When the certificate ends, as Unix time; of several, the first one. 0: one is not there yet.",
	}, func() float64 {
		end := ends()
		if end.IsZero() {
			return 0
		}
		return float64(end.Unix())
	}))
}

// server serves the metrics, and profiles. /debug/pprof/cmdline is left out: a command line may have a secret.
func (m *metrics) server(t timeouts, log *slog.Logger) *http.Server {
	errorLog := slog.NewLogLogger(log.Handler(), slog.LevelWarn)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{ErrorLog: errorLog, ErrorHandling: promhttp.ContinueOnError}))
	for path, h := range map[string]http.HandlerFunc{"": pprof.Index, "cmdline": http.NotFound, "profile": pprof.Profile, "symbol": pprof.Symbol, "trace": pprof.Trace} {
		mux.HandleFunc("GET /debug/pprof/"+path, notTooLong(h))
	}
	server := t.httpServer(mux, log)
	server.WriteTimeout = profileTimeout
	return server
}

// notTooLong refuses a profile of more than profileTimeout: package pprof puts off the server's WriteTimeout for as long as a
// profile is asked to take.
func notTooLong(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if seconds, _ := strconv.ParseFloat(r.FormValue("seconds"), 64); seconds > profileTimeout.Seconds() {
			http.Error(w, fmt.Sprintf("A profile takes %d seconds at most.", wholeSeconds(profileTimeout)), http.StatusBadRequest)
			return
		}
		h(w, r)
	}
}

// The label transport.
const (
	transportGRPC     = "grpc"
	transportOriginal = "grpc_original"
	transportSocket   = "websocket"
)

// sessionOpened counts a session, and returns the time.
func (m *metrics) sessionOpened(transport string, resumed bool) time.Duration {
	if m == nil {
		return 0
	}
	m.opened.WithLabelValues(transport).Inc()
	m.sessions.WithLabelValues(transport).Inc()
	if resumed {
		m.resumed.Inc()
	}
	return time.Since(m.began)
}

func (m *metrics) sessionClosed(transport string) {
	if m != nil {
		m.sessions.WithLabelValues(transport).Dec()
	}
}

func (m *metrics) sessionStalled() {
	if m != nil {
		m.stalled.Inc()
	}
}

// committed counts a batch of n messages that was begun at start, and returns the time of its commit, for its blocks.
func (m *metrics) committed(start time.Time, n int) time.Duration {
	if m == nil || n == 0 {
		return 0
	}
	now := time.Now()
	m.commit.Observe(now.Sub(start).Seconds())
	m.batch.Observe(float64(n))
	m.stored.Add(float64(n))
	return now.Sub(m.began)
}

// delivered counts a frame to a session that was opened at a time, by its first block that was committed since: what is
// older was not late.
func (m *metrics) delivered(spans []span, opened time.Duration) {
	if m == nil {
		return
	}
	for _, sp := range spans {
		if at := sp.block.committed; at > opened {
			m.delivery.Observe((time.Since(m.began) - at).Seconds())
			return
		}
	}
}

// called counts a call of a method that the server has, and its end.
func (m *metrics) called(method string, err error) {
	if m != nil {
		m.calls.WithLabelValues(method, status.Code(err).String()).Inc()
	}
}

// requested counts an answer. The route is a pattern, never a path.
func (m *metrics) requested(route string, status int) {
	if m != nil {
		m.requests.WithLabelValues(route, strconv.Itoa(status)).Inc()
	}
}

func (m *metrics) loginFailed() {
	if m != nil {
		m.badLogins.Inc()
	}
}

// countRefusals counts what the limits refuse.
func (m *metrics) countRefusals(limits limits) {
	if m == nil {
		return
	}
	for _, l := range limits.all() {
		if l != nil {
			l.refused = m.limited.WithLabelValues(l.name)
		}
	}
}

// connected counts a connection that is used for another thing than before; empty: that it is not open.
func (m *metrics) connected(before, now string) {
	if m == nil {
		return
	}
	if before != "" {
		m.conns.WithLabelValues(before).Dec()
	}
	if now != "" {
		m.conns.WithLabelValues(now).Inc()
	}
}

func (m *metrics) connectionRefused(reason string) {
	if m != nil {
		m.refused.WithLabelValues(reason).Inc()
	}
}

type databaseError struct {
	err   error
	label string
}

// databaseErrors are those that count: the others are answers, or bugs, which a caller sees as INTERNAL.
func databaseErrors() []databaseError {
	return []databaseError{{errBroken, "broken"}, {errDiskFull, "disk_full"}, {errUnavailable, "unavailable"}}
}

// databaseFailed counts an error of the store, if it is one of databaseErrors.
func (m *metrics) databaseFailed(err error) {
	if m == nil {
		return
	}
	for _, kind := range databaseErrors() {
		if errors.Is(err, kind.err) {
			m.dbErrors.WithLabelValues(kind.label).Inc()
			return
		}
	}
}
