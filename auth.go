package main

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"log/slog"
	"strconv"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// caller is who makes a request: set where a token has been checked (guard, the interceptors, restServer.as, openSocket),
// and there alone.
type caller struct {
	user user
	room roomClaims // of a room token
	// restored: the token was made before the data was restored from a backup.
	restored bool
}

type callerKey struct{}

func callerOf(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c
}

// claims is what every token says. Version has to be the user's own, so that a new password, role or
// disabling ends all tokens at once.
type claims struct {
	jwt.RegisteredClaims
	Version int64 `json:"ver"`
	// History has to be that of the data, or that of the backup which it was restored from.
	History string `json:"history,omitempty"`
	roomClaims
}

// roomClaims is what only a room token says.
type roomClaims struct {
	RoomID int64  `json:"room,omitempty"`
	Code   string `json:"code,omitempty"`
	// Seq is the room's last seq at the join: a session without after_seq starts behind it.
	Seq uint64 `json:"seq"`
}

const (
	audienceUser = "grpcchatter/user"
	audienceRoom = "grpcchatter/room"
)

// auth makes and checks tokens. It is safe for concurrent use.
type auth struct {
	store     *store
	log       *slog.Logger
	rules     map[string]access
	keys      map[string][]byte // by audience: one kind of token can never pass for the other
	duration  time.Duration
	now       func() time.Time
	metrics   *metrics        // nil: none
	stopped   context.Context // its end ends the streams that are no session
	history   history         // of the data
	trusted   proxies
	openCalls *concurrent // calls that ask for no token, by address; nil: any number
}

// newAuth completes an auth whose other fields are those of with.
func newAuth(secret string, with auth) (*auth, error) {
	a := &with
	a.rules, a.keys, a.now = methodAccess(), map[string][]byte{}, time.Now
	for _, audience := range []string{audienceUser, audienceRoom} {
		key, err := hkdf.Key(sha256.New, []byte(secret), nil, audience, 32)
		if err != nil {
			return nil, err
		}
		a.keys[audience] = key
	}
	return a, nil
}

func (a *auth) userToken(u user) (string, error) { return a.sign(audienceUser, u, roomClaims{}) }

func (a *auth) roomToken(u user, room roomClaims) (string, error) {
	return a.sign(audienceRoom, u, room)
}

func (a *auth) sign(audience string, u user, room roomClaims) (string, error) {
	now := a.now()
	return jwt.NewWithClaims(jwt.SigningMethodHS256, claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Subject:   strconv.FormatInt(u.ID, 10),
			Audience:  jwt.ClaimStrings{audience},
			IssuedAt:  jwt.NewNumericDate(now),
			ExpiresAt: jwt.NewNumericDate(now.Add(a.duration + time.Second - 1)), // a JWT has whole seconds: not less
		},
		Version:    u.Version,
		History:    a.history.ID,
		roomClaims: room,
	}).SignedString(a.keys[audience])
}

// authenticate checks a token of the kind that audience names, against the database too: the user is as it
// was when the token was made, and the room still there.
func (a *auth) authenticate(ctx context.Context, audience, token string) (c caller, err error) {
	cl, err := a.read(audience, token)
	expired := errors.Is(err, jwt.ErrTokenExpired)
	if err != nil && !expired {
		return c, errTokenInvalid
	}
	// Who has a room token has a position in the room too: with a new token, nobody would see that it is of before.
	void, late := errTokenInvalid, errTokenExpired
	if c.restored = cl.History != a.history.ID; c.restored && audience == audienceRoom {
		void, late = errHistoryRestored, errHistoryRestored
	}
	id, err := strconv.ParseInt(cl.Subject, 10, 64)
	switch {
	case err != nil:
		return c, errTokenInvalid
	case c.restored && !a.history.knows(cl.History, id, cl.Version):
		return c, void
	case c.restored && cl.RoomID > a.history.LastRoom:
		return c, errRoomDeleted
	}
	u, err := a.store.userByID(ctx, id)
	switch {
	case errors.Is(err, errNotFound):
		return c, void
	case err != nil:
		return c, err
	case u.Version != cl.Version || u.Disabled:
		return c, void
	}
	if audience == audienceRoom {
		room, err := a.store.roomByID(ctx, cl.RoomID, u.ID)
		switch {
		case errors.Is(err, errNotFound):
			return c, errRoomDeleted
		case err != nil:
			return c, err
		case !room.IsMember && c.restored: // it may have joined after the backup
			return c, void
		case !room.IsMember: // not errTokenInvalid, or a client would join a room without a password anew
			return c, errNoLongerMember
		}
	}
	if expired { // told last, for the same reason
		return c, late
	}
	u.Hash = "" // a stream keeps the rest for as long as it lives
	return caller{user: u, room: cl.roomClaims, restored: c.restored}, nil
}

// read reads a token of the kind that audience names. jwt.ErrTokenExpired: it is one, but has expired.
func (a *auth) read(audience, token string) (cl claims, err error) {
	_, err = jwt.ParseWithClaims(token, &cl, func(*jwt.Token) (any, error) { return a.keys[audience], nil },
		jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}), jwt.WithAudience(audience),
		jwt.WithExpirationRequired(), jwt.WithStrictDecoding(), jwt.WithTimeFunc(a.now))
	return cl, err
}

// wasOf tells whether a token is a user token of the account that has this name, whether or not it has expired. A new password
// makes it none.
func (a *auth) wasOf(ctx context.Context, token, name string) bool {
	cl, err := a.read(audienceUser, token)
	if err != nil && !errors.Is(err, jwt.ErrTokenExpired) {
		return false
	}
	id, err := strconv.ParseInt(cl.Subject, 10, 64)
	if err != nil {
		return false
	}
	u, err := a.store.userByName(ctx, name)
	return err == nil && u.ID == id && u.Version == cl.Version
}

// stillValid returns why the room token that was checked a moment ago is not valid any more, if so.
func (a *auth) stillValid(ctx context.Context, c caller) error {
	version, room, member, err := a.store.standing(ctx, c.user.ID, c.room.RoomID)
	switch {
	case err != nil:
		return err
	case version != c.user.Version:
		return errTokenInvalid
	case !room:
		return errRoomDeleted
	case !member:
		return errNoLongerMember
	}
	return nil
}
