package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// Limits of the pause before another try.
const (
	minPause = 100 * time.Millisecond
	maxPause = 10 * time.Second
)

// retries says how long to wait before another try: a random time ("full jitter") below a bound that doubles
// with every failure, so that clients that lost one server at one moment do not come back at one moment. The
// zero value is ready.
type retries struct {
	failures int
}

// pause returns the time to wait after err. Where the server asked for a delay, it is at least that one.
func (r *retries) pause(err error) time.Duration {
	bound := maxPause
	if r.failures < 7 { // minPause << 7 is above maxPause
		bound = minPause << r.failures
	}
	r.failures++
	pause := rand.N(bound)
	if e, ok := errors.AsType[*Error](err); ok {
		pause += e.RetryAfter
	}
	return pause
}

func (r *retries) reset() { r.failures = 0 }

// sleep waits for d, or for the end of ctx.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
