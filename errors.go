package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
)

// errorDomain is the domain of google.rpc.ErrorInfo in every error of the server.
const errorDomain = "grpcchatter"

// apiError is an error that a caller may see. The table below has them all; client/errors.go mirrors it.
type apiError struct {
	Reason  string // stable, for programs
	GRPC    codes.Code
	HTTP    int
	Message string        // a sentence for a person
	Retry   time.Duration // when to try again; 0: no advice
	Field   string        // which argument broke a rule
}

var (
	errTokenMissing        = &apiError{"TOKEN_MISSING", codes.Unauthenticated, 401, "This call needs a token: send it as the header or metadata \"authorization: Bearer <token>\".", 0, ""}
	errTokenInvalid        = &apiError{"TOKEN_INVALID", codes.Unauthenticated, 401, "The token is not valid here: log in or join the room again.", 0, ""}
	errTokenExpired        = &apiError{"TOKEN_EXPIRED", codes.Unauthenticated, 401, "The token has expired: log in or join the room again.", 0, ""}
	errInvalidCredentials  = &apiError{"INVALID_CREDENTIALS", codes.Unauthenticated, 401, "The user name or the password is wrong.", 0, ""}
	errAccountDisabled     = &apiError{"ACCOUNT_DISABLED", codes.PermissionDenied, 403, "This account is disabled: ask the server's administrator.", 0, ""}
	errRegistrationClosed  = &apiError{"REGISTRATION_CLOSED", codes.PermissionDenied, 403, "This server takes no new accounts: ask its administrator for one.", 0, ""}
	errNameTaken           = &apiError{"NAME_TAKEN", codes.AlreadyExists, 409, "This user name is taken: choose another one.", 0, ""}
	errRoomAccessDenied    = &apiError{"ROOM_ACCESS_DENIED", codes.PermissionDenied, 403, "There is no such room, the room password is wrong, or you may not enter it.", 0, ""}
	errRoomNotFound        = &apiError{"ROOM_NOT_FOUND", codes.NotFound, 404, "There is no room with this short code, or you are not a member of it.", 0, ""}
	errNotOwner            = &apiError{"NOT_OWNER", codes.PermissionDenied, 403, "Only the owner of the room or an administrator may do this.", 0, ""}
	errNotAdmin            = &apiError{"NOT_ADMIN", codes.PermissionDenied, 403, "Only an administrator may do this.", 0, ""}
	errLastAdmin           = &apiError{"LAST_ADMIN", codes.FailedPrecondition, 409, "This is the last administrator who can log in: make another one first.", 0, ""}
	errUserNotFound        = &apiError{"USER_NOT_FOUND", codes.NotFound, 404, "There is no account of this name.", 0, ""}
	errMemberProtected     = &apiError{"MEMBER_PROTECTED", codes.FailedPrecondition, 409, "The owner cannot leave the room, or be removed or banned: hand the room over to another member first, or delete it.", 0, ""}
	errRoomDeleted         = &apiError{"ROOM_DELETED", codes.NotFound, 404, "The room was deleted.", 0, ""}
	errHistoryRestored     = &apiError{"HISTORY_RESTORED", codes.FailedPrecondition, 409, "The server was restored from a backup that ends before what you have of this room: join it again, and begin anew.", 0, ""}
	errInvalidField        = &apiError{"INVALID_FIELD", codes.InvalidArgument, 400, "An argument breaks a rule.", 0, ""}
	errInvalidJSON         = &apiError{"INVALID_JSON", codes.InvalidArgument, 400, "The body must be one JSON object with the fields of this call.", 0, ""}
	errBodyTooLarge        = &apiError{"BODY_TOO_LARGE", codes.InvalidArgument, 413, "The body is too large.", 0, ""}
	errNoSuchPath          = &apiError{"NOT_FOUND", codes.Unimplemented, 404, "There is nothing at this path.", 0, ""}
	errNoSuchMethod        = &apiError{"METHOD_NOT_ALLOWED", codes.Unimplemented, 405, "This path does not take this method: see the header Allow.", 0, ""}
	errRateLimited         = &apiError{"RATE_LIMITED", codes.ResourceExhausted, 429, "Too many tries or messages: wait a moment.", time.Second, ""}
	errStorageFull         = &apiError{"STORAGE_FULL", codes.ResourceExhausted, 507, "The server's disk is full: nothing can be stored until there is room again.", 0, ""}
	errOverloaded          = &apiError{"OVERLOADED", codes.Unavailable, 503, "The server is checking many passwords now: try again in a moment.", 2 * time.Second, ""}
	errDatabaseUnavailable = &apiError{"DATABASE_UNAVAILABLE", codes.Unavailable, 503, "The server's database does not answer: try again.", time.Second, ""}
	errShuttingDown        = &apiError{"SHUTTING_DOWN", codes.Unavailable, 503, "The server is shutting down: connect again.", time.Second, ""}
	errStalled             = &apiError{"STALLED", codes.Unavailable, 503, fmt.Sprintf("This stream was not read for %d s: connect again, and resume after the last seq that you have.", wholeSeconds(stallLimit)), 100 * time.Millisecond, ""}
	errForeignOrigin       = &apiError{"FOREIGN_ORIGIN", codes.PermissionDenied, 403, "A page of another server must not do this: open the chat at this server's own address.", 0, ""}
	errNeedsHTTPS          = &apiError{"HTTPS_REQUIRED", codes.InvalidArgument, 400, "Use https: this address only tells browsers to.", 0, ""}
	errNotAWebSocket       = &apiError{"UPGRADE_REQUIRED", codes.InvalidArgument, 426, "This path speaks WebSocket (RFC 6455, version 13): connect to it with ws:// or wss://.", 0, ""}
	errNotText             = &apiError{"UNSUPPORTED_DATA", codes.InvalidArgument, 415, "A frame has to be text: the JSON of a ChatRequest.", 0, ""}
	errNotAFrame           = &apiError{"PROTOCOL_ERROR", codes.InvalidArgument, 400, "This is no frame of a WebSocket (RFC 6455).", 0, ""}
	errPingTimeout         = &apiError{"PING_TIMEOUT", codes.Unavailable, 408, fmt.Sprintf("The connection did not answer a ping within %d s: connect again.", wholeSeconds(pingTimeout)), 0, ""}
	errInternal            = &apiError{"INTERNAL", codes.Internal, 500, "Something went wrong in the server.", 0, ""}
)

