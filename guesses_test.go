package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"

	"github.com/grpcchatter/grpcchatter/pb"
)

// loginFrom logs in from an address of this machine, with a token if there is one.
func (p *serverProcess) loginFrom(address, token, name, password string) (a restAnswer) {
	p.t.Helper()
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	client := http.Client{Timeout: patience, Transport: &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true}}
	req, err := http.NewRequest("POST", "http://"+p.addr+"/login", strings.NewReader(credentialsJSON(name, password)))
	if err != nil {
		p.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := client.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	a = restAnswer{status: resp.StatusCode, header: resp.Header}
	if err := json.NewDecoder(resp.Body).Decode(&a.json); err != nil {
		p.t.Fatal(err)
	}
	return a
}

// needsLoopbackNet skips a test where 127.0.0.2 cannot be used.
func needsLoopbackNet(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Skipf("SKIPPED: this machine has no other loopback address than 127.0.0.1: %v", err)
	}
	l.Close()
}

// Guesses at one account are slowed down also when each comes from another address, and it makes no difference whether
// there is such an account. Its owner gets in all the same: where the account was used before, and from anywhere with an
// earlier token of it, each with a limit of its own. Nobody else's token helps.
func TestGuessesFromEverywhere(t *testing.T) {
	onlySQLite(t)
	needsLoopbackNet(t)
	t.Parallel()
	p := startServer(t, "--rate-limits=on", "--token-duration=1s", "--limit-logins-per-account=5+1/1h", "--limit-logins-per-account-and-address=3+1/30m")
	token, other := p.login("owner"), p.login("other")
	if a := p.call("POST", "/register", "", credentialsJSON("newcomer", testPassword)); a.status != 200 {
		t.Fatal(a.status, a.json)
	}
	want := func(what string, status int, address, token, name, password string) {
		t.Helper()
		a := p.loginFrom(address, token, name, password)
		retryAfter, _ := strconv.Atoi(a.header.Get("Retry-After"))
		if a.status != status || (status == 429) != (a.code() == "RATE_LIMITED" && retryAfter > 0 && retryAfter <= 3600) {
			t.Errorf("%s: %d %v, again after %d s; want %d", what, a.status, a.json, retryAfter, status)
		}
	}
	for _, name := range []string{"owner", "nobody", "newcomer"} {
		for i := range 8 {
			status := 401
			if i >= 5 {
				status = 429
			}
			want(fmt.Sprint(name, ", guess ", i), status, fmt.Sprint("127.0.1.", i+1), "", strings.ToUpper(name), "wrong password")
		}
	}
	want("the right password at a new address", 429, "127.0.2.1", "", "owner", testPassword)
	want("the owner, at home", 200, "127.0.0.1", "", "owner", testPassword)
	want("who has only registered there", 200, "127.0.0.1", "", "newcomer", testPassword)
	want("the owner at a new address, with a token", 200, "127.0.2.2", token, "owner", testPassword)
	want("it is known there now", 200, "127.0.2.2", "", "owner", testPassword)
	want("with another's token", 429, "127.0.2.3", other, "owner", testPassword)
	want("with no token", 429, "127.0.2.3", "x.y.z", "owner", testPassword)
	for i := range 3 {
		want(fmt.Sprint("a guess with a token, ", i), 401, fmt.Sprint("127.0.3.", i+1), token, "owner", "wrong password")
	}
	want("the token has its own limit", 429, "127.0.3.9", token, "owner", testPassword)
	want("and leaves the owner's at home as it was", 200, "127.0.0.1", "", "owner", testPassword)
	for i := range 3 {
		want(fmt.Sprint("a guess at home, ", i), 401, "127.0.0.1", "", "owner", "wrong password")
	}
	want("the limit at home", 429, "127.0.0.1", "", "owner", testPassword)
	fresh, _ := p.loginFrom("127.0.2.2", "", "owner", testPassword).json["token"].(string)
	time.Sleep(2100 * time.Millisecond)
	if a := p.call("GET", "/rooms", fresh, ""); a.code() != "TOKEN_EXPIRED" {
		t.Errorf("the token: %d %v, want it expired", a.status, a.json)
	}
	want("with a token that has expired", 200, "127.0.4.1", fresh, "owner", testPassword)
	mustRun(t, p.dir, "another password\n", "user", "passwd", "owner")
	want("with a token of before a new password", 429, "127.0.4.2", fresh, "owner", "another password")
}

// Guesses from one address are slowed down whatever account they are at, and the known ones there still get in.
func TestGuessesFromOneAddress(t *testing.T) {
	onlySQLite(t)
	needsLoopbackNet(t)
	t.Parallel()
	p := startServer(t, "--rate-limits=on", "--limit-logins-per-address=5+1/1h")
	p.login("known")
	for i := range 7 {
		if a := p.loginFrom("127.0.0.1", "", fmt.Sprint("guess", i), "wrong password"); (a.status == 429) != (i >= 5) {
			t.Errorf("guess %d: %d %v", i, a.status, a.json)
		}
	}
	if a := p.loginFrom("127.0.0.1", "", "known", testPassword); a.status != 200 {
		t.Errorf("known: %d %v", a.status, a.json)
	}
	if a := p.loginFrom("127.0.0.2", "", "guess", "wrong password"); a.status != 401 {
		t.Errorf("another address: %d %v", a.status, a.json)
	}
}

