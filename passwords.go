package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
)

// The cost of a password hash: OWASP's minimum for argon2id (Password Storage Cheat Sheet, 2024).
const (
	argonMemory  = 19 << 10 // KiB
	argonTime    = 2
	argonThreads = 1
	argonKey     = 32
	argonSalt    = 16
)

const (
	// hashQueue is how many of each lane may wait for a hash: about 2 s of work for one processor.
	hashQueue = 64
	// hashWait is how long one may wait, when the processor has much else to do.
	hashWait = 10 * time.Second
)

// passwords hashes and checks passwords, few at a time: each hash takes 19 MiB and some 25 ms of a
// processor, which a flood of log-ins must not take from those who chat. It is safe for concurrent use.
//
// Who waits stands in one of two lanes, which take turns: those who are known, by a token or by an address, do not wait
// for strangers. In a lane the turns go round by address, and among those of an address by user: so it counts for nothing
// how many requests, or accounts, somebody has there.
type passwords struct {
	workers int

	mu    sync.Mutex // guards the fields below
	busy  int        // hashes that run
	lanes [2]lane
	last  int // the lane that had the last turn
}

// The lanes.
const (
	laneStrangers = iota
	laneKnown
)

// lane is who waits. Nobody in it is without a turn.
type lane struct {
	waiters []*waiters // in the order in which they came
	n       int        // turns of all
	served  int        // turns that were had
}

// waiters are the turns of one user, or one stranger, at one address.
type waiters struct {
	address, user string
	turns         []*turn
	// since is what served was when the address, or the user, had its last turn, or when it came.
	addressSince, since int
}

// turn is one caller's. Its channel takes true when it may hash, and false when it was put out.
type turn struct{ ready chan bool }

func newPasswords() *passwords {
	return &passwords{workers: max(1, runtime.NumCPU()/2)}
}

// hashing says in which lane a caller waits, and as whom.
type hashing struct {
	lane          int
	address, user string
}

// hashingOf is how the caller of ctx waits, whose token was checked.
func hashingOf(ctx context.Context) hashing {
	return hashing{laneKnown, subscriber(clientAddr(ctx)).String(), userKey(callerOf(ctx).user.ID)}
}

// run waits for its turn and calls fn. errOverloaded: too many wait already.
func (p *passwords) run(ctx context.Context, h hashing, fn func()) error {
	t, err := p.enter(h)
	if err != nil {
		return err
	}
	if t != nil {
		if err := p.await(ctx, h, t); err != nil {
			return err
		}
	}
	defer p.next()
	fn()
	return nil
}

// enter takes a place, and returns the turn to wait for; nil: there is nobody to wait for.
func (p *passwords) enter(h hashing) (*turn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.busy < p.workers {
		p.busy++
		return nil, nil
	}
	return p.lanes[h.lane].add(h.address, h.user)
}

// add adds a turn. In a full lane it takes the place of one of an address that has more of them, or of another user at the
// same address who has.
func (l *lane) add(address, user string) (*turn, error) {
	own := &waiters{address: address, user: user, addressSince: l.served, since: l.served}
	turns := map[string]int{} // by address
	for _, w := range l.waiters {
		turns[w.address] += len(w.turns)
		if w.address == address {
			own.addressSince = w.addressSince
		}
	}
	if i := slices.IndexFunc(l.waiters, func(w *waiters) bool { return w.address == address && w.user == user }); i >= 0 {
		own = l.waiters[i]
	}
	if l.n >= hashQueue {
		var longest *waiters // of the addresses that have most, or of the own one
		for _, w := range l.waiters {
			more := turns[w.address] >= turns[address]+2 || w.address == address && len(w.turns) >= len(own.turns)+2
			if more && (longest == nil || turns[w.address] > turns[longest.address] || turns[w.address] == turns[longest.address] && len(w.turns) > len(longest.turns)) {
				longest = w
			}
		}
		if longest == nil {
			return nil, errOverloaded
		}
		out := longest.turns[len(longest.turns)-1]
		l.remove(out)
		out.ready <- false
	}
	t := &turn{ready: make(chan bool, 1)}
	if own.turns = append(own.turns, t); len(own.turns) == 1 {
		l.waiters = append(l.waiters, own)
	}
	l.n++
	return t, nil
}

// await waits for a turn.
func (p *passwords) await(ctx context.Context, h hashing, t *turn) error {
	late := time.NewTimer(hashWait)
	defer late.Stop()
	err := error(errOverloaded)
	select {
	case ok := <-t.ready:
		if !ok {
			return errOverloaded
		}
		return nil
	case <-late.C:
	case <-ctx.Done():
		if cause := context.Cause(ctx); cause != context.DeadlineExceeded {
			err = cause
		}
	}
	p.mu.Lock()
	gone := p.lanes[h.lane].remove(t)
	p.mu.Unlock()
	if !gone && <-t.ready { // it came just now
		p.next()
	}
	return err
}

