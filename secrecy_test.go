package main

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc/metadata"

	"github.com/grpcchatter/grpcchatter/pb"
)

// A whole run with all that can go right and wrong, at the highest log level: neither output has a password, a
// token or a part of one, the secret, a room's password or a message (promise 7; fault 4).
func TestNothingSecretIsLogged(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"text", "json"} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			testSecrecy(t, "--log-format="+format)
		})
	}
}

func testSecrecy(t *testing.T, args ...string) {
	const (
		secret       = "hush-1-secret-of-the-server-hush-1"
		password     = "hush-2-password"
		wrong        = "hush-3-wrong-password"
		newPassword  = "hush-4-new-password"
		roomPassword = "hush-5-room-password"
		wrongRoom    = "hush-6-wrong-room-password"
		body         = "hush-7-message"
		rejected     = "hush-8-rejected"
		garbage      = "hush-9-garbage"
	)
	dir := t.TempDir()
	asJSON := strings.HasSuffix(args[0], "json")
	env := []string{"SECRET=" + secret}
	if !asJSON {
		env = append(env, "GRPC_GO_LOG_SEVERITY_LEVEL=info", "GRPC_GO_LOG_VERBOSITY_LEVEL=99") // grpc-go's own log too
	}
	p := startProgram(t, dir, env, append(args, "--listen-addr=127.0.0.1:0", "--log-level=debug")...)
	addr := p.addrs(t, 1)[0]
	server := &serverProcess{t: t, addr: addr}
	conn := server.dial()
	secrets := []string{secret, password, wrong, newPassword, roomPassword, wrongRoom, body, rejected, garbage}
	keepToken := func(token string) string {
		secrets = append(append(secrets, token), strings.Split(token, ".")...)
		return token
	}
	login := func(password string) string {
		_, _, answer, err := post(addr, "/login", credentialsJSON("alice", password))
		if err != nil {
			t.Fatal(err)
		}
		token, _ := answer["token"].(string)
		return token
	}

	// REST, right and wrong.
	for _, body := range []string{credentialsJSON("alice", password), credentialsJSON("alice", wrong), credentialsJSON("b", wrong), credentialsJSON("bob", "hush-3"),
		`{"user_name":"` + garbage + `","password":` + garbage, `{"password":{"` + garbage + `":1}}`, garbage, `{"user_name":"carl","password":"` + garbage + `"} ` + garbage} {
		for _, path := range []string{"/register", "/login", "/nothing?password=" + garbage} {
			if _, _, _, err := request(addr, "POST", path, body); err != nil {
				t.Error(err)
			}
		}
	}
	token := keepToken(login(password))
	if token == "" || login(wrong) != "" {
		t.Fatal("log-in does not work")
	}
	for _, b := range []string{garbage, "GET /" + garbage + " HTTP/9.9\r\n\r\n", "POST /login?" + garbage + ";x HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n" + garbage,
		"GET / HTTP/1.1\r\nHost: x\r\n" + garbage + "\r\n\r\n", "GET /healthz HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + garbage + "\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + garbage, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x0e\x00\x00\x00\x00\x00\x01" + garbage} {
		throw(t, addr, []byte(b))
	}

	// gRPC, right and wrong.
	alice := bearerHeader(token)
	code := onlyText(t, mustCall(t, conn, alice, current+"CreateChatRoom", text(1, "a room"), text(2, roomPassword)))
	_, _ = rawCall(t, conn, alice, current+"CreateChatRoom", text(1, ""), text(2, roomPassword))
	_, _ = rawCall(t, conn, alice, current+"CreateChatRoom", text(1, garbage+"\xff"), text(2, roomPassword))
	_, _ = rawCall(t, conn, alice, current+"JoinChatRoom", text(1, code), text(2, strings.Repeat(wrongRoom, 20)))
	post(addr, "/register", credentialsJSON("bob", password))
	_, _, answer, err := post(addr, "/login", credentialsJSON("bob", password))
	if err != nil {
		t.Fatal(err)
	}
	bob := keepToken(answer["token"].(string))
	for _, service := range []string{current, original} {
		_, err := rawCall(t, conn, tokenHeader(bob), service+"JoinChatRoom", text(1, code), text(2, wrongRoom))
		if err == nil {
			t.Error("a wrong room password is taken")
		}
	}
	bobRoom := keepToken(onlyText(t, mustCall(t, conn, tokenHeader(bob), original+"JoinChatRoom", text(1, code), text(2, roomPassword))))
	aliceRoom := keepToken(onlyText(t, mustCall(t, conn, alice, current+"JoinChatRoom", text(1, code))))
	expired := tokenMaker(t, secret)
	expired.now = func() time.Time { return time.Now().Add(-24 * time.Hour) }
	old, err := expired.userToken(user{ID: 1})
	if err != nil {
		t.Fatal(err)
	}
	keepToken(old)
	for _, header := range []metadata.MD{bearerHeader(garbage), bearerHeader(aliceRoom), tokenHeader(token + "x"), bearerHeader(old), tokenHeader("a." + garbage + ".c"),
		metadata.Pairs("authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(garbage)))} {
		_, _ = rawCall(t, conn, header, current+"ListChatRooms", []byte(garbage))
		_, _ = rawCall(t, conn, header, current+garbage)
	}
	dialHTTP2(t, addr).call("/"+garbage, []byte(garbage), "token", token, garbage, garbage)
	dialHTTP2(t, addr).call(garbage, nil, "token", token)

	s := openSession(t, pb.NewGRPCChatterClient(conn), aliceRoom, 0)
	old1 := openRaw(t, conn, tokenHeader(bobRoom), original+"Chat")
	s.send(&pb.ChatRequest{Body: body, ClientMessageId: body})
	old1.want("alice", body)
	s.send(&pb.ChatRequest{Body: strings.Repeat(rejected, 1000), ClientMessageId: rejected})
	for e := s.next(); e.GetKind() != pb.ChatEventKind_REJECTED; e = s.next() {
	}
	old1.send(text(1, rejected+"\xff"))
	if old1.end() == nil {
		t.Error("a message that is not UTF-8 is taken")
	}
	mustCall(t, conn, bearerHeader(aliceRoom), current+"ListMessages")
	malformed := openRaw(t, conn, bearerHeader(aliceRoom), current+"Chat")
	malformed.send([]byte("\xff" + garbage))
	_ = malformed.end()

	// The same by REST and by WebSocket: whatever stands in the path, the headers, the body, a frame or a close reason.
	rooms := "/rooms/" + code
	for _, token := range []string{"", garbage, token, bob, aliceRoom, bobRoom, old, token + "x"} {
		for _, path := range []string{"/rooms", rooms + "/join", rooms + "/messages", "/rooms/" + garbage + "/join", "/rooms/" + garbage + "/messages", "/chat?token=" + garbage, "/chat/" + token} {
			for _, b := range []string{`{"room_name":"a room","room_password":"` + roomPassword + `"}`, `{"room_password":"` + wrongRoom + `"}`, `{"body":"` + body + `","client_message_id":"` + body + `"}`,
				`{"body":"` + strings.Repeat(rejected, 1000) + `"}`, garbage, `{"body":{"` + garbage + `":1}}`} {
				server.call("POST", path, token, b, "Origin", "http://"+addr, "X-Garbage", garbage)
				server.call("POST", path, token, b, "Origin", "http://"+garbage)
			}
			server.call("GET", path+"?limit="+garbage+"&token="+token, token, "")
		}
		server.call("DELETE", "/rooms/"+garbage, token, "")
	}
	for _, token := range []string{token, garbage} {
		server.call("PATCH", rooms, token, `{"room_name":"a room","room_password":"`+roomPassword+`"}`)
		server.call("POST", "/account/password", token, `{"password":"`+wrong+`","new_password":"`+newPassword+`"}`)
		server.call("POST", "/account/password", token, `{"password":"`+password+`","new_password":"hush-3"}`)
		server.call("POST", "/account/delete", token, `{"password":"`+wrong+`"}`)
		server.call("POST", "/admin/users/"+garbage+"/password", token, `{"new_password":"`+newPassword+`"}`)
		server.call("PUT", rooms+"/bans/"+garbage, token, garbage)
		server.call("GET", "/admin/users?query="+garbage, token, "")
	}
	for _, first := range []string{opening(token), opening(old), opening(garbage), garbage, `{"token":"` + aliceRoom + `","x":"` + garbage, strings.TrimSuffix(opening(aliceRoom), "}") + `,"body":{"` + garbage + `":1}}`} {
		conn := server.dialSocket(t)
		if err := conn.Write(t.Context(), websocket.MessageText, []byte(first)); err != nil {
			t.Error(err)
		}
		if endOf(conn) == nil {
			t.Errorf("%s opens a socket", first)
		}
	}
	for _, later := range []string{garbage, `{"body":"` + garbage + `\ud800"}`, strings.Repeat(garbage, 20_000)} {
		d := openDevice(t, server.sockets(), aliceRoom, 0)
		d.say(t, "", body)
		d.say(t, rejected, strings.Repeat(rejected, 1000))
		d.await(t, 1)
		_ = d.stream.(*socketStream).conn.Write(t.Context(), websocket.MessageText, []byte(later))
		_ = d.end(t, patience)
	}
	for _, reason := range []string{garbage, aliceRoom[:100]} {
		_ = openDevice(t, server.sockets(), aliceRoom, 0).stream.(*socketStream).conn.Close(websocket.StatusNormalClosure, reason)
	}

	// Commands beside the server, whose output counts too.
	outputs := []string{}
	for in, args := range map[string][]string{newPassword + "\n": {"passwd", "alice"}, "hush-3\n": {"passwd", "bob"}, newPassword: {"add", "dora"}, wrong: {"add", "alice"}} {
		_, out, errOut := runProgram(t, dir, nil, in, append([]string{"user"}, args...)...)
		outputs = append(outputs, out, errOut)
	}
	_ = s.end() // alice's password is another one
	alice = bearerHeader(keepToken(login(newPassword)))
	mustCall(t, conn, alice, current+"DeleteChatRoom", text(1, code))
	_, _ = rawCall(t, conn, bearerHeader(bobRoom), current+"ListMessages")
	p.stop()

	outputs = append(outputs, p.stdout(), p.log())
	if !strings.Contains(strings.ToUpper(p.log()), "DEBUG") {
		t.Errorf("no debug line in the log, so it proves nothing:\n%s", p.log())
	}
	for _, out := range outputs {
		for line := range strings.Lines(out) {
			for _, s := range secrets {
				if len(s) > 3 && strings.Contains(line, s) {
					t.Errorf("%q is in the output: %s", s, line)
				}
			}
			if strings.Contains(line, "hush-") {
				t.Errorf("what must not be logged is in the output: %s", line)
			}
			if asJSON && strings.Contains(out, "DEBUG") && !json.Valid([]byte(line)) {
				t.Errorf("LOG_FORMAT=json: %s", line)
			}
		}
	}
}