// Who guesses in one room can still join another one; who tries one code after the other is slowed down too, and nobody
// else is.
func TestRoomGuesses(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	p, metrics := startMeasured(t, "--rate-limits=on", "--limit-room-passwords-per-user-and-room=2+1/1h", "--limit-room-passwords-per-user=5+1/1h")
	api := pb.NewGRPCChatterClient(p.dial())
	owner, eve, adam := p.login("owner"), p.login("eve"), p.login("adam")
	one, two, three := createRoom(t, api, owner), createRoom(t, api, owner), createRoom(t, api, owner)
	join := func(token, code, password string) error {
		_, err := api.JoinChatRoom(withToken(t.Context(), token), &pb.JoinChatRoomRequest{ShortCode: code, RoomPassword: password})
		return err
	}
	for _, code := range []string{one, strings.ToLower(one)} {
		wantError(t, join(eve, code, "wrong"), codes.PermissionDenied, "ROOM_ACCESS_DENIED")
	}
	wantError(t, join(eve, " "+one, "room"), codes.ResourceExhausted, "RATE_LIMITED")
	if a := p.call("POST", "/rooms/"+one+"/join", eve, `{"room_password":"room"}`); a.status != 429 {
		t.Errorf("by REST: %d %v", a.status, a.json)
	}
	joinRoom(t, api, eve, two)
	for _, code := range []string{"333333", "444444", "777777"} {
		wantError(t, join(eve, code, "wrong"), codes.PermissionDenied, "ROOM_ACCESS_DENIED")
	}
	wantError(t, join(eve, "999999", "wrong"), codes.ResourceExhausted, "RATE_LIMITED")
	wantError(t, join(eve, three, "room"), codes.ResourceExhausted, "RATE_LIMITED")
	joinRoom(t, api, eve, two) // a member needs no password
	for _, code := range []string{one, two, three} {
		joinRoom(t, api, adam, code)
	}
	got, text := scrape(t, metrics)
	for limit, want := range map[string]float64{"room_passwords_per_user_and_room": 2, "room_passwords_per_user": 2, "logins_per_address": 0} {
		if n := got.value("grpcchatter_rate_limited_total", "limit", limit); n != want {
			t.Errorf("the metrics say that %v was refused for %s, want %v", n, limit, want)
		}
	}
	if bytes.Contains(text, []byte(`="eve"`)) || bytes.Contains(text, []byte(`="`+one)) {
		t.Error("the metrics tell of whom")
	}
}

// Each refusal tells when to try again, in the words of its transport, and then it works. A limit that is off is none.
func TestRefusalsTellWhen(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	r := newChatRoom(t, []string{"--rate-limits=on", "--limit-messages-per-user=2+1/5s", "--limit-rooms-per-user=2+1/1h", "--limit-room-passwords-per-user-and-room=off"}, "alice", "bob", "carol")
	// soon tells whether there is one more in so many seconds, where the first one of two was sent after began.
	soon := func(began time.Time, seconds string) bool {
		n, err := strconv.Atoi(seconds)
		return err == nil && n <= 5 && time.Duration(n)*time.Second >= 5*time.Second-time.Since(began)
	}
	stream := openSession(t, r.api, r.tokens["alice"], 0)
	for range 3 {
		stream.send(&pb.ChatRequest{Body: "x"})
	}
	details := wantError(t, stream.end(), codes.ResourceExhausted, "RATE_LIMITED")
	retry, _ := details["RetryInfo"].(*errdetails.RetryInfo)
	wait := retry.GetRetryDelay().AsDuration()
	if wait <= 0 || wait > 5*time.Second {
		t.Errorf("RetryInfo says %s, want 5 s at most", wait)
	}
	time.Sleep(wait)
	stream = openSession(t, r.api, r.tokens["alice"], 2)
	stream.send(&pb.ChatRequest{Body: "again"})
	stream.wantMessage(3, "alice", "again", "")

	socket := openDevice(t, r.sockets(), r.tokens["bob"], 3)
	began := time.Now()
	for range 3 {
		socket.say(t, "", "x")
	}
	err := socket.end(t, patience)
	wantClose(t, "too many messages", err, 4429, "RATE_LIMITED")
	var end websocket.CloseError
	errors.As(err, &end)
	_, seconds, _ := strings.Cut(strings.TrimSuffix(end.Reason, " s."), "try again in ")
	if !soon(began, seconds) {
		t.Errorf("the reason is %q, want it to say when to try again", end.Reason)
	}

	messages := "/rooms/" + r.code + "/messages"
	began = time.Now()
	for range 2 {
		if a := r.call("POST", messages, r.tokens["carol"], `{"body":"x"}`); a.status != 200 {
			t.Fatal(a.status, a.json)
		}
	}
	a := r.call("POST", messages, r.tokens["carol"], `{"body":"x"}`)
	seconds = a.header.Get("Retry-After")
	if a.status != 429 || !soon(began, seconds) || !strings.Contains(fmt.Sprint(a.json["error"]), "in "+seconds+" s.") {
		t.Errorf("a post: %d %v, Retry-After %s", a.status, a.json, seconds)
	}
	for range 2 {
		createRoom(t, r.api, r.users["bob"])
	}
	_, err = r.api.CreateChatRoom(withToken(t.Context(), r.users["bob"]), &pb.CreateChatRoomRequest{RoomName: "x"})
	wantError(t, err, codes.ResourceExhausted, "RATE_LIMITED")
	a = r.call("POST", "/rooms", r.users["bob"], `{"room_name":"x"}`)
	if n, _ := strconv.Atoi(a.header.Get("Retry-After")); a.status != 429 || n < 3000 || n > 3600 {
		t.Errorf("a room: %d %v, Retry-After %s", a.status, a.json, a.header.Get("Retry-After"))
	}
	eve := r.login("eve")
	for range 30 {
		if a := r.call("POST", "/rooms/"+r.code+"/join", eve, `{"room_password":"wrong"}`); a.status != 403 {
			t.Errorf("a guess without a limit: %d %v", a.status, a.json)
		}
	}
}
