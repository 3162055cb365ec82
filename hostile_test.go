package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
)

// Bad input of every kind, on one server: after each kind it is alive, and a client that was there all the time
// is unharmed (reliability: slow clients, fuzz; "bad input on any port in any order").
func TestHostileInput(t *testing.T) {
	t.Parallel()
	r := newChatRoom(t, nil, "alice", "mallory")
	normal := openDevice(t, r.api, r.tokens["alice"], 0)
	said := uint64(0)
	unharmed := func(t *testing.T) {
		t.Helper()
		said++
		began := time.Now()
		body := fmt.Sprint("message ", said)
		normal.say(t, body, body)
		normal.awaitID(t, body)
		if status, _, _, err := request(r.addr, "GET", "/readyz", ""); status != 200 {
			t.Errorf("readyz: %d %v", status, err)
		}
		if d := time.Since(began); d > patience {
			t.Errorf("a message and a call took %s", d)
		}
	}
	token := []string{"authorization", "Bearer " + r.tokens["mallory"]}
	chat := current + "Chat"
	huge := make([]byte, 5<<20)
	for _, attack := range []struct {
		name string
		do   func(t *testing.T)
	}{
		{"garbage", func(t *testing.T) {
			random := rand.NewChaCha8([32]byte{1})
			for n := 1; n <= 1<<16; n *= 2 {
				b := make([]byte, n)
				_, _ = random.Read(b)
				throw(t, r.addr, b)
				throw(t, r.addr, bytes.Repeat(b[:1], n))
			}
			throw(t, r.addr, []byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")) // TLS
			throw(t, r.addr, []byte("SSH-2.0-OpenSSH_9.6\r\n"))
		}},
		{"parts of the HTTP/2 preface", func(t *testing.T) {
			for i := range len(http2.ClientPreface) {
				throw(t, r.addr, []byte(http2.ClientPreface[:i]))
				throw(t, r.addr, []byte(http2.ClientPreface[:i]+"\x00\xffGET / HTTP/1.1\r\n\r\n"))
			}
			throw(t, r.addr, []byte(http2.ClientPreface+http2.ClientPreface))
		}},
		{"bad frames", func(t *testing.T) {
			for _, frame := range []string{
				"\xff\xff\xff\x00\x00\x00\x00\x00\x01",                                 // 16 MiB of DATA on a stream that is not open
				"\x00\x00\x05\x04\x00\x00\x00\x00\x00abcde",                            // SETTINGS of 5 bytes
				"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x04\xff\xff\xff\xff",         // a window of 4 GiB
				"\x00\x00\x05\x01\x05\x00\x00\x00\x01\xff\xff\xff\xff\xff",             // HEADERS that HPACK cannot read
				"\x00\x00\x00\x01\x05\x00\x00\x00\x02",                                 // HEADERS on a server's stream
				"\x00\x00\x00\x09\x00\x00\x00\x00\x01",                                 // CONTINUATION of nothing
				"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x7f\xff\xff\xff",                 // a window too large
				"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00",                 // a window of 0
				"\x00\x00\x04\x05\x04\x00\x00\x00\x01\x00\x00\x00\x02",                 // PUSH_PROMISE of a client
				"\x00\x00\x08\x07\x00\x00\x00\x00\x00\x7f\xff\xff\xff\x00\x00\x00\x00", // GOAWAY
				"\x00\x00\x00\xfe\xff\x00\x00\x00\x00",                                 // an unknown kind
			} {
				throw(t, r.addr, []byte(http2.ClientPreface+"\x00\x00\x00\x04\x00\x00\x00\x00\x00"+frame))
				throw(t, r.addr, []byte(http2.ClientPreface+frame))
			}
		}},
		{"huge headers", func(t *testing.T) {
			throw(t, r.addr, []byte("GET / HTTP/1.1\r\nHost: x\r\nX: "+strings.Repeat("x", 1<<20)+"\r\n\r\n"))
			throw(t, r.addr, []byte("GET / HTTP/1.1\r\n"+strings.Repeat("X: y\r\n", 1<<17)))
			throw(t, r.addr, []byte("GET /"+strings.Repeat("x", 1<<20)))
			c := dialHTTP2(t, r.addr)
			if code, _ := c.call(chat, nil, append(token, "x", strings.Repeat("x", 1<<18))...); code == codes.OK {
				t.Error("a header of 256 KiB was taken")
			}
			many := token
			for i := range 2000 {
				many = append(many, "x-"+strconv.Itoa(i), "y")
			}
			if code, _ := dialHTTP2(t, r.addr).call(chat, nil, many...); code == codes.OK {
				t.Error("2000 headers were taken")
			}
		}},
		{"headers without end", func(t *testing.T) {
			c := dialHTTP2(t, r.addr)
			c.begin(chat, false, token...)
			for range 10_000 {
				if c.fr.WriteContinuation(c.id, false, bytes.Repeat([]byte{0}, 100)) != nil {
					return // the server has had enough
				}
			}
		}},
		{"5 MiB messages", func(t *testing.T) {
			for _, method := range []string{"CreateChatRoom", "JoinChatRoom", "ListMessages", "Chat"} {
				user := r.users["mallory"]
				if method == "Chat" || method == "ListMessages" {
					user = r.tokens["mallory"]
				}
				s := openRaw(t, r.dial(), bearerHeader(user), current+method)
				_ = s.SendMsg(text(1, string(huge)))
				_ = s.CloseSend()
				if err := s.end(); err == nil {
					t.Errorf("%s of 5 MiB was taken", method)
				}
			}
		}},
		{"lies about messages", func(t *testing.T) {
			for name, data := range map[string]string{
				"4 GiB":             "\x00\xff\xff\xff\xffx",
				"cut":               "\x00\x00\x00\x00\x64x",
				"cut prefix":        "\x00\x00",
				"compressed":        "\x01\x00\x00\x00\x02\x0a\x00",
				"unknown flag":      "\x7f\x00\x00\x00\x00",
				"garbage":           "\x00\x00\x00\x00\x03\xff\xff\xff",
				"as gzip, not that": "\x01\x00\x00\x00\x04\x1f\x8b\x08\x00",
			} {
				headers := token
				if strings.Contains(name, "gzip") {
					headers = append(slices.Clip(token), "grpc-encoding", "gzip")
				}
				for _, method := range []string{chat, original + "Chat", current + "ListMessages"} {
					c := dialHTTP2(t, r.addr)
					c.begin(method, true, headers...)
					_ = c.fr.WriteData(c.id, true, []byte(data))
					if code, message := c.status(); code == codes.OK || code == codes.Internal && strings.Contains(message, "panic") {
						t.Errorf("%s to %s: %s %s", name, method, code, message)
					}
				}
			}
		}},
		{"streams without number", func(t *testing.T) {
			c := dialHTTP2(t, r.addr)
			for range 1000 { // opened for good, and nothing said: refused after MAX_STREAMS_PER_CONNECTION
				c.begin(chat, true, token...)
			}
			watch := dialHTTP2(t, r.addr)
			for range 1000 { // without a token
				watch.begin("/grpc.health.v1.Health/Watch", true)
				_ = watch.fr.WriteData(watch.id, false, make([]byte, 5))
			}
			unharmed(t) // while they are there
		}},
		{"streams opened and reset", func(t *testing.T) {
			c := dialHTTP2(t, r.addr)
			for range 5000 {
				c.begin(chat, true, token...)
				if c.fr.WriteRSTStream(c.id, http2.ErrCodeCancel) != nil {
					return // the server has had enough
				}
			}
		}},
		{"pings and settings", func(t *testing.T) {
			c := dialHTTP2(t, r.addr)
			go io.Copy(io.Discard, c.Conn)
			for range 10_000 {
				if c.fr.WritePing(false, [8]byte{}) != nil || c.fr.WriteSettings() != nil {
					return
				}
			}
		}},
		{"connections reset", func(t *testing.T) {
			for i := range 300 {
				conn, err := net.Dial("tcp", r.addr)
				if err != nil {
					t.Fatal(err)
				}
				_, _ = io.WriteString(conn, []string{"", "G", http2.ClientPreface, "POST /login HTTP/1.1\r\n"}[i%4])
				_ = conn.(*net.TCPConn).SetLinger(0)
				_ = conn.Close()
			}
		}},
		{"half-sent requests", func(t *testing.T) {
			for i := range 100 {
				conn, err := net.Dial("tcp", r.addr)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				_, _ = io.WriteString(conn, []string{"", "P", http2.ClientPreface[:20], http2.ClientPreface, "GET /healthz HTTP/1.1\r\n",
					"POST /login HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{", "POST /login HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n"}[i%7])
			}
			for range 20 {
				unharmed(t) // while they are there
			}
			r.login("alice")
		}},
	} {
		if !t.Run(attack.name, func(t *testing.T) {
			attack.do(t)
			unharmed(t)
		}) {
			return
		}
	}
	// All of it has gone, but for who is still connected.
	eventually(t, patience, "mallory's streams are over", func() bool {
		return slices.Equal(present(t, r.api, r.tokens["alice"]), []string{"alice"})
	})
}

// throw writes b to a new connection, reads what comes for a moment, and closes it.
func throw(t *testing.T, addr string, b []byte) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Millisecond))
	_, _ = conn.Write(b)
	_, _ = io.Copy(io.Discard, conn)
}

