package main

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/grpcchatter/grpcchatter/pb"
)

// TestAccountChanges is about promise 7: what `grpcchatter user` changes beside a running server holds at
// once. Live streams end, and every token that the account has stops working.
func TestAccountChanges(t *testing.T) {
	const soon = 3 * time.Second // 0.25 s, on a machine with nothing else to do; a busy one may disturb one change, not each
	fastest := time.Hour
	const newPassword = "another password"
	p := startWatched(t)
	conn := p.connect()
	api := pb.NewGRPCChatterClient(conn)
	owner := p.login("owner")
	code := createRoom(t, api, owner)
	ownerRoom := joinRoom(t, api, owner, code)
	untouched := openDevice(t, api, ownerRoom, 0)
	// Somebody in another room, for whom the second writer of the database must be nothing to notice.
	elsewhere := createRoom(t, api, owner)
	busy := newMember(api, "owner", elsewhere, joinRoom(t, api, owner, elsewhere), "busy")
	c := startCrowd(t, []*member{busy})
	stop := c.load(100, busy)
	defer stop()
	p.login("eve")
	password := testPassword
	login := func() (int, string) {
		status, answer := p.rest("POST", "/login", map[string]string{"user_name": "eve", "password": password})
		token, _ := answer["token"].(string)
		return status, token
	}
	var old []string // tokens that have to be void, user and room in turn
	change := func(input string, args ...string) {
		t.Helper()
		cmd := program(t, p.dir, append([]string{"user"}, args...)...)
		cmd.Stdin = strings.NewReader(input)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("user %v: %v\n%s", args, err, out)
		}
	}
	for _, args := range [][]string{{"passwd", "eve"}, {"role", "eve", "ADMIN"}, {"role", "eve", "USER"}, {"disable", "eve"}} {
		what := "after user " + strings.Join(args, " ")
		_, userToken := login()
		roomToken := joinRoom(t, api, userToken, code)
		old = append(old, userToken, roomToken)
		live := openDevice(t, api, roomToken, 0)
		original := openOriginal(t, conn, roomToken)
		// A stream that was let in, but has not yet sent its first request.
		let := time.Now()
		unopened, err := api.Chat(withToken(t.Context(), roomToken))
		if err != nil {
			t.Fatal(err)
		}
		present(t, api, roomToken) // on the same connection: the stream before has reached the server

		change(newPassword+"\n", args...)
		began := time.Now()
		wantEnd(t, "a stream "+what, live.end(t, patience), "Unauthenticated TOKEN_INVALID")
		wantEnd(t, "the original's stream "+what, original.end(t, patience), "Unauthenticated TOKEN_INVALID")
		fastest = min(fastest, time.Since(began))
		for i := 0; i < len(old); i += 2 {
			_, err := api.ListChatRooms(withToken(t.Context(), old[i]), &emptypb.Empty{})
			wantEnd(t, "an old user token "+what, err, "Unauthenticated TOKEN_INVALID")
			_, err = api.ListMessages(withToken(t.Context(), old[i+1]), &pb.ListMessagesRequest{})
			wantEnd(t, "an old room token "+what, err, "Unauthenticated TOKEN_INVALID")
		}
		if err := unopened.Send(&pb.ChatRequest{Body: "from the grave"}); err == nil {
			_, err = unopened.Recv()
			if time.Since(let) < openTimeout { // or it has ended for that
				wantEnd(t, "a stream that opens "+what, err, "Unauthenticated TOKEN_INVALID")
			}
		}
		if got := present(t, api, ownerRoom); len(got) != 1 {
			t.Errorf("%s, present are %v", what, got)
		}

		switch args[0] {
		case "passwd":
			if code, _ := login(); code != 401 {
				t.Errorf("login with the old password: %d, want 401", code)
			}
			password = newPassword
		case "disable":
			if code, _ := login(); code != 403 {
				t.Errorf("login of a disabled account: %d, want 403", code)
			}
			change("", "enable", "eve")
		}
		if args[len(args)-1] == "ADMIN" {
			_, token := login()
			_, err := api.DeleteChatRoom(withToken(t.Context(), token), &pb.DeleteChatRoomRequest{ShortCode: createRoom(t, api, owner)})
			if err != nil {
				t.Errorf("an ADMIN deletes another's room: %v", err)
			}
		}
	}

	if fastest > soon {
		t.Errorf("the streams have ended after %s at the soonest, want %s", fastest, soon)
	}
	// Enabled again, eve gets in with a new login only.
	for _, token := range old {
		_, err := api.ListChatRooms(withToken(t.Context(), token), &emptypb.Empty{})
		if status.Code(err) != codes.Unauthenticated {
			t.Errorf("a token from before: %v", err)
		}
	}
	_, token := login()
	back := openDevice(t, api, joinRoom(t, api, token, code), -1)
	back.say(t, "", "back")
	back.await(t, 1)
	if got := untouched.await(t, 1); got[0].Body != "back" {
		t.Errorf("the room got %q, which a void token sent", got[0].Body)
	}
	if err := untouched.ended(); err != nil {
		t.Errorf("the stream of another account ended: %v", err)
	}
	stop()
	c.settle(t, patience)
	busy.mu.Lock()
	if len(busy.ends) > 0 {
		t.Errorf("a stream in another room ended: %v", busy.ends[0])
	}
	busy.mu.Unlock()
	c.leave()
	c.audit(t, p)
	if strings.Contains(p.logText(), newPassword) {
		t.Error("the log of the server holds the new password")
	}
}
