package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path"
	"reflect"
	"strconv"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

const (
	maxBody     = 16 << 10 // bytes
	escapedSize = 6        // bytes of JSON that a byte of a text can take
	maxHeader   = 16 << 10
	// hsts makes a browser ask this host by https only, for a year. Not includeSubDomains: other hosts are not ours to decide
	// about. Not preload: that takes months to take back.
	hsts = "max-age=31536000"
)

// restServer answers everything that is not gRPC.
type restServer struct {
	store            *store
	chat             *chatServer
	assets           []asset
	auth             *auth
	passwords        *passwords
	limits           limits
	known            *known
	log              *slog.Logger
	metrics          *metrics // nil: none
	registrationOpen bool
	trusted          proxies
	timeout          time.Duration // of a request
	stopping         atomic.Bool
}

// routes has all routes.
func (s *restServer) routes() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /register", s.handle(maxBody, s.register))
	mux.HandleFunc("POST /login", s.handle(maxBody, s.login))
	mux.HandleFunc("GET /account", s.asUser(s.getAccount))
	mux.HandleFunc("POST /account/password", s.asUser(s.changePassword))
	mux.HandleFunc("POST /account/delete", s.asUser(s.deleteAccount))
	mux.HandleFunc("GET /rooms", s.asUser(s.listRooms))
	mux.HandleFunc("POST /rooms", s.asUser(s.createRoom))
	mux.HandleFunc("PATCH /rooms/{short_code}", s.asUser(s.changeRoom))
	mux.HandleFunc("DELETE /rooms/{short_code}", s.asUser(s.deleteRoom))
	mux.HandleFunc("GET /rooms/{short_code}/members", s.asUser(s.listMembers))
	mux.HandleFunc("DELETE /rooms/{short_code}/members/{user_name}", s.asUser(s.removeMember))
	mux.HandleFunc("GET /rooms/{short_code}/bans", s.asUser(s.listBans))
	mux.HandleFunc("PUT /rooms/{short_code}/bans/{user_name}", s.asUser(s.ban))
	mux.HandleFunc("DELETE /rooms/{short_code}/bans/{user_name}", s.asUser(s.unban))
	mux.HandleFunc("POST /rooms/{short_code}/join", s.asUser(s.joinRoom))
	mux.HandleFunc("GET /rooms/{short_code}/users", s.asRoom(s.listUsers))
	mux.HandleFunc("GET /rooms/{short_code}/messages", s.asRoom(s.listMessages))
	mux.HandleFunc("POST /rooms/{short_code}/messages", s.asRoom(s.postMessage))
	mux.HandleFunc("GET /admin/users", s.asAdmin(s.findUsers))
	mux.HandleFunc("PATCH /admin/users/{user_name}", s.asAdmin(s.changeUser))
	mux.HandleFunc("POST /admin/users/{user_name}/password", s.asAdmin(s.resetPassword))
	mux.HandleFunc("DELETE /admin/users/{user_name}/sessions", s.asAdmin(s.endSessions))
	mux.HandleFunc("GET /admin/rooms", s.asAdmin(s.findRooms))
	mux.HandleFunc("GET /admin/audit", s.asAdmin(s.listAudit))
	mux.HandleFunc("GET /chat", s.chat.serveSocket)
	mux.HandleFunc("GET /healthz", s.handle(maxBody, s.healthz))
	mux.HandleFunc("GET /readyz", s.handle(maxBody, s.readyz))
	for i := range s.assets {
		mux.Handle("GET "+s.assets[i].path, &s.assets[i])
	}
	return mux
}

// handler is what is done for every request, whatever its route: it gets an id and an address, is counted and logged, and is
// refused if it comes from a foreign page or if no route is for it.
func (s *restServer) handler() http.Handler {
	mux := s.routes()
	var sameOrigin http.CrossOriginProtection
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		peer := peerAddr(r.RemoteAddr)
		ctx := withRequestID(r.Context(), r.Header.Get(requestIDHeader))
		ctx = withClientAddr(ctx, s.trusted.client(peer, r.Header[forwardedFor]))
		if isOverTLS(ctx) || s.trusted.trusts(peer) && r.Header.Get("X-Forwarded-Proto") == "https" {
			w.Header().Set("Strict-Transport-Security", hsts)
		}
		r = r.WithContext(ctx)
		w.Header().Set(requestIDHeader, requestIDOf(ctx))
		secure(w.Header())
		checked := *r
		if r.URL.Path == "/chat" {
			checked.Method = http.MethodPost // a GET that opens a WebSocket changes things
		}
		h, route := mux.Handler(r)
		var refused error
		switch {
		case sameOrigin.Check(&checked) != nil:
			refused = errForeignOrigin
		case path.Clean(r.URL.EscapedPath()) != r.URL.EscapedPath(): // the mux would redirect, in HTML
			refused = errNoSuchPath
		case route == "":
			// The mux would answer in plain text. It knows which methods the path takes.
			refusal := refusal{header: w.Header()}
			h.ServeHTTP(&refusal, r)
			refused = errNoSuchPath
			if refusal.code == http.StatusMethodNotAllowed {
				refused = errNoSuchMethod
			}
		}
		if refused != nil {
			route = "none"
		}
		sw := &statusWriter{ResponseWriter: w, wrote: func(status int) { s.metrics.requested(route, status) }}
		if refused != nil {
			writeError(ctx, s.log, sw, refused)
		} else {
			mux.ServeHTTP(sw, r)
		}
		s.log.DebugContext(ctx, "request", "route", route, "status", sw.status, "client", clientAddr(ctx), "took", time.Since(start))
	})
}

