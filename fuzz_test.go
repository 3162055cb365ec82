package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/grpcchatter/grpcchatter/pb"
)

// The parsers of what comes from outside (reliability: fuzz). The seeds run as tests.

// The decoder of ChatRequest, which is no generated code, agrees with the generated code on everything that is
// UTF-8, and takes what is not.
func FuzzChatRequest(f *testing.F) {
	for _, seed := range [][]byte{
		{}, text(1, "hello"), text(1, "\xff"), text(2, "id"), nested(3), nested(3, uintField(1, 0)), nested(3, uintField(1, math.MaxUint64)),
		uintField(4, 1), uintField(4, 0), uintField(4, 2), {0xff}, {0, 1}, {1<<3 | 3, 1<<3 | 4}, {1<<3 | 3}, {1<<3 | 4}, {1<<3 | 5, 1, 2, 3, 4}, {1<<3 | 1, 1},
		slices.Concat(text(1, "a"), text(1, "b"), nested(3, uintField(1, 5)), nested(3), text(15, "x")),
		nested(3, text(1, "x")), text(4, "x"), uintField(1, 7), uintField(3, 7),
		protowire.AppendVarint(protowire.AppendVarint(nil, uint64(protowire.MaxValidNumber)<<3), 1),
		protowire.AppendVarint(protowire.AppendVarint(nil, uint64(protowire.MaxValidNumber+1)<<3), 1),
		append([]byte{4 << 3}, strings.Repeat("\x80", 9)+"\x02"...), {0x88, 0x80, 0x80, 0x80, 0x10, 1},
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var got chatRequest
		got.decode(b)
		var want pb.ChatRequest
		if err := proto.Unmarshal(b, &want); err != nil {
			if got.err == nil && utf8.ValidString(got.body) && utf8.ValidString(got.clientMessageID) && !hidesBadText(b) {
				t.Fatalf("%q is taken, but not by generated code: %v", b, err)
			}
			return
		}
		if got.err != nil || got.body != want.GetBody() || got.clientMessageID != want.GetClientMessageId() || got.typing != want.GetTyping() || got.start != (want.Start != nil) {
			t.Fatalf("%q: got %+v, want %v", b, got, &want)
		}
		after := want.GetStart()
		if (got.afterSeq != nil) != (after != nil && after.AfterSeq != nil) || got.afterSeq != nil && *got.afterSeq != after.GetAfterSeq() {
			t.Fatalf("%q: after_seq %v, want %v", b, got.afterSeq, &want)
		}
	})
}

// hidesBadText tells a message in which a text that is not UTF-8 is followed by another one of the same field.
func hidesBadText(b []byte) bool {
	bad := false
	_ = pb.EachField(b, func(num protowire.Number, _ uint64, s []byte) error {
		bad = bad || s != nil && num <= 2 && !utf8.Valid(s)
		return nil
	})
	return bad
}

