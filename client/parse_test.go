package client

import (
	"bytes"
	"errors"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/grpcchatter/grpcchatter/pb"
)

func TestParseAddress(t *testing.T) {
	for _, test := range []struct {
		in       string
		hostPort string // empty: refused
		url      string // of /login
	}{
		{"localhost:8080", "localhost:8080", "http://localhost:8080/login"},
		{"http://localhost:8080", "localhost:8080", "http://localhost:8080/login"},
		{"http://localhost:8080/", "localhost:8080", "http://localhost:8080/login"},
		{"http://chat.example.org", "chat.example.org:80", "http://chat.example.org:80/login"},
		{"https://chat.example.org", "chat.example.org:443", "https://chat.example.org:443/login"},
		{"HTTPS://chat.example.org:8443", "chat.example.org:8443", "https://chat.example.org:8443/login"},
		{"[::1]:8080", "[::1]:8080", "http://[::1]:8080/login"},
		{"https://[::1]", "[::1]:443", "https://[::1]:443/login"},
		{in: ""},
		{in: "localhost"},
		{in: ":8080"},
		{in: "http://"},
		{in: "http://:8080"},
		{in: "localhost:0"},
		{in: "localhost:65536"},
		{in: "localhost:http"},
		{in: "ftp://localhost:21"},
		{in: "http://user:secret@localhost"},
		{in: "http://localhost/chat"},
		{in: "http://localhost?x"},
		{in: "http://localhost#x"},
		{in: "http://local host"},
		{in: "local host:80"},
		{in: "a/b:80"},
		{in: "a@b:80"},
	} {
		a, err := parseAddress(test.in)
		if a.hostPort != test.hostPort || (err == nil) != (test.hostPort != "") {
			t.Errorf("parseAddress(%q) = %+v, %v", test.in, a, err)
		}
		if err == nil && a.url("/login") != test.url {
			t.Errorf("%q: the URL is %s, want %s", test.in, a.url("/login"), test.url)
		}
		if err == nil && a.url("/rooms/../login") == test.url { // the server refuses it
			t.Errorf("%q: another route is %s", test.in, test.url)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: the error repeats the password: %v", test.in, err)
		}
	}
}

// A field that a later server adds does no harm, whatever its number: tags of two bytes, with a short or an empty value at
// the very end of an event, were read as lengths.
func TestDecodeUnknownFields(t *testing.T) {
	known, err := proto.Marshal(&pb.ChatEvent{UserName: "ann", Body: "Hello!", Seq: 7, ClientMessageId: "1", Kind: pb.ChatEventKind_MESSAGE})
	if err != nil {
		t.Fatal(err)
	}
	for _, num := range []protowire.Number{7, 15, 16, 31, 32, 33, 100, 2047, 2048, 1 << 20} {
		for name, unknown := range map[string][]byte{
			"zero":    protowire.AppendVarint(protowire.AppendTag(nil, num, protowire.VarintType), 0),
			"number":  protowire.AppendVarint(protowire.AppendTag(nil, num, protowire.VarintType), 1<<40),
			"empty":   protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), nil),
			"short":   protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), []byte{0x1a}),
			"fixed32": protowire.AppendFixed32(protowire.AppendTag(nil, num, protowire.Fixed32Type), 3),
			"fixed64": protowire.AppendFixed64(protowire.AppendTag(nil, num, protowire.Fixed64Type), 3),
		} {
			for _, data := range [][]byte{slices.Concat(known, unknown), slices.Concat(unknown, known)} {
				var f frame
				err := f.decode(protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), data))
				if err != nil || len(f.events) != 1 || f.events[0].Seq != 7 || f.events[0].Body != "Hello!" || string(f.events[0].id) != "1" {
					t.Errorf("field %d, %s: %+v, %v", num, name, f.events, err)
				}
			}
		}
	}
}

func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{"localhost:8080", "http://[::1]", "https://a.b:1/", "http://%41:80", "http://[fe80::1%25eth0]:80", "//", "://"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := parseAddress(s)
		if err != nil {
			return
		}
		if _, _, err := net.SplitHostPort(a.hostPort); err != nil {
			t.Errorf("%q: %v", s, err)
		}
		if _, err := http.NewRequest(http.MethodPost, a.url("/login"), nil); err != nil {
			t.Errorf("%q: %v", s, err)
		}
		c, err := New(s)
		if err != nil {
			t.Fatalf("%q parses, but New fails: %v", s, err)
		}
		c.Disconnect()
	})
}

