package main

import (
	"errors"
	"net/http"
	"time"
)

// Accounts: to make one, to log in to it, and what a user does with its own. Each change asks for the password: a stolen token
// is not enough.

type nameAndPassword struct {
	UserName string `json:"user_name"`
	Password string `json:"password"`
}

// account is a user in an answer.
type account struct {
	ID        int64     `json:"id"`
	CreatedAt time.Time `json:"created_at"`
	UserName  string    `json:"user_name"`
	Role      string    `json:"role"`
}

func toAccount(u user) account { return account{u.ID, u.CreatedAt, u.Name, u.Role} }

type tokenAnswer struct {
	Token string `json:"token"`
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
	hash, err := s.passwords.hash(r.Context(), hashing{lane: laneStrangers, address: address}, c.Password)
	if err != nil {
		return nil, err
	}
	u, err := s.store.addUser(r.Context(), c.UserName, hash, roleUser)
	if errors.Is(err, errConflict) {
		return nil, errNameTaken
	} else if err == nil {
		s.known.add(nameKey(u.Name), address)
	}
	return toAccount(u), err
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
	address := subscriber(clientAddr(r.Context())).String()
	tries, turn := s.loginTries(r, name, address)
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
	ok, err := s.passwords.check(ctx, turn, u.Hash, password)
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
		if hash, err := s.passwords.hash(ctx, turn, password); err == nil {
			if err := s.store.replaceHash(ctx, u.ID, u.Hash, hash); err != nil {
				s.log.WarnContext(ctx, "an old password hash could not be replaced", "user", u.ID, "cause", err)
			}
		}
	}
	s.known.add(nameKey(name), address)
	return u, nil
}

// loginTries says which limits a log-in counts in, and how it waits for its hash. Guesses from many addresses at one account
// are held together by the limit of that account. Who comes from where the account was used before, or sends an earlier
// token of it, does not count there, nor with what else comes from its address: else anybody could keep the owner out.
// Such a client has one narrow limit of its own: a device cookie's, as OWASP names it.
func (s *restServer) loginTries(r *http.Request, name, address string) ([]try, hashing) {
	account, own := nameKey(name), address
	if token, err := bearerToken(r.Header.Values("Authorization")); err == nil && s.auth.wasOf(r.Context(), token, name) {
		own = token
	} else if !s.known.has(account, address) {
		return []try{
			{s.limits.loginsPerAddress, address},
			{s.limits.loginsPerAccountAndAddress, address + " " + account},
			{s.limits.loginsPerAccount, account},
		}, hashing{lane: laneStrangers, address: address}
	}
	return []try{{s.limits.loginsPerAccountAndAddress, own + " " + account}}, hashing{laneKnown, address, account}
}

func (s *restServer) getAccount(r *http.Request) (any, error) {
	u := callerOf(r.Context()).user
	return toAccount(u), nil
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
	// As changeRoom: it is a row of the audit log, which nothing deletes, and a hash.
	if err := take(try{s.limits.roomsPerUser, userKey(u.ID)}); err != nil {
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
	for _, id := range rooms {
		s.chat.roomDeleted(id)
	}
	if err != nil {
		return nil, err
	}
	s.known.forget(nameKey(u.Name)) // another one may get the name
	return struct{}{}, s.chat.endUser(ctx, after)
}
