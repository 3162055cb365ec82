package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"

	"github.com/grpcchatter/grpcchatter/pb"
)

// contract is openapi.json, which answers are held against. It writes down what it has seen. It is not safe for
// concurrent use.
type contract struct {
	doc    *openapi3.T
	routes map[string]*routers.Route // by operationId
	seen   map[string]bool           // "operationId status CODE", without the code where it is no error
}

func readContract(t testing.TB) *contract {
	t.Helper()
	b, err := os.ReadFile("openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	c := &contract{routes: map[string]*routers.Route{}, seen: map[string]bool{}}
	if c.doc, err = openapi3.NewLoader().LoadFromData(b); err == nil {
		err = c.doc.Validate(t.Context())
	}
	if err != nil || c.doc.OpenAPI != "3.1.0" {
		t.Fatalf("openapi.json, in the version %s: %v", c.doc.OpenAPI, err)
	}
	for path, item := range c.doc.Paths.Map() {
		for method, op := range item.Operations() {
			if c.routes[op.OperationID] != nil || op.OperationID == "" {
				t.Errorf("%s %s has the operationId %q, and so has another one", method, path, op.OperationID)
			}
			c.routes[op.OperationID] = &routers.Route{Spec: c.doc, Path: path, PathItem: item, Method: method, Operation: op}
		}
	}
	return c
}

// documented are all answers, in the form of seen.
func (c *contract) documented(t testing.TB) (all []string) {
	for id, route := range c.routes {
		for status, resp := range route.Operation.Responses.Map() {
			if status < "400" {
				all = append(all, id+" "+status)
				continue
			}
			media := resp.Value.Content["application/json"]
			if media == nil || len(media.Schema.Value.AllOf) != 2 {
				t.Fatalf("%s %s has no codes", id, status)
			}
			for _, code := range media.Schema.Value.AllOf[1].Value.Properties["code"].Value.Enum {
				all = append(all, fmt.Sprint(id, " ", status, " ", code))
			}
		}
	}
	return all
}

// check holds a call and its answer against the document: of the request, only that it would be taken if it was.
func (c *contract) check(id string, req *http.Request, a restAnswer) error {
	route := c.routes[id]
	if route == nil || route.Method != req.Method {
		return fmt.Errorf("%s %s is not documented", req.Method, id)
	}
	names := regexp.MustCompile(`\{(\w+)\}`).FindAllStringSubmatch(route.Path, -1)
	values := regexp.MustCompile("^" + regexp.MustCompile(`\{\w+\}`).ReplaceAllString(route.Path, "([^/]+)") + "$").FindStringSubmatch(req.URL.Path)
	if values == nil {
		return fmt.Errorf("%s is documented at %s, not at %s", id, route.Path, req.URL.Path)
	}
	in := &openapi3filter.RequestValidationInput{Request: req, PathParams: map[string]string{}, Route: route, Options: &openapi3filter.Options{
		IncludeResponseStatus: true, MultiError: true,
		AuthenticationFunc: func(context.Context, *openapi3filter.AuthenticationInput) error {
			if !strings.HasPrefix(req.Header.Get("Authorization"), "Bearer ") {
				return fmt.Errorf("%s was answered without a token", id)
			}
			return nil
		},
	}}
	for i, name := range names {
		in.PathParams[name[1]] = values[i+1]
	}
	if a.status < 300 {
		if err := openapi3filter.ValidateRequest(context.Background(), in); err != nil {
			return err
		}
	}
	out := &openapi3filter.ResponseValidationInput{RequestValidationInput: in, Status: a.status, Header: a.header, Options: in.Options}
	if err := openapi3filter.ValidateResponse(context.Background(), out.SetBodyBytes(a.body)); err != nil {
		return err
	}
	c.seen[strings.TrimSpace(fmt.Sprint(id, " ", a.status, " ", a.code()))] = true
	return nil
}

// onlyBroken are the statuses of a server that is in trouble, which none of these tests is.
var onlyBroken = []string{"500", "503", "507"}

// Every answer is one that openapi.json describes, and every answer that it describes is given.
func TestOpenAPI(t *testing.T) {
	onlySQLite(t) // the answers do not know the database
	t.Parallel()
	c := readContract(t)
	p := startServer(t, "--rate-limits=on", "--secret", testSecret, // limits that are soon met, and stay so
		"--limit-logins-per-account-and-address=10+1/1h", "--limit-registrations-per-address=50+1/1h", "--limit-room-passwords-per-user-and-room=5+1/1h",
		"--limit-rooms-per-user=30+1/1h", "--limit-messages-per-user=30+1/1h")
	closed := startServer(t, "--registration=closed")
	owner, member, stranger := p.login("owner"), p.login("member"), p.login("stranger")
	p.login("locked")
	mustRun(t, p.dir, "", "user", "disable", "locked")
	p.login("root")
	mustRun(t, p.dir, "", "user", "role", "root", "ADMIN")
	root := p.login("root")
	past := tokenMaker(t, testSecret)
	past.now = func() time.Time { return time.Now().Add(-2 * time.Hour) }
	expired := map[string]string{}
	var err error
	if expired["user"], err = past.userToken(user{ID: 1}); err != nil {
		t.Fatal(err)
	}

	call := func(server *serverProcess, id, path, token, body string, headers ...string) restAnswer {
		t.Helper()
		method := "GET"
		if route := c.routes[id]; route != nil {
			method = route.Method
		}
		a := server.call(method, path, token, body, headers...)
		req := httptest.NewRequest(method, path, strings.NewReader(body))
		if req.Header.Set("Content-Type", "application/json"); token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		if err := c.check(id, req, a); err != nil {
			t.Errorf("%s %s: %d %.200q: %v", method, path, a.status, a.body, err)
		}
		return a
	}
	want := func(status int, code string, a restAnswer) restAnswer {
		t.Helper()
		if a.status != status || a.code() != code {
			t.Errorf("%d %.200q, want %d %s", a.status, a.body, status, code)
		}
		return a
	}
	text := func(a restAnswer, field string) string { s, _ := a.json[field].(string); return s }
	create := func() string {
		t.Helper()
		return text(want(200, "", call(p, "createRoom", "/rooms", owner, `{"room_name":"a room","room_password":"room"}`)), "short_code")
	}
	join := func(token, code, body string) string {
		t.Helper()
		return text(want(200, "", call(p, "joinRoom", "/rooms/"+code+"/join", token, body)), "token")
	}
	room, other := create(), create()
	ownerRoom, memberRoom := join(owner, room, `{}`), join(member, room, `{"room_password":"room"}`)
	otherRoom := join(owner, other, `{"room_password":"not asked for"}`)
	if expired["room"], err = past.roomToken(user{ID: 1}, roomClaims{RoomID: 1, Code: room}); err != nil {
		t.Fatal(err)
	}
	lost := tokenMaker(t, testSecret)
	lost.history.ID = "of before a restore"
	restored, err := lost.roomToken(user{ID: 1}, roomClaims{RoomID: 1, Code: room})
	if err != nil {
		t.Fatal(err)
	}
	messages, users := "/rooms/"+room+"/messages", "/rooms/"+room+"/users"

	// What needs a token.
	needUser := map[string]string{"listRooms": "/rooms", "createRoom": "/rooms", "deleteRoom": "/rooms/" + room, "joinRoom": "/rooms/" + room + "/join"}
	maps.Copy(needUser, moderation("/rooms/"+room, "member"))
	for id, path := range needUser {
		want(401, "TOKEN_MISSING", call(p, id, path, "", "{}"))
		want(401, "TOKEN_EXPIRED", call(p, id, path, expired["user"], "{}"))
		for _, bad := range []string{"x", ownerRoom, owner + "x"} {
			want(401, "TOKEN_INVALID", call(p, id, path, bad, "{}"))
		}
	}
	for id, path := range map[string]string{"listUsers": users, "listMessages": messages, "postMessage": messages} {
		want(401, "TOKEN_MISSING", call(p, id, path, "", "{}"))
		want(401, "TOKEN_EXPIRED", call(p, id, path, expired["room"], "{}"))
		want(409, "HISTORY_RESTORED", call(p, id, path, restored, "{}"))
		for _, bad := range []string{"x", owner, otherRoom, memberRoom + "x"} {
			want(401, "TOKEN_INVALID", call(p, id, path, bad, "{}"))
		}
		want(401, "TOKEN_INVALID", call(p, id, strings.Replace(path, room, other, 1), memberRoom, "{}"))
		want(401, "TOKEN_INVALID", call(p, id, strings.Replace(path, room, strings.Repeat("x", 65), 1), memberRoom, "{}"))
	}
	// What has a body; and pages of other servers.
	for id, c := range map[string]struct {
		path, token, field string // a body that breaks a rule
		limit              int    // of the body, in bytes
	}{
		"register":    {"/register", "", `{"user_name":"x","password":"12345678"}`, maxBody},
		"login":       {"/login", "", `{"user_name":"x"}`, maxBody},
		"createRoom":  {"/rooms", owner, `{"room_name":"a\nb"}`, maxBody},
		"joinRoom":    {"/rooms/" + room + "/join", stranger, `{"room_password":1}`, maxBody},
		"postMessage": {messages, memberRoom, `{"body":""}`, maxBody + escapedSize*4096},

		"changePassword": {"/account/password", owner, `{"password":"` + testPassword + `","new_password":"short"}`, maxBody},
		"deleteAccount":  {"/account/delete", owner, `{"password":""}`, maxBody},
		"changeRoom":     {"/rooms/" + room, owner, `{"room_name":"a\nb"}`, maxBody},
		"changeUser":     {"/admin/users/member", root, `{"disabled":"no"}`, maxBody},
		"resetPassword":  {"/admin/users/member/password", root, `{"new_password":"short"}`, maxBody},
	} {
		want(400, "INVALID_FIELD", call(p, id, c.path, c.token, c.field))
		for _, bad := range []string{"", "{", "[]", "{}{}", "{\"body\":\"\xff\"}", `{"body":"\ud800"}`} {
			want(400, "INVALID_JSON", call(p, id, c.path, c.token, bad))
		}
		want(413, "BODY_TOO_LARGE", call(p, id, c.path, c.token, "{"+strings.Repeat(" ", c.limit-1)+"}"))
		if a := call(p, id, c.path, c.token, "{"+strings.Repeat(" ", c.limit-2)+"}"); a.status == 413 {
			t.Errorf("%s: %d bytes are too large", id, c.limit)
		}
		for _, site := range []string{"cross-site", "same-site"} {
			want(403, "FOREIGN_ORIGIN", call(p, id, c.path, c.token, "{}", "Sec-Fetch-Site", site, "Origin", "http://evil.example"))
		}
		for _, origin := range []string{"http://evil.example", "null", "http://" + p.addr + ".evil.example", "http://127.0.0.1:1"} {
			want(403, "FOREIGN_ORIGIN", call(p, id, c.path, c.token, "{}", "Origin", origin))
		}
		for _, ours := range [][]string{{"Sec-Fetch-Site", "same-origin"}, {"Sec-Fetch-Site", "none"}, {"Origin", "http://" + p.addr}} {
			want(400, "INVALID_JSON", call(p, id, c.path, c.token, "", ours...))
		}
	}
	for _, id := range []string{"deleteRoom", "removeMember", "ban", "unban", "endSessions"} {
		want(403, "FOREIGN_ORIGIN", call(p, id, needUser[id], owner, "", "Sec-Fetch-Site", "cross-site"))
	}

	// Accounts.
	want(200, "", call(p, "register", "/register", "", credentialsJSON("newcomer", testPassword)))
	want(409, "NAME_TAKEN", call(p, "register", "/register", "", credentialsJSON("newcomer", testPassword)))
	want(403, "REGISTRATION_CLOSED", call(closed, "register", "/register", "", credentialsJSON("newcomer", testPassword)))
	want(200, "", call(p, "login", "/login", "", credentialsJSON("newcomer", testPassword)))
	want(401, "INVALID_CREDENTIALS", call(p, "login", "/login", "", credentialsJSON("nobody", testPassword)))
	want(403, "ACCOUNT_DISABLED", call(p, "login", "/login", "", credentialsJSON("locked", testPassword)))

	// Rooms.
	want(200, "", call(p, "listRooms", "/rooms", stranger, ""))
	want(200, "", call(p, "listRooms", "/rooms", owner, "", "Sec-Fetch-Site", "cross-site")) // reads nothing that the page could see
	live := openSession(t, p.sockets(), memberRoom, -1)
	want(200, "", call(p, "listUsers", users, ownerRoom, ""))
	want(200, "", call(p, "listMessages", messages, ownerRoom, ""))
	want(200, "", call(p, "postMessage", messages, ownerRoom, `{"body":"hello"}`))
	want(200, "", call(p, "postMessage", "/rooms/"+strings.ToLower(room)+"/messages", ownerRoom, `{"body":"\u0000<&>\u2028","client_message_id":"1","more":1}`))
	want(200, "", call(p, "listMessages", messages+"?before_seq=3&limit=200", ownerRoom, ""))
	for _, query := range []string{"limit=201", "limit=-1", "limit=x", "limit=1.5", "before_seq=-1", "before_seq=x", "before_seq=18446744073709551616", "limit=18446744073709551615"} {
		want(400, "INVALID_FIELD", call(p, "listMessages", messages+"?"+query, ownerRoom, ""))
	}
	for _, code := range []string{"%20", strings.Repeat("x", 65)} {
		want(400, "INVALID_FIELD", call(p, "joinRoom", "/rooms/"+code+"/join", owner, "{}"))
		want(400, "INVALID_FIELD", call(p, "deleteRoom", "/rooms/"+code, owner, ""))
	}
	want(404, "ROOM_NOT_FOUND", call(p, "deleteRoom", "/rooms/333333", owner, ""))
	want(404, "ROOM_NOT_FOUND", call(p, "deleteRoom", "/rooms/"+room, stranger, ""))
	want(403, "NOT_OWNER", call(p, "deleteRoom", "/rooms/"+room, member, ""))
	want(403, "ROOM_ACCESS_DENIED", call(p, "joinRoom", "/rooms/"+room+"/join", stranger, `{"room_password":"wrong"}`))
	want(200, "", call(p, "deleteRoom", "/rooms/"+strings.ToLower(room), owner, ""))
	wantClose(t, "the room is deleted", live.end(), 4404, "ROOM_DELETED")
	want(404, "ROOM_NOT_FOUND", call(p, "deleteRoom", "/rooms/"+room, owner, ""))
	want(404, "ROOM_DELETED", call(p, "listUsers", users, ownerRoom, ""))
	want(404, "ROOM_DELETED", call(p, "listMessages", messages, memberRoom, ""))
	want(404, "ROOM_DELETED", call(p, "postMessage", messages, memberRoom, `{"body":"x"}`))
	want(403, "ROOM_ACCESS_DENIED", call(p, "joinRoom", "/rooms/"+room+"/join", owner, `{"room_password":"room"}`))

	want(200, "", call(p, "healthz", "/healthz", "", ""))
	want(200, "", call(p, "readyz", "/readyz", "", ""))
	upgrade := []string{"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="}
	want(101, "", call(p, "chat", "/chat", "", "", upgrade...))
	want(426, "UPGRADE_REQUIRED", call(p, "chat", "/chat", "", ""))
	want(403, "FOREIGN_ORIGIN", call(p, "chat", "/chat", "", "", append(upgrade, "Origin", "http://evil.example")...))

	// Administration and moderation.
	team := create()
	join(member, team, `{"room_password":"room"}`)
	of := moderation("/rooms/"+team, "member")
	for id, path := range of {
		if strings.HasPrefix(path, "/admin/") {
			want(403, "NOT_ADMIN", call(p, id, path, owner, "{}"))
		}
	}
	want(200, "", call(p, "getAccount", "/account", owner, ""))
	for _, id := range []string{"findUsers", "findRooms", "listAudit"} {
		want(200, "", call(p, id, of[id]+"?limit=200", root, ""))
		want(400, "INVALID_FIELD", call(p, id, of[id]+"?limit=201", root, ""))
		for _, query := range []string{"%zz", ";x", "x&limit=%"} { // was ignored, and everything was listed
			want(400, "INVALID_FIELD", call(p, id, of[id]+"?query="+query, root, ""))
		}
	}
	for id, body := range map[string]string{"changeUser": `{"role":"USER"}`, "resetPassword": `{"new_password":"another password"}`, "endSessions": ""} {
		want(404, "USER_NOT_FOUND", call(p, id, strings.Replace(of[id], "member", "nobody", 1), root, body))
		want(200, "", call(p, id, strings.Replace(of[id], "member", "newcomer", 1), root, body))
	}
	want(409, "LAST_ADMIN", call(p, "changeUser", "/admin/users/root", root, `{"role":"USER"}`))
	want(409, "LAST_ADMIN", call(p, "deleteAccount", "/account/delete", root, `{"password":"`+testPassword+`"}`))
	for _, id := range []string{"changePassword", "deleteAccount"} {
		want(401, "INVALID_CREDENTIALS", call(p, id, of[id], root, `{"password":"wrong password","new_password":"another password"}`))
	}
	want(200, "", call(p, "changePassword", "/account/password", p.login("fickle"), `{"password":"`+testPassword+`","new_password":"another password"}`))
	want(200, "", call(p, "deleteAccount", "/account/delete", p.login("gone"), `{"password":"`+testPassword+`"}`))
	want(200, "", call(p, "changeRoom", of["changeRoom"], owner, `{"room_name":"a team","room_password":"","owner":"owner"}`))
	for _, id := range []string{"changeRoom", "listMembers", "removeMember", "listBans", "ban", "unban"} {
		want(400, "INVALID_FIELD", call(p, id, strings.Replace(of[id], team, "%20", 1), owner, `{"room_name":"x"}`))
		want(404, "ROOM_NOT_FOUND", call(p, id, of[id], stranger, `{"room_name":"x"}`))
		if id != "listMembers" {
			want(403, "NOT_OWNER", call(p, id, moderation("/rooms/"+team, "owner")[id], member, `{"room_name":"x"}`))
		}
	}
	for _, id := range []string{"removeMember", "ban"} {
		path := strings.TrimSuffix(of[id], "member")
		want(404, "USER_NOT_FOUND", call(p, id, path+"nobody", owner, ""))
		want(409, "MEMBER_PROTECTED", call(p, id, path+"owner", owner, ""))
	}
	want(404, "USER_NOT_FOUND", call(p, "unban", of["unban"], owner, ""))
	left := join(stranger, team, `{"room_password":""}`)
	want(200, "", call(p, "removeMember", "/rooms/"+team+"/members/stranger", stranger, ""))
	for _, c := range [][2]string{{"listUsers", "/users"}, {"listMessages", "/messages"}, {"postMessage", "/messages"}} {
		want(403, "ROOM_ACCESS_DENIED", call(p, c[0], "/rooms/"+team+c[1], left, `{"body":"x"}`))
	}
	for _, id := range []string{"listMembers", "removeMember", "ban", "listBans", "unban"} {
		want(200, "", call(p, id, of[id], owner, ""))
	}

	// Too much of something.
	until429 := func(id, path, token, body string) {
		t.Helper()
		for range 100 {
			if a := call(p, id, path, token, body); a.status == 429 {
				want(429, "RATE_LIMITED", a)
				return
			}
		}
		t.Errorf("%s has no limit", id)
	}
	until429("login", "/login", "", credentialsJSON("owner", "wrong password"))
	until429("changePassword", "/account/password", owner, `{"password":"wrong password","new_password":"another password"}`)
	until429("deleteAccount", "/account/delete", owner, `{"password":"wrong password"}`)
	until429("joinRoom", "/rooms/"+other+"/join", stranger, `{"room_password":"wrong"}`)
	until429("register", "/register", "", credentialsJSON("newcomer", testPassword))
	until429("createRoom", "/rooms", member, `{"room_name":"many"}`)
	until429("postMessage", "/rooms/"+other+"/messages", otherRoom, `{"body":"x"}`)
	for id, a := range limitedModeration(t) {
		req := httptest.NewRequest(c.routes[id].Method, moderation("/rooms/ROOM", "eve")[id], nil)
		if err := c.check(id, req, a); err != nil || a.status != 429 {
			t.Errorf("%s: %d %.200q: %v", id, a.status, a.body, err)
		}
	}

	for _, answer := range c.documented(t) {
		if status := strings.Fields(answer)[1]; !slices.Contains(onlyBroken, status) && !c.seen[answer] {
			t.Errorf("%s is documented, and no test gets it", answer)
		}
	}
}

// The check above would find an answer that is not as it is described.
func TestOpenAPICheckFinds(t *testing.T) {
	c := readContract(t)
	json := http.Header{"Content-Type": {"application/json"}}
	limited := http.Header{"Content-Type": {"application/json"}, "Retry-After": {"1"}}
	const account = `{"id":1,"created_at":"2026-01-01T00:00:00Z","user_name":"ann","role":"USER"}`
	for _, x := range []struct {
		what, id string
		status   int
		header   http.Header
		body     string
		good     bool
	}{
		{"good", "register", 200, json, account, true},
		{"good error", "register", 429, limited, `{"error":"No.","code":"RATE_LIMITED"}`, true},
		{"one key more", "register", 200, json, strings.Replace(account, "{", `{"hash":"x",`, 1), false},
		{"one key less", "register", 200, json, strings.Replace(account, `"id":1,`, "", 1), false},
		{"wrong type", "register", 200, json, strings.Replace(account, "1,", `"1",`, 1), false},
		{"unknown role", "register", 200, json, strings.Replace(account, "USER", "ROOT", 1), false},
		{"no JSON", "register", 200, json, "x", false},
		{"type of another content", "register", 200, http.Header{"Content-Type": {"text/plain"}}, account, false},
		{"status of another call", "register", 404, json, `{"error":"No.","code":"NOT_FOUND"}`, false},
		{"code of another status", "register", 429, limited, `{"error":"No.","code":"NAME_TAKEN"}`, false},
		{"error without a sentence", "register", 429, limited, `{"error":"","code":"RATE_LIMITED"}`, false},
		{"no Retry-After", "register", 429, json, `{"error":"No.","code":"RATE_LIMITED"}`, false},
		{"Retry-After now", "register", 429, http.Header{"Content-Type": {"application/json"}, "Retry-After": {"0"}}, `{"error":"No.","code":"RATE_LIMITED"}`, false},
		{"call at another path", "login", 200, json, `{"token":"x"}`, false},
		{"unknown call", "nothing", 200, json, `{}`, false},
	} {
		req := httptest.NewRequest("POST", "/register", strings.NewReader(credentialsJSON("ann", testPassword)))
		req.Header.Set("Content-Type", "application/json")
		if err := c.check(x.id, req, restAnswer{status: x.status, header: x.header, body: []byte(x.body)}); (err == nil) != x.good {
			t.Errorf("%s: %v", x.what, err)
		}
	}
}

// Every route of the server is described, with all of its methods. The page's files are no interface.
func TestOpenAPIHasAllRoutes(t *testing.T) {
	t.Parallel()
	c := readContract(t)
	source, err := os.ReadFile("rest.go") // "all routes in one function"
	if err != nil {
		t.Fatal(err)
	}
	var routes, documented []string
	patterns := regexp.MustCompile(`mux\.Handle(?:Func)?\("([A-Z]+ [^"]+)", `).FindAllStringSubmatch(string(source), -1)
	for _, m := range patterns {
		routes = append(routes, m[1])
	}
	methods := map[string][]string{}
	for _, route := range c.routes {
		documented = append(documented, route.Method+" "+route.Path)
		methods[route.Path] = append(methods[route.Path], route.Method)
	}
	if slices.Sort(routes); !slices.Equal(routes, slices.Sorted(slices.Values(documented))) {
		t.Errorf("the server has %q, and openapi.json %q", routes, documented)
	}
	if n := strings.Count(string(source), "mux.Handle("); n+strings.Count(string(source), "mux.HandleFunc(") != len(routes)+1 {
		t.Error("there is a route that this test cannot read") // but for the one of the assets
	}
	p := startServer(t)
	for path, want := range methods {
		a := p.call("TRACE", strings.NewReplacer("{short_code}", "ABC347", "{user_name}", "ann").Replace(path), "", "")
		if slices.Contains(want, "GET") {
			want = append(want, "HEAD")
		}
		slices.Sort(want)
		if got := a.header.Get("Allow"); a.status != 405 || got != strings.Join(want, ", ") {
			t.Errorf("TRACE %s: %d, Allow: %q, want 405 and %q", path, a.status, got, want)
		}
	}
}

// Rooms by REST have the rules that they have by gRPC, and are the same rooms.
func TestRESTRooms(t *testing.T) {
	t.Parallel()
	r := newChatRoom(t, nil, "alice", "bob")
	path := "/rooms/" + r.code
	stream, socket := openSession(t, r.api, r.tokens["bob"], -1), openSession(t, r.sockets(), r.tokens["bob"], -1)
	say := func(body string) (seq any) {
		return r.call("POST", path+"/messages", r.tokens["alice"], body).json["seq"]
	}
	for i, id := range []string{"one", "two", "three"} {
		body := fmt.Sprintf(`{"body":"<%s>","client_message_id":"%s"}`, id, id)
		for range 3 {
			if seq := say(body); seq != float64(i+1) {
				t.Fatalf("the post of message %d is answered with the seq %v", i+1, seq)
			}
		}
		stream.wantMessage(uint64(i+1), "alice", "<"+id+">", id)
		socket.wantMessage(uint64(i+1), "alice", "<"+id+">", id)
	}
	if e, e2 := stream.quiet(), socket.quiet(); e != nil || e2 != nil {
		t.Errorf("the others got %v and %v too", e, e2)
	}
	if rows := storedIn(t, r.openReadOnly())[r.code]; len(rows) != 3 {
		t.Errorf("%d messages are stored, want 3", len(rows))
	}
	// Who posts is not present, neither before nor after.
	if a := r.call("GET", path+"/users", r.tokens["alice"], ""); string(a.body) != `{"users":[{"user_name":"bob"}]}`+"\n" {
		t.Errorf("present are %s", a.body)
	}
	stream.send(&pb.ChatRequest{Body: "from bob", ClientMessageId: "one"}) // the same id, of another sender
	stream.wantMessage(4, "bob", "from bob", "one")
	for id, status := range map[string]int{strings.Repeat("i", 128): 200, strings.Repeat("i", 129): 400, `\ud800`: 400, strings.Repeat("é", 65): 400} {
		if a := r.call("POST", path+"/messages", r.tokens["alice"], `{"body":"x","client_message_id":"`+id+`"}`); a.status != status {
			t.Errorf("an id of %d bytes: %d %s, want %d", len(id), a.status, a.body, status)
		}
	}
	for body, status := range map[string]int{strings.Repeat("x", 4096): 200, strings.Repeat("x", 4097): 400, strings.Repeat(`\u0000`, 4096): 200, strings.Repeat("é", 2049): 400, "": 400} {
		if a := r.call("POST", path+"/messages", r.tokens["alice"], `{"body":"`+body+`"}`); a.status != status {
			t.Errorf("a body of %d bytes: %d %.200s, want %d", len(body), a.status, a.body, status)
		}
	}

	// Pages of the history.
	const all = 7
	for query, want := range map[string][2]int{"": {1, all}, "?limit=0&before_seq=0": {1, all}, "?limit=2": {all - 1, all}, "?before_seq=4": {1, 3}, "?before_seq=4&limit=1": {3, 3},
		"?before_seq=1": {1, 0}, "?before_seq=18446744073709551615&limit=200": {1, all}, "?limit=&before_seq=": {1, all}} {
		a := r.call("GET", path+"/messages"+query, r.tokens["bob"], "")
		var seqs []int
		messages, _ := a.json["messages"].([]any)
		for _, m := range messages {
			seq, _ := m.(map[string]any)["seq"].(float64)
			seqs = append(seqs, int(seq))
		}
		var expected []int
		for seq := want[0]; seq <= want[1]; seq++ {
			expected = append(expected, seq)
		}
		if a.status != 200 || messages == nil || !slices.Equal(seqs, expected) {
			t.Errorf("messages%s: %d %v, want %v", query, a.status, seqs, expected)
		}
	}

	// One answer for a wrong password and no room; none is asked of a member.
	stranger := r.login("stranger")
	unknown := r.call("POST", "/rooms/333333/join", stranger, `{"room_password":"room"}`)
	wrong := r.call("POST", path+"/join", stranger, `{"room_password":"wrong"}`)
	for _, a := range []restAnswer{unknown, wrong} {
		a.header.Del("Date")
		a.header.Del("X-Request-Id")
	}
	if wrong.code() != "ROOM_ACCESS_DENIED" || wrong.status != unknown.status || !bytes.Equal(wrong.body, unknown.body) || !maps.EqualFunc(wrong.header, unknown.header, slices.Equal) {
		t.Errorf("a wrong password and no room differ:\n%v\n%v", wrong, unknown)
	}
	if a := r.call("GET", "/rooms", stranger, ""); string(a.body) != `{"rooms":[]}`+"\n" {
		t.Errorf("a stranger's rooms: %s", a.body)
	}
	if a := r.call("POST", path+"/join", stranger, `{"room_password":"room"}`); a.status != 200 {
		t.Errorf("join: %d %s", a.status, a.body)
	}
	a := r.call("POST", "/rooms/"+strings.ToLower(r.code)+"/join", stranger, `{"room_password":"wrong"}`)
	token, _ := a.json["token"].(string)
	if a.status != 200 {
		t.Fatalf("join of a member: %d %s", a.status, a.body)
	}
	if a := r.call("GET", path+"/users", token, ""); a.status != 200 {
		t.Errorf("the token of a member: %d %s", a.status, a.body)
	}
	// An open stream begins behind the join that its token tells, by whichever way it was made.
	late := openSession(t, r.api, token, -1)
	say(`{"body":"last","client_message_id":"last"}`)
	late.wantMessage(all+1, "alice", "last", "last")
	rooms := fmt.Sprintf(`{"rooms":[{"short_code":%q,"room_name":"a room","owner":"alice","last_seq":%d}]}`, r.code, all+1)
	if a := r.call("GET", "/rooms", stranger, ""); string(a.body) != rooms+"\n" {
		t.Errorf("a member's rooms: %s, want %s", a.body, rooms)
	}
}

// openapi.json is served as it is: plain and compressed, once only to who has it, and nothing to HEAD.
func TestOpenAPIServed(t *testing.T) {
	t.Parallel()
	p := startServer(t)
	want, err := os.ReadFile("openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	get := func(headers ...string) restAnswer { return p.call("GET", "/openapi.json", "", "", headers...) }
	plain, zipped := get(), get("Accept-Encoding", "br, gzip;q=0.5")
	if plain.status != 200 || !bytes.Equal(plain.body, want) || plain.header.Get("Content-Encoding") != "" || plain.header.Get("Content-Type") != "application/json" {
		t.Errorf("plain: %d %v, %d bytes", plain.status, plain.header, len(plain.body))
	}
	r, err := gzip.NewReader(bytes.NewReader(zipped.body))
	if err != nil {
		t.Fatal(err)
	}
	if unzipped, err := io.ReadAll(r); err != nil || !bytes.Equal(unzipped, want) || zipped.header.Get("Content-Encoding") != "gzip" || len(zipped.body) > len(want)/2 {
		t.Errorf("compressed: %v, %d bytes, %v", zipped.header, len(zipped.body), err)
	}
	for _, refuses := range []string{"identity", "gzip;q=0", "gzip; q=0.000", "", "deflate, br"} {
		if a := get("Accept-Encoding", refuses); a.header.Get("Content-Encoding") != "" || !bytes.Equal(a.body, want) {
			t.Errorf("to who accepts %q: %v", refuses, a.header)
		}
	}
	tag, zipTag := plain.header.Get("ETag"), zipped.header.Get("ETag")
	if tag == zipTag || !regexp.MustCompile(`^"[\x21\x23-\x7e]+"$`).MatchString(tag) {
		t.Errorf("the ETags are %s and %s", tag, zipTag)
	}
	for _, c := range []struct {
		has, accepts string
		status       int
	}{
		{tag, "", 304}, {"W/" + tag, "", 304}, {`"x", ` + tag, "", 304}, {"*", "", 304}, {zipTag, "gzip", 304},
		{`"x"`, "", 200}, {zipTag, "", 200}, {tag, "gzip", 200}, {strings.Trim(tag, `"`), "", 200}, {"", "", 200},
	} {
		a := get("If-None-Match", c.has, "Accept-Encoding", c.accepts)
		if a.status != c.status || (a.status == 304) != (len(a.body) == 0) || a.header.Get("ETag") == "" || a.header.Get("Vary") != "Accept-Encoding" || a.header.Get("Cache-Control") != "no-cache" {
			t.Errorf("who has %s and accepts %q: %d %v, %d bytes; want %d", c.has, c.accepts, a.status, a.header, len(a.body), c.status)
		}
		if a.status == 304 && (a.header.Get("Content-Encoding") != "" || a.header.Get("Content-Length") != "") {
			t.Errorf("304 with %v", a.header)
		}
	}
	for _, accepts := range []string{"", "gzip"} {
		a, head := get("Accept-Encoding", accepts), p.call("HEAD", "/openapi.json", "", "", "Accept-Encoding", accepts)
		a.header.Del("Date")
		a.header.Del("X-Request-Id")
		head.header.Del("Date")
		head.header.Del("X-Request-Id")
		if head.status != 200 || len(head.body) > 0 || !maps.EqualFunc(a.header, head.header, slices.Equal) {
			t.Errorf("HEAD: %d %v, %d bytes; GET: %v", head.status, head.header, len(head.body), a.header)
		}
	}
}

// Every kind of answer tells a browser what the page may do, and that nobody may frame it.
func TestSecurityHeaders(t *testing.T) {
	t.Parallel()
	r := newChatRoom(t, nil, "alice")
	upgrade := []string{"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="}
	for _, c := range []struct {
		method, path, token, body string
		headers                   []string
		status                    int
	}{
		{"GET", "/healthz", "", "", nil, 200},
		{"HEAD", "/healthz", "", "", nil, 200},
		{"GET", "/rooms", r.users["alice"], "", nil, 200},
		{"GET", "/rooms", "", "", nil, 401},
		{"GET", "/openapi.json", "", "", nil, 200},
		{"GET", "/openapi.json", "", "", []string{"If-None-Match", "*"}, 304},
		{"GET", "/chat", "", "", upgrade, 101},
		{"GET", "/chat", "", "", nil, 426},
		{"POST", "/login", "", "{", nil, 400},
		{"POST", "/login", "", "{}", []string{"Origin", "http://evil.example"}, 403},
		{"POST", "/login", "", strings.Repeat(" ", maxBody+1), nil, 413},
		{"PATCH", "/login", "", "", nil, 405},
		{"GET", "/nothing", "", "", nil, 404},
		{"GET", "//healthz", "", "", nil, 404},
		{"OPTIONS", "/rooms", "", "", []string{"Origin", "http://evil.example", "Access-Control-Request-Method", "POST"}, 405},
	} {
		a := r.call(c.method, c.path, c.token, c.body, c.headers...)
		what := fmt.Sprint(c.method, " ", c.path, ": ", a.status)
		if a.status != c.status {
			t.Errorf("%s, want %d", what, c.status)
		}
		policy := a.header.Get("Content-Security-Policy")
		for _, rule := range []string{"default-src 'self'", "frame-ancestors 'none'", "object-src 'none'", "base-uri 'none'"} {
			if !strings.Contains(policy, rule) {
				t.Errorf("%s: the policy %q lacks %q", what, policy, rule)
			}
		}
		if len(a.header.Values("Content-Security-Policy")) != 1 || strings.Contains(policy, "unsafe") || strings.Contains(policy, "*") || strings.Contains(policy, "http") {
			t.Errorf("%s: the policy is %q", what, policy)
		}
		if a.header.Get("X-Content-Type-Options") != "nosniff" || a.header.Get("Referrer-Policy") != "no-referrer" {
			t.Errorf("%s: %v", what, a.header)
		}
		for name := range a.header {
			if strings.HasPrefix(name, "Access-Control-") {
				t.Errorf("%s: %s lets other pages in", what, name)
			}
		}
	}
}
