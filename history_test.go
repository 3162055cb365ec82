package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc/codes"

	"github.com/grpcchatter/grpcchatter/client"
	"github.com/grpcchatter/grpcchatter/pb"
)

// sayIn says each id in a room, as body and client_message_id.
func (p *serverProcess) sayIn(code, token string, ids ...string) {
	p.t.Helper()
	for _, id := range ids {
		if a := p.call("POST", "/rooms/"+code+"/messages", token, fmt.Sprintf(`{"body":%q,"client_message_id":%q}`, id, id)); a.status != 200 {
			p.t.Fatalf("%s: %d %s", id, a.status, a.body)
		}
	}
}

// restored stops a server as a crash does, and starts it again on what a backup has.
func (p *serverProcess) restored(file string, between ...func()) {
	p.t.Helper()
	p.kill()
	p.restoreHere(file)
	for _, fn := range between {
		fn()
	}
	p.start()
}

// wantUser checks what a user token is answered with.
func (p *serverProcess) wantUser(what, token, reason string) {
	p.t.Helper()
	_, err := rawCall(p.t, p.dial(), bearerHeader(token), current+"ListChatRooms")
	if got, _ := reasonOf(err); got != reason {
		p.t.Errorf("%s: %v, want %q", what, err, reason)
	}
}

// Tokens of before the restore work for what is there again, and for nothing that has got the number of what is lost. After
// another restore of the same backup, what has happened since the first one is lost too.
func TestTokensAfterRestore(t *testing.T) {
	t.Parallel()
	r := newChatRoom(t, nil, "alice")
	file := filepath.Join(t.TempDir(), "backup")
	mustRun(t, r.dir, "", "backup", file)
	carl := r.login("carl")
	lostRoom := joinRoom(t, r.api, r.users["alice"], createRoom(t, r.api, r.users["alice"]))
	mustRun(t, r.dir, "another password\n", "user", "passwd", "alice")
	_, _, answer, _ := post(r.addr, "/login", credentialsJSON("alice", "another password"))
	changed, _ := answer["token"].(string)
	if changed == "" {
		t.Fatalf("log-in: %v", answer)
	}

	r.restored(file)
	r.wantUser("a user token", r.users["alice"], "")
	r.wantUser("one of a lost account", carl, "TOKEN_INVALID")
	r.wantUser("one of after a lost change", changed, "TOKEN_INVALID")
	mallory := r.login("mallory") // has the number of carl
	r.wantUser("one of a lost account, whose number is in use", carl, "TOKEN_INVALID")
	r.wantUser("a new one", mallory, "")
	newRoom := joinRoom(t, r.api, r.users["alice"], createRoom(t, r.api, r.users["alice"])) // with the number of lostRoom
	_, err := rawCall(t, r.dial(), bearerHeader(lostRoom), current+"ListMessages")
	wantError(t, err, codes.NotFound, "ROOM_DELETED")
	if _, err = rawCall(t, r.dial(), bearerHeader(newRoom), current+"ListMessages"); err != nil {
		t.Error(err)
	}
	fresh := joinRoom(t, r.api, r.users["alice"], r.code)

	r.restored(file)
	r.wantUser("a user token of the first time", r.users["alice"], "")
	r.wantUser("one of between", mallory, "TOKEN_INVALID")
	_, err = rawCall(t, r.dial(), bearerHeader(fresh), current+"ListMessages")
	wantError(t, err, codes.FailedPrecondition, "HISTORY_RESTORED")
	if a := r.call("GET", "/rooms/"+r.code+"/messages", fresh, ""); a.status != 409 || a.code() != "HISTORY_RESTORED" {
		t.Errorf("REST: %d %s", a.status, a.body)
	}
	wantError(t, openSession(t, r.api, fresh, 0).end(), codes.FailedPrecondition, "HISTORY_RESTORED")
}

// Who has a position behind the end of the backup is told, by each protocol; who has one before it goes on there.
func TestPositionsAfterRestore(t *testing.T) {
	t.Parallel()
	r := newChatRoom(t, nil, "alice", "bob")
	r.sayIn(r.code, r.tokens["alice"], "one", "two", "three")
	file := filepath.Join(t.TempDir(), "backup")
	mustRun(t, r.dir, "", "backup", file)
	r.sayIn(r.code, r.tokens["alice"], "four", "five")
	r.restored(file)
	r.sayIn(r.code, r.tokens["alice"], "anew four", "anew five", "anew six") // by a token of before
	for _, after := range []int64{0, 3, 4, 5, 1 << 40} {
		code, closed, reason := codes.Unauthenticated, 4401, "TOKEN_INVALID"
		if after > 3 {
			code, closed, reason = codes.FailedPrecondition, 4409, "HISTORY_RESTORED"
		}
		wantError(t, openSession(t, r.api, r.tokens["alice"], after).end(), code, reason)
		socket := r.dialSocket(t)
		first := fmt.Sprintf(`{"token":%q,"start":{"afterSeq":"%d"}}`, r.tokens["alice"], after)
		if err := socket.Write(t.Context(), websocket.MessageText, []byte(first)); err != nil {
			t.Fatal(err)
		}
		_, _, err := socket.Read(t.Context())
		wantClose(t, fmt.Sprint("after ", after), err, websocket.StatusCode(closed), reason)
	}
	s := openSession(t, r.api, joinRoom(t, r.api, r.users["alice"], r.code), 3)
	for i, body := range []string{"anew four", "anew five", "anew six"} {
		s.wantMessage(uint64(4+i), "alice", body, body)
	}
	// Without a position there is none to be wrong.
	openSession(t, r.api, r.tokens["bob"], -1).wantMessage(1, "alice", "one", "one")
}