// http2Conn is a connection that sends any frame, also what no client library would.
type http2Conn struct {
	net.Conn
	t    testing.TB
	fr   *http2.Framer
	id   uint32 // of the last stream
	buf  bytes.Buffer
	hpck *hpack.Encoder
}

func dialHTTP2(t testing.TB, addr string) *http2Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	c := &http2Conn{Conn: conn, t: t, fr: http2.NewFramer(conn, conn)}
	c.fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.hpck = hpack.NewEncoder(&c.buf)
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := c.fr.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return c
}

// begin opens a stream. headers are names and values. What the server says to it is not waited for.
func (c *http2Conn) begin(path string, end bool, headers ...string) {
	c.id = max(1, c.id+2)
	if c.id%2 == 0 {
		c.id++
	}
	c.buf.Reset()
	all := append([]string{":method", "POST", ":scheme", "http", ":path", path, ":authority", "x", "content-type", "application/grpc", "te", "trailers"}, headers...)
	for i := 0; i < len(all); i += 2 {
		_ = c.hpck.WriteField(hpack.HeaderField{Name: all[i], Value: all[i+1]}) // to a bytes.Buffer
	}
	block := c.buf.Bytes()
	first := block[:min(len(block), 16<<10)]
	rest := block[len(first):]
	_ = c.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: c.id, BlockFragment: first, EndHeaders: end && len(rest) == 0})
	for len(rest) > 0 {
		n := min(len(rest), 16<<10)
		_ = c.fr.WriteContinuation(c.id, end && n == len(rest), rest[:n])
		rest = rest[n:]
	}
}

