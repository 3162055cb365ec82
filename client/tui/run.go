// Package tui is the terminal client of GRPCChatter, `grpcchatter chat`.
//
// On a terminal it fills the screen: a form to sign in, then the user's rooms, with a line of input under the messages.
// Anywhere else, on a terminal that can do nothing (TERM is dumb or, other than on Windows, empty), and when asked to, it is
// a line protocol, so that a shell script can be a bot: see Options.Plain.
package tui

import (
	"cmp"
	"context"
	"errors"
	"io"
	"os"
	"runtime"

	"golang.org/x/term"
)

// Options say where to chat and as whom. What is empty is asked for on a terminal. The line protocol has
// nobody to ask: there Server, User, Password, and Room or Create must be set.
type Options struct {
	// Server is an address as client.New takes it, or a host alone, which stands for https.
	Server         string
	User, Password string
	// Room is the short code of a room to join, or an invitation link to it, whose server is the Server if that is empty.
	// RoomPassword is for a room that the user is no member of
	// yet, or for the one to create; empty in the line protocol, it is the empty password.
	Room, RoomPassword string
	// Register makes the account first.
	Register bool
	// Create makes a room of this name, prints its short code, and joins it instead of Room.
	Create string

	// Notify says what happens on a terminal when a message mentions the user's name: NotifyOff, NotifyBell, or NotifyOSC9.
	Notify string
	// Folder is where a terminal's client remembers the server, the name, what has been read, what is being written,
	// and, if the person wants that, a token; empty: nowhere. The folder is made when it is needed.
	Folder string

	// In, Out and Err are os.Stdin, os.Stdout and os.Stderr where they are nil. A Read from In that is
	// under way when Run returns is left behind, for it cannot be called off.
	In       io.Reader
	Out, Err io.Writer

	// Plain asks for the line protocol on a terminal too.
	//
	// Every line in is a message, as it stands: nothing is a command. Lines end with LF or CRLF; empty ones
	// are skipped. They are sent in order. A line over 1 MiB or not UTF-8, or one that the
	// server rejects, is named on Err by its number.
	//
	// Every line out is a message of the room from the join on, one's own too, and nothing else:
	// `2006-01-02T15:04:05Z name: text`, in UTC. In the text a backslash is `\\`, line feed, carriage return
	// and tab are `\n`, `\r` and `\t`, and what could harm a terminal is `\u` and four hexadecimal digits,
	// so `printf %b` of bash gives the text back. In a name space and colon are written like that as well.
	//
	// On Err come lines whose first word says what happened: `room CODE` when one was created, `connected`,
	// `away`, `back`, `line N`.
	//
	// At the end of In, Run waits until every message is acknowledged and all up to the last of them have
	// been written to Out. A program that only listens has to keep In open.
	Plain bool
}

// ErrOutputClosed is what Run returns when nobody reads Out any more, or when a terminal takes nothing: there is nobody to
// tell. What there would have been to tell may be wrapped beside it.
var ErrOutputClosed = errors.New("the output is closed")

// Run chats until the person leaves, the input ends, the room is gone, or ctx is cancelled. It returns
// nil after leaving and after a cancelled ctx, unless there are messages that the server has not confirmed.
// Every error is a sentence for a person; in the line protocol a message that was not sent is one.
//
// A terminal is given back as it was, unless it takes no output for a second: then nothing is written to it any more.
func Run(ctx context.Context, o Options) error {
	o.setDefaults()
	err := o.run(ctx)
	var unconfirmed *unconfirmedError
	if err == nil || ctx.Err() != nil && !errors.As(err, &unconfirmed) {
		return nil
	}
	return &failure{sentence(err), err}
}

func (o *Options) run(ctx context.Context) error {
	if terminal(o.In) == nil || terminal(o.Out) == nil || o.Plain || dumb() {
		return runPlain(ctx, *o)
	}
	return runScreen(ctx, *o)
}

// dumb reports whether the terminal is one that can do nothing. On Windows none says what it is, and all can.
func dumb() bool {
	t := os.Getenv("TERM")
	return t == "dumb" || t == "" && runtime.GOOS != "windows"
}

func (o *Options) setDefaults() {
	if o.In == nil {
		o.In = os.Stdin
	}
	if server, code, ok := invitation(o.Room); ok {
		o.Server, o.Room = cmp.Or(o.Server, server), code
	}
	o.Out = cmp.Or[io.Writer](o.Out, os.Stdout)
	o.Err = cmp.Or[io.Writer](o.Err, os.Stderr)
}

// terminal returns the file that x is, if it is a terminal.
func terminal(x any) *os.File {
	if f, ok := x.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return f
	}
	return nil
}
