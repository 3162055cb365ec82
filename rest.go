package main

import (
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

// handler has all routes.
func (s *restServer) handler() http.Handler {
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
		r.Body = http.MaxBytesReader(below(w), r.Body, limit)
		// Not with the connection: a client that has closed its half still reads.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), s.timeout)
		defer cancel()
		r = r.WithContext(ctx)
		answer, err := fn(r)
		if err != nil {
			writeError(ctx, s.log, w, err)
			return
		}
		writeJSON(w, http.StatusOK, answer)
	}
}

type nameAndPassword struct {
	UserName string `json:"user_name"`
	Password string `json:"password"`
}

// readBody reads a request's body: a JSON object, whose unknown fields do not matter.
func readBody[T any](r *http.Request) (body T, err error) {
	b, err := io.ReadAll(r.Body)
	// Go would put U+FFFD for what is no text, and so make different passwords the same.
	if err == nil && utf8.Valid(b) && !hasLoneSurrogate(b) {
		if err = json.Unmarshal(b, &body); err == nil {
			return body, nil
		}
	}
	var tooLarge *http.MaxBytesError
	var wrongType *json.UnmarshalTypeError
	switch {
	case errors.As(err, &tooLarge):
		return body, errBodyTooLarge.saying(fmt.Sprintf("The body is larger than %d KiB.", tooLarge.Limit>>10))
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

// account is a user in an answer.
type account struct {
	ID        int64     `json:"id"`
	CreatedAt time.Time `json:"created_at"`
	UserName  string    `json:"user_name"`
	Role      string    `json:"role"`
}

func (s *restServer) register(r *http.Request) (any, error) {
	if !s.registrationOpen {
		return nil, errRegistrationClosed
	}
	c, err := readBody[nameAndPassword](r)
	if err != nil {
		return nil, err
	}
	if err := checkUserName(c.UserName); err != nil {
		return nil, err
	}
	if err := checkNewPassword(c.UserName, c.Password); err != nil {
		return nil, err
	}
	address := subscriber(clientAddr(r.Context())).String()
	if err := take(try{s.limits.registrationsPerAddress, address}); err != nil {
		return nil, err
	}
	// Asked first only to spare the hash: addUser decides.
	if _, err := s.store.userByName(r.Context(), c.UserName); err == nil {
		return nil, errNameTaken
	}
	hash, err := s.passwords.hash(r.Context(), hashing{laneStrangers, address}, c.Password)
	if err != nil {
		return nil, err
	}
	u, err := s.store.addUser(r.Context(), c.UserName, hash, roleUser)
	if errors.Is(err, errConflict) {
		return nil, errNameTaken
	} else if err == nil {
		s.known.add(nameKey(u.Name), address)
	}
	return account{u.ID, u.CreatedAt, u.Name, u.Role}, err
}

func (s *restServer) login(r *http.Request) (any, error) {
	c, err := readBody[nameAndPassword](r)
	if err != nil {
		return nil, err
	}
	switch {
	case c.UserName == "":
		return nil, invalid("user_name", "The user name is missing.")
	case c.Password == "":
		return nil, invalid("password", "The password is missing.")
	}
	u, err := s.verify(r, c.UserName, c.Password)
	if err != nil {
		return nil, err
	}
	token, err := s.auth.userToken(u)
	return tokenAnswer{token}, err
}

// verify returns the account of a user name if the password is its own. Guesses are counted, and slowed down.
func (s *restServer) verify(r *http.Request, name, password string) (u user, err error) {
	account, address := nameKey(name), subscriber(clientAddr(r.Context())).String()
	tries, hashing := s.loginTries(r, account, address)
	// Counted before it is looked at: else many at once would all be.
	if err := take(tries...); err != nil {
		return u, err
	}
	ctx := r.Context()
	guessed := false
	defer func() {
		if !guessed {
			giveBack(tries...)
		}
	}()
	if u, err = s.store.userByName(ctx, name); err != nil && !errors.Is(err, errNotFound) {
		return u, err
	}
	// An unknown user has an empty hash, which takes as long to refuse.
	ok, err := s.passwords.check(ctx, hashing, u.Hash, password)
	switch {
	case err != nil:
		return u, err
	case !ok:
		guessed = true
		s.metrics.loginFailed()
		return u, errInvalidCredentials
	case u.Disabled:
		return u, errAccountDisabled
	}
	if isBcrypt(u.Hash) {
		if hash, err := s.passwords.hash(ctx, hashing, password); err == nil {
			if err := s.store.replaceHash(ctx, u.ID, u.Hash, hash); err != nil {
				s.log.WarnContext(ctx, "an old password hash could not be replaced", "user", u.ID, "cause", err)
			}
		}
	}
	s.known.add(account, address)
	return u, nil
}

// loginTries says which limits a log-in counts in, and how it waits for its hash. Guesses from many addresses at one account
// are held together by the limit of that account. Who comes from where the account was used before, or sends an earlier
// token of it, does not count there, nor with what else comes from its address: else anybody could keep the owner out.
// Such a client has one narrow limit of its own: a device cookie's, as OWASP names it.
func (s *restServer) loginTries(r *http.Request, account, address string) ([]try, hashing) {
	own := address
	if token, err := bearerToken(r.Header.Values("Authorization")); err == nil && s.auth.wasOf(r.Context(), token, account) {
		own = token
	} else if !s.known.has(account, address) {
		return []try{
			{s.limits.loginsPerAddress, address},
			{s.limits.loginsPerAccountAndAddress, address + " " + account},
			{s.limits.loginsPerAccount, account},
		}, hashing{laneStrangers, address}
	}
	return []try{{s.limits.loginsPerAccountAndAddress, own + " " + account}}, hashing{laneKnown, address}
}

type tokenAnswer struct {
	Token string `json:"token"`
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