// call makes a unary call, and returns its status.
func (c *http2Conn) call(path string, body []byte, headers ...string) (codes.Code, string) {
	c.begin(path, true, headers...)
	_ = c.fr.WriteData(c.id, true, append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(body))), body...))
	return c.status()
}

// status reads until the last stream ends. A reset, or the end of the connection, counts as UNAVAILABLE.
func (c *http2Conn) status() (codes.Code, string) {
	c.t.Helper()
	for {
		frame, err := c.fr.ReadFrame()
		if err != nil {
			return codes.Unavailable, err.Error()
		}
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				_ = c.fr.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				_ = c.fr.WritePing(true, f.Data)
			}
		case *http2.RSTStreamFrame:
			if f.StreamID == c.id {
				return codes.Unavailable, f.ErrCode.String()
			}
		case *http2.MetaHeadersFrame:
			if f.StreamID != c.id || !f.StreamEnded() {
				continue
			}
			status, message := -1, ""
			for _, h := range f.Fields {
				switch h.Name {
				case "grpc-status":
					status, _ = strconv.Atoi(h.Value)
				case "grpc-message":
					message = h.Value
				}
			}
			if status < 0 {
				c.t.Errorf("no grpc-status in %v", f.Fields)
			}
			return codes.Code(status), message
		}
	}
}
