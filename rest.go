package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

const (
	maxBody        = 16 << 10 // bytes
	minUserName    = 2
	maxUserName    = 32
	minPassword    = 8 // NIST SP 800-63B, 5.1.1.2
	maxPassword    = 256
	headerTimeout  = 10 * time.Second
	requestTimeout = 20 * time.Second
	idleTimeout    = 2 * time.Minute
	maxHeader      = 16 << 10
)

// restServer answers everything that is not gRPC.
type restServer struct {
	store            *store
	auth             *auth
	passwords        *passwords
	limits           limits
	log              *slog.Logger
	registrationOpen bool
	stopping         atomic.Bool
}

// handler has all routes.
func (s *restServer) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /register", s.handle(s.register))
	mux.HandleFunc("POST /login", s.handle(s.login))
	mux.HandleFunc("GET /healthz", s.handle(s.healthz))
	mux.HandleFunc("GET /readyz", s.handle(s.readyz))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, pattern := mux.Handler(r)
		if pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		// The mux would answer in plain text. It knows which methods the path takes.
		refusal := refusal{header: w.Header()}
		h.ServeHTTP(&refusal, r)
		switch refusal.code {
		case http.StatusMethodNotAllowed:
			writeError(s.log, w, errNoSuchMethod)
		default:
			writeError(s.log, w, errNoSuchPath)
		}
	})
}

// refusal keeps the status and the headers of an answer, but not its body.
type refusal struct {
	header http.Header
	code   int
}

func (r *refusal) Header() http.Header         { return r.header }
func (r *refusal) WriteHeader(code int)        { r.code = code }
func (r *refusal) Write(p []byte) (int, error) { return len(p), nil }

func (s *restServer) handle(fn func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		answer, err := fn(r)
		s.log.Debug("request", "method", r.Method, "path", r.URL.Path, "ok", err == nil, "took", time.Since(start))
		switch {
		case err == nil:
			writeJSON(w, http.StatusOK, answer)
		case r.Context().Err() != nil: // nobody is there to read an answer
		default:
			writeError(s.log, w, err)
		}
	}
}

type credentials struct {
	UserName string `json:"user_name"`
	Password string `json:"password"`
}

func readCredentials(r *http.Request) (c credentials, err error) {
	d := json.NewDecoder(r.Body)
	err = d.Decode(&c)
	if err == nil {
		if _, err = d.Token(); errors.Is(err, io.EOF) {
			return c, nil
		} else if err == nil {
			return c, errInvalidJSON // something follows
		}
	}
	var tooLarge *http.MaxBytesError
	var wrongType *json.UnmarshalTypeError
	switch {
	case errors.As(err, &tooLarge):
		return c, errBodyTooLarge
	case errors.As(err, &wrongType) && wrongType.Field != "":
		return c, invalid(wrongType.Field, fmt.Sprintf("The field %s has to be a string.", wrongType.Field))
	}
	return c, errInvalidJSON
}

// checkUserName returns the rule that a new user name breaks.
func checkUserName(name string) error {
	rule := fmt.Sprintf("A user name has %d to %d of the letters a to z and A to Z, digits, and _ - .", minUserName, maxUserName)
	if len(name) < minUserName || len(name) > maxUserName {
		return invalid("user_name", rule)
	}
	for _, c := range []byte(name) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-' || c == '.') {
			return invalid("user_name", rule)
		}
	}
	return nil
}

// checkNewPassword returns the rule that a new password breaks.
func checkNewPassword(name, password string) error {
	switch {
	case len(password) < minPassword || len(password) > maxPassword:
		return invalid("password", fmt.Sprintf("A password has %d to %d bytes.", minPassword, maxPassword))
	case strings.EqualFold(name, password):
		return invalid("password", "The password must not be the user name.")
	}
	return nil
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
	c, err := readCredentials(r)
	if err != nil {
		return nil, err
	}
	if err := checkUserName(c.UserName); err != nil {
		return nil, err
	}
	if err := checkNewPassword(c.UserName, c.Password); err != nil {
		return nil, err
	}
	if err := s.limits.Register.Take(remoteIP(r)); err != nil {
		return nil, err
	}
	// Asked first only to spare the hash: AddUser decides.
	if _, err := s.store.UserByName(r.Context(), c.UserName); err == nil {
		return nil, errNameTaken
	}
	hash, err := s.passwords.Hash(r.Context(), c.Password)
	if err != nil {
		return nil, err
	}
	u, err := s.store.AddUser(r.Context(), c.UserName, hash, roleUser)
	if errors.Is(err, errConflict) {
		return nil, errNameTaken
	}
	return account{u.ID, u.CreatedAt, u.Name, u.Role}, err
}

func (s *restServer) login(r *http.Request) (any, error) {
	c, err := readCredentials(r)
	if err != nil {
		return nil, err
	}
	switch {
	case c.UserName == "":
		return nil, invalid("user_name", "The user name is missing.")
	case c.Password == "":
		return nil, invalid("password", "The password is missing.")
	}
	ip := remoteIP(r)
	// By address too, so that nobody can slow down the owner of an account from elsewhere.
	account := ip + " " + nameKey(c.UserName)
	if err := errors.Join(s.limits.Login.Check(account), s.limits.LoginIP.Check(ip)); err != nil {
		return nil, err
	}
	ctx := r.Context()
	u, err := s.store.UserByName(ctx, c.UserName)
	if err != nil && !errors.Is(err, errNotFound) {
		return nil, err
	}
	// An unknown user has an empty hash, which takes as long to refuse.
	ok, err := s.passwords.Check(ctx, u.Hash, c.Password)
	switch {
	case err != nil:
		return nil, err
	case !ok:
		_ = s.limits.Login.Take(account)
		_ = s.limits.LoginIP.Take(ip)
		return nil, errInvalidCredentials
	case u.Disabled:
		return nil, errAccountDisabled
	}
	if isBcrypt(u.Hash) {
		if hash, err := s.passwords.Hash(ctx, c.Password); err == nil {
			if err := s.store.ReplaceHash(ctx, u.ID, u.Hash, hash); err != nil {
				s.log.Warn("an old password hash could not be replaced", "user", u.ID, "cause", err)
			}
		}
	}
	token, err := s.auth.userToken(u)
	return struct {
		Token string `json:"token"`
	}{token}, err
}

type healthStatus struct {
	Status string `json:"status"`
}

func (s *restServer) healthz(*http.Request) (any, error) { return healthStatus{"ok"}, nil }

func (s *restServer) readyz(r *http.Request) (any, error) {
	if s.stopping.Load() {
		return nil, errShuttingDown
	}
	if err := s.store.Ping(r.Context()); err != nil {
		s.log.Error("the database does not answer", "cause", err)
		return nil, errDatabaseAway
	}
	return healthStatus{"ready"}, nil
}

func remoteIP(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}
