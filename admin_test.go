package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/grpcchatter/grpcchatter/pb"
)

// moderation are the paths of what owners, ADMINs and users do to rooms, members and accounts, by operationId.
func moderation(room, name string) map[string]string {
	return map[string]string{
		"getAccount": "/account", "changePassword": "/account/password", "deleteAccount": "/account/delete",
		"changeRoom": room, "listMembers": room + "/members", "removeMember": room + "/members/" + name,
		"listBans": room + "/bans", "ban": room + "/bans/" + name, "unban": room + "/bans/" + name,
		"findUsers": "/admin/users", "changeUser": "/admin/users/" + name, "resetPassword": "/admin/users/" + name + "/password",
		"endSessions": "/admin/users/" + name + "/sessions", "findRooms": "/admin/rooms", "listAudit": "/admin/audit",
	}
}

// limitedModeration returns what an owner is answered that has no change left: a server that runs has a hundred.
func limitedModeration(t *testing.T) map[string]restAnswer {
	t.Helper()
	s := inProcessServer(t)
	s.chat.limits.roomsPerUser = newLimiter("rooms_per_user", 1, time.Hour)
	owner, err1 := s.store.addUser(t.Context(), "owner", "x", roleUser)
	_, err2 := s.store.addUser(t.Context(), "eve", "x", roleUser)
	err3 := s.store.addRoom(t.Context(), "ROOM", "x", "x", owner.ID)
	token, err4 := s.chat.auth.userToken(owner)
	if err := errors.Join(err1, err2, err3, err4, take(try{s.chat.limits.roomsPerUser, userKey(owner.ID)})); err != nil {
		t.Fatal(err)
	}
	answers := map[string]restAnswer{}
	for id, method := range map[string]string{"changeRoom": "PATCH", "removeMember": "DELETE", "ban": "PUT", "unban": "DELETE"} {
		req := httptest.NewRequest(method, moderation("/rooms/ROOM", "eve")[id], strings.NewReader(`{"room_name":"y"}`))
		req.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		s.rest.handler().ServeHTTP(w, req)
		a := restAnswer{status: w.Code, header: w.Header(), body: w.Body.Bytes()}
		_ = json.Unmarshal(a.body, &a.json) // c.check looks at it
		answers[id] = a
	}
	return answers
}

// must makes a call that has to end with a status and, of an error, with a code.
func (p *serverProcess) must(status int, code, method, path, token, body string) restAnswer {
	p.t.Helper()
	a := p.call(method, path, token, body)
	if a.status != status || a.code() != code {
		p.t.Errorf("%s %s: %d %.300s, want %d %s", method, path, a.status, a.body, status, code)
	}
	return a
}

// admin makes an ADMIN and returns its user token.
func (p *serverProcess) admin(name string) string {
	p.t.Helper()
	p.login(name)
	mustRun(p.t, p.dir, "", "user", "role", name, "ADMIN")
	return p.login(name)
}

// column is one field of all rows of a list.
func column(a restAnswer, list, field string) []string {
	rows, _ := a.json[list].([]any)
	values := make([]string, 0, len(rows))
	for _, row := range rows {
		object, _ := row.(map[string]any)
		values = append(values, fmt.Sprint(object[field]))
	}
	return values
}

