package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Room codes, room passwords and who may delete (error table: join and delete; "read without regard to case").
func TestRoomErrors(t *testing.T) {
	t.Parallel()
	r := newChatRoom(t, nil, "owner", "member")
	conn := r.dial()
	stranger := bearerHeader(r.login("stranger"))
	join := func(code, password string) error {
		_, err := rawCall(t, conn, stranger, current+"JoinChatRoom", text(1, code), text(2, password))
		return err
	}
	unknown, wrong := join("333333", "room"), join(r.code, "wrong")
	for name, err := range map[string]error{
		"unknown": unknown, "wrong password": wrong, "no password": join(r.code, ""), "case of the password": join(r.code, "Room"),
		"code and more": join(r.code+"3", "room"), "part of the code": join(r.code[1:], "room"), "like pattern": join("%", "room"),
	} {
		t.Run(name, func(t *testing.T) { wantError(t, err, codes.PermissionDenied, "ROOM_ACCESS_DENIED") })
	}
	if a, b := status.Convert(unknown).Proto().String(), status.Convert(wrong).Proto().String(); a != b {
		t.Errorf("an unknown room and a wrong password differ:\n%s\n%s", a, b)
	}
	del := func(user metadata.MD, code string) error {
		_, err := rawCall(t, conn, user, current+"DeleteChatRoom", text(1, code))
		return err
	}
	owner, member := bearerHeader(r.users["owner"]), bearerHeader(r.users["member"])
	wantError(t, del(stranger, r.code), codes.NotFound, "ROOM_NOT_FOUND")
	wantError(t, del(owner, "333333"), codes.NotFound, "ROOM_NOT_FOUND")
	wantError(t, del(member, r.code), codes.PermissionDenied, "NOT_OWNER")
	if err := join(" "+strings.ToLower(r.code)+"\n", "room"); err != nil {
		t.Errorf("the code in lower case: %v", err)
	}
	if err := join(r.code, "not asked for from a member"); err != nil {
		t.Errorf("a member joins again: %v", err)
	}
	wantError(t, del(stranger, r.code), codes.PermissionDenied, "NOT_OWNER") // a member now

	stream := openSession(t, r.api, r.tokens["member"], -1)
	if err := del(owner, strings.ToLower(r.code)); err != nil {
		t.Fatal(err)
	}
	wantError(t, stream.end(), codes.NotFound, "ROOM_DELETED")
	wantError(t, del(owner, r.code), codes.NotFound, "ROOM_NOT_FOUND")
	wantError(t, join(r.code, "room"), codes.PermissionDenied, "ROOM_ACCESS_DENIED")
	room := bearerHeader(r.tokens["member"])
	for _, method := range []string{"ListChatRoomUsers", "ListMessages"} {
		_, err := rawCall(t, conn, room, current+method)
		wantError(t, err, codes.NotFound, "ROOM_DELETED")
	}
	for _, service := range []string{current, original} {
		s := openRaw(t, conn, room, service+"Chat")
		_ = s.SendMsg([]byte{})
		wantError(t, s.end(), codes.NotFound, "ROOM_DELETED")
	}
}

