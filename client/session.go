package client

import (
	"context"
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

// session is a user who has logged in. Rooms keep the session that they were joined with.
type session struct {
	token *token

	mu   sync.Mutex // guards user
	user account
}

func (s *session) account() account {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.user
}

func (s *session) set(user account) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.user = user
}

// is reports whether name is the session's user; case makes no difference.
func (s *session) is(name string) bool { return strings.EqualFold(s.account().UserName, name) }

// Register makes an account, and returns it. It does not log in. It returns ErrNameTaken, ErrInvalidField,
// or ErrRegistrationClosed.
func (c *Client) Register(ctx context.Context, userName, password string) (User, error) {
	var user User
	if err := c.post(ctx, "/register", "", account{userName, password}, &user); err != nil {
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
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.sessionOf(userName); s != nil {
		s.set(user)
		s.token.set(value)
		c.session = s
		return nil
	}
	s := &session{user: user}
	s.token = newToken(value, func(ctx context.Context) (string, error) {
		c.log.Info("logging in again", "user", s.account().UserName)
		return c.login(ctx, s.account(), s.token.get())
	})
	c.session = s
	return nil
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

// UserName returns the name given to the last Login, or "" before one.
func (c *Client) UserName() string {
	s, err := c.current()
	if err != nil {
		return ""
	}
	return s.account().UserName
}

// current returns the session of the last Login.
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
	var answer struct {
		Token string `json:"token"`
	}
	err := c.post(ctx, "/login", earlier, user, &answer)
	return answer.Token, err
}
