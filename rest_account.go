package main

import (
	"errors"
	"net/http"
)

// What a user does with its own account. Each change asks for the password: a stolen token is not enough.

func (s *restServer) getAccount(r *http.Request) (any, error) {
	u := callerOf(r.Context()).user
	return account{u.ID, u.CreatedAt, u.Name, u.Role}, nil
}

// confirm returns the caller, whose password this is.
func (s *restServer) confirm(r *http.Request, password string) (user, error) {
	caller := callerOf(r.Context()).user
	if password == "" {
		return user{}, invalid("password", "The password is missing.")
	}
	u, err := s.verify(r, caller.Name, password)
	switch {
	case errors.Is(err, errInvalidCredentials):
		return user{}, errWrongPassword
	case errors.Is(err, errAccountDisabled), err == nil && (u.ID != caller.ID || u.Version != caller.Version):
		return user{}, errTokenInvalid // it was changed a moment ago
	case err != nil:
		return user{}, err
	}
	return u, nil
}

// changePassword ends all tokens and streams of the account, and so returns a new token.
func (s *restServer) changePassword(r *http.Request) (any, error) {
	body, err := readBody[struct {
		Password    string `json:"password"`
		NewPassword string `json:"new_password"`
	}](r)
	if err != nil {
		return nil, err
	}
	ctx := r.Context()
	if err := checkNewPassword(callerOf(ctx).user.Name, body.NewPassword); err != nil {
		return nil, err
	}
	u, err := s.confirm(r, body.Password)
	if err != nil {
		return nil, err
	}
	if u, err = s.setPassword(r, u, u.Name, body.NewPassword); err != nil {
		return nil, err
	}
	token, err := s.auth.userToken(u)
	return tokenAnswer{token}, err
}

// setPassword gives an account another password, and returns the account as it is then. by is who does it.
func (s *restServer) setPassword(r *http.Request, by user, name, password string) (user, error) {
	hash, err := s.passwords.hash(r.Context(), hashingOf(r.Context()), password)
	if err != nil {
		return user{}, err
	}
	return s.change(r, by, name, func(u *user) []auditEntry {
		u.Hash = hash
		return []auditEntry{{auditUserPassword, u.Name, ""}}
	})
}

// change changes an account, by the name that it has, and ends its streams. It returns the account as it is then.
func (s *restServer) change(r *http.Request, by user, name string, fn func(*user) []auditEntry) (user, error) {
	u, err := s.store.changeUser(r.Context(), by, name, func(u *user) ([]auditEntry, error) { return fn(u), nil })
	if errors.Is(err, errNotFound) {
		return u, errUserNotFound
	} else if err != nil {
		return u, err
	}
	return u, s.chat.endUser(r.Context(), u)
}

// deleteAccount deletes the caller's account. Its messages stay, under a name that nobody can have.
func (s *restServer) deleteAccount(r *http.Request) (any, error) {
	body, err := readBody[struct {
		Password string `json:"password"`
	}](r)
	if err != nil {
		return nil, err
	}
	u, err := s.confirm(r, body.Password)
	if err != nil {
		return nil, err
	}
	ctx := r.Context()
	after, rooms, err := s.store.deleteUser(ctx, u)
	if err != nil {
		return nil, err
	}
	s.known.forget(nameKey(u.Name)) // another one may get the name
	for _, id := range rooms {
		s.chat.roomDeleted(id)
	}
	return struct{}{}, s.chat.endUser(ctx, after)
}