// The Go client's rooms end where something is lost of what they have, also where the member or the account is: it joined the
// room, which has no password, or was made only after the backup. It went on with the position that it had, and missed
// what others had said anew up to there.
func TestClientAfterRestore(t *testing.T) {
	t.Parallel()
	r := newChatRoom(t, nil, "alice", "bob")
	quietCode := createRoom(t, r.api, r.users["bob"])
	quietToken := joinRoom(t, r.api, r.users["bob"], quietCode)
	r.sayIn(quietCode, quietToken, "hush")
	resp, err := r.api.CreateChatRoom(withToken(t.Context(), r.users["alice"]), &pb.CreateChatRoomRequest{RoomName: "open"})
	if err != nil {
		t.Fatal(err)
	}
	code := resp.GetShortCode()
	alice := joinRoom(t, r.api, r.users["alice"], code)
	r.login("eve")
	join := func(name, code string) *client.Room {
		t.Helper()
		c, err := client.New(r.addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Disconnect() })
		if err := c.Login(t.Context(), name, testPassword); err != nil {
			t.Fatal(err)
		}
		room, err := c.JoinChatRoom(t.Context(), code, "", client.After(0))
		if err != nil {
			t.Fatal(err)
		}
		return room
	}
	rooms := map[string]*client.Room{"a member": join("bob", code)}
	quiet := join("bob", quietCode)
	r.sayIn(code, alice, "one", "two", "three")
	file := filepath.Join(t.TempDir(), "backup")
	mustRun(t, r.dir, "", "backup", file)
	r.login("dan")
	r.login("carl")
	rooms["a member only after the backup"] = join("eve", code)
	rooms["a lost account"] = join("dan", code)
	rooms["a lost account that is made again"] = join("carl", code)
	r.sayIn(code, alice, "four", "five", "six")
	for what, room := range rooms {
		for range 6 {
			if _, err := room.Receive(t.Context()); err != nil {
				t.Fatal(what, err)
			}
		}
	}
	r.restored(file, func() {
		for _, name := range []string{"frank", "carl"} { // with the numbers of dan and carl
			args := []string{"user", "add", name}
			if r.data != "" {
				args = append(args, "--database-url="+r.data)
			}
			mustRun(t, r.dir, testPassword, args...)
		}
	})
	r.sayIn(code, alice, "anew four", "anew five", "anew six", "anew seven")
	for what, room := range rooms {
		if m, err := room.Receive(t.Context()); !errors.Is(err, client.ErrHistoryRestored) {
			t.Errorf("the room of %s: %v, %v", what, m, err)
		}
	}
	r.sayIn(quietCode, quietToken, "hello again")
	for _, want := range []string{"hush", "hello again"} { // where nothing is lost, it goes on
		if m, err := quiet.Receive(t.Context()); err != nil || m.Body != want {
			t.Errorf("a room without a loss has %v, %v, want %q", m, err, want)
		}
	}
	again := join("bob", code)
	for _, want := range []string{"one", "two", "three", "anew four", "anew five"} {
		if m, err := again.Receive(t.Context()); err != nil || m.Body != want {
			t.Errorf("after joining again: %v, %v, want %q", m, err, want)
		}
	}
}

// An expired room token of before is not told to come back with a new one: nobody would see then that its position is old.
func TestExpiredTokenAfterRestore(t *testing.T) {
	t.Parallel()
	r := newChatRoom(t, []string{"--secret", testSecret}, "alice")
	past := tokenMaker(t, testSecret)
	claims, err := past.read(audienceRoom, r.tokens["alice"])
	if err != nil {
		t.Fatal(err)
	}
	// Her tokens, as they would be had they been made two hours ago, for one.
	past.now = func() time.Time { return time.Now().Add(-2 * time.Hour) }
	past.history.ID = claims.History
	alice := user{ID: 1, Version: claims.Version}
	userToken, err1 := past.userToken(alice)
	roomToken, err2 := past.roomToken(alice, claims.roomClaims)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "backup")
	mustRun(t, r.dir, "", "backup", file)
	_, err = rawCall(t, r.dial(), bearerHeader(roomToken), current+"ListMessages")
	wantError(t, err, codes.Unauthenticated, "TOKEN_EXPIRED")
	r.stop()
	r.restoreHere(file)
	r.start()
	_, err = rawCall(t, r.dial(), bearerHeader(roomToken), current+"ListMessages")
	wantError(t, err, codes.FailedPrecondition, "HISTORY_RESTORED")
	_, err = rawCall(t, r.dial(), bearerHeader(userToken), current+"ListChatRooms")
	wantError(t, err, codes.Unauthenticated, "TOKEN_EXPIRED")
}
