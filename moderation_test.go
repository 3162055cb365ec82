package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/jackc/pgx/v5/pgconn"
	"google.golang.org/grpc/codes"

	"github.com/grpcchatter/grpcchatter/pb"
)

// An owner, an ADMIN and nobody else changes a room and its members. Who is removed or banned is told so on every
// transport, and a ban outlives a restart.
func TestModeration(t *testing.T) {
	t.Parallel()
	r := newChatRoom(t, nil, "owner", "alice", "bob")
	path := "/rooms/" + r.code
	owner, alice, bob := r.users["owner"], r.users["alice"], r.users["bob"]
	conn := r.connect()
	// All of bob's streams end; none of another room, and nobody else's.
	for _, c := range [][2]string{{"DELETE", "/members/"}, {"PUT", "/bans/"}} {
		method, action := c[0], c[1]
		other := createRoom(t, r.api, bob)
		elsewhere := openSession(t, r.api, joinRoom(t, r.api, bob, other), -1)
		witness := openSession(t, r.sockets(), r.tokens["alice"], -1)
		token := joinRoom(t, r.api, bob, r.code)
		session, socket, old := openSession(t, r.api, token, -1), openSession(t, r.sockets(), token, -1), openOriginal(t, conn, originalJoin(t, conn, bob, r.code))
		witness.wantKind(pb.ChatEventKind_USER_JOINED, "bob")
		r.must(200, "", method, path+action+"BOB", owner, "")
		wantError(t, session.end(), codes.PermissionDenied, "ROOM_ACCESS_DENIED")
		wantClose(t, "the socket", socket.end(), 4403, "ROOM_ACCESS_DENIED")
		var end websocket.CloseError
		if errors.As(socket.err, &end); !strings.HasSuffix(end.Reason, ".") {
			t.Errorf("the sentence is cut: %q", end.Reason)
		}
		wantEnd(t, "the original's stream", old.end(t, patience), "PermissionDenied ROOM_ACCESS_DENIED")
		witness.wantKind(pb.ChatEventKind_USER_LEFT, "bob")
		r.must(403, "ROOM_ACCESS_DENIED", "GET", path+"/messages", token, "")
		r.must(403, "ROOM_ACCESS_DENIED", "POST", path+"/messages", token, `{"body":"x"}`)
		r.must(404, "ROOM_NOT_FOUND", "GET", path+"/members", bob, "")
		elsewhere.send(&pb.ChatRequest{Body: "here"})
		elsewhere.wantMessage(1, "bob", "here", "")
		joined := r.call("POST", path+"/join", bob, `{"room_password":"room"}`)
		if action == "/members/" {
			if joined.status != 200 {
				t.Errorf("one who was removed joins again: %s", joined.body)
			}
			continue
		}
		wrong, unknown := r.call("POST", path+"/join", bob, `{"room_password":"wrong"}`), r.call("POST", "/rooms/333333/join", bob, `{"room_password":"room"}`)
		for _, a := range []restAnswer{unknown, joined, wrong} {
			a.header.Del("Date")
			a.header.Del("X-Request-Id")
			if a.code() != "ROOM_ACCESS_DENIED" || string(a.body) != string(unknown.body) || !maps.EqualFunc(a.header, unknown.header, slices.Equal) {
				t.Errorf("one who is banned can tell the answers apart:\n%v\n%v", a, unknown)
			}
		}
		r.must(200, "", "PUT", path+"/bans/bob", owner, "") // once more is no other ban
	}
	r.must(200, "", "PUT", path+"/bans/alice", owner, "")
	r.must(200, "", "DELETE", path+"/bans/alice", owner, "")
	r.must(404, "USER_NOT_FOUND", "DELETE", path+"/bans/alice", owner, "")
	wantList(t, "the members", column(r.must(200, "", "GET", path+"/members", owner, ""), "members", "user_name"), "owner")
	joinRoom(t, r.api, alice, r.code)
	r.stop()
	r.start()
	r.must(403, "ROOM_ACCESS_DENIED", "POST", path+"/join", bob, `{"room_password":"room"}`)
	wantList(t, "the bans", column(r.must(200, "", "GET", path+"/bans", owner, ""), "bans", "user_name"), "bob")

	// The name, the password, the owner.
	a := r.must(200, "", "PATCH", "/rooms/"+strings.ToLower(r.code), owner, `{"room_name":"Tea","room_password":"earl grey"}`)
	if want := fmt.Sprintf(`{"short_code":%q,"room_name":"Tea","owner":"owner","last_seq":0}`, r.code); string(a.body) != want+"\n" {
		t.Errorf("the changed room: %s, want %s", a.body, want)
	}
	carl := r.login("carl")
	r.must(403, "ROOM_ACCESS_DENIED", "POST", path+"/join", carl, `{"room_password":"room"}`)
	r.must(200, "", "POST", path+"/join", carl, `{"room_password":"earl grey"}`)
	for _, body := range []string{`{}`, `{"room_name":""}`, `{"room_name":"a\nb"}`, `{"room_name":"` + strings.Repeat("x", 65) + `"}`, `{"room_password":"` + strings.Repeat("x", 257) + `"}`,
		`{"owner":"nobody"}`, `{"owner":""}`, `{"owner":"bob"}`, `{"room_name":"kept out","owner":"bob"}`} {
		r.must(400, "INVALID_FIELD", "PATCH", path, owner, body)
	}
	r.must(409, "MEMBER_PROTECTED", "DELETE", path+"/members/owner", owner, "")
	r.must(409, "MEMBER_PROTECTED", "PUT", path+"/bans/owner", owner, "")
	r.must(403, "NOT_OWNER", "DELETE", path+"/members/nobody", alice, "")
	if a := r.must(200, "", "PATCH", path, owner, `{"owner":"Carl"}`); a.json["owner"] != "carl" || a.json["room_name"] != "Tea" {
		t.Errorf("the room that was handed over: %s", a.body)
	}
	r.must(403, "NOT_OWNER", "PATCH", path, owner, `{"room_name":"mine"}`)
	r.must(403, "NOT_OWNER", "GET", path+"/bans", owner, "")

	// One of the original's clients counts as present from its join on, but not once it was removed.
	conn = r.connect()
	here := originalJoin(t, conn, alice, r.code)
	wantList(t, "present", present(t, r.api, here), "alice")
	r.must(200, "", "DELETE", path+"/members/alice", carl, "")
	wantList(t, "present", present(t, r.api, joinRoom(t, r.api, carl, r.code)))
	r.must(200, "", "POST", path+"/join", alice, `{"room_password":"earl grey"}`)

	// Who leaves is told on its other devices.
	device := openSession(t, r.api, joinRoom(t, r.api, owner, r.code), -1)
	r.must(200, "", "DELETE", path+"/members/owner", owner, "")
	wantError(t, device.end(), codes.PermissionDenied, "ROOM_ACCESS_DENIED")
	r.must(404, "ROOM_NOT_FOUND", "DELETE", path+"/members/owner", owner, "")

	// An ADMIN does all that without being a member, and cannot be banned.
	root := r.admin("root")
	wantList(t, "the members", column(r.must(200, "", "GET", path+"/members", root, ""), "members", "user_name"), "alice", "carl")
	r.must(404, "USER_NOT_FOUND", "DELETE", path+"/members/root", root, "")
	r.must(200, "", "DELETE", path+"/bans/bob", root, "")
	r.must(200, "", "POST", path+"/join", bob, `{"room_password":"earl grey"}`)
	r.must(200, "", "PATCH", path, root, `{"room_password":"","owner":"bob"}`)
	r.must(409, "MEMBER_PROTECTED", "PUT", path+"/bans/root", bob, "")
	r.must(200, "", "POST", path+"/join", root, `{}`)
	r.must(200, "", "DELETE", path+"/members/root", bob, "")
	r.must(200, "", "PUT", path+"/bans/carl", root, "")
	r.must(200, "", "DELETE", path, root, "")
	r.must(404, "ROOM_NOT_FOUND", "PUT", path+"/bans/carl", root, "")
}

