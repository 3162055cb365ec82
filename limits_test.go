package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/grpcchatter/grpcchatter/pb"
)

// Wrong passwords and new accounts in numbers are slowed down, by account first, and others are not (table:
// 429 with Retry-After).
func TestRESTRateLimits(t *testing.T) {
	t.Parallel()
	// No try comes back while the test runs: the right password would get it.
	p := startServer(t, "--rate-limits=on", "--limit-logins-per-account-and-address=10+1/1h")
	p.login("victim")
	p.login("other")
	until429 := func(path, body string, least, most int) (header http.Header) {
		t.Helper()
		for i := range most {
			status, header, answer, err := post(p.addr, path, body)
			if err != nil {
				t.Fatal(err)
			}
			if status == 429 {
				wantErrorAnswer(t, path, status, header, answer)
				if i < least || answer["code"] != "RATE_LIMITED" {
					t.Errorf("%s: %v after %d tries, want RATE_LIMITED, not before %d", path, answer, i, least)
				}
				return header
			}
		}
		t.Fatalf("%s: %d tries are not limited", path, most)
		return nil
	}
	until429("/login", credentialsJSON("victim", "wrong password"), 10, 40)
	for _, name := range []string{"victim", "VICTIM"} {
		if status, _, answer, err := post(p.addr, "/login", credentialsJSON(name, testPassword)); status != 429 {
			t.Errorf("%s with the right password: %d %v %v, want 429 too, or guessing would go on", name, status, answer, err)
		}
	}
	if status, _, answer, err := post(p.addr, "/login", credentialsJSON("other", testPassword)); status != 200 {
		t.Errorf("other: %d %v %v", status, answer, err)
	}
	until429("/register", credentialsJSON("victim", testPassword), 150, 2000)
	if status, _, answer, err := post(p.addr, "/login", credentialsJSON("other", testPassword)); status != 200 {
		t.Errorf("other: %d %v %v", status, answer, err)
	}
}

