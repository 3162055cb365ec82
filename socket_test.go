package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/grpcchatter/grpcchatter/pb"
)

// socketAPI is Chat by WebSocket in the shape that gRPC gives it, so that the clients of all tests speak both.
type socketAPI struct {
	pb.GRPCChatterClient // nil: it has no other methods
	addr                 string
	transport            *http.Transport // nil: the usual one
}

func (p *serverProcess) sockets() socketAPI { return socketAPI{addr: p.addr} }

// through makes it a connection that control sees before it is used.
func (a socketAPI) through(control func(*net.TCPConn)) socketAPI {
	a.transport = &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err == nil {
			control(conn.(*net.TCPConn))
		}
		return conn, err
	}}
	return a
}

// Chat opens a WebSocket that is closed when ctx ends. Its first frame, with the token of ctx, is the first Send.
func (a socketAPI) Chat(ctx context.Context, _ ...grpc.CallOption) (grpc.BidiStreamingClient[pb.ChatRequest, pb.ChatResponse], error) {
	md, _ := metadata.FromOutgoingContext(ctx)
	options := &websocket.DialOptions{}
	if a.transport != nil {
		options.HTTPClient = &http.Client{Transport: a.transport}
	}
	conn, _, err := websocket.Dial(ctx, "ws://"+a.addr+"/chat", options)
	if err != nil {
		time.Sleep(20 * time.Millisecond) // whoever comes back at once would spin
		return nil, err
	}
	conn.SetReadLimit(-1)
	context.AfterFunc(ctx, func() { _ = conn.CloseNow() })
	return &socketStream{ctx: ctx, conn: conn, token: strings.TrimPrefix(md.Get("authorization")[0], "Bearer ")}, nil
}

// socketStream is one WebSocket. Its end is a websocket.CloseError.
type socketStream struct {
	grpc.ClientStream // nil: it has no other methods
	ctx               context.Context
	conn              *websocket.Conn
	token             string // to be sent in the first frame
}

func (s *socketStream) Send(req *pb.ChatRequest) error {
	b, err := protojson.Marshal(req)
	if err == nil && s.token != "" {
		first := map[string]any{}
		if err = json.Unmarshal(b, &first); err == nil {
			first["token"], s.token = s.token, ""
			b, err = json.Marshal(first)
		}
	}
	if err != nil {
		return err
	}
	return s.conn.Write(s.ctx, websocket.MessageText, b)
}

// Recv reads a frame, which has to be a ChatResponse and nothing more.
func (s *socketStream) Recv() (*pb.ChatResponse, error) {
	kind, b, err := s.conn.Read(s.ctx)
	if err != nil {
		return nil, err
	}
	resp := &pb.ChatResponse{}
	if err := protojson.Unmarshal(b, resp); err != nil || kind != websocket.MessageText {
		return nil, fmt.Errorf("the %s frame %q is no ChatResponse: %w", kind, b, err)
	}
	return resp, nil
}

// Header waits for the first frame, which says that the session is open.
func (s *socketStream) Header() (metadata.MD, error) {
	resp, err := s.Recv()
	if err == nil && len(resp.GetEvents()) > 0 {
		err = fmt.Errorf("the first frame is %v, want one without events", resp)
	}
	return nil, err
}

func (s *socketStream) CloseSend() error { return s.conn.Close(websocket.StatusNormalClosure, "") }

// wantClose checks how the server has closed a WebSocket: with a code, and a reason that begins with the error's.
func wantClose(t testing.TB, what string, err error, code websocket.StatusCode, reason string) {
	t.Helper()
	var end websocket.CloseError
	if !errors.As(err, &end) || end.Code != code || !strings.HasPrefix(end.Reason, reason+": ") || len(end.Reason) > 123 || !utf8.ValidString(end.Reason) {
		t.Errorf("%s: the end is %v, want %d with a reason like \"%s: …\" of at most 123 bytes", what, err, code, reason)
	}
}