func TestFromHTTP(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		status     int
		body       string
		retryAfter string
		code       string
		sentinel   error
		wait       time.Duration
	}{
		{409, `{"error":"Taken.","code":"NAME_TAKEN"}`, "", "NAME_TAKEN", ErrNameTaken, 0},
		{401, `{"error":"No.","code":"INVALID_CREDENTIALS"}`, "", "INVALID_CREDENTIALS", ErrInvalidCredentials, 0},
		{503, `{"error":"Busy.","code":"OVERLOADED"}`, "2", "OVERLOADED", ErrUnavailable, 2 * time.Second},
		{429, `{"error":"Wait.","code":"RATE_LIMITED"}`, "Sun, 22 Nov 2026 12:00:30 GMT", "RATE_LIMITED", ErrRateLimited, 30 * time.Second},
		{429, ``, "99999999999", "RATE_LIMITED", ErrRateLimited, 0},
		{429, ``, "99999999", "RATE_LIMITED", ErrRateLimited, time.Hour},
		{502, `<html>Bad Gateway</html>`, "-1", "UNAVAILABLE", ErrUnavailable, 0},
		{503, `{"error":1}`, "Sun, 22 Nov 2020 12:00:30 GMT", "UNAVAILABLE", ErrUnavailable, 0},
		{307, ``, "", "HTTP_307", nil, 0},
		{500, `{"error":"Sorry.","code":"INTERNAL"}`, "", "INTERNAL", nil, 0},
	} {
		err := fromHTTP(test.status, test.retryAfter, []byte(test.body), now)
		e, ok := errors.AsType[*Error](err)
		if !ok || e.Code != test.code || e.Message == "" || e.RetryAfter != test.wait || test.sentinel != nil && !errors.Is(err, test.sentinel) {
			t.Errorf("%d %s: %#v", test.status, test.body, err)
		}
	}
}

func FuzzFromHTTP(f *testing.F) {
	f.Add(503, "2", []byte(`{"error":"Busy.","code":"OVERLOADED"}`))
	f.Add(429, "Sun, 22 Nov 2026 12:00:30 GMT", []byte("null"))
	f.Fuzz(func(t *testing.T, status int, retryAfter string, body []byte) {
		e, ok := errors.AsType[*Error](fromHTTP(status, retryAfter, body, time.Now()))
		if !ok || e.Code == "" || e.RetryAfter < 0 || e.RetryAfter > maxRetryAfter {
			t.Errorf("%#v", e)
		}
	})
}

// Every code of the server's error table has a sentinel here, but for those that say that the client is wrong,
// and those of calls that it does not have.
func TestErrorsMirrorTheServer(t *testing.T) {
	source, err := os.ReadFile("../errors.go")
	if err != nil {
		t.Fatal(err)
	}
	codes := regexp.MustCompile(`&apiError\{"([A-Z_]+)"`).FindAllSubmatch(source, -1)
	if len(codes) < 20 {
		t.Fatalf("only %d codes found", len(codes))
	}
	for _, m := range codes {
		switch code := string(m[1]); code {
		case "INTERNAL", "INVALID_JSON", "BODY_TOO_LARGE", "NOT_FOUND", "METHOD_NOT_ALLOWED",
			"FOREIGN_ORIGIN", "HTTPS_REQUIRED", "UPGRADE_REQUIRED", "UNSUPPORTED_DATA", "PROTOCOL_ERROR", "PING_TIMEOUT",
			"NOT_ADMIN", "LAST_ADMIN":
		default:
			if len(sentinelsOf(code)) == 0 {
				t.Errorf("%s has no sentinel", code)
			}
		}
	}
}

func FuzzJoinSeq(f *testing.F) {
	f.Add(fakeToken(`{"seq":7}`))
	f.Add("..")
	f.Fuzz(func(t *testing.T, token string) {
		if _, err := joinSeq(token); err != nil && token != "" && len(token) > 16 && strings.Contains(err.Error(), token) {
			t.Errorf("the error repeats the token: %v", err)
		}
	})
}

// A frame is decoded to what the generated code makes of it.
func FuzzFrame(f *testing.F) {
	data, err := proto.Marshal(&pb.ChatResponse{Events: []*pb.ChatEvent{
		fakeMessage(1),
		{Kind: pb.ChatEventKind_USER_JOINED, UserName: "bob"},
		{Kind: pb.ChatEventKind_REJECTED, Body: "No.", ClientMessageId: "id"},
		{Seq: 2, SentAt: &timestamppb.Timestamp{Seconds: -1, Nanos: 5}},
		{},
	}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte{0x0a, 0x00, 0x0a, 0x02, 0x22, 0x00})
	f.Fuzz(func(t *testing.T, data []byte) {
		var got frame
		kept := bytes.Clone(data)
		err := got.decode(data)
		clear(data) // as grpc-go uses the buffer again
		var want pb.ChatResponse
		if proto.Unmarshal(kept, &want) != nil {
			return // the generated code refuses more, such as what is not UTF-8
		}
		if err != nil {
			t.Fatalf("%x: %v", kept, err)
		}
		if len(got.events) != len(want.Events) {
			t.Fatalf("%x: %d events, want %d", kept, len(got.events), len(want.Events))
		}
		for i, w := range want.Events {
			g := got.events[i]
			if g.Seq != w.GetSeq() || g.UserName != w.GetUserName() || g.Body != w.GetBody() || g.kind != w.GetKind() ||
				string(g.id) != w.GetClientMessageId() || w.GetSentAt() != nil && w.GetSentAt().IsValid() && !g.SentAt.Equal(w.GetSentAt().AsTime()) {
				t.Errorf("%x: event %d is %+v, want %v", kept, i, g, w)
			}
		}
	})
}

func BenchmarkFrame(b *testing.B) {
	const events = 500
	resp := &pb.ChatResponse{}
	for i := range events {
		e := fakeMessage(uint64(i + 1))
		e.Body, e.ClientMessageId = strings.Repeat("x", 64), "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
		resp.Events = append(resp.Events, e)
	}
	data, err := proto.Marshal(resp)
	if err != nil {
		b.Fatal(err)
	}
	var f frame
	b.ReportAllocs()
	for b.Loop() {
		if err := f.decode(data); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/events, "ns/event")
}