func (e *apiError) Error() string { return e.Message }

// Is makes an error with other words or another delay the same to errors.Is.
func (e *apiError) Is(target error) bool {
	t, ok := target.(*apiError)
	return ok && t.Reason == e.Reason
}

// invalid is errInvalidField for one field, with the rule that it breaks.
func invalid(field, rule string) error {
	e := *errInvalidField
	e.Field, e.Message = field, rule
	return &e
}

// saying is e with other words.
func (e *apiError) saying(message string) *apiError {
	other := *e
	other.Message = message
	return &other
}

// What comes about by a change of an account, a room or its members.
var (
	errNoLongerMember = errRoomAccessDenied.saying("You are no longer a member of this room: you have left it, or its owner or an administrator has removed you.")
	errRemoved        = errRoomAccessDenied.saying("You are no longer a member of this room: the owner or an administrator has removed you.")
	errBanned         = errRoomAccessDenied.saying("You are banned from this room, by its owner or an administrator.")
	errLeft           = errRoomAccessDenied.saying("You have left this room.")
	errBanAdmin       = errMemberProtected.saying("An administrator cannot be banned from a room.")
	errNoMember       = errUserNotFound.saying("The room has no member of this name.")
	errNoBan          = errUserNotFound.saying("Nobody of this name is banned from the room.")
	errWrongPassword  = errInvalidCredentials.saying("The password is wrong.")
)

var errTooManyOpen = errRateLimited.saying(fmt.Sprintf("Your address has %d calls without a token already.", maxOpenCalls))

// errTooManyStreams is about those that a proxy passes on.
var errTooManyStreams = errRateLimited.saying("Your address has too many streams already.")

// What the frames of a WebSocket can lack.
var (
	errSocketToken   = errTokenMissing.saying("The first frame has no room token: send {\"token\":\"…\"}.")
	errNotARequest   = errInvalidJSON.saying("A frame has to be the JSON of a ChatRequest.")
	errFrameTooLarge = errBodyTooLarge.saying(fmt.Sprintf("The frame is too large; the first one, which holds the token, may have %d KiB and MAX_MESSAGE_SIZE.", maxBody>>10))
)

// retryIn is errRateLimited with the time to wait, for a person too: the end of a WebSocket has no other place for it.
func retryIn(d time.Duration) error {
	e := errRateLimited.saying(fmt.Sprintf("Too many tries or messages: try again in %d s.", wholeSeconds(d)))
	e.Retry = d
	return e
}

// wholeSeconds rounds up: who comes then does not come too early.
func wholeSeconds(d time.Duration) int { return int(math.Ceil(d.Seconds())) }

// toAPIError turns any error into one that a caller may see. What no rule names becomes errInternal, and its
// cause goes to the log.
func toAPIError(ctx context.Context, log *slog.Logger, err error) *apiError {
	var e *apiError
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, errDiskFull):
		e = errStorageFull
	case errors.Is(err, errUnavailable), errors.Is(err, errBroken):
		e = errDatabaseUnavailable
	default:
		e = errInternal
	}
	log.ErrorContext(ctx, "request failed", "reason", e.Reason, "cause", err)
	return e
}

// grpcError turns an error into a gRPC status with its details.
func grpcError(ctx context.Context, log *slog.Logger, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return status.FromContextError(err).Err()
	}
	if _, ok := err.(interface{ GRPCStatus() *status.Status }); ok {
		return err // of grpc-go itself, or of its health and reflection services
	}
	e := toAPIError(ctx, log, err)
	details := []protoadapt.MessageV1{&errdetails.ErrorInfo{Reason: e.Reason, Domain: errorDomain}}
	if e.Retry > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(e.Retry)})
	}
	if e.Field != "" {
		details = append(details, &errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{
			{Field: e.Field, Description: e.Message},
		}})
	}
	st, err := status.New(e.GRPC, e.Message).WithDetails(details...)
	if err != nil {
		return status.Error(e.GRPC, e.Message)
	}
	return st.Err()
}

// writeError answers a REST call with an error.
func writeError(ctx context.Context, log *slog.Logger, w http.ResponseWriter, err error) {
	e := toAPIError(ctx, log, err)
	if e.Retry > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(wholeSeconds(e.Retry)))
	}
	if e.HTTP == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer") // RFC 9110, section 11.6.1
	}
	writeJSON(w, e.HTTP, struct {
		Error string `json:"error"`
		Code  string `json:"code"`
	}{e.Message, e.Reason})
}
