package main

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"runtime"
	"strings"
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

// hashQueue is how many callers may wait for a hash: about 2 s of work for one processor.
const hashQueue = 64

// hashWait is how long one may wait, when the processor has much else to do.
const hashWait = 10 * time.Second

// passwords hashes and checks passwords, few at a time: each hash takes 19 MiB and some 25 ms of a
// processor, which a flood of log-ins must not take from those who chat. It is safe for concurrent use.
type passwords struct {
	slots chan struct{} // one for each hash that runs
	queue chan struct{} // one for each caller inside
}

func newPasswords() *passwords {
	workers := max(1, runtime.NumCPU()/2)
	return &passwords{slots: make(chan struct{}, workers), queue: make(chan struct{}, workers+hashQueue)}
}

// run waits for its turn and calls fn. errOverloaded: too many wait already.
func (p *passwords) run(ctx context.Context, fn func()) error {
	select {
	case p.queue <- struct{}{}:
		defer func() { <-p.queue }()
	default:
		return errOverloaded
	}
	late := time.NewTimer(hashWait)
	defer late.Stop()
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-late.C:
		return errOverloaded
	case <-ctx.Done():
		return ctx.Err()
	}
	fn()
	return nil
}

// hash returns a PHC string of a new salt and the password.
func (p *passwords) hash(ctx context.Context, password string) (hash string, err error) {
	err = p.run(ctx, func() { hash = hashPassword(password) })
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
func (p *passwords) check(ctx context.Context, hash, password string) (ok bool, err error) {
	err = p.run(ctx, func() { ok = checkPassword(hash, password) })
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
