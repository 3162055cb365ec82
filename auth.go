package main

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/grpcchatter/grpcchatter/pb"
)

// access is what a gRPC method asks for. The zero value denies.
type access int

const (
	accessDenied access = iota
	accessOpen
	accessUser
	accessRoom
)

// methodAccess says who may call what, under both names of the service. What it does not name is denied.
func methodAccess() map[string]access {
	rules := map[string]access{
		"/grpc.health.v1.Health/Check":                                   accessOpen,
		"/grpc.health.v1.Health/Watch":                                   accessOpen,
		"/grpc.health.v1.Health/List":                                    accessOpen,
		"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo":      accessOpen,
		"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": accessOpen,
	}
	for method, a := range map[string]access{
		"CreateChatRoom":    accessUser,
		"DeleteChatRoom":    accessUser,
		"JoinChatRoom":      accessUser,
		"ListChatRooms":     accessUser,
		"ListChatRoomUsers": accessRoom,
		"ListMessages":      accessRoom,
		"Chat":              accessRoom,
	} {
		rules["/"+pb.GRPCChatter_ServiceDesc.ServiceName+"/"+method] = a
		rules["/"+originalService+"/"+method] = a
	}
	return rules
}

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

func newAuth(st *store, log *slog.Logger, secret string, duration time.Duration) (*auth, error) {
	a := &auth{store: st, log: log, rules: methodAccess(), keys: map[string][]byte{}, duration: duration, now: time.Now}
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
	if expired {
		return c, late
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
		case !room.IsMember: // a new token is to be had without a password, where a room has none
			return c, void
		}
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

// wasOf tells whether a token is a user token of an account, whether or not it has expired. A new password makes it none.
func (a *auth) wasOf(ctx context.Context, token, account string) bool {
	cl, err := a.read(audienceUser, token)
	if err != nil && !errors.Is(err, jwt.ErrTokenExpired) {
		return false
	}
	id, err := strconv.ParseInt(cl.Subject, 10, 64)
	if err != nil {
		return false
	}
	u, err := a.store.userByID(ctx, id)
	return err == nil && u.Version == cl.Version && nameKey(u.Name) == account
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
		return errRemoved
	}
	return nil
}

// authorize lets a call pass, with its caller in the context, or says why not.
func (a *auth) authorize(ctx context.Context, method string) (context.Context, error) {
	var audience string
	switch a.rules[method] {
	case accessOpen:
		return ctx, nil
	case accessUser:
		audience = audienceUser
	case accessRoom:
		audience = audienceRoom
	default:
		a.log.ErrorContext(ctx, "a method that no rule names was called", "method", method)
		return nil, grpcError(ctx, a.log, errTokenInvalid)
	}
	token, err := bearer(ctx)
	if err != nil {
		return nil, grpcError(ctx, a.log, err)
	}
	c, err := a.authenticate(ctx, audience, token)
	if err != nil {
		return nil, grpcError(ctx, a.log, err)
	}
	return context.WithValue(ctx, callerKey{}, c), nil
}

// admit is authorize for a call that lasts until leave: one address has so many of those that ask for no token.
func (a *auth) admit(ctx context.Context, method string) (authorized context.Context, leave func(), err error) {
	leave = func() {}
	if a.rules[method] == accessOpen {
		address := subscriber(clientAddr(ctx)).String()
		if !a.openCalls.enter(address) {
			return nil, nil, grpcError(ctx, a.log, errTooManyOpen)
		}
		leave = func() { a.openCalls.leave(address) }
	}
	authorized, err = a.authorize(ctx, method)
	return authorized, leave, err
}

// bearer finds the token in the metadata: `authorization: Bearer …`, or the original's `token: …`.
func bearer(ctx context.Context) (string, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	token, err := bearerToken(md.Get("authorization"))
	if v := md.Get("token"); errors.Is(err, errTokenMissing) && len(v) > 0 && v[0] != "" {
		return v[0], nil
	}
	return token, err
}

// bearerToken finds the token in the values of Authorization (RFC 6750, section 2.1).
func bearerToken(authorization []string) (string, error) {
	if len(authorization) == 0 {
		return "", errTokenMissing
	}
	scheme, token, _ := strings.Cut(authorization[0], " ")
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return "", errTokenInvalid
	}
	return strings.TrimSpace(token), nil
}