// Once a ban is answered, nothing of the banned is stored any more: not what its streams have sent, not what it posts, and
// not what a stream sends that it opens or a join that it makes at the same moment.
func TestBanUnderLoad(t *testing.T) {
	const rounds = 1
	r := newChatRoom(t, nil, "owner", "eve")
	var ids atomic.Int64
	path := "/rooms/" + r.code
	db := r.openReadOnly()
	stored := func() (n int) {
		if err := db.QueryRow(`SELECT count(*) FROM messages WHERE user_id = 2`).Scan(&n); err != nil {
			t.Error(err)
		}
		return n
	}
	witness := openDevice(t, r.api, r.tokens["owner"], 0)
	for round := range rounds {
		ctx, stop := context.WithCancel(t.Context())
		token := joinRoom(t, r.api, r.users["eve"], r.code)
		before := stored()
		var noise sync.WaitGroup
		for i := range 3 {
			api := r.api
			if i == 2 {
				api = r.sockets()
			}
			noise.Go(func() {
				for ctx.Err() == nil {
					stream, err := api.Chat(withToken(ctx, token))
					for n := 0; err == nil && n < 20; n++ {
						err = stream.Send(&pb.ChatRequest{Body: "x", ClientMessageId: fmt.Sprint(ids.Add(1))})
					}
					if stream != nil && err == nil && i == 1 {
						_ = stream.CloseSend() // and leave at once, with messages on their way
					}
					time.Sleep(5 * time.Millisecond)
				}
			})
		}
		var posts atomic.Int32
		noise.Go(func() {
			for ctx.Err() == nil {
				if r.call("POST", path+"/messages", token, `{"body":"x"}`).status == 200 {
					posts.Add(1)
				}
				time.Sleep(time.Millisecond)
			}
		})
		noise.Go(func() {
			for ctx.Err() == nil {
				a := r.call("POST", path+"/join", r.users["eve"], `{"room_password":"room"}`)
				if a.code() == "ROOM_ACCESS_DENIED" {
					return // each costs a hash
				} else if a.status != 200 && a.status != 503 {
					t.Errorf("join: %d %s", a.status, a.body)
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
		eventually(t, patience, "eve's messages are stored", func() bool { return stored() > before+20 && posts.Load() > 0 })
		eventually(t, 4*patience, "the ban", func() bool { // a slow machine may say once that its database is busy
			return r.call("PUT", path+"/bans/eve", r.users["owner"], "").status == 200
		})
		after := stored()
		time.Sleep(100 * time.Millisecond) // what would come late comes now
		if now := stored(); now != after {
			t.Errorf("round %d: %d messages of eve were stored after her ban was answered", round, now-after)
		}
		wantList(t, "the members", column(r.must(200, "", "GET", path+"/members", r.users["owner"], ""), "members", "user_name"), "owner")
		stop()
		noise.Wait()
		r.must(200, "", "DELETE", path+"/bans/eve", r.users["owner"], "")
	}
	// And the room goes on, in one order without a gap.
	witness.say(t, "last", "done")
	events := witness.awaitID(t, "last")
	for i, e := range slices.DeleteFunc(slices.Clone(events), func(e *pb.ChatEvent) bool { return e.GetKind() != pb.ChatEventKind_MESSAGE }) {
		if e.GetSeq() != uint64(i+1) {
			t.Fatalf("message %d has the seq %d", i+1, e.GetSeq())
		}
	}
}

// What is on its way when somebody is banned, step by step: of a stream, of one that was left, of a post, of those that open
// a moment too late; and what is being stored already is waited for.
func TestExpelledOnTheWay(t *testing.T) {
	onlySQLite(t) // the server's parts, and a lock of SQLite
	t.Parallel()
	ctx := t.Context()
	s := inProcessServer(t)
	owner, err1 := s.store.addUser(ctx, "owner", "x", roleUser)
	eve, err2 := s.store.addUser(ctx, "eve", "x", roleUser)
	err3 := s.store.addRoom(ctx, "ROOM", "x", "x", owner.ID)
	room, err4 := s.store.roomByCode(ctx, "ROOM", eve.ID)
	if err := errors.Join(err1, err2, err3, err4, s.store.addMember(ctx, room.ID, eve.ID)); err != nil {
		t.Fatal(err)
	}
	token, err := s.chat.auth.roomToken(eve, roomClaims{RoomID: room.ID, Code: room.Code})
	if err != nil {
		t.Fatal(err)
	}
	c, err := s.chat.auth.authenticate(ctx, audienceRoom, token)
	if err != nil {
		t.Fatal(err)
	}
	asEve, asOwner := context.WithValue(ctx, callerKey{}, c), context.WithValue(ctx, callerKey{}, caller{user: owner})
	say := func(session *session, body string) {
		t.Helper()
		if session.posted == nil {
			session.slots <- struct{}{}
		}
		for !s.committer.submit(submission{s: session, body: body}) { // over: it is taken one time in two
		}
	}
	open := func() *session {
		t.Helper()
		session, err := s.chat.open(asEve, nil, false)
		if err != nil {
			t.Fatal(err)
		}
		return session
	}
	stream, left, stays := open(), open(), open()
	say(stream, "of a stream")
	say(left, "of one that was left")
	left.leave()
	post, err := s.hub.poster(ctx, room.ID, eve)
	if err != nil {
		t.Fatal(err)
	}
	say(post, "of a post")
	post.drop() // its caller has gone away

	// The ban, without a committer: all that it can do without one is done when it begins to wait, and it gives up then.
	impatient, giveUp := context.WithCancel(asOwner)
	defer giveUp()
	banned := make(chan error, 1)
	go func() { banned <- s.chat.ban(impatient, "ROOM", "eve") }()
	for _, session := range []*session{stream, stays, post} {
		select {
		case <-session.done:
			if !errors.Is(session.err, errRoomAccessDenied) {
				t.Errorf("the session ended with %v", session.err)
			}
		case err := <-banned:
			t.Fatalf("the ban ended before the sessions: %v", err)
		}
	}
	giveUp()
	if err := <-banned; !errors.Is(err, errUnavailable) {
		t.Errorf("a ban that cannot wait: %v", err)
	}
	if _, err := s.chat.open(asEve, nil, false); !errors.Is(err, errRoomAccessDenied) {
		t.Errorf("a stream of a token that was checked before the ban: %v", err)
	}
	bounded, end := context.WithTimeout(asEve, patience)
	defer end()
	if _, err := s.chat.post(bounded, "too late", ""); !errors.Is(err, errRoomAccessDenied) {
		t.Errorf("a post with a token that was checked before the ban: %v", err)
	}
	say(stays, "of a stream that is over")

	// Another one's message is being stored: the file is locked. Then eve's have their turn.
	lock := openSQL(t, s.store.place)
	execSQL(t, lock, "BEGIN IMMEDIATE")
	ours, err := s.hub.enter(ctx, room.ID, owner, 0, false)
	if err != nil {
		t.Fatal(err)
	}
	go s.committer.run()
	say(ours, "of the owner")
	eventually(t, patience, "the batch is on its way", func() bool { return len(s.committer.queue) == 0 })
	settled := make(chan error, 1)
	go func() { settled <- s.committer.settle(ctx) }()
	select {
	case <-settled:
		t.Error("a batch on its way was not waited for")
	case <-time.After(100 * time.Millisecond):
	}
	execSQL(t, lock, "ROLLBACK")
	if err := <-settled; err != nil {
		t.Error(err)
	}
	stream.leave()
	stays.leave()
	ours.leave()
	s.committer.drain()
	if err := s.committer.settle(ctx); err != nil {
		t.Errorf("after the end of the committer: %v", err)
	}
	var bodies []string
	page, err := s.store.messagesAfter(ctx, room.ID, 0, 10, 1000)
	for _, m := range page {
		bodies = append(bodies, m.Body)
	}
	if err != nil || !slices.Equal(bodies, []string{"of the owner"}) {
		t.Errorf("stored are %q %v", bodies, err)
	}
	if n := s.hub.size(); n != 0 {
		t.Errorf("%d rooms are kept", n)
	}
}

// newStore is that of a new database, until the end of the test.
func newStore(t *testing.T) *store {
	t.Helper()
	st, err := openStore(t.Context(), storeOptions{URL: databaseURL(t, t.TempDir()), Synchronous: "normal", Create: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.close() })
	return st
}

// Whatever members do at the same moment, a room has an owner, who is a member of it and not deleted; nobody is a member
// and banned.
func TestRoomsKeepAnOwner(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	st := newStore(t)
	anything := func(roomRow) error { return nil }
	expected := func(do func() error) {
		err := do()
		for errors.Is(err, errUnavailable) {
			if _, deadlock := errors.AsType[*pgconn.PgError](err); deadlock {
				break
			}
			err = do() // it has waited in vain for its turn: so many at once, and a slow disk
		}
		if err != nil && !errors.Is(err, errNotFound) && !errors.Is(err, errNoMember) && !errors.Is(err, errTokenInvalid) && !errors.Is(err, errMemberProtected) {
			t.Error(err)
		}
	}
	for round := range 8 {
		var users []user
		for i := range 5 {
			u, err := st.addUser(ctx, fmt.Sprintf("user-%d-%d", round, i), "x", roleUser)
			if err != nil {
				t.Fatal(err)
			}
			users = append(users, u)
		}
		var rooms []roomRow
		for i := range 3 {
			code := fmt.Sprintf("R%dX%d", round, i)
			if err := st.addRoom(ctx, code, "x", "x", users[i].ID); err != nil {
				t.Fatal(err)
			}
			room, err := st.roomByCode(ctx, code, 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, u := range users[:4] {
				expected(func() error { return st.addMember(ctx, room.ID, u.ID) })
			}
			rooms = append(rooms, room)
		}
		var all sync.WaitGroup
		atOnce := func(do func() error) { all.Go(func() { expected(do) }) }
		for _, room := range rooms {
			for i := range users {
				u := users[i]
				atOnce(func() error { return st.changeRoom(ctx, user{}, room.ID, roomChange{Owner: &u}, anything) })
				atOnce(func() error { return st.addMember(ctx, room.ID, u.ID) })
			}
			atOnce(func() error { return st.ban(ctx, user{}, room.ID, users[3], anything) })
			atOnce(func() error { return st.removeMember(ctx, user{}, room.ID, users[2], anything) })
		}
		for i := range 2 {
			atOnce(func() error { _, _, err := st.deleteUser(ctx, users[i]); return err })
			atOnce(func() error { return st.addRoom(ctx, fmt.Sprintf("N%dX%d", round, i), "x", "x", users[i].ID) })
		}
		all.Wait()
	}
	for what, query := range map[string]string{
		"rooms of deleted accounts":          `SELECT count(*) FROM rooms r JOIN users u ON u.id = r.owner_id WHERE r.short_code IS NOT NULL AND u.deleted`,
		"rooms whose owner is no member":     `SELECT count(*) FROM rooms r LEFT JOIN members m ON m.room_id = r.id AND m.user_id = r.owner_id WHERE r.short_code IS NOT NULL AND m.user_id IS NULL`,
		"members whose accounts are deleted": `SELECT count(*) FROM members m JOIN users u ON u.id = m.user_id WHERE u.deleted`,
		"members who are banned":             `SELECT count(*) FROM members m JOIN bans b ON b.room_id = m.room_id AND b.user_id = m.user_id`,
		"members of deleted rooms":           `SELECT count(*) FROM members m JOIN rooms r ON r.id = m.room_id WHERE r.short_code IS NULL`,
	} {
		var n int
		if err := st.row(ctx, func(row scanner) error { return row.Scan(&n) }, query); err != nil || n > 0 {
			t.Errorf("%s: %d %v", what, n, err)
		}
	}
}

// Who has many rooms leaves them some at a time: all of them, also where the last step has none left.
func TestDeleteManyRooms(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	st := newStore(t)
	heir, err := st.addUser(ctx, "heir", "x", roleUser)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{roomsLeftAtOnce - 1, 2 * roomsLeftAtOnce, 2*roomsLeftAtOnce + 1} {
		u, err := st.addUser(ctx, fmt.Sprint("owner-", n), "x", roleUser)
		if err != nil {
			t.Fatal(err)
		}
		for i := range n {
			code := fmt.Sprintf("N%dX%d", n, i)
			if err := st.addRoom(ctx, code, "x", "x", u.ID); err != nil {
				t.Fatal(err)
			}
			if i%10 > 0 {
				continue
			}
			room, err := st.roomByCode(ctx, code, 0)
			if err == nil {
				err = st.addMember(ctx, room.ID, heir.ID)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		after, deleted, err := st.deleteUser(ctx, u)
		kept := (n + 9) / 10
		if err != nil || !after.Deleted || len(deleted) != n-kept {
			t.Fatalf("%+v, %d rooms deleted of %d, %v", after, len(deleted), n, err)
		}
		var owned, member, told int
		err = st.row(ctx, func(row scanner) error { return row.Scan(&owned, &member, &told) }, `SELECT
			(SELECT count(*) FROM rooms WHERE owner_id = $1 AND short_code IS NOT NULL), (SELECT count(*) FROM members WHERE user_id = $1),
			(SELECT count(*) FROM audit_log WHERE actor = $2)`, u.ID, u.Name)
		if err != nil || owned != 0 || member != 0 || told != n+1 {
			t.Errorf("it owns %d rooms, is a member of %d, and the audit log has %d entries: %v", owned, member, told, err)
		}
	}
}
