package main

import (
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// limits slows down who tries or writes too much. The zero value limits nothing. It is safe for concurrent use.
type limits struct {
	login    *limiter // failed log-ins, by account and address
	loginIP  *limiter // failed log-ins, by address
	register *limiter // new accounts, by address
	join     *limiter // wrong room passwords, by user
	create   *limiter // new rooms, by user
	message  *limiter // messages, by user
}

// newLimits returns the limits in force with RATE_LIMITS=on. The README has them as a table.
func newLimits() limits {
	return limits{
		login:    newLimiter(rate.Every(10*time.Second), 10),
		loginIP:  newLimiter(rate.Every(time.Second), 100),
		register: newLimiter(rate.Every(time.Second), 200),
		join:     newLimiter(rate.Every(10*time.Second), 20),
		create:   newLimiter(rate.Every(5*time.Second), 100),
		message:  newLimiter(200, 5000),
	}
}

// userKey is the key of a user in the limits that count by user.
func userKey(id int64) string { return strconv.FormatInt(id, 10) }

// limiter is one token bucket a key. Who has none left is refused until the next one comes: slowed, never
// locked out. A nil *limiter refuses nobody.
type limiter struct {
	limit rate.Limit
	burst int

	mu      sync.Mutex // guards the fields below
	buckets map[string]*rate.Limiter
	sweepAt int // sweep when there are so many
}

func newLimiter(limit rate.Limit, burst int) *limiter {
	return &limiter{limit: limit, burst: burst, buckets: map[string]*rate.Limiter{}, sweepAt: 1024}
}

// Full buckets say the same as none: they are dropped when the map has doubled.
func (l *limiter) bucket(key string) *rate.Limiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.buckets[key]
	if b != nil {
		return b
	}
	if len(l.buckets) >= l.sweepAt {
		for k, b := range l.buckets {
			if b.Tokens() >= float64(l.burst) {
				delete(l.buckets, k)
			}
		}
		l.sweepAt = max(1024, 2*len(l.buckets))
	}
	b = rate.NewLimiter(l.limit, l.burst)
	l.buckets[key] = b
	return b
}

// take uses one try of key, or returns errRateLimited with the time until the next.
func (l *limiter) take(key string) error {
	if l == nil {
		return nil
	}
	r := l.bucket(key).Reserve()
	if d := r.Delay(); d > 0 {
		r.Cancel()
		return retryIn(d)
	}
	return nil
}

// giveBack returns a try that was taken.
func (l *limiter) giveBack(key string) {
	if l != nil {
		l.bucket(key).AllowN(time.Now(), -1)
	}
}
