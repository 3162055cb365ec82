package main

import (
	"hash/maphash"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// limitSettings are the limits as they come. The README has them as a table.
type limitSettings struct {
	LimitLoginsPerAddress            string `env:"LIMIT_LOGINS_PER_ADDRESS" default:"100+1/1s" placeholder:"LIMIT" help:"Wrong passwords from one address, such as 100+1/1s: 100 at once, then one in each second. off: no limit."`
	LimitLoginsPerAccountAndAddress  string `env:"LIMIT_LOGINS_PER_ACCOUNT_AND_ADDRESS" default:"10+1/10s" placeholder:"LIMIT" help:"Wrong passwords of one account from one address."`
	LimitLoginsPerAccount            string `env:"LIMIT_LOGINS_PER_ACCOUNT" default:"50+1/72s" placeholder:"LIMIT" help:"Wrong passwords of one account from all addresses that it was not used from before."`
	LimitRegistrationsPerAddress     string `env:"LIMIT_REGISTRATIONS_PER_ADDRESS" default:"200+1/1s" placeholder:"LIMIT" help:"New accounts from one address."`
	LimitRoomPasswordsPerUserAndRoom string `env:"LIMIT_ROOM_PASSWORDS_PER_USER_AND_ROOM" default:"20+1/10s" placeholder:"LIMIT" help:"Wrong passwords of one room by one user."`
	LimitRoomPasswordsPerUser        string `env:"LIMIT_ROOM_PASSWORDS_PER_USER" default:"100+1/5s" placeholder:"LIMIT" help:"Wrong room passwords, and codes of no room, by one user."`
	LimitRoomPasswordsPerAddress     string `env:"LIMIT_ROOM_PASSWORDS_PER_ADDRESS" default:"200+1/2s" placeholder:"LIMIT" help:"Wrong room passwords, and codes of no room, from one address."`
	LimitRoomsPerUser                string `env:"LIMIT_ROOMS_PER_USER" default:"100+1/5s" placeholder:"LIMIT" help:"New rooms of one user, and its changes of rooms, of their members and of its password."`
	LimitMessagesPerUser             string `env:"LIMIT_MESSAGES_PER_USER" default:"5000+200/1s" placeholder:"LIMIT" help:"Messages of one user."`
}

// limits slows down who tries or writes too much. The zero value limits nothing. It is safe for concurrent use.
type limits struct {
	loginsPerAddress            *limiter
	loginsPerAccountAndAddress  *limiter
	loginsPerAccount            *limiter
	registrationsPerAddress     *limiter
	roomPasswordsPerUserAndRoom *limiter
	roomPasswordsPerUser        *limiter
	roomPasswordsPerAddress     *limiter
	roomsPerUser                *limiter
	messagesPerUser             *limiter
}

// check returns the limits, and tells bad of each key with a bad value.
func (s limitSettings) check(bad func(key, rule, value string)) limits {
	limit := func(key, value string) *limiter {
		if strings.EqualFold(value, "off") {
			return nil
		}
		burst, interval, ok := parseLimit(value)
		if !ok {
			bad(key, "want off, or BURST+N/PERIOD with BURST from 1 to 100000, N from 1 to 1000000 and PERIOD from 1ms to 24h, such as 10+1/10s (10 at once, then one in each 10 s)", value)
		}
		return newLimiter(strings.ToLower(strings.TrimPrefix(key, "LIMIT_")), burst, interval)
	}
	return limits{
		loginsPerAddress:            limit("LIMIT_LOGINS_PER_ADDRESS", s.LimitLoginsPerAddress),
		loginsPerAccountAndAddress:  limit("LIMIT_LOGINS_PER_ACCOUNT_AND_ADDRESS", s.LimitLoginsPerAccountAndAddress),
		loginsPerAccount:            limit("LIMIT_LOGINS_PER_ACCOUNT", s.LimitLoginsPerAccount),
		registrationsPerAddress:     limit("LIMIT_REGISTRATIONS_PER_ADDRESS", s.LimitRegistrationsPerAddress),
		roomPasswordsPerUserAndRoom: limit("LIMIT_ROOM_PASSWORDS_PER_USER_AND_ROOM", s.LimitRoomPasswordsPerUserAndRoom),
		roomPasswordsPerUser:        limit("LIMIT_ROOM_PASSWORDS_PER_USER", s.LimitRoomPasswordsPerUser),
		roomPasswordsPerAddress:     limit("LIMIT_ROOM_PASSWORDS_PER_ADDRESS", s.LimitRoomPasswordsPerAddress),
		roomsPerUser:                limit("LIMIT_ROOMS_PER_USER", s.LimitRoomsPerUser),
		messagesPerUser:             limit("LIMIT_MESSAGES_PER_USER", s.LimitMessagesPerUser),
	}
}

func (l limits) all() []*limiter {
	return []*limiter{l.loginsPerAddress, l.loginsPerAccountAndAddress, l.loginsPerAccount, l.registrationsPerAddress,
		l.roomPasswordsPerUserAndRoom, l.roomPasswordsPerUser, l.roomPasswordsPerAddress, l.roomsPerUser, l.messagesPerUser}
}

// parseLimit reads BURST+N/PERIOD: how many may come at once, and how long it takes until one more may. Their product
// is less than what a time.Duration holds.
func parseLimit(text string) (burst int, interval time.Duration, ok bool) {
	burstText, rate, _ := strings.Cut(text, "+")
	nText, periodText, _ := strings.Cut(rate, "/")
	b, err1 := strconv.ParseUint(burstText, 10, 32)
	n, err2 := strconv.ParseUint(nText, 10, 32)
	period, err3 := time.ParseDuration(periodText)
	if err1 != nil || err2 != nil || err3 != nil || b < 1 || b > 100_000 || n < 1 || n > 1_000_000 || period < time.Millisecond || period > 24*time.Hour {
		return 0, 0, false
	}
	return int(b), period / time.Duration(n), true
}

const (
	// maxBuckets is how many buckets a limit keeps at most: some 10 MB.
	maxBuckets = 1 << 18
	// sampled is how many buckets are looked at to make room for a new one.
	sampled = 8
)

// limiter is one token bucket a key. Who has none left is refused until the next one comes: slowed, never
// locked out. A nil *limiter refuses nobody.
//
// It keeps of each key a hash that nobody else can compute, so that no name and no address is long, and of each bucket
// only when it will be full. Whoever makes up a million keys makes it forget the buckets that are nearly full, which
// are those of one try: a bucket that is used up stays.
type limiter struct {
	name     string
	burst    int
	interval time.Duration // until one comes back
	seed     maphash.Seed
	max      int                // buckets
	began    time.Time          // what times are counted from
	refused  prometheus.Counter // nil: nobody counts

	mu   sync.Mutex               // guards the field below
	full map[uint64]time.Duration // when the bucket will be full; one that is, is the same as none
}

func newLimiter(name string, burst int, interval time.Duration) *limiter {
	return &limiter{name: name, burst: burst, interval: interval, seed: maphash.MakeSeed(), max: maxBuckets, began: time.Now(), full: map[uint64]time.Duration{}}
}

// take uses one try of key. If there is none it returns how long it is until the next.
func (l *limiter) take(key string) (wait time.Duration) {
	if l == nil {
		return 0
	}
	k, now := maphash.String(l.seed, key), time.Since(l.began)
	l.mu.Lock()
	defer l.mu.Unlock()
	full, kept := l.full[k]
	full = max(full, now) + l.interval
	if wait = full - now - time.Duration(l.burst)*l.interval; wait > 0 {
		if l.refused != nil {
			l.refused.Inc()
		}
		return wait
	}
	if !kept {
		l.makeRoom(now)
	}
	l.full[k] = full
	return 0
}

// makeRoom looks at a few buckets, which a range over a map chooses at random. It drops those that are full and, if there
// are too many still, the fullest of the others. l.mu is held.
func (l *limiter) makeRoom(now time.Duration) {
	seen, fullest, least := 0, uint64(0), time.Duration(math.MaxInt64)
	for k, full := range l.full {
		if full <= now {
			delete(l.full, k)
		} else if full < least {
			fullest, least = k, full
		}
		if seen++; seen == sampled {
			break
		}
	}
	if len(l.full) >= l.max {
		delete(l.full, fullest)
	}
}

// giveBack returns a try that was taken.
func (l *limiter) giveBack(key string) {
	if l == nil {
		return
	}
	k := maphash.String(l.seed, key)
	l.mu.Lock()
	defer l.mu.Unlock()
	if full, kept := l.full[k]; kept {
		l.full[k] = full - l.interval
	}
}

// try is something that a limit counts.
type try struct {
	limit *limiter
	key   string
}

// take uses all the tries. If a limit has none left it uses none of them, and returns errRateLimited with the time until
// there is one.
func take(tries ...try) error {
	for i, t := range tries {
		if wait := t.limit.take(t.key); wait > 0 {
			giveBack(tries[:i]...)
			return retryIn(wait)
		}
	}
	return nil
}

// giveBack returns tries that were taken.
func giveBack(tries ...try) {
	for _, t := range tries {
		t.limit.giveBack(t.key)
	}
}

// userKey is the key of a user in the limits that count by user.
func userKey(id int64) string { return strconv.FormatInt(id, 10) }

const (
	knownAccounts  = 1 << 16
	knownAddresses = 8 // of one account
)

// known keeps, of each account, the addresses that it was used from last. Guesses from elsewhere do not slow down who
// logs in from there: else anybody could keep the owner of an account out (NIST SP 800-63B, 5.2.2). It is safe for
// concurrent use.
type known struct {
	seed maphash.Seed

	mu        sync.Mutex          // guards the field below
	addresses map[uint64][]uint64 // by account, the latest first; all are hashes, as in limiter
}

func newKnown() *known {
	return &known{seed: maphash.MakeSeed(), addresses: map[uint64][]uint64{}}
}

// add notes that the owner of an account has shown to be one at an address.
func (k *known) add(account, address string) {
	a, at := maphash.String(k.seed, account), maphash.String(k.seed, address)
	k.mu.Lock()
	defer k.mu.Unlock()
	old, kept := k.addresses[a]
	if !kept && len(k.addresses) >= knownAccounts {
		for other := range k.addresses { // any one
			delete(k.addresses, other)
			break
		}
	}
	latest := append(make([]uint64, 0, knownAddresses), at)
	for _, o := range old {
		if o != at && len(latest) < knownAddresses {
			latest = append(latest, o)
		}
	}
	k.addresses[a] = latest
}

// forget drops the addresses of an account.
func (k *known) forget(account string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.addresses, maphash.String(k.seed, account))
}

// has tells whether an account was used from an address.
func (k *known) has(account, address string) bool {
	a, at := maphash.String(k.seed, account), maphash.String(k.seed, address)
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Contains(k.addresses[a], at)
}

// maxOpenCalls is how many gRPC calls that ask for no token one address may have at a time: a request that never ends takes
// memory.
const maxOpenCalls = 100

// concurrent bounds how many there are at a time of one key. A nil *concurrent bounds nothing. It is safe for concurrent use.
type concurrent struct {
	max int

	mu    sync.Mutex // guards the field below
	byKey map[string]int
}

func newConcurrent(limit int) *concurrent { return &concurrent{max: limit, byKey: map[string]int{}} }

// enter returns false if there are too many of a key already. Otherwise leave has to follow.
func (c *concurrent) enter(key string) bool {
	if c == nil {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byKey[key] >= c.max {
		return false
	}
	c.byKey[key]++
	return true
}

func (c *concurrent) leave(key string) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byKey[key]--; c.byKey[key] == 0 {
		delete(c.byKey, key)
	}
}
