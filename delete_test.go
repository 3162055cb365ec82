package main

import (
	"errors"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/grpcchatter/grpcchatter/pb"
)

// TestDeleteRoom is fault 7 of the original, where a deleted room left its streams hanging: they end with
// NOT_FOUND, under load or with a room's first messages just on their way, and no other room notices.
func TestDeleteRoom(t *testing.T) {
	const rooms, devices = 8, 4
	p := startWatched(t)
	names, tokens := p.loginAll(2)
	owner := tokens[names[0]]
	conn := p.connect()
	api := pb.NewGRPCChatterClient(conn)
	code := createRoom(t, api, owner)
	bystander := newMember(api, names[0], code, joinRoom(t, api, owner, code), "bystander")
	c := startCrowd(t, []*member{bystander})
	stop := c.load(300, bystander)
	defer stop()
	for i := range rooms {
		doomed := createRoom(t, api, owner)
		roomToken := joinRoom(t, api, owner, doomed)
		old := openOriginal(t, conn, roomToken)
		var streams []*device
		for range devices {
			streams = append(streams, openDevice(t, api, roomToken, 0))
		}
		var sending sync.WaitGroup
		for _, d := range streams {
			sending.Go(func() {
				if i%2 == 0 { // the first messages, at the moment of the deletion
					time.Sleep(rand.N(10 * time.Millisecond))
					_ = d.stream.Send(&pb.ChatRequest{Body: bodyWord})
					return
				}
				for d.stream.Send(&pb.ChatRequest{Body: bodyWord}) == nil {
					time.Sleep(time.Millisecond)
				}
			})
		}
		if i%2 != 0 {
			streams[0].await(t, 100)
		}
		if _, err := api.DeleteChatRoom(withToken(t.Context(), owner), &pb.DeleteChatRoomRequest{ShortCode: doomed}); err != nil {
			t.Fatal(err)
		}
		for _, d := range streams {
			wantEnd(t, "a stream of a deleted room", d.end(t, patience), "NotFound ROOM_DELETED")
		}
		wantEnd(t, "the original's stream of a deleted room", old.end(t, patience), "NotFound ROOM_DELETED")
		sending.Wait()
		_, err := api.ListMessages(withToken(t.Context(), roomToken), &pb.ListMessagesRequest{})
		wantEnd(t, "a token of a deleted room", err, "NotFound ROOM_DELETED")
		_, err = api.JoinChatRoom(withToken(t.Context(), tokens[names[1]]), &pb.JoinChatRoomRequest{ShortCode: doomed, RoomPassword: "room"})
		wantEnd(t, "joining a deleted room", err, "PermissionDenied ROOM_ACCESS_DENIED")
		_, err = api.DeleteChatRoom(withToken(t.Context(), owner), &pb.DeleteChatRoomRequest{ShortCode: doomed})
		wantEnd(t, "deleting a deleted room", err, "NotFound ROOM_NOT_FOUND")
	}
	stop()
	c.settle(t, patience)
	bystander.mu.Lock()
	if n := len(bystander.ends); n > 0 {
		t.Errorf("the stream in another room ended %d times, such as with %v", n, bystander.ends[0])
	}
	bystander.mu.Unlock()
	c.leave()
	c.audit(t, p)
	db := p.openReadOnly()
	eventually(t, 4*patience, "what the deleted rooms held is gone from the database", func() bool {
		var left int
		err := db.QueryRow(`SELECT (SELECT count(*) FROM rooms) + (SELECT count(*) FROM messages WHERE body = $1) - 1`, bodyWord).Scan(&left)
		return err == nil && left == 0
	})
}

// TestDeletedInBatch is about promise 5: a message to a room that was deleted and cleared a moment ago, in one batch with
// messages to other rooms, ends its own session, and theirs not.
func TestDeletedInBatch(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	st, err := openStore(ctx, storeOptions{URL: "sqlite:" + filepath.Join(t.TempDir(), "data.db"), Create: true})
	if err != nil {
		t.Fatal(err)
	}
	defer st.close()
	log := slog.New(slog.DiscardHandler)
	h, c := newHub(255, st.lastSeq), newCommitter(st, log, 4096)
	u, err := st.addUser(ctx, "anna", "", roleUser)
	if err != nil {
		t.Fatal(err)
	}
	var sessions []*session
	var rooms []roomRow
	for _, code := range []string{"DOOMED", "KEPT"} {
		if err := st.addRoom(ctx, code, code, "", u.ID); err != nil {
			t.Fatal(err)
		}
		r, err := st.roomByCode(ctx, code, u.ID)
		if err != nil {
			t.Fatal(err)
		}
		s, err := h.enter(ctx, r.ID, u, 0, false)
		if err != nil {
			t.Fatal(err)
		}
		defer s.leave()
		rooms, sessions = append(rooms, r), append(sessions, s)
	}
	if err := st.deleteRoom(ctx, u, rooms[0].ID, u.mayChange); err != nil {
		t.Fatal(err)
	}
	if more, err := st.purgeDeletedRooms(ctx); !more || err != nil {
		t.Fatal(more, err)
	}
	for _, s := range sessions {
		s.slots <- struct{}{}
		if !c.submit(submission{s: s, body: "x", clientMessageID: "id"}) {
			t.Fatal("not taken")
		}
	}
	go c.run()
	c.drain()
	for i, want := range []error{errRoomDeleted, nil} {
		if got := sessions[i].err; !errors.Is(got, want) {
			t.Errorf("the session in the room %s ended with %v, want %v", rooms[i].Code, got, want)
		}
	}
	if last, err := st.lastSeq(ctx, rooms[1].ID); last != 1 || err != nil {
		t.Errorf("lost: the room that is left has %d messages (%v), want 1", last, err)
	}
}

// TestPurgeAfterKill is about promise 8: a room whose deletion was confirmed stays deleted, and the rest of
// it goes, though the server was killed in the middle of clearing it.
func TestPurgeAfterKill(t *testing.T) {
	t.Parallel()
	const n = 6000
	p := startWatched(t)
	token := p.login("anna")
	api := pb.NewGRPCChatterClient(p.connect())
	code := createRoom(t, api, token)
	roomToken := joinRoom(t, api, token, code)
	writer := openDevice(t, api, roomToken, 0)
	for range n {
		writer.say(t, "", "x")
	}
	writer.await(t, n)
	if _, err := api.DeleteChatRoom(withToken(t.Context(), token), &pb.DeleteChatRoomRequest{ShortCode: code}); err != nil {
		t.Fatal(err)
	}
	p.kill()
	count := func() (left int) {
		if err := p.openReadOnly().QueryRow(`SELECT count(*) + (SELECT count(*) FROM rooms) FROM messages`).Scan(&left); err != nil {
			t.Fatal(err)
		}
		return left
	}
	if left := count(); left < 2 {
		t.Log("the room was cleared before the kill came")
	}
	p.start()
	_, err := pb.NewGRPCChatterClient(p.connect()).ListMessages(withToken(t.Context(), roomToken), &pb.ListMessagesRequest{})
	wantEnd(t, "a token of a deleted room", err, "NotFound ROOM_DELETED")
	eventually(t, patience, "the deleted room is cleared", func() bool { return count() == 0 })
}
