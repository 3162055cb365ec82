package main

import (
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/grpcchatter/grpcchatter/pb"
)

const testSecret = "a secret of the tests, 32 bytes and more"

// tokenMaker signs tokens as a server with the given secret does, for claims of the test's own.
func tokenMaker(t testing.TB, secret string) *auth {
	t.Helper()
	a, err := newAuth(secret, auth{log: slog.New(slog.DiscardHandler), duration: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// Every token that is not this user's, of this kind, of now is refused in every method (error table: "no, bad,
// expired token; a token of the other kind"; fault 5).
func TestTokens(t *testing.T) {
	t.Parallel()
	r := newChatRoom(t, []string{"--secret", testSecret}, "alice", "eve")
	conn := r.dial()
	theirs, other := tokenMaker(t, testSecret), tokenMaker(t, testSecret+"!")
	past := tokenMaker(t, testSecret)
	past.now = func() time.Time { return time.Now().Add(-2 * time.Hour) }
	alice := user{ID: 1}
	must := func(token string, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	sign := func(method jwt.SigningMethod, key any, c jwt.MapClaims) string {
		return must(jwt.NewWithClaims(method, c).SignedString(key))
	}
	for _, kind := range []struct {
		audience, good, otherKind, method string
	}{
		{audienceUser, r.users["alice"], r.tokens["alice"], current + "ListChatRooms"},
		{audienceRoom, r.tokens["alice"], r.users["alice"], current + "ListChatRoomUsers"},
	} {
		make := func(a *auth, u user) string {
			if kind.audience == audienceUser {
				return must(a.userToken(u))
			}
			return must(a.roomToken(u, roomClaims{RoomID: 1}))
		}
		key, err := hkdf.Key(sha256.New, []byte(testSecret), nil, kind.audience, 32)
		if err != nil {
			t.Fatal(err)
		}
		claims := func(more jwt.MapClaims) jwt.MapClaims {
			c := jwt.MapClaims{"sub": "1", "aud": kind.audience, "ver": 0, "exp": time.Now().Add(time.Hour).Unix(), "room": 1}
			maps.Copy(c, more)
			maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
			return c
		}
		part := strings.Split(kind.good, ".")
		payload := func(old, now string) string {
			b, err := base64.RawURLEncoding.DecodeString(part[1])
			if err != nil || !strings.Contains(string(b), old) {
				t.Fatalf("payload %s: %v, want %s in it", b, err, old)
			}
			return part[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(string(b), old, now, 1))) + "." + part[2]
		}
		for name, c := range map[string]struct {
			header metadata.MD
			reason string
		}{
			"none":                 {metadata.MD{}, "TOKEN_MISSING"},
			"empty":                {tokenHeader(""), "TOKEN_MISSING"},
			"other scheme":         {metadata.Pairs("authorization", "Basic "+kind.good), "TOKEN_INVALID"},
			"no scheme":            {metadata.Pairs("authorization", kind.good), "TOKEN_INVALID"},
			"garbage":              {bearerHeader("garbage"), "TOKEN_INVALID"},
			"dots":                 {bearerHeader(".."), "TOKEN_INVALID"},
			"bad before good":      {metadata.Pairs("authorization", "Bearer x", "token", kind.good), "TOKEN_INVALID"},
			"the other kind":       {bearerHeader(kind.otherKind), "TOKEN_INVALID"},
			"another secret":       {bearerHeader(make(other, alice)), "TOKEN_INVALID"},
			"another user in it":   {bearerHeader(payload(`"sub":"1"`, `"sub":"2"`)), "TOKEN_INVALID"},
			"no signature":         {bearerHeader(part[0] + "." + part[1] + "."), "TOKEN_INVALID"},
			"two parts":            {bearerHeader(part[0] + "." + part[1]), "TOKEN_INVALID"},
			"four parts":           {bearerHeader(kind.good + "." + part[2]), "TOKEN_INVALID"},
			"alg none":             {bearerHeader(sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, claims(nil))), "TOKEN_INVALID"},
			"alg HS512":            {bearerHeader(sign(jwt.SigningMethodHS512, key, claims(nil))), "TOKEN_INVALID"},
			"the secret as key":    {bearerHeader(sign(jwt.SigningMethodHS256, []byte(testSecret), claims(nil))), "TOKEN_INVALID"},
			"no end":               {bearerHeader(sign(jwt.SigningMethodHS256, key, claims(jwt.MapClaims{"exp": nil}))), "TOKEN_INVALID"},
			"no audience":          {bearerHeader(sign(jwt.SigningMethodHS256, key, claims(jwt.MapClaims{"aud": nil}))), "TOKEN_INVALID"},
			"the other audience":   {bearerHeader(sign(jwt.SigningMethodHS256, key, claims(jwt.MapClaims{"aud": "grpcchatter"}))), "TOKEN_INVALID"},
			"no user":              {bearerHeader(sign(jwt.SigningMethodHS256, key, claims(jwt.MapClaims{"sub": nil}))), "TOKEN_INVALID"},
			"user of letters":      {bearerHeader(sign(jwt.SigningMethodHS256, key, claims(jwt.MapClaims{"sub": "alice"}))), "TOKEN_INVALID"},
			"user that is not":     {bearerHeader(make(theirs, user{ID: 99})), "TOKEN_INVALID"},
			"an older version":     {bearerHeader(make(theirs, user{ID: 1, Version: 1})), "TOKEN_INVALID"},
			"expired":              {bearerHeader(make(past, alice)), "TOKEN_EXPIRED"},
			"expired, as token":    {tokenHeader(make(past, alice)), "TOKEN_EXPIRED"},
			"expired and tampered": {bearerHeader(make(past, alice) + "AA"), "TOKEN_INVALID"},
		} {
			_, err := rawCall(t, conn, c.header, kind.method)
			t.Run(kind.audience+" "+name, func(t *testing.T) { wantError(t, err, codes.Unauthenticated, c.reason) })
		}
		for name, header := range map[string]metadata.MD{
			"good":             bearerHeader(kind.good),
			"lower-case":       metadata.Pairs("authorization", "bearer "+kind.good),
			"as token":         tokenHeader(kind.good),
			"signed like ours": bearerHeader(make(theirs, alice)), // or the bad ones above would prove nothing
		} {
			if _, err := rawCall(t, conn, header, kind.method); err != nil {
				t.Errorf("%s %s: %v", kind.audience, name, err)
			}
		}
		// Each character counts, also the last one, of which base64 does not use all bits.
		const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
		for i := range kind.good {
			if kind.good[i] == '.' {
				continue
			}
			c := alphabet[strings.IndexByte(alphabet, kind.good[i])^1]
			bad := kind.good[:i] + string(c) + kind.good[i+1:]
			if _, err := rawCall(t, conn, bearerHeader(bad), kind.method); status.Code(err) != codes.Unauthenticated {
				t.Errorf("%s with character %d of %d changed: %v", kind.audience, i, len(bad), err)
			}
		}
	}
	// A room's token is worth nothing for who is no member, and none for a room that is not there.
	_, err := rawCall(t, conn, bearerHeader(must(theirs.roomToken(user{ID: 2}, roomClaims{RoomID: 1}))), current+"ListMessages")
	if err != nil {
		t.Errorf("eve is a member: %v", err)
	}
	mallory := r.login("mallory")
	_, err = rawCall(t, conn, bearerHeader(must(theirs.roomToken(user{ID: 3}, roomClaims{RoomID: 1}))), current+"ListMessages")
	wantError(t, err, codes.PermissionDenied, "ROOM_ACCESS_DENIED")
	for _, id := range []int64{0, -1, 2, 1<<63 - 1} {
		_, err = rawCall(t, conn, bearerHeader(must(theirs.roomToken(alice, roomClaims{RoomID: id}))), current+"ListMessages")
		wantError(t, err, codes.NotFound, "ROOM_DELETED")
	}
	_, err = rawCall(t, conn, bearerHeader(mallory), current+"JoinChatRoom", text(1, r.code), text(2, "wrong"))
	wantError(t, err, codes.PermissionDenied, "ROOM_ACCESS_DENIED")
}

// Both tokens live for TOKEN_DURATION: not longer, and not shorter either (fault 5).
func TestTokenDuration(t *testing.T) {
	t.Parallel()
	p := startServer(t, "--token-duration=1s", "--secret="+testSecret)
	conn := p.dial()
	token := bearerHeader(p.login("alice"))
	long, err := tokenMaker(t, testSecret).userToken(user{ID: 1}) // the other one may be over before the room is made
	if err != nil {
		t.Fatal(err)
	}
	code := onlyText(t, mustCall(t, conn, bearerHeader(long), current+"CreateChatRoom", text(1, "a room")))
	room := bearerHeader(onlyText(t, mustCall(t, conn, bearerHeader(long), current+"JoinChatRoom", text(1, code))))
	eventually(t, patience, "the tokens expire", func() bool {
		_, err1 := rawCall(t, conn, token, current+"ListChatRooms")
		_, err2 := rawCall(t, conn, room, current+"ListMessages")
		if err1 == nil || err2 == nil {
			return false
		}
		wantError(t, err1, codes.Unauthenticated, "TOKEN_EXPIRED")
		wantError(t, err2, codes.Unauthenticated, "TOKEN_EXPIRED")
		return true
	})

	// Exactly, at any part of a second.
	st, err := openStore(t.Context(), storeOptions{URL: "sqlite:" + filepath.Join(t.TempDir(), "x.db"), Synchronous: "normal", Create: true})
	if err != nil {
		t.Fatal(err)
	}
	defer st.close()
	u, err := st.addUser(t.Context(), "ann", "no hash", roleUser)
	if err != nil {
		t.Fatal(err)
	}
	a := tokenMaker(t, testSecret)
	a.store, a.duration = st, time.Second
	for _, part := range []time.Duration{0, time.Nanosecond, 500 * time.Millisecond, 999 * time.Millisecond} {
		made := time.Unix(1_700_000_000, int64(part))
		now := made
		a.now = func() time.Time { return now }
		token, err := a.userToken(u)
		if err != nil {
			t.Fatal(err)
		}
		now = made.Add(990 * time.Millisecond)
		if _, err := a.authenticate(t.Context(), audienceUser, token); err != nil {
			t.Errorf("a token of 1 s, made at .%03d, after 990 ms: %v", part.Milliseconds(), err)
		}
		now = made.Add(2 * time.Second) // a JWT has whole seconds
		if _, err := a.authenticate(t.Context(), audienceUser, token); !errors.Is(err, errTokenExpired) {
			t.Errorf("a token of 1 s, made at .%03d, after 2 s: %v", part.Milliseconds(), err)
		}
	}
}

// Every method that is registered has a rule, and every rule a method (habit 4; promise 7; fault 2).
func TestEveryMethodHasARule(t *testing.T) {
	t.Parallel()
	var registered []string
	for name, service := range inProcessServer(t).grpc.GetServiceInfo() {
		for _, m := range service.Methods {
			registered = append(registered, "/"+name+"/"+m.Name)
		}
	}
	slices.Sort(registered)
	if rules := slices.Sorted(maps.Keys(methodAccess())); !slices.Equal(registered, rules) {
		t.Errorf("registered: %v\nrules: %v", registered, rules)
	}
	for method, rule := range methodAccess() {
		if _, ours := strings.CutPrefix(method, "/grpc."); rule == accessDenied || (rule == accessOpen) != ours {
			t.Errorf("%s has the rule %d: only the standard services are open", method, rule)
		}
	}
}

// The standard services are open, and know both names (design: "Standard services").
func TestHealthAndReflection(t *testing.T) {
	t.Parallel()
	p := startServer(t)
	conn := p.dial()
	for _, service := range []string{"", strings.Trim(current, "/"), strings.Trim(original, "/")} {
		if got := mustCall(t, conn, nil, "/grpc.health.v1.Health/Check", text(1, service)); !bytes.Equal(got, uintField(1, 1)) {
			t.Errorf("health of %q: %q, want SERVING", service, got)
		}
	}
	for _, version := range []string{"v1", "v1alpha"} {
		s := openRaw(t, conn, nil, "/grpc.reflection."+version+".ServerReflection/ServerReflectionInfo")
		s.send(text(7, "*")) // list_services
		var list []byte
		if err := s.RecvMsg(&list); err != nil {
			t.Fatal(err)
		}
		for _, service := range []string{current, original} {
			if !bytes.Contains(list, text(1, strings.Trim(service, "/"))) {
				t.Errorf("reflection %s: %q has no %s", version, list, service)
			}
			s.send(text(4, strings.Trim(service, "/")+".Chat")) // file_containing_symbol
			var file []byte
			if err := s.RecvMsg(&file); err != nil || !bytes.Contains(file, []byte("ListChatRoomUsersResponse")) {
				t.Errorf("reflection %s of %s: %q %v", version, service, file, err)
			}
		}
	}
}

// inProcessServer is a server whose parts a test can look at. It does not serve.
func inProcessServer(t testing.TB) *server {
	t.Helper()
	s, err := newServer(context.Background(), defaultConfig(t), "sqlite:"+filepath.Join(t.TempDir(), "grpcchatter.db"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.closeListeners()
		s.grpc.Stop()
		if err := s.store.close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// No method lets anybody in without a token, by any spelling of its name, and none takes the server down
// (fault 2; promise 7). A client of grpc-go would correct the names, so this one writes its own frames.
func TestNoSlashNoToken(t *testing.T) {
	t.Parallel()
	r := newChatRoom(t, nil, "alice")
	for method, rule := range methodAccess() {
		if rule == accessOpen {
			continue
		}
		c := dialHTTP2(t, r.addr)
		want := func(path string, token string, code codes.Code) {
			t.Helper()
			headers := []string{}
			if token != "" {
				headers = []string{"token", token}
			}
			if got, message := c.call(path, nil, headers...); got != code {
				t.Errorf("%q with a token: %t: %s %q, want %s", path, token != "", got, message, code)
			}
		}
		want(method, "", codes.Unauthenticated)
		token, otherKind := r.users["alice"], r.tokens["alice"]
		if rule == accessRoom {
			token, otherKind = otherKind, token
		}
		want(method, otherKind, codes.Unauthenticated)
		name := strings.TrimPrefix(method, "/")
		for _, path := range []string{name, "/" + method, method + "/", strings.ToLower(method), method + "?", "/" + strings.ReplaceAll(name, "/", "%2F"),
			"http://" + r.addr + method, "", "/", "//", "*", strings.Replace(name, "/", "", 1), method[strings.LastIndex(method, "/"):]} {
			want(path, "", codes.Unimplemented)
			want(path, token, codes.Unimplemented)
		}
	}
	c := dialHTTP2(t, r.addr)
	for _, path := range []string{"/grpcchatter.v1.GRPCChatter/Nothing", "/proto.GRPCChatter/Nothing", "/grpcchatter.v2.GRPCChatter/Chat", "/GRPCChatter/Chat", "/x/y"} {
		if code, _ := c.call(path, nil, "token", r.users["alice"]); code != codes.Unimplemented {
			t.Errorf("%s: %s, want Unimplemented", path, code)
		}
	}
	if code, _ := r.rest("GET", "/readyz", ""); code != 200 {
		t.Errorf("readyz: %d", code)
	}
	if got := present(t, r.api, r.tokens["alice"]); len(got) > 0 {
		t.Errorf("let in: %v", got)
	}
}

// Reflection describes both names of the service, so that tools can call them (design: standard services).
func TestReflection(t *testing.T) {
	t.Parallel()
	s := inProcessServer(t)
	file, err := originalFile()
	if err != nil {
		t.Fatal(err)
	}
	for name, info := range s.grpc.GetServiceInfo() {
		d, err := descriptors{file}.FindDescriptorByName(protoreflect.FullName(name))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, m := range info.Methods {
			if _, err := (descriptors{file}).FindDescriptorByName(d.FullName().Append(protoreflect.Name(m.Name))); err != nil {
				t.Errorf("%s/%s: %v", name, m.Name, err)
			}
		}
	}
	for _, enum := range []string{"proto.ChatEventKind", "grpcchatter.v1.ChatEventKind"} {
		if _, err := (descriptors{file}).FindDescriptorByName(protoreflect.FullName(enum)); err != nil {
			t.Errorf("%s: %v", enum, err)
		}
	}
}

// Calls that ask for no token take memory too: an address has a number of them at a time, and those of users are not counted.
func TestOpenCallsAreLimited(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	r := newChatRoom(t, []string{"--rate-limits=on"}, "ann")
	health := grpc_health_v1.NewHealthClient(r.dial())
	watch := func(ctx context.Context) error {
		s, err := health.Watch(ctx, &grpc_health_v1.HealthCheckRequest{})
		if err == nil {
			_, err = s.Recv()
		}
		return err
	}
	first, cancel := context.WithCancel(t.Context())
	defer cancel()
	for i := range maxOpenCalls {
		ctx := first
		if i > 0 {
			ctx = t.Context()
		}
		if err := watch(ctx); err != nil {
			t.Fatalf("watch %d: %v", i+1, err)
		}
	}
	wantError(t, watch(t.Context()), codes.ResourceExhausted, "RATE_LIMITED")
	_, err := health.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	wantError(t, err, codes.ResourceExhausted, "RATE_LIMITED")
	s := openSession(t, r.api, r.tokens["ann"], -1)
	s.send(&pb.ChatRequest{Body: "one"})
	s.wantMessage(1, "ann", "one", "")
	cancel()
	eventually(t, patience, "room for another", func() bool {
		_, err := health.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
		return err == nil
	})
}