// Guesses at the same moment are counted like those one after the other: with what is left of the burst, not
// with all that the hashing queue takes.
func TestGuessesAtOnce(t *testing.T) {
	t.Parallel()
	p := startServer(t, "--rate-limits=on")
	p.login("victim")
	var all sync.WaitGroup
	var mu sync.Mutex
	answers := map[int]int{}
	for i := range 50 {
		all.Go(func() {
			status, _, _, err := post(p.addr, "/login", credentialsJSON("victim", fmt.Sprint("wrong password ", i)))
			mu.Lock()
			defer mu.Unlock()
			answers[status]++
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if answers[401] > 15 { // 10, and one more every 10 s
		t.Errorf("50 guesses at once: %v, want not more than 10 of them to be looked at", answers)
	}

	conn := p.dial()
	code := onlyText(t, mustCall(t, conn, bearerHeader(p.login("owner")), current+"CreateChatRoom", text(1, "a room"), text(2, "room")))
	eve := bearerHeader(p.login("eve"))
	looked := atomic.Int32{}
	for i := range 50 {
		all.Go(func() {
			_, err := rawCall(t, conn, eve, current+"JoinChatRoom", text(1, code), text(2, fmt.Sprint("wrong password ", i)))
			if status.Code(err) == codes.PermissionDenied {
				looked.Add(1)
			}
		})
	}
	all.Wait()
	if n := looked.Load(); n > 25 { // 20, and one more every 10 s
		t.Errorf("50 guesses of a room password at once: %d of them are looked at, want 20", n)
	}
}

// Too many wrong room passwords, and too many messages, of one user slow that user down, and nobody else
// (error table: "too many tries; too many messages").
func TestRateLimits(t *testing.T) {
	t.Parallel()
	// No try comes back while the test runs: the right password would get it.
	r := newChatRoom(t, []string{"--rate-limits=on", "--limit-room-passwords-per-user-and-room=20+1/1h"}, "owner")
	conn := r.dial()
	eve, adam := bearerHeader(r.login("eve")), bearerHeader(r.login("adam"))
	join := func(user metadata.MD, password string) error {
		_, err := rawCall(t, conn, user, current+"JoinChatRoom", text(1, r.code), text(2, password))
		return err
	}
	limited := false
	for i := range 60 {
		if err := join(eve, fmt.Sprint("wrong", i)); status.Code(err) == codes.ResourceExhausted {
			if i < 20 {
				t.Errorf("limited after %d wrong passwords, want 20 allowed", i)
			}
			limited = true
			wantError(t, join(eve, "room"), codes.ResourceExhausted, "RATE_LIMITED")
			break
		} else {
			wantError(t, err, codes.PermissionDenied, "ROOM_ACCESS_DENIED")
		}
	}
	if !limited {
		t.Error("60 wrong room passwords are not limited")
	}
	if err := join(adam, "room"); err != nil {
		t.Errorf("adam is limited by what eve did: %v", err)
	}

	flood := openRaw(t, conn, bearerHeader(r.tokens["owner"]), original+"Chat")
	go func() {
		for range 60_000 {
			if flood.SendMsg(text(1, "x")) != nil {
				return
			}
		}
	}()
	wantError(t, flood.end(), codes.ResourceExhausted, "RATE_LIMITED")
	adams := onlyText(t, mustCall(t, conn, adam, current+"JoinChatRoom", text(1, r.code)))
	s := openRequest(t, r.api, adams, &pb.ChatRequest{Body: "calm", ClientMessageId: "calm"})
	for e := s.next(); e.GetClientMessageId() != "calm"; e = s.next() {
	}
}

// More than the hashing queue takes is refused at once with advice when to come again, nobody hangs, and those
// who chat go on (error table: OVERLOADED; reliability: login flood).
func TestLoginFlood(t *testing.T) {
	t.Parallel()
	r := newChatRoom(t, nil, "alice")
	s := openSession(t, r.api, r.tokens["alice"], -1)
	bob := r.login("bob")
	n := size(200, 500)
	var flood sync.WaitGroup
	var mu sync.Mutex
	answers := map[string]int{}
	full, refused := context.WithCancel(t.Context())
	defer refused()
	count := func(answer string) {
		if answer == "503 <nil>" {
			refused()
		}
		mu.Lock()
		answers[answer]++
		mu.Unlock()
	}
	for range n {
		flood.Go(func() {
			code, header, answer, err := post(r.addr, "/login", `{"user_name":"alice","password":"`+testPassword+`"}`)
			if code == 503 && (answer["code"] != "OVERLOADED" || header.Get("Retry-After") == "") {
				t.Errorf("503 with %v and Retry-After %q", answer, header.Get("Retry-After"))
			}
			count(fmt.Sprint(code, " ", err))
		})
	}
	conn := r.dial()
	for range 100 {
		flood.Go(func() {
			_, err := rawCall(t, conn, bearerHeader(r.users["alice"]), current+"CreateChatRoom", text(1, "a room"))
			if err != nil {
				wantError(t, err, codes.Unavailable, "OVERLOADED")
			}
			count("create " + status.Code(err).String())
		})
	}
	select {
	case <-full.Done():
	case <-time.After(patience):
		t.Error("nobody is refused")
	}
	// There is a place for who has a token of another user.
	joining, err := r.api.JoinChatRoom(withToken(t.Context(), bob), &pb.JoinChatRoomRequest{ShortCode: r.code, RoomPassword: "room"})
	if err != nil || joining.GetToken() == "" {
		t.Errorf("bob joins with the password: %v", err)
	}
	slowest := time.Duration(0)
	for seq := range uint64(20) {
		began := time.Now()
		s.send(&pb.ChatRequest{Body: "still here"})
		s.wantMessage(seq+1, "alice", "still here", "")
		slowest = max(slowest, time.Since(began))
	}
	flood.Wait()
	t.Logf("answers: %v; the slowest message took %s", answers, slowest)
	if answers["200 <nil>"] == 0 || answers["503 <nil>"]+answers["create Unavailable"] == 0 {
		t.Errorf("answers: %v, want some to succeed and some to be refused", answers)
	}
	if answers["200 <nil>"]+answers["503 <nil>"] != n || answers["create OK"]+answers["create Unavailable"] != 100 {
		t.Errorf("answers: %v, want nothing but 200 and 503, OK and UNAVAILABLE", answers)
	}
	if slowest > 5*time.Second {
		t.Errorf("a message took %s during the flood", slowest)
	}
}

// An unknown user costs the time of a known one, so that nobody finds out who has an account (reliability:
// timing; fault 6). A hash that is left out would be a difference of nearly all.
func TestLoginTiming(t *testing.T) {
	onlySQLite(t)
	logins := size(40, 200)
	p := startServer(t)
	p.login("known")
	type timed struct {
		name  string
		times *[]time.Duration
	}
	median := func(d []time.Duration) time.Duration { slices.Sort(d); return d[len(d)/2] }
	var difference float64
	for range 3 { // a busy machine may disturb one try, not each
		var known, unknown []time.Duration
		for i := range logins {
			pair := []timed{{"known", &known}, {fmt.Sprint("unknown", i), &unknown}}
			if rand.IntN(2) == 0 { // or each kind would meet what the other one leaves behind, such as a collection of garbage
				slices.Reverse(pair)
			}
			for _, who := range pair {
				began := time.Now()
				status, _, answer, err := post(p.addr, "/login", credentialsJSON(who.name, "wrong password"))
				if status != 401 {
					t.Fatalf("%s: %d %v %v", who.name, status, answer, err)
				}
				*who.times = append(*who.times, time.Since(began))
			}
		}
		a, b := median(known), median(unknown)
		difference = max(float64(a)/float64(b), float64(b)/float64(a)) - 1
		t.Logf("median of %d log-ins: known %s, unknown %s: a difference of %.1f %%", logins, a, b, difference*100)
		if difference < 0.25 {
			return
		}
	}
	t.Errorf("the log-ins of known and unknown users differ by %.0f %%", difference*100)
}