// dialSocket opens a WebSocket and says nothing.
func (p *serverProcess) dialSocket(t testing.TB) *websocket.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, "ws://"+p.addr+"/chat", nil)
	if err != nil {
		t.Fatal(err)
	}
	conn.SetReadLimit(-1)
	t.Cleanup(func() { _ = conn.CloseNow() })
	return conn
}

// endOf reads to the end of a WebSocket.
func endOf(conn *websocket.Conn) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for err == nil {
		_, _, err = conn.Read(ctx)
	}
	return err
}

func opening(token string) string { return fmt.Sprintf(`{"token":%q}`, token) }

// Two sockets and a stream of gRPC in one room are the same to one another: presence, typing, messages in one order,
// and one's own with its client_message_id.
func TestSocketsAndStream(t *testing.T) {
	t.Parallel()
	const each = 60
	r := newChatRoom(t, nil, "alice", "bob", "carol")
	alice := openSession(t, r.sockets(), r.tokens["alice"], -1)
	bob := openSession(t, r.sockets(), r.tokens["bob"], -1)
	alice.wantKind(pb.ChatEventKind_USER_JOINED, "bob")
	carol := openSession(t, r.api, r.tokens["carol"], -1)
	all := map[string]*chatSession{"alice": alice, "bob": bob, "carol": carol}
	alice.wantKind(pb.ChatEventKind_USER_JOINED, "carol")
	bob.wantKind(pb.ChatEventKind_USER_JOINED, "carol")
	if got := present(t, r.api, r.tokens["bob"]); !slices.Equal(got, []string{"alice", "bob", "carol"}) {
		t.Errorf("present are %v", got)
	}
	for typist, s := range all {
		s.send(&pb.ChatRequest{Typing: true})
		for name, other := range all {
			if name != typist {
				other.wantKind(pb.ChatEventKind_TYPING, typist)
			}
		}
	}

	var sending sync.WaitGroup
	for name, s := range all {
		sending.Go(func() {
			for i := range each {
				id := fmt.Sprint(name, i)
				if err := s.Send(&pb.ChatRequest{Body: "says " + id, ClientMessageId: id}); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
	}
	var order []*pb.ChatEvent
	for _, name := range []string{"carol", "alice", "bob"} {
		own := 0
		for i := range len(all) * each {
			e := all[name].next()
			if name == "carol" {
				order = append(order, e)
			} else if !proto.Equal(e, order[i]) {
				t.Fatalf("%s got %v as message %d, and carol %v", name, e, i, order[i])
			}
			if e.GetSeq() != uint64(i+1) || e.GetKind() != pb.ChatEventKind_MESSAGE || time.Since(e.GetSentAt().AsTime()).Abs() > time.Minute || e.GetBody() != "says "+e.GetClientMessageId() {
				t.Fatalf("%s got %v as message %d", name, e, i+1)
			}
			if e.GetUserName() == name {
				if e.GetClientMessageId() != fmt.Sprint(name, own) {
					t.Fatalf("%s got its own message %v, want number %d", name, e, own)
				}
				own++
			}
		}
	}
	sending.Wait()

	_ = bob.CloseSend()
	alice.wantKind(pb.ChatEventKind_USER_LEFT, "bob")
	carol.wantKind(pb.ChatEventKind_USER_LEFT, "bob")
	carol.cancel()
	alice.wantKind(pb.ChatEventKind_USER_LEFT, "carol")
	if e := alice.quiet(); e != nil {
		t.Errorf("alice got %v too", e)
	}
}

// What breaks a rule comes back as REJECTED to its sender alone, a resend is harmless, and the socket goes on; the first
// frame may carry a message too.
func TestSocketRejected(t *testing.T) {
	t.Parallel()
	r := newChatRoom(t, nil, "alice", "bob")
	bob := openSession(t, r.sockets(), r.tokens["bob"], -1)
	alice := openRequest(t, r.sockets(), r.tokens["alice"], &pb.ChatRequest{Body: "first", ClientMessageId: "1"})
	alice.wantMessage(1, "alice", "first", "1")
	bob.wantKind(pb.ChatEventKind_USER_JOINED, "alice")
	bob.wantMessage(1, "alice", "first", "1")
	for id, req := range map[string]*pb.ChatRequest{
		"empty":     {},
		"too long":  {Body: strings.Repeat("x", 4097)},
		"é":         {Body: strings.Repeat("é", 2049)},
		"start":     {Body: "x", Start: &pb.ChatStart{}},
		"of spaces": {Body: strings.Repeat(" ", 4097)},
	} {
		req.ClientMessageId = id
		alice.send(req)
		alice.wantRejected(id)
	}
	alice.send(&pb.ChatRequest{}) // {}
	alice.wantRejected("")
	alice.send(&pb.ChatRequest{Body: "x", ClientMessageId: strings.Repeat("i", 129)})
	alice.wantRejected("")

	longest := strings.Repeat("\x00", 4096) // 24 KiB of JSON
	alice.send(&pb.ChatRequest{Body: longest, ClientMessageId: "2"})
	alice.wantMessage(2, "alice", longest, "2")
	for range 3 {
		alice.send(&pb.ChatRequest{Body: "another body", ClientMessageId: "1"})
		alice.wantMessage(1, "alice", "first", "1")
	}
	bob.wantMessage(2, "alice", longest, "2")
	if e := bob.quiet(); e != nil {
		t.Errorf("bob got %v too", e)
	}
	if rows := storedIn(t, r.openReadOnly())[r.code]; len(rows) != 2 {
		t.Errorf("%d messages are stored, want 2", len(rows))
	}
}

// Resume is complete by WebSocket too: from the ring, from the database, and from one into the other (promise 4).
func TestSocketResumes(t *testing.T) {
	t.Parallel()
	const n = 400 // of 2,000 bytes: about three times the ring
	p := startWatched(t, "--max-message-queue-size=1")
	token := p.login("anna")
	api := pb.NewGRPCChatterClient(p.connect())
	code := createRoom(t, api, token)
	early := joinRoom(t, api, token, code)
	writer := openDevice(t, p.sockets(), early, 0)
	body := func(i int) string { return fmt.Sprint(i, strings.Repeat(" <&>\u2028\"", 220)) }
	for i := range n {
		writer.say(t, fmt.Sprint(i+1), body(i+1))
	}
	writer.await(t, n)
	late := joinRoom(t, api, token, code)
	check := func(what, roomToken string, after int64, first, last int) {
		t.Helper()
		d := openDevice(t, p.sockets(), roomToken, after)
		writer.say(t, fmt.Sprint(last), body(last))
		got := d.await(t, last-first+1)
		for i, e := range got {
			if seq := first + i; e.Seq != uint64(seq) || e.Body != body(seq) || e.ClientMessageId != fmt.Sprint(seq) {
				t.Fatalf("%s: got seq %d of %d bytes as message %d, want seq %d", what, e.Seq, len(e.Body), i, seq)
			}
		}
		d.leave()
	}
	next := n
	for _, after := range []int64{0, 1, n / 2, n - 20, n - 1, n, -1} {
		next++
		check(fmt.Sprint("after ", after), early, after, int(max(after, 0))+1, next)
	}
	next++
	check("without a start, joined late", late, -1, n+1, next)
	next++
	check("after a seq that is to come", early, math.MaxInt64, next, next)
}

// Every way to end a WebSocket has its close code and a reason, and none disturbs another one.
func TestSocketEnds(t *testing.T) {
	t.Parallel()
	r := newChatRoom(t, []string{"--secret", testSecret}, "alice", "bob")
	bob := openSession(t, r.sockets(), r.tokens["bob"], -1)
	makers := map[string]*auth{"expired": tokenMaker(t, testSecret), "of another server": tokenMaker(t, testSecret+"!")}
	makers["expired"].now = func() time.Time { return time.Now().Add(-2 * time.Hour) }
	made := map[string]string{}
	for name, maker := range makers {
		token, err := maker.roomToken(user{ID: 1}, roomClaims{RoomID: 1})
		if err != nil {
			t.Fatal(err)
		}
		made[name] = token
	}
	const text, binary = websocket.MessageText, websocket.MessageBinary
	good := opening(r.tokens["alice"])
	large := func(size int) string {
		return strings.TrimSuffix(good, "}") + strings.Repeat(" ", size-len(good)) + "}"
	}
	first, later := maxBody+4096, maxRequest+escapedSize*4096 // bytes
	type way struct {
		name   string
		kind   websocket.MessageType
		frame  string
		code   websocket.StatusCode
		reason string
	}
	ways := []way{
		{"no token", text, `{}`, 4401, "TOKEN_MISSING"},
		{"empty token", text, `{"token":""}`, 4401, "TOKEN_MISSING"},
		{"a number as token", text, `{"token":1}`, 4401, "TOKEN_MISSING"},
		{"token in another field", text, `{"start":{"afterSeq":"0"},"authorization":"` + r.tokens["alice"] + `"}`, 4401, "TOKEN_MISSING"},
		{"bad token", text, opening("a.b.c"), 4401, "TOKEN_INVALID"},
		{"tampered token", text, opening(r.tokens["alice"] + "x"), 4401, "TOKEN_INVALID"},
		{"token with its scheme", text, opening("Bearer " + r.tokens["alice"]), 4401, "TOKEN_INVALID"},
		{"token of a user", text, opening(r.users["alice"]), 4401, "TOKEN_INVALID"},
		{"token of another server", text, opening(made["of another server"]), 4401, "TOKEN_INVALID"},
		{"expired token", text, opening(made["expired"]), 4401, "TOKEN_EXPIRED"},
		{"too large for a stranger", text, large(first + 1), 1009, "BODY_TOO_LARGE"},
	}
	anytime := []way{
		{"binary", binary, good, 1003, "UNSUPPORTED_DATA"},
		{"binary, empty", binary, "", 1003, "UNSUPPORTED_DATA"},
		{"empty", text, "", 4400, "INVALID_JSON"},
		{"no JSON", text, "hello", 4400, "INVALID_JSON"},
		{"half", text, good[:len(good)-1], 4400, "INVALID_JSON"},
		{"two", text, good + good, 4400, "INVALID_JSON"},
		{"array", text, "[" + good + "]", 4400, "INVALID_JSON"},
		{"null", text, "null", 4400, "INVALID_JSON"},
		{"text", text, `"x"`, 4400, "INVALID_JSON"},
		{"body a number", text, `{"body":1}`, 4400, "INVALID_JSON"},
		{"seq below 0", text, `{"start":{"afterSeq":-1}}`, 4400, "INVALID_JSON"},
		{"seq too large", text, `{"start":{"afterSeq":"18446744073709551616"}}`, 4400, "INVALID_JSON"},
		{"not UTF-8", text, "{\"body\":\"\xff\"}", 4400, "INVALID_JSON"},
		{"not UTF-8 in what is not read", text, strings.TrimSuffix(good, "}") + ",\"x\":\"\xff\"}", 4400, "INVALID_JSON"},
		{"lone surrogate", text, `{"body":"\ud800"}`, 4400, "INVALID_JSON"},
		{"lone surrogate as id", text, `{"clientMessageId":"\udc00\ud800"}`, 4400, "INVALID_JSON"},
		{"deep", text, `{"x":` + strings.Repeat("[", 15_000), 4400, "INVALID_JSON"},
		{"a byte too large", text, large(later + 1), 1009, "BODY_TOO_LARGE"},
		{"a mebibyte", text, large(1 << 20), 1009, "BODY_TOO_LARGE"},
		{"8 MiB", text, large(8 << 20), 1009, "BODY_TOO_LARGE"},
	}
	check := func(t *testing.T, way way, before ...string) {
		conn := r.dialSocket(t)
		for _, frame := range before {
			if err := conn.Write(t.Context(), text, []byte(frame)); err != nil {
				t.Fatal(err)
			}
			if _, b, err := conn.Read(t.Context()); err != nil || string(b) != `{"events":[]}` {
				t.Fatalf("a good first frame is answered with %q, %v", b, err)
			}
		}
		_ = conn.Write(t.Context(), way.kind, []byte(way.frame)) // may fail, when the server has had enough
		wantClose(t, way.name, endOf(conn), way.code, way.reason)
	}
	for _, way := range append(ways, anytime...) {
		t.Run("first/"+way.name, func(t *testing.T) { check(t, way) })
	}
	for _, way := range anytime {
		t.Run("later/"+way.name, func(t *testing.T) { check(t, way, good) })
	}
	t.Run("not too large", func(t *testing.T) {
		conn := r.dialSocket(t)
		for _, frame := range []struct {
			size   int
			answer string
		}{{first, `{"events":[]}`}, {later, `"REJECTED"`}} {
			if err := conn.Write(t.Context(), text, []byte(large(frame.size))); err != nil {
				t.Fatal(err)
			}
			if _, b, err := conn.Read(t.Context()); err != nil || !strings.Contains(string(b), frame.answer) {
				t.Errorf("a frame of %d bytes is answered with %q, %v", frame.size, b, err)
			}
		}
	})
	bob.send(&pb.ChatRequest{Body: "still here", ClientMessageId: "still"})
	for e := bob.next(); e.GetClientMessageId() != "still"; e = bob.next() {
	}
	eventually(t, patience, "alice is gone", func() bool { return slices.Equal(present(t, r.api, r.tokens["bob"]), []string{"bob"}) })

	// The account, and then the room, go away beneath open sockets; new ones hear of it too.
	alice := openSession(t, r.sockets(), r.tokens["alice"], -1)
	mustRun(t, r.dir, "", "user", "disable", "alice")
	wantClose(t, "the account is disabled", alice.end(), 4401, "TOKEN_INVALID")
	check(t, way{"of a disabled account", text, good, 4401, "TOKEN_INVALID"})
	mustRun(t, r.dir, "", "user", "enable", "alice")
	if _, err := r.api.DeleteChatRoom(withToken(t.Context(), r.login("alice")), &pb.DeleteChatRoomRequest{ShortCode: r.code}); err != nil {
		t.Fatal(err)
	}
	wantClose(t, "the room is deleted", bob.end(), 4404, "ROOM_DELETED")
	check(t, way{"of a deleted room", text, opening(r.tokens["bob"]), 4404, "ROOM_DELETED"})
}

// Who says nothing for 10 s is cut, and told why, while a client that only listens stays.
func TestSocketSaysNothing(t *testing.T) {
	onlySQLite(t) // it is about connections
	t.Parallel()
	r := newChatRoom(t, nil, "alice")
	alice := openSession(t, r.sockets(), r.tokens["alice"], -1)
	start := time.Now()
	wantClose(t, "no first frame", endOf(r.dialSocket(t)), 4400, "INVALID_FIELD")
	if took := time.Since(start); took < openTimeout-time.Second || took > openTimeout+5*time.Second {
		t.Errorf("cut after %s, want %s", took, openTimeout)
	}
	if e := alice.quiet(); e != nil {
		t.Errorf("alice got %v", e)
	}
	alice.send(&pb.ChatRequest{Body: "still here"})
	alice.wantMessage(1, "alice", "still here", "")
}

// Who writes too much is cut, with all that was acknowledged stored, and nobody else is.
func TestSocketRateLimited(t *testing.T) {
	t.Parallel()
	r := newChatRoom(t, []string{"--rate-limits=on"}, "alice", "bob")
	bob := openDevice(t, r.sockets(), r.tokens["bob"], 0)
	alice := openDevice(t, r.sockets(), r.tokens["alice"], 0)
	for range 60_000 {
		if alice.stream.Send(&pb.ChatRequest{Body: "x"}) != nil {
			break
		}
	}
	wantClose(t, "too many messages", alice.end(t, patience), 4429, "RATE_LIMITED")
	bob.say(t, "calm", "calm")
	for i, e := range bob.awaitID(t, "calm") {
		if e.Seq != uint64(i+1) {
			t.Fatalf("bob got seq %d as message %d", e.Seq, i+1)
		}
	}
}

// A page of another server gets no WebSocket; this server's own, and what is no browser, do. What is no handshake is
// answered in JSON.
func TestSocketHandshake(t *testing.T) {
	t.Parallel()
	r := newChatRoom(t, nil, "alice")
	handshake := "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	without := func(name string) string {
		return strings.Join(slices.DeleteFunc(strings.SplitAfter(handshake, "\r\n"), func(line string) bool { return strings.HasPrefix(line, name) }), "")
	}
	for _, c := range []struct {
		name, method, headers string
		status                int
		code                  string
	}{
		{"no Origin", "GET", handshake, 101, ""},
		{"same Origin", "GET", handshake + "Origin: http://" + r.addr + "\r\n", 101, ""},
		{"same Origin behind a proxy with TLS", "GET", handshake + "Origin: https://" + r.addr + "\r\n", 101, ""},
		{"as a browser asks", "GET", handshake + "Origin: http://" + r.addr + "\r\nSec-Fetch-Site: same-origin\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\nSec-WebSocket-Protocol: x\r\n", 101, ""},
		{"foreign Origin", "GET", handshake + "Origin: http://evil.example\r\n", 403, "FOREIGN_ORIGIN"},
		{"foreign Origin, another port", "GET", handshake + "Origin: http://127.0.0.1:1\r\n", 403, "FOREIGN_ORIGIN"},
		{"foreign Origin, ours in it", "GET", handshake + "Origin: http://" + r.addr + ".evil.example\r\n", 403, "FOREIGN_ORIGIN"},
		{"foreign Origin, ours as its user", "GET", handshake + "Origin: http://" + r.addr + "@evil.example\r\n", 403, "FOREIGN_ORIGIN"},
		{"Origin of a file", "GET", handshake + "Origin: null\r\n", 403, "FOREIGN_ORIGIN"},
		{"Origin that is none", "GET", handshake + "Origin: %zz\r\n", 403, "FOREIGN_ORIGIN"},
		{"foreign Origin, no handshake", "GET", "Origin: http://evil.example\r\n", 403, "FOREIGN_ORIGIN"},
		{"no handshake", "GET", "", 426, "UPGRADE_REQUIRED"},
		{"no Connection", "GET", without("Connection"), 426, "UPGRADE_REQUIRED"},
		{"no Upgrade", "GET", without("Upgrade"), 426, "UPGRADE_REQUIRED"},
		{"Upgrade to something else", "GET", without("Upgrade") + "Upgrade: h2c\r\n", 426, "UPGRADE_REQUIRED"},
		{"no version", "GET", without("Sec-WebSocket-Version"), 426, "UPGRADE_REQUIRED"},
		{"another version", "GET", without("Sec-WebSocket-Version") + "Sec-WebSocket-Version: 8\r\n", 426, "UPGRADE_REQUIRED"},
		{"no key", "GET", without("Sec-WebSocket-Key"), 426, "UPGRADE_REQUIRED"},
		{"two keys", "GET", handshake + "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", 426, "UPGRADE_REQUIRED"},
		{"short key", "GET", without("Sec-WebSocket-Key") + "Sec-WebSocket-Key: dGhl\r\n", 426, "UPGRADE_REQUIRED"},
		{"POST", "POST", handshake, 405, "METHOD_NOT_ALLOWED"},
	} {
		t.Run(c.name, func(t *testing.T) {
			resp, body, err := exchange(r.addr, c.method+" /chat HTTP/1.1\r\nHost: "+r.addr+"\r\n"+c.headers+"\r\n")
			if err != nil || resp.StatusCode != c.status {
				t.Fatalf("%v %q, %v; want %d", resp, body, err, c.status)
			}
			if c.status == 101 {
				return
			}
			var answer map[string]any
			if err := json.Unmarshal(body, &answer); err != nil || answer["code"] != c.code {
				t.Errorf("%q, %v; want %s", body, err, c.code)
			}
			wantErrorAnswer(t, c.name, c.status, resp.Header, answer)
			// RFC 9110, section 15.5.22: a 426 says which protocol is asked for; RFC 6455, section 4.4: and which version.
			if c.status == 426 && (resp.Header.Get("Upgrade") != "websocket" || strings.Contains(c.name, "version") && resp.Header.Get("Sec-WebSocket-Version") != "13") {
				t.Errorf("426 with Upgrade %q and Sec-WebSocket-Version %q", resp.Header.Get("Upgrade"), resp.Header.Get("Sec-WebSocket-Version"))
			}
		})
	}
}

// What is no frame ends the WebSocket with our words, not the library's; a client's own reason comes back if it is text.
func TestSocketProtocolErrors(t *testing.T) {
	onlySQLite(t) // it is about frames
	t.Parallel()
	r := newChatRoom(t, nil, "alice")
	const protocol = "PROTOCOL_ERROR: This is no frame of a WebSocket (RFC 6455)."
	for name, c := range map[string]struct {
		frame, reason string
		code          uint16
	}{
		"a reserved bit":      {"\xc1\x80\x00\x00\x00\x00", protocol, 1002},
		"no mask":             {"\x81\x01x", protocol, 1002},
		"an unknown opcode":   {"\x83\x80\x00\x00\x00\x00", protocol, 1002},
		"a ping in pieces":    {"\x09\x80\x00\x00\x00\x00", protocol, 1002},
		"a close of one byte": {"\x88\x81\x00\x00\x00\x00x", protocol, 1002},
		"a close":             {"\x88\x85\x00\x00\x00\x00\x03\xe8bye", "bye", 1000},
		"no text in a close":  {"\x88\x85\x00\x00\x00\x00\x03\xe8\xff\xfeb", "", 1000},
		"a close of no words": {"\x88\x82\x00\x00\x00\x00\x03\xe8", "", 1000},
	} {
		conn := rawSocket(t, r.addr, opening(r.tokens["alice"]))
		_ = conn.SetDeadline(time.Now().Add(patience))
		if _, err := io.WriteString(conn, c.frame); err != nil {
			t.Fatal(err)
		}
		for in := bufio.NewReader(conn); ; {
			head, payload, err := serverFrame(in)
			if err != nil {
				t.Errorf("%s: %v, before a close", name, err)
				break
			}
			if head != frameClose {
				continue // it is open, somebody is here
			}
			if len(payload) < 2 || binary.BigEndian.Uint16(payload) != c.code || string(payload[2:]) != c.reason {
				t.Errorf("%s: closed with %q, want %d %q", name, payload, c.code, c.reason)
			}
			break
		}
	}
}

// serverFrame reads a frame of the server: its first byte, and its payload.
func serverFrame(in io.Reader) (head byte, payload []byte, err error) {
	b := make([]byte, 2, 4)
	if _, err = io.ReadFull(in, b); err != nil {
		return 0, nil, err
	}
	n := int(b[1])
	if n == 126 {
		if _, err = io.ReadFull(in, b[2:4]); err != nil {
			return 0, nil, err
		}
		n = int(binary.BigEndian.Uint16(b[2:4]))
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(in, payload)
	return b[0], payload, err
}

// rawSocket opens a WebSocket by hand, says text in its first frame, and leaves all else to the caller.
func rawSocket(t testing.TB, addr, text string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_, err = io.WriteString(conn, "GET /chat HTTP/1.1\r\nHost: "+addr+"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	if err == nil {
		var resp *http.Response
		if resp, err = http.ReadResponse(bufio.NewReader(conn), nil); err == nil && resp.StatusCode != 101 {
			err = errors.New(resp.Status)
		}
	}
	if err == nil {
		_, err = conn.Write(clientFrame(text))
	}
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// clientFrame is a text frame of a client, of 126 bytes or more, masked with zeros.
func clientFrame(text string) []byte {
	return append([]byte{0x81, 0x80 | 126, byte(len(text) >> 8), byte(len(text)), 0, 0, 0, 0}, text...)
}

// framePayload is the text of a frame, whose length has to stand in its header in the shortest form.
func framePayload(t testing.TB, frame []byte) []byte {
	t.Helper()
	n, least, text := int(frame[1]), 0, frame[2:]
	switch n {
	case 126:
		n, least, text = int(binary.BigEndian.Uint16(text)), 126, text[2:]
	case 127:
		n, least, text = int(binary.BigEndian.Uint64(text)), math.MaxUint16+1, text[8:]
	}
	if frame[0] != 0x81 || n != len(text) || n < least {
		t.Fatalf("a frame of %d bytes begins with %x", len(frame), frame[:10])
	}
	return text
}

// The JSON of a frame is what protojson reads as the very ChatResponse that gRPC's clients get, whatever is in it and
// however its events are cut out of their blocks.
func TestJSONFrame(t *testing.T) {
	odd := []string{"", "plain", `"quotes" \ and / 'others'`, "<b>&amp;</b>", "\u2028\u2029\u0085", "😀 é e\u0301 \U0010ffff", "\x00\x01\x1f\x7f", "\n\r\t\b\f",
		"\ufeff\ufffd\uffff", `\u0041\ud800`, "],[{}", strings.Repeat("x", 5000), strings.Repeat("\x00", 3000)}
	stamps := []int64{0, 1, 999_999, 1_000_000, 1_700_000_000_123_456, 1_700_000_000_000_000, 253_402_300_799_999_999}
	var blocks []*block
	seq := uint64(1)
	for n := range 3 {
		b := &block{first: seq}
		for i, body := range odd {
			var m mark
			b.data, m = appendEvent(b.data, event{kind: pb.ChatEventKind_MESSAGE, userName: odd[(i+n)%len(odd)], body: body, seq: seq, sentAt: stamps[(i+n)%len(stamps)], clientMessageID: odd[(i+2*n)%len(odd)]})
			b.marks = append(b.marks, m)
			seq++
		}
		blocks = append(blocks, b)
	}
	for kind := range pb.ChatEventKind_name {
		blocks = append(blocks, notStored(event{kind: pb.ChatEventKind(kind), userName: "ann", body: odd[2], clientMessageID: odd[3]}, nil))
	}
	blocks = append(blocks, notStored(event{kind: pb.ChatEventKind_MESSAGE, seq: math.MaxUint64}, nil), notStored(event{}, nil))
	part := func(b *block, from, to int) span {
		return span{data: b.data[b.start(from):b.start(to)], block: b, from: from, to: to}
	}
	last := len(odd)
	var frames [][]span
	for _, b := range blocks {
		frames = append(frames, []span{b.whole()})
	}
	for from := range last {
		for to := from + 1; to <= last; to++ {
			frames = append(frames, []span{part(blocks[0], from, to)})
		}
		sp := blocks[1].span(from, 12000)
		frames = append(frames, []span{sp}, []span{blocks[3].whole(), sp, blocks[2].whole()})
	}
	frames = append(frames, []span{part(blocks[0], last-1, last), blocks[1].whole(), part(blocks[2], 0, 1), blocks[4].whole()}, []span{blocks[3].whole(), blocks[4].whole()})
	var whole []span
	for _, b := range blocks {
		whole = append(whole, b.whole())
	}
	frames = append(frames, whole, nil) // nil: the one that says that the session is open
	// The length of a frame has three forms (RFC 6455, section 5.2).
	least := len(framePayload(t, jsonFrame(new([]byte), []span{notStored(event{body: "x"}, nil).whole()}))) - 1
	for _, size := range []int{125, 126, 127, math.MaxUint16, math.MaxUint16 + 1} {
		frames = append(frames, []span{notStored(event{body: strings.Repeat("x", size-least)}, nil).whole()})
	}
	var buf []byte
	for range 2 { // the second time with what the first one has left in the buffer and in the blocks
		for i, spans := range frames {
			var data []byte
			for _, sp := range spans {
				data = append(data, sp.data...)
			}
			var want, got pb.ChatResponse
			if err := proto.Unmarshal(data, &want); err != nil {
				t.Fatal(err)
			}
			frame := framePayload(t, jsonFrame(&buf, spans))
			if err := protojson.Unmarshal(frame, &got); err != nil || !proto.Equal(&got, &want) {
				t.Fatalf("frame %d: %.500s: %v, want %.500v", i, frame, err, &want)
			}
			if !utf8.Valid(frame) || strings.ContainsAny(string(frame), "\n\u2028") {
				t.Fatalf("frame %d: %.500q", i, frame)
			}
		}
	}
}
