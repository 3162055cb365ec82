package client

import (
	"fmt"
	"sync"

	"github.com/grpcchatter/grpcchatter/pb"
)

// ConnState says how a room stands with the server.
type ConnState int

const (
	// Connected: the server has opened the room's stream.
	Connected ConnState = iota + 1
	// Reconnecting: there is no stream now. The room tries again for as long as it takes.
	Reconnecting
	// Closed: the room is over; nothing more comes.
	Closed
)

// String returns the state in lower case.
func (s ConnState) String() string {
	switch s {
	case Connected:
		return "connected"
	case Reconnecting:
		return "reconnecting"
	case Closed:
		return "closed"
	}
	return fmt.Sprintf("ConnState(%d)", int(s))
}

// EventKind is the kind of an Event.
type EventKind int

const (
	// UserJoined: the user is now present, and was not before.
	UserJoined EventKind = iota + 1
	// UserLeft: the user's last stream is gone.
	UserLeft
	// Typing: the user is writing a message.
	Typing
)

// String returns the kind in lower case.
func (k EventKind) String() string {
	switch k {
	case UserJoined:
		return "user joined"
	case UserLeft:
		return "user left"
	case Typing:
		return "typing"
	}
	return fmt.Sprintf("EventKind(%d)", int(k))
}

// Event is something that happened in a room and is not stored.
type Event struct {
	Kind     EventKind
	UserName string
}

// maxNotices is how many calls of the program's functions may wait.
const maxNotices = 256

// notices calls the program's OnState and OnEvent functions from a goroutine of its own, so that a slow
// function delays nobody.
type notices struct {
	onState func(ConnState, error)
	onEvent func(Event)

	mu    sync.Mutex // guards the fields below
	calls []func()
	ended bool // no more are added
	added signal
}

// state queues a call of OnState.
func (n *notices) state(s ConnState, cause error) {
	if n.onState == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.calls) == maxNotices {
		n.calls = n.calls[1:]
	}
	n.calls = append(n.calls, func() { n.onState(s, cause) })
	n.added.wake()
}

// take queues calls of OnEvent for those events that are not stored.
func (n *notices) take(events []event) {
	if n.onEvent == nil {
		return
	}
	for i := range events {
		name := events[i].UserName
		switch events[i].kind {
		case pb.ChatEventKind_USER_JOINED:
			n.event(Event{UserJoined, name})
		case pb.ChatEventKind_USER_LEFT:
			n.event(Event{UserLeft, name})
		case pb.ChatEventKind_TYPING:
			n.event(Event{Typing, name})
		}
	}
}

func (n *notices) event(e Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.calls) == maxNotices {
		return
	}
	n.calls = append(n.calls, func() { n.onEvent(e) })
	n.added.wake()
}

// end makes run return when it has made the calls that wait.
func (n *notices) end() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ended = true
	n.added.wake()
}

// run makes the calls until end.
func (n *notices) run() {
	for {
		n.mu.Lock()
		calls, ended, added := n.calls, n.ended, n.added.wait()
		n.calls = nil
		n.mu.Unlock()
		for _, call := range calls {
			call()
		}
		if len(calls) > 0 {
			continue
		}
		if ended {
			return
		}
		<-added
	}
}