// Each argument with a rule, broken (error table: "argument breaks a rule").
func TestInvalidFields(t *testing.T) {
	t.Parallel()
	r := newChatRoom(t, nil, "alice")
	conn := r.dial()
	alice := bearerHeader(r.users["alice"])
	long := strings.Repeat("x", 257)
	for _, c := range []struct {
		name, method, field string // no field: it is allowed
		req                 [][]byte
	}{
		{"no name", "CreateChatRoom", "room_name", [][]byte{text(2, "room")}},
		{"blank name", "CreateChatRoom", "room_name", [][]byte{text(1, " \u2003 ")}},
		{"long name", "CreateChatRoom", "room_name", [][]byte{text(1, strings.Repeat("é", 65))}},
		{"control character", "CreateChatRoom", "room_name", [][]byte{text(1, "a\x1b[2Jb")}},
		{"line break", "CreateChatRoom", "room_name", [][]byte{text(1, "a\nb")}},
		{"long room password", "CreateChatRoom", "room_password", [][]byte{text(1, "a room"), text(2, long)}},
		{"name not UTF-8", "CreateChatRoom", "request", [][]byte{text(1, "\xff")}},
		{"not a protobuf", "CreateChatRoom", "request", [][]byte{{0xff}}},
		{"longest name", "CreateChatRoom", "", [][]byte{text(1, strings.Repeat("é", 64)), text(2, long[1:])}},
		{"no code", "JoinChatRoom", "short_code", [][]byte{text(2, "room")}},
		{"blank code", "JoinChatRoom", "short_code", [][]byte{text(1, "  ")}},
		{"long code", "JoinChatRoom", "short_code", [][]byte{text(1, long)}},
		{"long password, room known", "JoinChatRoom", "room_password", [][]byte{text(1, r.code), text(2, long)}},
		{"long password, unknown", "JoinChatRoom", "room_password", [][]byte{text(1, "333333"), text(2, long)}},
		{"code not UTF-8", "JoinChatRoom", "request", [][]byte{text(1, "\xff")}},
		{"no code", "DeleteChatRoom", "short_code", nil},
		{"more than is asked for", "ListChatRooms", "", [][]byte{text(9, "x")}},
	} {
		for _, service := range []string{current, original} {
			_, err := rawCall(t, conn, alice, service+c.method, c.req...)
			t.Run(service+c.method+" "+c.name, func(t *testing.T) {
				if c.field != "" {
					wantField(t, wantError(t, err, codes.InvalidArgument, "INVALID_FIELD"), c.field)
				} else if err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// The table of errors, both ways out; what it does not name is INTERNAL, its cause in the log and nowhere else
// (design: error table; habit 6).
func TestErrorTable(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err    error
		code   codes.Code
		status int
		reason string
	}{
		{errTokenMissing, codes.Unauthenticated, 401, "TOKEN_MISSING"},
		{errTokenInvalid, codes.Unauthenticated, 401, "TOKEN_INVALID"},
		{errTokenExpired, codes.Unauthenticated, 401, "TOKEN_EXPIRED"},
		{errRoomAccessDenied, codes.PermissionDenied, 403, "ROOM_ACCESS_DENIED"},
		{errRoomNotFound, codes.NotFound, 404, "ROOM_NOT_FOUND"},
		{errNotOwner, codes.PermissionDenied, 403, "NOT_OWNER"},
		{errRoomDeleted, codes.NotFound, 404, "ROOM_DELETED"},
		{errNotAdmin, codes.PermissionDenied, 403, "NOT_ADMIN"},
		{errLastAdmin, codes.FailedPrecondition, 409, "LAST_ADMIN"},
		{errUserNotFound, codes.NotFound, 404, "USER_NOT_FOUND"},
		{errMemberProtected, codes.FailedPrecondition, 409, "MEMBER_PROTECTED"},
		{errHistoryRestored, codes.FailedPrecondition, 409, "HISTORY_RESTORED"},
		{invalid("x", "A rule."), codes.InvalidArgument, 400, "INVALID_FIELD"},
		{retryIn(1500 * time.Millisecond), codes.ResourceExhausted, 429, "RATE_LIMITED"},
		{errOverloaded, codes.Unavailable, 503, "OVERLOADED"},
		{errShuttingDown, codes.Unavailable, 503, "SHUTTING_DOWN"},
		{errUnavailable, codes.Unavailable, 503, "DATABASE_UNAVAILABLE"},
		{errBroken, codes.Unavailable, 503, "DATABASE_UNAVAILABLE"},
		{errDiskFull, codes.ResourceExhausted, 507, "STORAGE_FULL"},
		{errors.New("hush"), codes.Internal, 500, "INTERNAL"},
		{errNotFound, codes.Internal, 500, "INTERNAL"}, // one that the code above the store has forgotten
	} {
		var log bytes.Buffer
		logger := slog.New(slog.NewTextHandler(&log, nil))
		err := fmt.Errorf("hush: %w", c.err)
		t.Run(c.reason, func(t *testing.T) {
			grpc := grpcError(t.Context(), logger, err)
			wantError(t, grpc, c.code, c.reason)
			w := httptest.NewRecorder()
			writeError(t.Context(), logger, w, err)
			var answer map[string]any
			if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || w.Code != c.status || answer["code"] != c.reason {
				t.Errorf("REST: %d %s, want %d %s", w.Code, w.Body, c.status, c.reason)
			}
			wantErrorAnswer(t, c.reason, w.Code, w.Header(), answer)
			if out := grpc.Error() + w.Body.String(); strings.Contains(out, "hush") {
				t.Errorf("the cause is sent: %s", out)
			}
			if c.code == codes.Internal && !strings.Contains(log.String(), "hush") {
				t.Errorf("the cause is not in the log: %s", log.String())
			}
		})
	}
	w := httptest.NewRecorder()
	writeError(t.Context(), slog.New(slog.DiscardHandler), w, retryIn(1500*time.Millisecond))
	if got := w.Header().Get("Retry-After"); got != "2" {
		t.Errorf("Retry-After %s for 1.5 s, want 2: later, not too soon", got)
	}
}

// wantError checks an error's code and its ErrorInfo, and returns its details by their type.
func wantError(t testing.TB, err error, code codes.Code, reason string) map[string]any {
	t.Helper()
	st := status.Convert(err)
	details := map[string]any{}
	for _, d := range st.Details() {
		details[strings.TrimPrefix(fmt.Sprintf("%T", d), "*errdetails.")] = d
	}
	info, _ := details["ErrorInfo"].(*errdetails.ErrorInfo)
	if st.Code() != code || info.GetReason() != reason || info.GetDomain() != "grpcchatter" || st.Message() == "" {
		t.Errorf("got %s %q %v, want %s, the reason %s and the domain grpcchatter", st.Code(), st.Message(), info, code, reason)
	}
	retry, _ := details["RetryInfo"].(*errdetails.RetryInfo)
	needsRetry := code == codes.Unavailable || reason == "RATE_LIMITED"
	if d := retry.GetRetryDelay().AsDuration(); needsRetry != (d > 0) {
		t.Errorf("%s: RetryInfo says %s, want one: %t", reason, d, needsRetry)
	}
	if bad, _ := details["BadRequest"].(*errdetails.BadRequest); (code == codes.InvalidArgument) != (len(bad.GetFieldViolations()) > 0) {
		t.Errorf("%s: BadRequest %v, want one with INVALID_ARGUMENT alone", reason, bad)
	}
	return details
}

// wantField checks which argument is named as the bad one.
func wantField(t testing.TB, details map[string]any, name string) {
	t.Helper()
	bad, _ := details["BadRequest"].(*errdetails.BadRequest)
	if v := bad.GetFieldViolations(); len(v) != 1 || v[0].GetField() != name || v[0].GetDescription() == "" {
		t.Errorf("BadRequest %v, want the field %s and its rule", bad, name)
	}
}
