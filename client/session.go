package client

import (
	"cmp"
	"context"
	"net/http"
	"strings"
	"sync"
	"time"
)

// User is an account.
type User struct {
	ID        int64     `json:"id"`
	CreatedAt time.Time `json:"created_at"`
	UserName  string    `json:"user_name"`
	Role      string    `json:"role"` // USER or ADMIN
}

// account is the body of POST /register and POST /login.
type account struct {
	UserName string `json:"user_name"`
	Password string `json:"password"`
}

// check returns an error for what JSON would change.
func (a account) check() error { return checkText(a.UserName, a.Password) }

// session is a user who has logged in. Rooms keep the session that they were joined with.
type session struct {
	token *token

	mu   sync.Mutex // guards user
	user account    // without a password until a Login
}

func (s *session) account() account {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.user
}

// set changes the user name and the password; without one, the password stays.
func (s *session) set(user account) {
	s.mu.Lock()
	defer s.mu.Unlock()
	user.Password = cmp.Or(user.Password, s.user.Password)
	s.user = user
}

// is reports whether name is the session's user; case makes no difference.
func (s *session) is(name string) bool { return strings.EqualFold(s.account().UserName, name) }

// Register makes an account, and returns it. It does not log in. It returns ErrNameTaken, ErrInvalidField,
// or ErrRegistrationClosed.
func (c *Client) Register(ctx context.Context, userName, password string) (User, error) {
	a := account{userName, password}
	if err := a.check(); err != nil {
		return User{}, wrap("register", err)
	}
	var user User
	if err := c.rest(ctx, http.MethodPost, "/register", "", a, &user); err != nil {
		return User{}, wrap("register", err)
	}
	return user, nil
}

// Login logs in as a user; the calls that follow are this user's. It returns ErrInvalidCredentials or
// ErrAccountDisabled.
//
// The Client keeps the user name and the password in memory until Disconnect, to log in again by itself
// when the server no longer takes its token. Rooms stay with the user who joined them; logging in again as
// the same user, perhaps with a new password, serves them too.
func (c *Client) Login(ctx context.Context, userName, password string) error {
	user := account{userName, password}
	value, err := c.login(ctx, user, c.tokenOf(userName))
	if err != nil {
		return wrap("login", err)
	}
	c.use(user, value)
	return nil
}

// LoginWithToken goes on with the Token of an earlier Login, of this Client or another one, and returns the user whose it
// is: the calls that follow are this user's. It returns ErrTokenExpired, ErrUnavailable, or ErrTokenInvalid: also where the
// password has been changed since, or the account disabled or deleted.
//
// There is no password to renew the token with, unless this Client has it from a Login of the same user. When the server
// refuses the token, calls return ErrTokenExpired or ErrTokenInvalid, and Rooms end with that; a Room that has its stream may
// notice only when it reconnects. A Login of the same user before that serves them too.
func (c *Client) LoginWithToken(ctx context.Context, token string) (User, error) {
	if token == "" || strings.ContainsFunc(token, notInToken) {
		return User{}, wrap("login with token", &Error{Code: "TOKEN_INVALID", Message: "this is no token: it is empty, or holds a character that no token has"})
	}
	var user User
	if err := c.rest(ctx, http.MethodGet, "/account", token, nil, &user); err != nil {
		return User{}, wrap("login with token", err)
	}
	c.use(account{UserName: user.UserName}, token)
	return user, nil
}

// notInToken reports whether c is a character that a header cannot carry, or a space.
func notInToken(c rune) bool { return c <= ' ' || c >= 0x7f }

// use makes a user with a token the Client's.
func (c *Client) use(user account, token string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.sessionOf(user.UserName)
	if s == nil {
		s = &session{}
		s.token = newToken("", func(ctx context.Context, refusal error) (string, error) {
			user := s.account()
			if user.Password == "" {
				return "", noPassword{refusal}
			}
			c.log.Info("logging in again", "user", user.UserName)
			return c.login(ctx, user, s.token.get())
		})
	}
	s.set(user)
	s.token.set(token)
	c.session = s
}

// sessionOf returns the session that the user has already, or nil. c.mu is held.
func (c *Client) sessionOf(userName string) *session {
	if c.session != nil && c.session.is(userName) {
		return c.session
	}
	for r := range c.rooms {
		if r.session.is(userName) {
			return r.session
		}
	}
	return nil
}

// Token returns the token of the user who has logged in, for LoginWithToken; "" before a Login and after Disconnect. It is
// the one in use now: a later one may be another, for the Client renews it. It is a secret as good as the password until
// it expires (after the server's TOKEN_DURATION, 24 hours by default) or the password changes.
func (c *Client) Token() string {
	s, err := c.current()
	if err != nil {
		return ""
	}
	return s.token.get()
}

// UserName returns the name given to the last Login, or that of the user of the last LoginWithToken; "" before one.
func (c *Client) UserName() string {
	s, err := c.current()
	if err != nil {
		return ""
	}
	return s.account().UserName
}

// current returns the session of the last Login or LoginWithToken.
func (c *Client) current() (*session, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx.Err() != nil {
		return nil, ErrClosed
	}
	if c.session == nil {
		return nil, ErrNotLoggedIn
	}
	return c.session, nil
}

// tokenOf returns the token that the user has already, or "".
func (c *Client) tokenOf(userName string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.sessionOf(userName); s != nil {
		return s.token.get()
	}
	return ""
}

// login returns a user token. The user's earlier one, if there is one, tells the server that this is no stranger who
// guesses: what others guess does not slow it down.
func (c *Client) login(ctx context.Context, user account, earlier string) (string, error) {
	if err := user.check(); err != nil {
		return "", err
	}
	var answer struct {
		Token string `json:"token"`
	}
	err := c.rest(ctx, http.MethodPost, "/login", earlier, user, &answer)
	return answer.Token, err
}