func wantList(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// Every route but those that are known to be open refuses who has no token, or one of the wrong kind; what is under /admin/
// every USER too (promise 7).
func TestRoutesAreGuarded(t *testing.T) {
	t.Parallel()
	r := newChatRoom(t, nil, "alice", "bob")
	open := []string{"register", "login", "chat", "healthz", "readyz"}
	guarded := 0
	for id, route := range readContract(t).routes {
		if slices.Contains(open, id) {
			continue
		}
		guarded++
		path := strings.NewReplacer("{short_code}", r.code, "{user_name}", "alice").Replace(route.Path)
		r.must(401, "TOKEN_MISSING", route.Method, path, "", "{}")
		right, wrong := r.users["bob"], r.tokens["alice"]
		if (*route.Operation.Security)[0]["roomToken"] != nil {
			right, wrong = r.tokens["bob"], r.users["alice"]
		}
		r.must(401, "TOKEN_INVALID", route.Method, path, wrong, "{}")
		r.must(401, "TOKEN_INVALID", route.Method, path, right+"x", "{}")
		a := r.call(route.Method, path, right, "{}")
		isAdmin := strings.HasPrefix(path, "/admin/")
		if (a.code() == "NOT_ADMIN") != isAdmin || isAdmin && a.status != 403 || a.status == 401 {
			t.Errorf("%s with a USER's token: %d %s", id, a.status, a.body)
		}
	}
	if guarded < 20 {
		t.Errorf("only %d routes were looked at", guarded)
	}
	// Nothing of all that has changed anything.
	if a := r.call("GET", "/rooms/"+r.code+"/members", r.users["alice"], ""); string(a.body) != `{"members":[{"user_name":"alice","owner":true},{"user_name":"bob","owner":false}]}`+"\n" {
		t.Errorf("the members: %s", a.body)
	}
}

// Each new password is a row of the audit log, which nothing deletes: it counts as a change of a room does. A wrong one does not.
func TestPasswordChangesAreLimited(t *testing.T) {
	t.Parallel()
	r := newChatRoom(t, []string{"--rate-limits=on", "--limit-rooms-per-user=3+1/1h"}, "alice", "bob") // alice's room is the first
	token, password := r.users["alice"], testPassword
	change := func(old, new string) string { return fmt.Sprintf(`{"password":%q,"new_password":%q}`, old, new) }
	for i := range 2 {
		new := fmt.Sprint("a new password ", i)
		r.must(401, "INVALID_CREDENTIALS", "POST", "/account/password", token, change("wrong", new))
		a := r.must(200, "", "POST", "/account/password", token, change(password, new))
		token, _ = a.json["token"].(string)
		password = new
	}
	a := r.must(429, "RATE_LIMITED", "POST", "/account/password", token, change(password, "one too many"))
	if a.header.Get("Retry-After") == "" {
		t.Errorf("the answer does not say when to try again: %v", a.header)
	}
	r.must(200, "", "GET", "/account", token, "") // nothing has changed
	r.must(200, "", "POST", "/login", "", credentialsJSON("alice", password))
	r.must(200, "", "POST", "/account/password", r.users["bob"], change(testPassword, "a new password"))
	if got := column(r.must(200, "", "GET", "/admin/audit?query=alice", r.admin("root"), ""), "entries", "action"); len(got) != 2 {
		t.Errorf("the audit log has %q of alice", got)
	}
}

// A new password, by its owner, ends every older token and stream of the account on any transport, and gives a token.
func TestChangePassword(t *testing.T) {
	t.Parallel()
	r := newChatRoom(t, []string{"--rate-limits=on", "--limit-logins-per-account-and-address=10+1/1h"}, "alice", "bob") // none comes back meanwhile
	if a := r.must(200, "", "GET", "/account", r.users["alice"], ""); a.json["user_name"] != "alice" || a.json["role"] != "USER" {
		t.Errorf("the account: %s", a.body)
	}
	change := func(old, new string) string {
		b, err := json.Marshal(map[string]string{"password": old, "new_password": new})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for _, new := range []string{"", "seven77", strings.Repeat("x", 257), "ALICE"} {
		r.must(400, "INVALID_FIELD", "POST", "/account/password", r.users["alice"], change(testPassword, new))
	}
	r.must(400, "INVALID_FIELD", "POST", "/account/password", r.users["alice"], change("", "a new password"))
	r.must(401, "INVALID_CREDENTIALS", "POST", "/account/password", r.users["alice"], change("wrong", "a new password"))
	session := openSession(t, r.api, r.tokens["alice"], -1)
	socket := openSession(t, r.sockets(), r.tokens["alice"], -1)
	old := openOriginal(t, r.connect(), r.tokens["alice"])
	bob := openSession(t, r.api, r.tokens["bob"], -1)
	a := r.must(200, "", "POST", "/account/password", r.users["alice"], change(testPassword, "a new password"))
	token, _ := a.json["token"].(string)
	wantError(t, session.end(), codes.Unauthenticated, "TOKEN_INVALID")
	wantClose(t, "the socket", socket.end(), 4401, "TOKEN_INVALID")
	wantEnd(t, "the original's stream", old.end(t, patience), "Unauthenticated TOKEN_INVALID")
	r.must(401, "TOKEN_INVALID", "GET", "/rooms", r.users["alice"], "")
	r.must(401, "TOKEN_INVALID", "GET", "/rooms/"+r.code+"/messages", r.tokens["alice"], "")
	r.must(200, "", "GET", "/rooms", token, "")
	room := joinRoom(t, r.api, token, r.code)
	again := openSession(t, r.api, room, -1)
	r.must(401, "INVALID_CREDENTIALS", "POST", "/login", "", credentialsJSON("alice", testPassword))
	r.must(200, "", "POST", "/login", "", credentialsJSON("ALICE", "a new password"))
	// Who has a stolen token can guess no better than who logs in, and keeps nobody out by that.
	tries := 0
	for ; tries < 40 && r.call("POST", "/account/password", token, change(fmt.Sprint("wrong ", tries), "a new password")).status == 401; tries++ {
	}
	if tries > 15 {
		t.Errorf("%d guesses were looked at", tries)
	}
	r.must(429, "RATE_LIMITED", "POST", "/account/delete", token, `{"password":"a new password"}`)
	r.must(200, "", "POST", "/login", "", credentialsJSON("alice", "a new password"))
	// Neither bob's stream nor the one with the new token has noticed anything.
	again.send(&pb.ChatRequest{Body: "still here"})
	for e := again.next(); e.GetBody() != "still here"; e = again.next() {
	}
	bob.send(&pb.ChatRequest{Body: "and so am I"})
	for e := again.next(); e.GetBody() != "and so am I"; e = again.next() {
	}
}

// A deleted account leaves its messages, and nothing else: its name is free, its rooms are another one's or gone.
func TestDeleteAccount(t *testing.T) {
	t.Parallel()
	r := newChatRoom(t, nil, "ann", "zoe", "bob")
	alone := createRoom(t, r.api, r.users["ann"])
	bobs := createRoom(t, r.api, r.users["bob"])
	r.must(200, "", "PUT", "/rooms/"+bobs+"/bans/ann", r.users["bob"], "")
	r.must(200, "", "POST", "/rooms/"+r.code+"/messages", r.tokens["ann"], `{"body":"I was here"}`)
	session := openSession(t, r.api, r.tokens["ann"], -1)
	emptied := openSession(t, r.api, joinRoom(t, r.api, r.users["ann"], alone), -1)
	r.must(401, "INVALID_CREDENTIALS", "POST", "/account/delete", r.users["ann"], `{"password":"wrong"}`)
	r.must(200, "", "POST", "/account/delete", r.users["ann"], `{"password":"`+testPassword+`"}`)
	wantError(t, session.end(), codes.Unauthenticated, "TOKEN_INVALID")
	if reason, _ := reasonOf(emptied.end()); reason != "ROOM_DELETED" && reason != "TOKEN_INVALID" { // the room's end or, if that is seen first, the account's
		t.Errorf("the stream in the room that is deleted with the account: %v", emptied.err)
	}
	r.must(401, "TOKEN_INVALID", "GET", "/account", r.users["ann"], "")
	for _, name := range []string{"ann", "deleted 1"} {
		r.must(401, "INVALID_CREDENTIALS", "POST", "/login", "", credentialsJSON(name, testPassword))
	}
	r.must(403, "ROOM_ACCESS_DENIED", "POST", "/rooms/"+alone+"/join", r.users["bob"], `{"room_password":"room"}`)
	// zoe's account is older than bob's.
	if a := r.must(200, "", "GET", "/rooms/"+r.code+"/members", r.users["bob"], ""); string(a.body) != `{"members":[{"user_name":"bob","owner":false},{"user_name":"zoe","owner":true}]}`+"\n" {
		t.Errorf("the members that are left: %s", a.body)
	}
	wantList(t, "the bans", column(r.must(200, "", "GET", "/rooms/"+bobs+"/bans", r.users["bob"], ""), "bans", "user_name"))
	// What is in memory may still have the old name.
	r.stop()
	r.start()
	wantList(t, "who wrote", column(r.must(200, "", "GET", "/rooms/"+r.code+"/messages", r.tokens["bob"], ""), "messages", "user_name"), "deleted 1")
	ann := r.login("ann")
	wantList(t, "the new ann's rooms", column(r.must(200, "", "GET", "/rooms", ann, ""), "rooms", "short_code"))
	root := r.admin("root")
	wantList(t, "the accounts", column(r.must(200, "", "GET", "/admin/users", root, ""), "users", "user_name"), "zoe", "bob", "ann", "root")
	for method, path := range map[string]string{"PATCH": "/admin/users/deleted%201", "DELETE": "/admin/users/deleted%201/sessions", "POST": "/admin/users/deleted%201/password"} {
		r.must(404, "USER_NOT_FOUND", method, path, root, `{"disabled":false,"new_password":"a new password"}`)
	}
	if status, _, errOut := runProgram(t, r.dir, nil, "", "user", "enable", "deleted 1"); status != 1 {
		t.Errorf("a deleted account is enabled: %s", errOut)
	}
	if list := mustRun(t, r.dir, "", "user", "list"); !strings.Contains(list, "deleted 1  USER   deleted") {
		t.Errorf("user list:\n%s", list)
	}
	// The last ADMIN stays, unless it is the command line that takes it away.
	r.must(409, "LAST_ADMIN", "POST", "/account/delete", root, `{"password":"`+testPassword+`"}`)
	r.must(409, "LAST_ADMIN", "PATCH", "/admin/users/ROOT", root, `{"role":"USER"}`)
	r.must(409, "LAST_ADMIN", "PATCH", "/admin/users/root", root, `{"disabled":true}`)
	r.must(200, "", "PATCH", "/admin/users/bob", root, `{"role":"ADMIN","disabled":true}`) // one that cannot log in does not count
	r.must(409, "LAST_ADMIN", "PATCH", "/admin/users/root", root, `{"role":"USER"}`)
	r.must(200, "", "PATCH", "/admin/users/bob", root, `{"disabled":false}`)
	r.must(200, "", "PATCH", "/admin/users/root", root, `{"role":"USER"}`)
	mustRun(t, r.dir, "", "user", "role", "bob", "USER")
}

// TestDeletedName: an account of the original can have the name that a deleted one gets.
func TestDeletedName(t *testing.T) {
	t.Parallel()
	p := startServer(t)
	token := p.login("ann")
	odd := p.oddUsers("deleted 1", "Deleted 1.")
	p.must(200, "", "POST", "/account/delete", token, `{"password":"`+testPassword+`"}`)
	for _, token := range odd {
		p.must(200, "", "GET", "/account", token, "")
	}
	var name string
	if err := p.openReadOnly().QueryRow(`SELECT username FROM users WHERE id = 1`).Scan(&name); err != nil || name != "deleted 1.." {
		t.Errorf("the deleted account is called %q %v", name, err)
	}
}

// oddUsers makes accounts of names that only the original's could have, and returns their tokens.
func (p *serverProcess) oddUsers(names ...string) (tokens map[string]string) {
	p.t.Helper()
	st, err := openStore(p.t.Context(), storeOptions{URL: databaseURL(p.t, p.dir)})
	if err != nil {
		p.t.Fatal(err)
	}
	defer st.close()
	tokens = map[string]string{}
	hash := hashPassword(testPassword)
	for _, name := range names {
		if _, err := st.addUser(p.t.Context(), name, hash, roleUser); err != nil {
			p.t.Fatal(err)
		}
		_, answer := p.rest("POST", "/login", map[string]string{"user_name": name, "password": testPassword})
		tokens[name], _ = answer["token"].(string)
	}
	return tokens
}

// Names of the original hold any character, and some of ours mean something in a path.
func TestOddNamesInPaths(t *testing.T) {
	t.Parallel()
	r := newChatRoom(t, nil, "owner")
	root := r.admin("root")
	names := []string{"a/b", "..%2F..", "é ?#&+%", "100%_\\", ".", " x ", " x"}
	tokens := r.oddUsers(names...)
	tokens[".."] = r.login("..")
	for name, token := range tokens {
		joinRoom(t, r.api, token, r.code)
		for i, segment := range []string{strings.ReplaceAll(url.PathEscape(name), ".", "%2E"), url.PathEscape(name), url.PathEscape(name) + "%20"} {
			if (name == "." || name == "..") && !strings.Contains(segment, "%") || name == " x" && strings.HasSuffix(segment, "%20") {
				continue
			}
			path := "/rooms/" + r.code
			if i == 0 {
				wantList(t, name, column(r.must(200, "", "GET", path+"/members", r.users["owner"], ""), "members", "user_name"), slices.Sorted(slices.Values([]string{name, "owner"}))...)
			}
			r.must(200, "", "PUT", path+"/bans/"+segment, r.users["owner"], "")
			wantList(t, name, column(r.must(200, "", "GET", path+"/bans", r.users["owner"], ""), "bans", "user_name"), name)
			r.must(200, "", "DELETE", path+"/bans/"+segment, r.users["owner"], "")
			wantList(t, name, column(r.must(200, "", "GET", path+"/members", r.users["owner"], ""), "members", "user_name"), "owner")
			if a := r.must(200, "", "PATCH", "/admin/users/"+segment, root, `{"disabled":false}`); a.json["user_name"] != name {
				t.Errorf("%s is %s", segment, a.body)
			}
		}
		found := column(r.must(200, "", "GET", "/admin/users?query="+url.QueryEscape(name), root, ""), "users", "user_name")
		for _, other := range append(names, "..", "owner", "root") {
			if slices.Contains(found, other) != strings.Contains(other, name) {
				t.Errorf("the search for %q finds %q", name, found)
			}
		}
	}
	for _, segment := range []string{"%00", "%FF", "x%00"} {
		r.must(404, "USER_NOT_FOUND", "PUT", "/rooms/"+r.code+"/bans/"+segment, r.users["owner"], "")
		r.must(404, "USER_NOT_FOUND", "PATCH", "/admin/users/"+segment, root, `{"disabled":true}`)
		wantList(t, segment, column(r.must(200, "", "GET", "/admin/users?query="+segment, root, ""), "users", "user_name"))
		wantList(t, segment, column(r.must(200, "", "GET", "/admin/rooms?query="+segment, root, ""), "rooms", "short_code"))
	}
}

// An ADMIN finds accounts and rooms, page by page, and changes what it finds at once.
func TestAdministration(t *testing.T) {
	t.Parallel()
	r := newChatRoom(t, nil, "ann", "bob", "Annabel")
	root := r.admin("root")
	names := func(query string) []string {
		return column(r.must(200, "", "GET", "/admin/users?"+query, root, ""), "users", "user_name")
	}
	wantList(t, "all", names(""), "ann", "bob", "Annabel", "root")
	wantList(t, "search", names("query=ANN"), "ann", "Annabel")
	wantList(t, "wildcard", names("query=%25"))
	wantList(t, "wildcard", names("query=_n"))
	wantList(t, "page 1", names("limit=2"), "ann", "bob")
	wantList(t, "page 2", names("limit=2&after=2"), "Annabel", "root")
	wantList(t, "page 3", names("after=18446744073709551615"))
	r.must(200, "", "PATCH", "/rooms/"+r.code, r.users["ann"], `{"room_name":"Café 100%"}`)
	bobs := createRoom(t, r.api, r.users["bob"])
	rooms := func(query string) []string {
		return column(r.must(200, "", "GET", "/admin/rooms?"+query, root, ""), "rooms", "short_code")
	}
	wantList(t, "rooms", rooms(""), r.code, bobs)
	wantList(t, "rooms", rooms("limit=1"), r.code)
	wantList(t, "rooms", rooms("limit=1&after=1"), bobs)
	for query, want := range map[string][]string{"Café": {r.code}, "CAF": {r.code}, "%": {r.code}, "0_": {}, "bOb": {bobs}, strings.ToLower(r.code): {r.code}, "": {r.code, bobs}} {
		wantList(t, "rooms like "+query, rooms("query="+url.QueryEscape(query)), want...)
	}
	a := r.must(200, "", "GET", "/admin/rooms?query=Caf", root, "")
	if row := a.json["rooms"].([]any)[0].(map[string]any); row["members"] != 3.0 || row["owner"] != "ann" || row["room_name"] != "Café 100%" || row["last_seq"] != 0.0 {
		t.Errorf("the room: %s", a.body)
	}

	// Each change ends the streams before it is answered, and holds for what comes then.
	login := func(password string) restAnswer {
		return r.call("POST", "/login", "", credentialsJSON("bob", password))
	}
	password := testPassword
	for _, c := range []struct{ method, path, body, code string }{
		{"DELETE", "/sessions", "", ""},
		{"PATCH", "", `{"role":"ADMIN"}`, ""},
		{"PATCH", "", `{"role":"USER"}`, ""},
		{"POST", "/password", `{"new_password":"a new password"}`, ""},
		{"PATCH", "", `{"disabled":true}`, "ACCOUNT_DISABLED"},
	} {
		user := login(password).json["token"].(string)
		session := openSession(t, r.api, joinRoom(t, r.api, user, r.code), -1)
		socket := openSession(t, r.sockets(), joinRoom(t, r.api, user, r.code), -1)
		r.must(200, "", c.method, "/admin/users/bob"+c.path, root, c.body)
		wantError(t, session.end(), codes.Unauthenticated, "TOKEN_INVALID")
		wantClose(t, "the socket", socket.end(), 4401, "TOKEN_INVALID")
		r.must(401, "TOKEN_INVALID", "GET", "/account", user, "")
		if c.path == "/password" {
			if a := login(password); a.code() != "INVALID_CREDENTIALS" {
				t.Errorf("log-in with the old password: %s", a.body)
			}
			password = "a new password"
		}
		if a := login(password); a.code() != c.code {
			t.Errorf("log-in after %s: %s, want the code %q", c.body, a.body, c.code)
		}
	}
	if a := r.must(200, "", "PATCH", "/admin/users/bob", root, `{"disabled":false}`); a.json["disabled"] != false || a.json["role"] != "USER" {
		t.Errorf("bob: %s", a.body)
	}
	for _, body := range []string{`{}`, `{"role":"user"}`, `{"role":""}`, `{"role":"ROOT"}`, `{"disabled":"yes"}`, `{"role":null}`} {
		r.must(400, "INVALID_FIELD", "PATCH", "/admin/users/bob", root, body)
	}
	for _, body := range []string{`{"new_password":"short"}`, `{"new_password":"AnnaBel"}`, `{}`} {
		r.must(400, "INVALID_FIELD", "POST", "/admin/users/annabel/password", root, body)
	}
	// What is so already stays, with its streams.
	token := login(password).json["token"].(string)
	r.must(200, "", "PATCH", "/admin/users/bob", root, `{"disabled":false,"role":"USER"}`)
	r.must(200, "", "GET", "/account", token, "")
	// One that is no ADMIN any more is none at once.
	second := r.admin("second")
	r.must(200, "", "PATCH", "/admin/users/second", root, `{"role":"USER"}`)
	r.must(401, "TOKEN_INVALID", "GET", "/admin/users", second, "")
	r.must(403, "NOT_ADMIN", "GET", "/admin/users", r.login("second"), "")
}

// All that is changed stands in the audit log, with who did it, and no password.
func TestAuditLog(t *testing.T) {
	t.Parallel()
	r := newChatRoom(t, nil, "owner", "alice", "bob")
	path := "/rooms/" + r.code
	owner := r.users["owner"]
	mustRun(t, r.dir, "hush hush 1\n", "user", "add", "root", "--role=ADMIN")
	root := r.must(200, "", "POST", "/login", "", credentialsJSON("root", "hush hush 1")).json["token"].(string)
	r.must(200, "", "PATCH", path, owner, `{"room_name":"Tea \"time\"","room_password":"hush hush 2"}`)
	r.must(200, "", "PATCH", path, owner, `{"room_name":"Tea \"time\"","room_password":"","owner":"alice"}`)
	r.must(200, "", "PATCH", path, root, `{"owner":"owner"}`)
	r.must(200, "", "DELETE", path+"/members/bob", owner, "")
	r.must(200, "", "PUT", path+"/bans/bob", root, "")
	r.must(200, "", "PUT", path+"/bans/bob", root, "")
	r.must(200, "", "DELETE", path+"/bans/bob", root, "")
	r.must(200, "", "DELETE", path+"/members/alice", r.users["alice"], "")
	r.must(200, "", "PATCH", "/admin/users/Bob", root, `{"role":"ADMIN","disabled":true}`)
	r.must(200, "", "PATCH", "/admin/users/Bob", root, `{"role":"USER","disabled":false}`)
	r.must(200, "", "PATCH", "/admin/users/Bob", root, `{"role":"USER","disabled":false}`)
	r.must(200, "", "POST", "/admin/users/bob/password", root, `{"new_password":"hush hush 3"}`)
	r.must(200, "", "DELETE", "/admin/users/bob/sessions", root, "")
	r.must(200, "", "POST", "/account/password", r.users["alice"], `{"password":"`+testPassword+`","new_password":"hush hush 4"}`)
	mustRun(t, r.dir, "", "user", "role", "bob", "admin")
	mustRun(t, r.dir, "hush hush 5\n", "user", "passwd", "bob")
	mustRun(t, r.dir, "", "user", "disable", "bob")
	mustRun(t, r.dir, "", "user", "enable", "bob")
	// What is refused is not written down.
	r.must(401, "INVALID_CREDENTIALS", "POST", "/account/delete", owner, `{"password":"hush hush 6"}`)
	r.must(400, "INVALID_FIELD", "PATCH", path, owner, `{"room_name":"x","owner":"nobody"}`)
	r.must(409, "MEMBER_PROTECTED", "PUT", path+"/bans/owner", root, "")
	api := r.api
	if _, err := api.DeleteChatRoom(withToken(t.Context(), owner), &pb.DeleteChatRoomRequest{ShortCode: r.code}); err != nil {
		t.Fatal(err)
	}
	shared, alone := createRoom(t, api, owner), createRoom(t, api, owner)
	joinRoom(t, api, root, shared)
	r.must(200, "", "POST", "/account/delete", owner, `{"password":"`+testPassword+`"}`)
	want := []string{
		"|user_created|root|ADMIN",
		"owner|room_renamed|" + r.code + `|"a room" to "Tea \"time\""`,
		"owner|room_password|" + r.code + "|",
		"owner|room_password|" + r.code + "|none any more",
		"owner|room_owner|" + r.code + "|owner to alice",
		"root|room_owner|" + r.code + "|alice to owner",
		"owner|member_removed|bob|room " + r.code,
		"root|member_banned|bob|room " + r.code,
		"root|member_unbanned|bob|room " + r.code,
		"alice|member_left|alice|room " + r.code,
		"root|user_role|bob|USER to ADMIN",
		"root|user_disabled|bob|",
		"root|user_role|bob|ADMIN to USER",
		"root|user_enabled|bob|",
		"root|user_password|bob|",
		"root|user_sessions_ended|bob|",
		"alice|user_password|alice|",
		"|user_role|bob|USER to ADMIN",
		"|user_password|bob|",
		"|user_disabled|bob|",
		"|user_enabled|bob|",
		"owner|room_deleted|" + r.code + `|"Tea \"time\"" of owner`,
		"owner|room_owner|" + shared + "|owner to root",
		"owner|room_deleted|" + alone + `|"a room" of owner`,
		"owner|user_deleted|owner|now deleted 1",
	}
	r.stop()
	r.start()
	var got []string
	var ids []float64
	for before := ""; ; {
		a := r.must(200, "", "GET", "/admin/audit?limit=4"+before, root, "")
		if strings.Contains(string(a.body), "hush") || strings.Contains(string(a.body), testPassword) || strings.Contains(string(a.body), "argon") {
			t.Errorf("a password is in the audit log: %s", a.body)
		}
		entries, _ := a.json["entries"].([]any)
		if len(entries) == 0 {
			break
		}
		for _, e := range entries {
			e := e.(map[string]any)
			got = append(got, fmt.Sprintf("%s|%s|%s|%s", e["actor"], e["action"], e["target"], e["detail"]))
			ids = append(ids, e["id"].(float64))
			if at, err := time.Parse(time.RFC3339, e["created_at"].(string)); err != nil || time.Since(at).Abs() > time.Hour {
				t.Errorf("%v", e)
			}
		}
		before = fmt.Sprintf("&before=%d", int(ids[len(ids)-1]))
	}
	slices.Reverse(got)
	wantList(t, "the audit log", got, want...)
	if !slices.IsSortedFunc(ids, func(a, b float64) int { return int(b - a) }) {
		t.Errorf("not newest first: %v", ids)
	}
	for query, want := range map[string]int{"ROOM_DELETED": 2, "Bob": strings.Count(strings.Join(want, " "), "|bob|"), "%": 0, "nobody": 0, strings.ToLower(shared): strings.Count(strings.Join(want, " "), shared)} {
		a := r.must(200, "", "GET", "/admin/audit?limit=200&query="+url.QueryEscape(query), root, "")
		if entries, _ := a.json["entries"].([]any); len(entries) != want {
			t.Errorf("%q finds %d entries, want %d", query, len(entries), want)
		}
	}
	// Who has stolen an ADMIN's token has not its account: a new password of one's own asks for the old one.
	r.must(400, "INVALID_FIELD", "POST", "/admin/users/ROOT/password", root, `{"new_password":"a thief's password"}`)
	r.must(200, "", "GET", "/account", root, "")
}
