package tui

import (
	"context"
	"errors"
	"net"
	"net/url"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"

	"github.com/grpcchatter/grpcchatter/client"
)

// failure is an error with a sentence for a person.
type failure struct {
	sentence string
	err      error
}

func (f *failure) Error() string { return f.sentence }
func (f *failure) Unwrap() error { return f.err }

// notice is sentence as a line of its own.
func notice(err error) string {
	s := sentence(err)
	first, n := utf8.DecodeRuneInString(s)
	return string(unicode.ToUpper(first)) + s[n:] + "."
}

// sentence is what a person is told about err, on a line of a terminal: the server's own words where it answered. It has no
// full stop, so that more can follow. A crash has many lines, which are all our own.
func sentence(err error) string {
	if e, ok := errors.AsType[crash](err); ok {
		return e.Error()
	}
	return screenLine(words(err))
}

func words(err error) string {
	e, answered := errors.AsType[*client.Error](err)
	switch {
	case unreachable(err):
		return "the server cannot be reached" + cause(err)
	case errors.Is(err, context.DeadlineExceeded):
		return "the server did not answer in time"
	case answered && e.Message != "":
		return strings.TrimSuffix(e.Message, ".")
	}
	return strings.TrimPrefix(err.Error(), "client: ")
}

// unreachable reports whether err says that no answer of the server came, whatever was asked.
func unreachable(err error) bool {
	if e, ok := errors.AsType[*client.Error](err); ok {
		return e.Code == "UNAVAILABLE" // the name of a status: the server's own answers have other codes
	}
	return errors.Is(err, client.ErrUnavailable)
}

// cause is what the system says about a server that cannot be reached, behind a colon; empty if it says
// nothing that a person could use.
func cause(err error) string {
	if e, ok := errors.AsType[*net.DNSError](err); ok {
		return ": " + e.Err
	}
	if e, ok := errors.AsType[syscall.Errno](err); ok {
		return ": " + e.Error()
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		return ": " + e.Err.Error()
	}
	return ""
}

// isDenied reports whether a room was not entered because there is none of this code, or its password is another one.
func isDenied(err error) bool { return errors.Is(err, client.ErrRoomAccessDenied) }

// link turns the changes of a room's connection into what is told about them: that it is away, once however
// long it takes, and that it is back. The zero value is ready.
type link struct {
	opened, away bool
}

// change returns one of "connected", "away" and "back", or "" for what is no news.
func (l *link) change(state client.ConnState) string {
	switch {
	case state == client.Connected && !l.opened:
		l.opened, l.away = true, false
		return "connected"
	case state == client.Connected && l.away:
		l.away = false
		return "back"
	case state == client.Reconnecting && !l.away:
		l.away = true
		return "away"
	}
	return ""
}

// crash is a fault of the program: what it was, and where.
type crash string

func (c crash) Error() string {
	return "a fault of the program, which should be reported: " + string(c)
}

// unconfirmedError is that messages were given up before the server had confirmed them.
type unconfirmedError struct{ messages int }

func (e *unconfirmedError) Error() string {
	return count(e.messages, "message") + " had not been stored yet and may be lost"
}

// givenUp returns an error if messages is not 0.
func givenUp(messages int) error {
	if messages == 0 {
		return nil
	}
	return &unconfirmedError{messages}
}