// statusWriter notes the status of an answer. Every handler here calls WriteHeader.
type statusWriter struct {
	http.ResponseWriter
	wrote  func(status int) // called when it is known: that of a WebSocket long before the handler's end
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
		w.wrote(status)
	}
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// below returns net/http's own ResponseWriter, which http.MaxBytesReader tells that the connection is to be closed.
func below(w http.ResponseWriter) http.ResponseWriter {
	if sw, ok := w.(*statusWriter); ok {
		return sw.ResponseWriter
	}
	return w
}

// refusal keeps the status and the headers of an answer, but not its body.
type refusal struct {
	header http.Header
	code   int
}

func (r *refusal) Header() http.Header         { return r.header }
func (r *refusal) WriteHeader(code int)        { r.code = code }
func (r *refusal) Write(p []byte) (int, error) { return len(p), nil }

// handle makes a route that answers with JSON, to a body of at most limit bytes.
func (s *restServer) handle(limit int64, fn func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		// Not with the connection: a client that has closed its half still reads.
		ctx, cancel := context.WithCancelCause(context.WithoutCancel(r.Context()))
		defer cancel(nil)
		late := time.AfterFunc(s.timeout, func() { cancel(context.DeadlineExceeded) })
		defer late.Stop()
		if r.Body != http.NoBody { // it has a time of its own, before that of the answer
			late.Reset(2 * s.timeout)
			r.Body = watchedBody{http.MaxBytesReader(below(w), r.Body, limit), func() { late.Reset(s.timeout) }}
		}
		r = r.WithContext(ctx)
		answer, err := fn(r)
		if errors.Is(err, context.Canceled) && context.Cause(ctx) == context.DeadlineExceeded {
			err = fmt.Errorf("%w: within %s", errUnavailable, s.timeout)
		}
		if err != nil {
			writeError(ctx, s.log, w, err)
			return
		}
		writeJSON(w, http.StatusOK, answer)
	}
}

// watchedBody calls over when there is nothing more to read of a request's body.
type watchedBody struct {
	io.ReadCloser
	over func()
}

func (b watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.over()
	}
	return n, err
}

// readBody reads a request's body: a JSON object, whose unknown fields do not matter.
func readBody[T any](r *http.Request) (body T, err error) {
	b, err := io.ReadAll(r.Body)
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return body, errBodyTooLarge.saying(fmt.Sprintf("The body is larger than %d KiB.", tooLarge.Limit>>10))
	} else if err != nil {
		return body, errInvalidJSON.saying("The body did not come whole, or not in time.")
	}
	// Go would put U+FFFD for what is no text, and so make different passwords the same.
	// And null would be an object without fields to it.
	if utf8.Valid(b) && !hasLoneSurrogate(b) && string(bytes.TrimSpace(b)) != "null" {
		if err = json.Unmarshal(b, &body); err == nil {
			return body, nil
		}
	}
	var wrongType *json.UnmarshalTypeError
	switch {
	case errors.As(err, &wrongType) && wrongType.Field != "":
		want := "a string"
		if wrongType.Type.Kind() == reflect.Bool {
			want = "true or false"
		}
		return body, invalid(wrongType.Field, fmt.Sprintf("The field %s has to be %s.", wrongType.Field, want))
	}
	return body, errInvalidJSON
}

// hasLoneSurrogate tells whether JSON has an escape from \uD800 to \uDFFF that is not half of a pair.
func hasLoneSurrogate(b []byte) bool {
	escape := func(i int) rune { // at b[i:]; 0 if there is none
		if i+6 > len(b) || b[i] != '\\' || b[i+1] != 'u' {
			return 0
		}
		n, _ := strconv.ParseUint(string(b[i+2:i+6]), 16, 16)
		return rune(n)
	}
	for i := 0; i < len(b); i++ {
		if b[i] != '\\' {
			continue
		}
		if r := escape(i); utf16.IsSurrogate(r) {
			if utf16.DecodeRune(r, escape(i+6)) == unicode.ReplacementChar {
				return true
			}
			i += 6
		}
		i++ // what is escaped
	}
	return false
}

type healthStatus struct {
	Status string `json:"status"`
}

func (s *restServer) healthz(*http.Request) (any, error) { return healthStatus{"ok"}, nil }

func (s *restServer) readyz(r *http.Request) (any, error) {
	if s.stopping.Load() {
		return nil, errShuttingDown
	}
	if err := s.store.ping(r.Context()); err != nil {
		s.log.ErrorContext(r.Context(), "the database does not answer", "cause", err)
		return nil, errDatabaseUnavailable
	}
	return healthStatus{"ready"}, nil
}

func writeJSON(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store") // tokens, and what people write
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body) // the client is gone if this fails
}
