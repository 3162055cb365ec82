package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
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
		return nil, errTokenInvalid
	}
	token, err := bearer(ctx)
	if err != nil {
		return nil, err
	}
	c, err := a.authenticate(ctx, audience, token)
	if err != nil {
		return nil, err
	}
	return context.WithValue(ctx, callerKey{}, c), nil
}

// admit is authorize for a call that lasts until leave: one address has so many of those that ask for no token.
func (a *auth) admit(ctx context.Context, method string) (authorized context.Context, leave func(), err error) {
	leave = func() {}
	if a.rules[method] == accessOpen {
		address := subscriber(clientAddr(ctx)).String()
		if !a.openCalls.enter(address) {
			return nil, nil, errTooManyOpen
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
// the memory with requests that never end. A request that cannot be decoded is the caller's fault, where grpc-go would call it
// INTERNAL. One that is too large grpc-go refuses itself: RESOURCE_EXHAUSTED, without details.
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
					if err := dec(&d); err != nil {
						return err
					}
					if d.err != nil {
						return invalid("request", "The request cannot be decoded: is all of its text UTF-8?")
					}
					return nil
				}, in)
			}
			err = grpcError(ctx, a.log, err)
			a.ended(ctx, method, start, err)
			return resp, err
		}
	}
	return &guarded
}

func (a *auth) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if ctx.Value(callerKey{}) == nil { // an open method, or one that guard does not know
		authorized, err := a.authorize(ctx, info.FullMethod)
		if err != nil {
			return nil, grpcError(ctx, a.log, err)
		}
		ctx = authorized
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
		ctx = authorized
		if a.rules[info.FullMethod] == accessOpen {
			err = a.openStream(ctx, srv, ss, handler)
		} else {
			err = handler(srv, authorizedStream{ss, ctx})
		}
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