// remove takes a turn out. It returns false if it is out already.
func (l *lane) remove(t *turn) bool {
	for i, w := range l.waiters {
		j := slices.Index(w.turns, t)
		if j < 0 {
			continue
		}
		if w.turns = slices.Delete(w.turns, j, j+1); len(w.turns) == 0 {
			l.waiters = slices.Delete(l.waiters, i, i+1)
		}
		l.n--
		return true
	}
	return false
}

// next gives a hash's place to who waits: to the other lane than the last time, if somebody waits there.
func (p *passwords) next() {
	p.mu.Lock()
	defer p.mu.Unlock()
	other := 1 - p.last
	if p.lanes[other].n == 0 {
		other = p.last
	}
	if p.lanes[other].n == 0 {
		p.busy--
		return
	}
	p.last = other
	p.lanes[other].pop().ready <- true
}

// pop takes out the next turn: of the address that has waited longest for one, and there of the user who has.
func (l *lane) pop() *turn {
	next := slices.MinFunc(l.waiters, func(a, b *waiters) int {
		return cmp.Or(cmp.Compare(a.addressSince, b.addressSince), cmp.Compare(a.since, b.since))
	})
	l.served++
	next.since = l.served
	for _, w := range l.waiters {
		if w.address == next.address {
			w.addressSince = l.served
		}
	}
	t := next.turns[0]
	l.remove(t)
	return t
}

// hash returns a PHC string of a new salt and the password.
func (p *passwords) hash(ctx context.Context, h hashing, password string) (hash string, err error) {
	err = p.run(ctx, h, func() { hash = hashPassword(password) })
	return hash, err
}

func hashPassword(password string) string {
	salt := make([]byte, argonSalt)
	rand.Read(salt) // never fails
	key := argon2.IDKey([]byte(password), salt, argonTime, argonMemory, argonThreads, argonKey)
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, argonMemory, argonTime, argonThreads,
		b64.EncodeToString(salt), b64.EncodeToString(key))
}

// check tells whether password is the one of hash. An empty hash is nobody's, and costs the same time.
func (p *passwords) check(ctx context.Context, h hashing, hash, password string) (ok bool, err error) {
	err = p.run(ctx, h, func() { ok = checkPassword(hash, password) })
	return ok, err
}

func checkPassword(hash, password string) bool {
	if isBcrypt(hash) {
		return bcrypt.CompareHashAndPassword([]byte(hash), []byte(password)) == nil
	}
	h, ok := parseArgon(hash)
	if !ok {
		h = argonHash{salt: make([]byte, argonSalt), key: make([]byte, argonKey), memory: argonMemory, time: argonTime, threads: argonThreads}
	}
	key := argon2.IDKey([]byte(password), h.salt, h.time, h.memory, h.threads, uint32(len(h.key)))
	return subtle.ConstantTimeCompare(key, h.key) == 1 && ok
}

// isBcrypt tells a hash of the original project, which is replaced when its owner logs in.
func isBcrypt(hash string) bool { return strings.HasPrefix(hash, "$2") }

type argonHash struct {
	salt, key    []byte
	memory, time uint32
	threads      uint8
}

// parseArgon reads a PHC string (https://github.com/P-H-C/phc-string-format) and refuses costs that would
// stop the server.
func parseArgon(hash string) (h argonHash, ok bool) {
	parts := strings.Split(hash, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return h, false
	}
	if n, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &h.memory, &h.time, &h.threads); n != 3 || err != nil {
		return h, false
	}
	var err1, err2 error
	h.salt, err1 = base64.RawStdEncoding.DecodeString(parts[4])
	h.key, err2 = base64.RawStdEncoding.DecodeString(parts[5])
	ok = err1 == nil && err2 == nil && len(h.salt) >= 8 && len(h.key) >= 16 && len(h.key) <= 64 &&
		h.memory >= 8 && h.memory <= 256<<10 && h.time >= 1 && h.time <= 16 && h.threads >= 1 && h.threads <= 16
	return h, ok
}

// The rules for new accounts. The password's are those of NIST SP 800-63B, 5.1.1.2: a length, and no composition.
const (
	minUserName = 2
	maxUserName = 32
	minPassword = 8   // bytes
	maxPassword = 256 // bytes
)

// checkUserName returns the rule that a new user name breaks.
func checkUserName(name string) error {
	rule := fmt.Sprintf("A user name has %d to %d characters: letters a to z and A to Z, digits, hyphens, underscores and dots.", minUserName, maxUserName)
	if len(name) < minUserName || len(name) > maxUserName {
		return invalid("user_name", rule)
	}
	for _, c := range []byte(name) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-' || c == '.') {
			return invalid("user_name", rule)
		}
	}
	return nil
}

// checkNewPassword returns the rule that a new password breaks.
func checkNewPassword(name, password string) error {
	switch {
	case len(password) < minPassword || len(password) > maxPassword:
		return invalid("password", fmt.Sprintf("A password has %d to %d bytes.", minPassword, maxPassword))
	case !utf8.ValidString(password):
		return invalid("password", "The password is not UTF-8.")
	case strings.EqualFold(name, password):
		return invalid("password", "The password must not be the user name.")
	}
	return nil
}