// guard is a service whose unary methods check the token before they read the request: strangers must not fill
// the memory with requests that never end. A request that is too large or cannot be decoded is the caller's fault,
// where grpc-go would call it RESOURCE_EXHAUSTED or INTERNAL.
func (a *auth) guard(desc *grpc.ServiceDesc) *grpc.ServiceDesc {
	guarded := *desc
	guarded.Methods = slices.Clone(desc.Methods)
	for i, m := range desc.Methods {
		guarded.Methods[i].Handler = func(srv any, ctx context.Context, dec func(any) error, in grpc.UnaryServerInterceptor) (any, error) {
			method, _ := grpc.Method(ctx)
			start := time.Now()
			ctx = withClientAddr(withCallID(ctx), a.trusted.clientOfCall(ctx))
			_ = grpc.SetTrailer(ctx, callIDTrailer(ctx)) // fails only where the call has ended
			var resp any
			authorized, leave, err := a.admit(ctx, method)
			if err == nil {
				defer leave()
				ctx = authorized
				resp, err = m.Handler(srv, ctx, func(v any) error {
					d := decoded{v: v}
					switch err := dec(&d); {
					case status.Code(err) == codes.ResourceExhausted:
						return grpcError(ctx, a.log, invalid("request", "The request is too large."))
					case err != nil:
						return err
					case d.err != nil:
						return grpcError(ctx, a.log, invalid("request", "The request cannot be decoded: is all of its text UTF-8?"))
					}
					return nil
				}, in)
			}
			a.ended(ctx, method, start, err)
			return resp, err
		}
	}
	return &guarded
}

func (a *auth) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if ctx.Value(callerKey{}) == nil { // not by guard
		var err error
		if ctx, err = a.authorize(ctx, info.FullMethod); err != nil {
			return nil, err
		}
	}
	resp, err := handler(ctx, req)
	return resp, grpcError(ctx, a.log, err)
}

func (a *auth) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	start := time.Now()
	var ctx, authorized context.Context
	var leave func()
	var err error
	aside(func() {
		ctx = withClientAddr(withCallID(ss.Context()), a.trusted.clientOfCall(ss.Context()))
		authorized, leave, err = a.admit(ctx, info.FullMethod)
	})
	if err == nil {
		defer leave()
	}
	switch {
	case err != nil:
	case a.rules[info.FullMethod] == accessOpen:
		ctx = authorized
		err = a.openStream(ctx, srv, ss, handler)
	default:
		ctx = authorized
		err = handler(srv, authorizedStream{ss, ctx})
	}
	err = grpcError(ctx, a.log, err)
	ss.SetTrailer(callIDTrailer(ctx))
	a.ended(ctx, info.FullMethod, start, err)
	return err
}

// ended counts a call, and writes who called what: never what was said.
func (a *auth) ended(ctx context.Context, method string, start time.Time, err error) {
	a.metrics.called(method, err)
	a.log.DebugContext(ctx, "call", "method", method, "user", callerOf(ctx).user.ID, "code", status.Code(err), "client", clientAddr(ctx), "took", time.Since(start))
}

type authorizedStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s authorizedStream) Context() context.Context { return s.ctx }

// openStream serves a stream that is not ours until the server stops.
func (a *auth) openStream(ctx context.Context, srv any, ss grpc.ServerStream, handler grpc.StreamHandler) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(a.stopped, cancel)()
	err := handler(srv, openStream{authorizedStream{ss, ctx}})
	if a.stopped.Err() != nil && ss.Context().Err() == nil {
		return errShuttingDown
	}
	return err
}

// openStream is a stream whose context's end ends the wait for a request.
type openStream struct{ grpc.ServerStream }

func (s openStream) RecvMsg(m any) error {
	received := make(chan error, 1)
	go func() { // until the handler's return ends the stream, at the latest
		received <- s.ServerStream.RecvMsg(m)
	}()
	select {
	case err := <-received:
		return err
	case <-s.Context().Done():
		return s.Context().Err()
	}
}

// aside runs fn in a goroutine of its own and waits for it. What needs a large stack before a long wait is run so:
// a stack that has grown stays large until the garbage collector has halved it often enough.
func aside(fn func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn()
	}()
	<-done
}