// What is taken as a frame of a WebSocket is an object and UTF-8, and means the same when it is written again; what is
// not changes nothing. (protojson is lenient about numbers in what it skips.)
func FuzzSocketFrame(f *testing.F) {
	for _, seed := range []string{"", "{", "{}", "null", "[]", `"x"`, "{}{}", `{"body":"hello","clientMessageId":"1"}`, `{"body":"a","client_message_id":"b"}`, `{"typing":true}`, `{"typing":1}`,
		`{"start":{}}`, `{"start":null}`, `{"start":{"afterSeq":"18446744073709551615"}}`, `{"start":{"afterSeq":1e3}}`, `{"start":{"afterSeq":-1}}`, `{"start":{"afterSeq":1.5}}`, `{"token":"x","token":1}`,
		`{"body":"a","body":"b"}`, `{"body":null}`, `{"body":"\ud800"}`, `{"body":"\ud83d\ude00\u0000"}`, "{\"body\":\"\xff\"}", "{\"x\":\"\xff\"}", `{"x":"\ud800"}`, "\ufeff{}", "{\"body\":\"\n\"}",
		`{"x":` + strings.Repeat("[", 20_000), `{"x":` + strings.Repeat(`{"x":`, 20_000), `{"x":1e999,"body":"x"}`, `{"body":'x'}`, `{"body":"x",}`, `{"":{"":0e}}`, "{}\x00", `{"@type":"x"}`, `{"start":{"@type":"x"}}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		before := chatRequest{body: "of the frame before", start: true}
		got := before
		if err := got.decodeJSON(b); err != nil {
			if !errors.Is(err, errInvalidJSON) || got != before {
				t.Fatalf("%q: %v, %+v", b, err, got)
			}
			return
		}
		if !utf8.Valid(b) || !utf8.ValidString(got.body) || !utf8.ValidString(got.clientMessageID) || !bytes.HasPrefix(bytes.TrimLeft(b, " \t\r\n"), []byte("{")) {
			t.Fatalf("%q is taken: %+v", b, got)
		}
		want := &pb.ChatRequest{Body: got.body, ClientMessageId: got.clientMessageID, Typing: got.typing}
		if got.start {
			want.Start = &pb.ChatStart{AfterSeq: got.afterSeq}
		}
		again, err := protojson.Marshal(want)
		if err != nil {
			t.Fatalf("%q: %+v: %v", b, got, err)
		}
		var twice chatRequest
		if err := twice.decodeJSON(again); err != nil || (got.afterSeq == nil) != (twice.afterSeq == nil) || got.afterSeq != nil && *got.afterSeq != *twice.afterSeq {
			t.Fatalf("%q: %+v, and written again %+v, %v", b, got, twice, err)
		}
		if got.afterSeq, twice.afterSeq = nil, nil; got != twice {
			t.Fatalf("%q: %+v, and written again %+v", b, got, twice)
		}
	})
}

// What appendEvent writes is what generated code reads, in a ChatResponse of several, and the part that goes to
// the original's clients is a message of its two fields.
func FuzzAppendEvent(f *testing.F) {
	f.Add(int32(1), "alice", "hello", uint64(1), int64(1_700_000_000_123_456), "id")
	f.Add(int32(0), "", "", uint64(0), int64(0), "")
	f.Add(int32(5), "", strings.Repeat("x", 200), uint64(math.MaxUint64), int64(math.MaxInt64), strings.Repeat("é", 64))
	f.Add(int32(-1), "\x00", "\n", uint64(127), int64(-1), "x")
	f.Add(int32(128), "a", "b", uint64(128), int64(1_000_000), "")
	f.Add(int32(4), "a", "", uint64(0), int64(999_999), "")
	f.Fuzz(func(t *testing.T, kind int32, userName, body string, seq uint64, sentAt int64, id string) {
		if !utf8.ValidString(userName + "|" + body + "|" + id) {
			t.Skip()
		}
		e := event{kind: pb.ChatEventKind(kind), userName: userName, body: body, seq: seq, sentAt: sentAt, clientMessageID: id}
		b, _ := appendEvent(nil, event{kind: pb.ChatEventKind_MESSAGE, body: "before"})
		begin := len(b)
		b, m := appendEvent(b, e)
		var resp pb.ChatResponse
		if err := proto.Unmarshal(b, &resp); err != nil || len(resp.GetEvents()) != 2 || m.end != len(b) {
			t.Fatalf("%+v: %q: %v", e, b, err)
		}
		got := resp.GetEvents()[1]
		if got.GetKind() != e.kind || got.GetUserName() != userName || got.GetBody() != body || got.GetSeq() != seq || got.GetClientMessageId() != id {
			t.Fatalf("%+v: got %v", e, got)
		}
		if (got.SentAt != nil) != (sentAt != 0) || sentAt != 0 && got.GetSentAt().GetSeconds()*1e6+int64(got.GetSentAt().GetNanos())/1e3 != sentAt {
			t.Fatalf("%+v: sent_at %v", e, got.SentAt)
		}
		if want, err := (proto.MarshalOptions{Deterministic: true}).Marshal(&pb.ChatResponse{Events: resp.GetEvents()[1:]}); err != nil || !bytes.Equal(want, b[begin:]) {
			t.Fatalf("%+v: %q, where generated code writes %q", e, b[begin:], want)
		}
		var old []byte
		if userName != "" {
			old = text(1, userName)
		}
		if body != "" {
			old = append(old, text(2, body)...)
		}
		if !bytes.Equal(b[m.content:m.text], old) {
			t.Fatalf("%+v: the original's part is %q", e, b[m.content:m.text])
		}
	})
}

// A hash from the database never asks for more than the server can give.
func FuzzParseArgon(f *testing.F) {
	good := hashPassword("a password")
	for _, seed := range []string{good, "", "$", "$$$$$", "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA",
		"$argon2id$v=19$m=4294967295,t=4294967295,p=255$AAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA", "$argon2id$v=19$m=0,t=0,p=0$$", "$argon2i$v=19$m=19456,t=2,p=1$c$c",
		"$argon2id$v=16$m=19456,t=2,p=1$AAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA", strings.Replace(good, "p=1", "p=257", 1), "$2a$10$abc", good + "$", good + "\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, hash string) {
		h, ok := parseArgon(hash)
		if !ok {
			return
		}
		if h.memory < 8 || h.memory > 1<<20 || h.time < 1 || h.time > 100 || h.threads < 1 || len(h.salt) < 8 || len(h.key) < 16 || len(h.key) > 1024 {
			t.Fatalf("%q: %+v", hash, h)
		}
	})
}

// What the body of a REST call may be: the handler answers 200, 400 or 413, in JSON, and takes nothing that is
// no JSON object.
func FuzzCredentials(f *testing.F) {
	for _, seed := range []string{"", "{", "{}", "null", "[]", "1", `"x"`, credentialsJSON("ann", "a password"), credentialsJSON("ann", "x") + "{}", `{"user_name":1}`,
		`{"user_name":"a","user_name":"b"}`, `{"USER_NAME":"a"}`, "{\"user_name\":\"\xff\"}", `{"user_name":"\ud800"}`, strings.Repeat("[", 11000), strings.Repeat(" ", 17000),
		`{"password":1e999}`, `{"password":"\u0000"}`, "\ufeff{}"} {
		f.Add([]byte(seed))
	}
	s := &restServer{log: slog.New(slog.DiscardHandler)}
	handler := s.handle(maxBody, func(r *http.Request) (any, error) { return readBody[nameAndPassword](r) })
	f.Fuzz(func(t *testing.T, body []byte) {
		w := httptest.NewRecorder()
		handler(w, httptest.NewRequest("POST", "/login", bytes.NewReader(body)))
		if w.Code != 200 && w.Code != 400 && w.Code != 413 || !json.Valid(w.Body.Bytes()) {
			t.Fatalf("%q: %d %q", body, w.Code, w.Body)
		}
		if object := json.Unmarshal(body, &map[string]any{}) == nil && utf8.Valid(body); w.Code == 200 && (!object || len(body) > maxBody) {
			t.Fatalf("%q is taken", body)
		}
	})
}

// Of all tokens in all metadata, only the very one that was made is taken.
func FuzzToken(f *testing.F) {
	st, err := openStore(context.Background(), storeOptions{URL: "sqlite:" + filepath.Join(f.TempDir(), "x.db"), Synchronous: "normal", Create: true})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = st.close() })
	u, err := st.addUser(context.Background(), "ann", "no hash", roleUser)
	if err != nil {
		f.Fatal(err)
	}
	a, err := newAuth(testSecret, auth{store: st, log: slog.New(slog.DiscardHandler), duration: time.Hour})
	if err != nil {
		f.Fatal(err)
	}
	// Always the same one, so that what was found once is found again.
	a.now = func() time.Time { return time.Unix(1_700_000_000, 0) }
	good, err := a.userToken(u)
	if err != nil {
		f.Fatal(err)
	}
	last := good[len(good)-1]
	for _, seed := range []string{good, "", ".", "..", "a.b.c", good + ".", good + "=", good[:len(good)-1], good[:len(good)-1] + string(last+1), " " + good, "eyJhbGciOiJub25lIn0.e30."} {
		f.Add("authorization", "Bearer "+seed)
		f.Add("token", seed)
	}
	f.Add("authorization", good)
	f.Add("authorization", "bearer  "+good+" ")
	f.Add("authorization", "Bearer")
	f.Fuzz(func(t *testing.T, key, value string) {
		ctx := metadata.NewIncomingContext(context.Background(), metadata.Pairs(key, value))
		_, err := a.authorize(ctx, "/grpcchatter.v1.GRPCChatter/ListChatRooms")
		token, _ := bearer(ctx)
		if (err == nil) != (token == good) {
			t.Fatalf("%q: %q: %v", key, value, err)
		}
		if _, err := a.authorize(ctx, "/grpcchatter.v1.GRPCChatter/Chat"); err == nil {
			t.Fatalf("%q: %q is a room token", key, value)
		}
		if _, err := a.authorize(ctx, value); err == nil && methodAccess()[value] != accessOpen {
			t.Fatalf("the method %q is open", value)
		}
	})
}

// A short code is read the same, however it is typed, and reading it again changes nothing.
func FuzzReadCode(f *testing.F) {
	for _, seed := range []string{"", " ", "ABC234", " abc234\n", strings.Repeat("x", 65), "\xff", "ß", "ŉ", "\u0131", "\x00", "a b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, typed string) {
		code, err := readCode(typed)
		if err != nil {
			if !errors.Is(err, errInvalidField) {
				t.Fatalf("%q: %v", typed, err)
			}
			return
		}
		again, err := readCode(code)
		if err != nil || again != code || code == "" || len(code) > 64 || strings.TrimSpace(code) != code {
			t.Fatalf("%q: %q, then %q %v", typed, code, again, err)
		}
	})
}

// A configuration file of any content gives values of known keys or an error, and never repeats a secret.
func FuzzConfigFile(f *testing.F) {
	for _, seed := range []string{"", "SECRET=x", "SECRET", "=", "A=", "export SECRET=x", "SECRET='", "SECRET=\"x\\\"", "TOKEN_DURATION: 1h", "#", "SECRET=$SECRET", "SECRET=${X", "-", "\x00", "\ufeff", "A=1\r\n"} {
		f.Add(seed, seed)
	}
	const secret = "hunter2hunter2"
	f.Fuzz(func(t *testing.T, before, after string) {
		if strings.Contains(before+after, "hunter2") {
			t.Skip()
		}
		_, err := configFile(strings.NewReader(before+"\nSECRET="+secret+"\n"+after), configKeys)
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Fatalf("%q, %q: %v", before, after, err)
		}
	})
}

// Whatever the first bytes of a connection are, the server answers the next one.
func FuzzFirstBytes(f *testing.F) {
	for _, seed := range []string{"", "\x00", "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", "POST /login HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", "PRI", http2.ClientPreface,
		http2.ClientPreface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00", http2.ClientPreface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x01\x01\x05\x00\x00\x00\x01\x82",
		"PRI * HTTP/2.0\r\n\r\nXX", "GET / HTTP/0.9\r\n\r\n", "\x16\x03\x01", "GET //%00 HTTP/1.1\r\nHost: x\r\n\r\n", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n"} {
		f.Add([]byte(seed))
	}
	p := startServer(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		conn, err := net.Dial("tcp", p.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(3 * time.Millisecond))
		_, _ = conn.Write(b)
		_, _ = io.Copy(io.Discard, conn)
		if status, _, _, err := request(p.addr, "GET", "/healthz", ""); status != 200 {
			t.Fatalf("after %q: %d %v", b, status, err)
		}
	})
}
