package client

import (
	"context"
	"errors"
	"time"
	"unicode/utf8"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"
)

// Sentinel errors, for errors.Is. What a server answered is an *Error as well, for errors.As.
var (
	// ErrClosed: the Room or the Client has been disconnected.
	ErrClosed = errors.New("client: disconnected")
	// ErrNotLoggedIn: the call needs a Login or LoginWithToken before it.
	ErrNotLoggedIn = errors.New("client: not logged in")
	// ErrTooManyRooms: the Client has as many Rooms as one connection can carry; another Client has its own.
	ErrTooManyRooms = errors.New("client: too many rooms")
	// ErrRejected: the server refused this one message, for it broke a rule. The room goes on.
	ErrRejected = errors.New("client: message rejected")
	// ErrUnavailable: the server could not be reached, or cannot serve now. Trying again later may help.
	ErrUnavailable = errors.New("client: server unavailable")
	// ErrUnauthenticated: there was no valid token, whatever was wrong with it.
	ErrUnauthenticated = errors.New("client: not authenticated")
	// ErrTokenMissing: the server found no token. It is an ErrUnauthenticated.
	ErrTokenMissing = errors.New("client: token missing")
	// ErrTokenInvalid: the server does not accept the token. It is an ErrUnauthenticated.
	ErrTokenInvalid = errors.New("client: token invalid")
	// ErrTokenExpired: the token is too old. It is an ErrUnauthenticated.
	ErrTokenExpired = errors.New("client: token expired")
	// ErrInvalidCredentials: no account has this user name and password.
	ErrInvalidCredentials = errors.New("client: wrong user name or password")
	// ErrAccountDisabled: an administrator has disabled the account.
	ErrAccountDisabled = errors.New("client: account disabled")
	// ErrNameTaken: an account of this name exists; case makes no difference.
	ErrNameTaken = errors.New("client: user name taken")
	// ErrRegistrationClosed: the server takes no new accounts.
	ErrRegistrationClosed = errors.New("client: registration closed")
	// ErrRoomAccessDenied: there is no such room, the room password is wrong, or the user is banned. A Room that ends with
	// it is one that the user has left, here or on another device, or was removed or banned from: the Message of the *Error says which.
	ErrRoomAccessDenied = errors.New("client: room access denied")
	// ErrRoomNotFound: there is no such room, or the caller is not a member of it.
	ErrRoomNotFound = errors.New("client: room not found")
	// ErrRoomDeleted: the room has been deleted.
	ErrRoomDeleted = errors.New("client: room deleted")
	// ErrHistoryRestored: the server's data was restored from a backup that ends before what the Room has received, and
	// later seqs are given anew. The Room has ended; join the room again for a new one, which begins where it is told to.
	ErrHistoryRestored = errors.New("client: history restored from a backup")
	// ErrNotOwner: only the room's owner or an administrator may do this.
	ErrNotOwner = errors.New("client: not the owner")
	// ErrOwnerStays: the owner of a room cannot leave it, but can delete it, or hand it over to another member.
	ErrOwnerStays = errors.New("client: the owner cannot leave the room")
	// ErrUserNotFound: there is no account, or no member of the room, of this name.
	ErrUserNotFound = errors.New("client: user not found")
	// ErrInvalidField: an argument breaks a rule; the Message of the *Error says which.
	ErrInvalidField = errors.New("client: invalid argument")
	// ErrRateLimited: too many tries or messages; the *Error says when to come back.
	ErrRateLimited = errors.New("client: rate limited")
	// ErrStorageFull: the server's disk is full.
	ErrStorageFull = errors.New("client: storage full")
	// ErrOverloaded: the server has too much to do. It is an ErrUnavailable.
	ErrOverloaded = errors.New("client: server overloaded")
	// ErrDatabaseUnavailable: the server cannot reach its database. It is an ErrUnavailable.
	ErrDatabaseUnavailable = errors.New("client: database unavailable")
	// ErrShuttingDown: the server is stopping. It is an ErrUnavailable.
	ErrShuttingDown = errors.New("client: server shutting down")
	// ErrStalled: the server ended the stream, for the client read too slowly. It is an ErrUnavailable.
	ErrStalled = errors.New("client: stream stalled")
)

