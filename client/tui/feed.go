package tui

import (
	"sync"
	"time"

	tea "charm.land/bubbletea/v2"
)

const (
	// frame is the least time between two deliveries of a feed: nobody sees more than one in it.
	frame = time.Second / framesPerSecond
	// maxEvents is how many events may wait in a feed. A room that has more to tell waits, and its stream with it.
	maxEvents = 4096
)

// feed carries what other goroutines have to tell to the app, many events at a time: a room may bring thousands of
// messages a second, and each message to the program draws the screen once. It is safe for concurrent use.
type feed struct {
	send func(tea.Msg) // to the program

	mu     sync.Mutex // guards the fields below
	events []func()
	last   time.Time // of the last delivery
	coming bool      // a delivery is on its way
	over   bool
	taken  sync.Cond // events have been taken, or it is over
}

// fed is the message that tells the app to take what its feed has.
type fed struct{}

func newFeed() *feed {
	f := new(feed)
	f.taken.L = &f.mu
	return f
}

// post has event called by the app. It waits while too many others do.
func (f *feed) post(event func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.events) >= maxEvents && !f.over {
		f.taken.Wait()
	}
	if f.over {
		return
	}
	f.events = append(f.events, event)
	if !f.coming {
		f.coming = true
		time.AfterFunc(frame-time.Since(f.last), func() { f.send(fed{}) })
	}
}

// take returns the events that wait.
func (f *feed) take() []func() {
	f.mu.Lock()
	defer f.mu.Unlock()
	events := f.events
	f.events, f.coming, f.last = nil, false, time.Now()
	f.taken.Broadcast()
	return events
}

// close drops what waits and what comes: nobody waits in post any more.
func (f *feed) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events, f.over = nil, true
	f.taken.Broadcast()
}