// domain is the google.rpc.ErrorInfo domain of the server's codes.
const domain = "grpcchatter"

// sentinelsOf returns what errors.Is finds in an Error with this code, which the server gives in both
// protocols. It is the mirror of the server's error table.
func sentinelsOf(code string) []error {
	switch code {
	case "TOKEN_MISSING":
		return []error{ErrTokenMissing, ErrUnauthenticated}
	case "TOKEN_INVALID":
		return []error{ErrTokenInvalid, ErrUnauthenticated}
	case "TOKEN_EXPIRED":
		return []error{ErrTokenExpired, ErrUnauthenticated}
	case "INVALID_CREDENTIALS":
		return []error{ErrInvalidCredentials}
	case "ACCOUNT_DISABLED":
		return []error{ErrAccountDisabled}
	case "NAME_TAKEN":
		return []error{ErrNameTaken}
	case "REGISTRATION_CLOSED":
		return []error{ErrRegistrationClosed}
	case "ROOM_ACCESS_DENIED":
		return []error{ErrRoomAccessDenied}
	case "ROOM_NOT_FOUND":
		return []error{ErrRoomNotFound}
	case "ROOM_DELETED":
		return []error{ErrRoomDeleted}
	case "HISTORY_RESTORED":
		return []error{ErrHistoryRestored}
	case "NOT_OWNER":
		return []error{ErrNotOwner}
	case "MEMBER_PROTECTED":
		return []error{ErrOwnerStays}
	case "USER_NOT_FOUND":
		return []error{ErrUserNotFound}
	case "INVALID_FIELD":
		return []error{ErrInvalidField}
	case "REJECTED":
		return []error{ErrRejected}
	case "RATE_LIMITED":
		return []error{ErrRateLimited}
	case "STORAGE_FULL":
		return []error{ErrStorageFull}
	case "OVERLOADED":
		return []error{ErrOverloaded, ErrUnavailable}
	case "DATABASE_UNAVAILABLE":
		return []error{ErrDatabaseUnavailable, ErrUnavailable}
	case "SHUTTING_DOWN":
		return []error{ErrShuttingDown, ErrUnavailable}
	case "STALLED":
		return []error{ErrStalled, ErrUnavailable}
	case "UNAVAILABLE":
		return []error{ErrUnavailable}
	case "DEADLINE_EXCEEDED":
		return []error{context.DeadlineExceeded}
	}
	return nil
}

// Error is what the server answered, or what kept it from answering. errors.Is finds the sentinel of its
// Code in it.
type Error struct {
	// Code is the stable code of the answer, such as "ROOM_DELETED". An answer that has none carries the
	// name of its gRPC status, such as "UNAVAILABLE" or "INTERNAL".
	Code string
	// Message is a sentence for a person. It may be empty.
	Message string
	// RetryAfter is how long the server asked to wait before another try; 0 when it did not say.
	RetryAfter time.Duration
}

// Error returns the message, or the code where there is no message.
func (e *Error) Error() string {
	if e.Message == "" {
		return e.Code
	}
	return e.Message
}

// Unwrap returns the sentinels of the code.
func (e *Error) Unwrap() []error { return sentinelsOf(e.Code) }

// fromStatus turns the error of a gRPC call into an *Error.
func fromStatus(err error) error {
	if err == nil {
		return nil
	}
	st := status.Convert(err)
	e := &Error{Code: code.Code(st.Code()).String(), Message: st.Message()}
	for _, detail := range st.Details() {
		switch d := detail.(type) {
		case *errdetails.ErrorInfo:
			if d.GetDomain() == domain {
				e.Code = d.GetReason()
			}
		case *errdetails.RetryInfo:
			e.RetryAfter = min(max(0, d.GetRetryDelay().AsDuration()), maxRetryAfter)
		}
	}
	return e
}

// checkText returns an ErrInvalidField if one of texts is not UTF-8: no request can carry it.
func checkText(texts ...string) error {
	for _, t := range texts {
		if !utf8.ValidString(t) {
			return &Error{Code: "INVALID_FIELD", Message: "a name, code or password is not UTF-8"}
		}
	}
	return nil
}
