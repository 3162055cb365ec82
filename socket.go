package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/grpcchatter/grpcchatter/pb"
)

const (
	// closeTimeout is how long the end of a WebSocket may take: to write the close code, and to wait for the other side's.
	closeTimeout = time.Second
	// maxCloseReason is how long the reason may be, in bytes (RFC 6455, sections 5.5 and 5.5.1).
	maxCloseReason = 123
	// sendBuffer is how much the kernel keeps for a WebSocket that is slow, in bytes. It would let it grow to megabytes, and
	// then not tell for longer than stallLimit that something was read.
	sendBuffer = 128 << 10
	// keptBuffer is how much a WebSocket keeps for its next frame, in bytes.
	keptBuffer = 4 << 10
)

// errGone says that a WebSocket's connection is no more, or was closed by the other side.
var errGone = errors.New("the WebSocket is gone")

// socket carries a stream by a WebSocket (RFC 6455), in text frames: the JSON forms of ChatRequest and ChatResponse.
type socket struct {
	conn     *websocket.Conn
	out      *socketConn  // for the events, which are frames already
	maxFrame int64        // bytes that a frame from the client may have
	first    *chatRequest // read already
	buf      []byte       // of send
}

// serveSocket answers GET /chat. The first frame from the client holds the room token too, in "token": what stands in an
// address gets into logs. The stream ends with a close code, and a reason made of the error's code and its sentence.
func (s *chatServer) serveSocket(w http.ResponseWriter, r *http.Request) {
	if isForeign(r) {
		writeError(r.Context(), s.log, w, errForeignOrigin)
		return
	}
	s.sockets.Add(1) // before http.Server lets go of the connection, for whose handler it would wait
	defer s.sockets.Done()
	up := &upgrade{ResponseWriter: w}
	conn, err := websocket.Accept(up, r, &websocket.AcceptOptions{InsecureSkipVerify: true}) // isForeign has verified
	if err != nil {
		if up.conn == nil {
			w.Header().Set("Connection", "Upgrade") // with the status 426 (RFC 9110, section 15.5.22)
			w.Header().Set("Upgrade", "websocket")
			writeError(r.Context(), s.log, w, errNotAWebSocket)
		}
		return
	}
	conn.SetReadLimit(-1) // readText has one
	start := time.Now()
	ctx, err := s.openSocket(r.Context(), &socket{conn: conn, out: up.conn, first: &chatRequest{}, maxFrame: int64(maxRequest + escapedSize*s.maxMessage)})
	s.log.DebugContext(ctx, "socket", "user", callerOf(ctx).user.ID, "end", err, "took", time.Since(start))
	// Nothing may block any more: no writer in the middle of a frame, and no peer that does not answer.
	_ = up.conn.SetDeadline(time.Now().Add(closeTimeout))
	_ = conn.Close(closing(ctx, s.log, err)) // fails if it is closed already
}

// openSocket opens a session by the first frame and serves it until its end. It returns why it ended, and a context with
// its caller.
func (s *chatServer) openSocket(ctx context.Context, t *socket) (context.Context, error) {
	var token string
	read := make(chan error, 1)
	s.readers.Go(func() {
		var err error
		token, err = t.readFirst()
		read <- err
	})
	timeout := time.NewTimer(openTimeout)
	defer timeout.Stop()
	select {
	case err := <-read:
		if err != nil {
			return ctx, err
		}
	case <-timeout.C:
		return ctx, errNotOpened()
	case <-s.auth.stopped.Done():
		return ctx, errShuttingDown
	}
	if token == "" {
		return ctx, errSocketToken
	}
	c, err := s.auth.authenticate(ctx, audienceRoom, token)
	if err != nil {
		return ctx, err
	}
	ctx, cancel := context.WithCancel(context.WithValue(ctx, callerKey{}, c))
	var pinging sync.WaitGroup
	defer pinging.Wait()
	defer cancel()
	pinging.Go(func() {
		defer cancel() // the peer is silent
		t.ping(ctx)
	})
	return ctx, s.serve(ctx, t, false)
}

// ping asks the peer for a sign of life now and then, until ctx ends or there is none. The answer of a slow one may come
// late, behind all that is still to be read: as long as frames go out, it is for stallLimit and TCP to find it dead.
func (t *socket) ping(ctx context.Context) {
	tick := time.NewTicker(pingAfter)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		sent := t.out.sent.Load()
		wait, cancel := context.WithTimeout(ctx, pingTimeout)
		err := t.conn.Ping(wait)
		cancel()
		if err != nil && t.out.sent.Load() == sent {
			return
		}
	}
}

// readFirst reads the frame that opens the session, and returns its token.
func (t *socket) readFirst() (string, error) {
	b, err := t.readText()
	if err != nil {
		return "", err
	}
	var opening struct {
		Token string `json:"token"`
	}
	if err := t.first.decodeJSON(b); err != nil {
		return "", err
	}
	if err := json.Unmarshal(b, &opening); err != nil {
		return "", errSocketToken
	}
	return opening.Token, nil
}

// readText reads a frame. It waits until serveSocket closes the connection, however long that is.
func (t *socket) readText() ([]byte, error) {
	kind, r, err := t.conn.Reader(context.Background())
	if err == nil && kind != websocket.MessageText {
		return nil, errNotText
	}
	var b []byte
	if err == nil {
		b, err = io.ReadAll(io.LimitReader(r, t.maxFrame+1))
	}
	switch status := websocket.CloseStatus(err); {
	case status != -1:
		return nil, fmt.Errorf("%w: closed with %d", errGone, status) // its reason is the client's text: not for the log
	case err != nil:
		return nil, fmt.Errorf("%w: %v", errGone, err) // not its io.EOF, which would be a half-close
	case int64(len(b)) > t.maxFrame:
		return nil, errFrameTooLarge
	}
	return b, nil
}

func (t *socket) receive(req *chatRequest) error {
	if t.first != nil {
		*req, t.first = *t.first, nil
		return nil
	}
	b, err := t.readText()
	if err != nil {
		return err
	}
	return req.decodeJSON(b)
}

// decodeJSON reads the JSON form of a ChatRequest.
func (r *chatRequest) decodeJSON(b []byte) error {
	var req pb.ChatRequest
	if !utf8.Valid(b) || (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, &req) != nil {
		return errNotARequest
	}
	*r = chatRequest{body: req.GetBody(), clientMessageID: req.GetClientMessageId(), start: req.Start != nil, typing: req.GetTyping()}
	if r.start {
		r.afterSeq = req.Start.AfterSeq
	}
	return nil
}

func (t *socket) name() string { return transportSocket }

// opened sends a response without events.
func (t *socket) opened() error { return t.out.sendFrame(jsonFrame(&t.buf, nil)) }

func (t *socket) send(s *session, spans []span) error {
	frame := jsonFrame(&t.buf, spans)
	s.sendingSince.Store(time.Now().UnixNano())
	err := t.out.sendFrame(frame)
	s.sendingSince.Store(0)
	return err
}

// closing turns the end of a stream into a close code, which is 4000 and the HTTP status unless RFC 6455, section 7.4.1,
// has one, and its reason.
func closing(ctx context.Context, log *slog.Logger, err error) (websocket.StatusCode, string) {
	if err == nil || errors.Is(err, errGone) || errors.Is(err, context.Canceled) {
		return websocket.StatusNormalClosure, ""
	}
	e := toAPIError(ctx, log, err)
	code := websocket.StatusCode(4000 + e.HTTP)
	switch {
	case errors.Is(e, errShuttingDown):
		code = websocket.StatusGoingAway
	case errors.Is(e, errNotText):
		code = websocket.StatusUnsupportedData
	case errors.Is(e, errBodyTooLarge):
		code = websocket.StatusMessageTooBig
	}
	reason := e.Reason + ": " + e.Message
	return code, strings.ToValidUTF8(reason[:min(len(reason), maxCloseReason)], "")
}

// isForeign tells whether a browser asks for a page of another server, which must not chat in its user's name.
func isForeign(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return false // no browser
	}
	u, err := url.Parse(origin)
	return err != nil || !strings.EqualFold(u.Host, r.Host)
}

// upgrade is an http.ResponseWriter that keeps the connection which is taken from it, and an error's text to itself: ours
// are JSON.
type upgrade struct {
	http.ResponseWriter
	conn *socketConn
}

func (u *upgrade) WriteHeader(code int) {
	if code == http.StatusSwitchingProtocols {
		u.ResponseWriter.WriteHeader(code)
	}
}

func (u *upgrade) Write(p []byte) (int, error) { return len(p), nil }

func (u *upgrade) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buf, err := http.NewResponseController(u.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	if tcp := tcpOf(conn); tcp != nil {
		_ = tcp.SetWriteBuffer(sendBuffer) // without it a slow client is only cut sooner
	}
	u.conn = &socketConn{Conn: conn}
	return u.conn, bufio.NewReadWriter(buf.Reader, bufio.NewWriterSize(u.conn, maxControlFrame)), nil
}

// socketConn is the connection of a WebSocket. The library writes only control frames to it, each with one call of Write;
// events go around it, as frames that all who read them share. It is safe for concurrent use.
type socketConn struct {
	net.Conn
	sent atomic.Int64 // frames of events

	mu     sync.Mutex // guards the field below, and is held for as long as a frame is being written: until it or the deadline is over
	closed bool       // a close frame was written: no other may follow (RFC 6455, section 5.5.1)
}

const (
	frameText       = 0x80 | 1 // the last frame of a message (RFC 6455, section 5.2)
	frameClose      = 0x80 | 8
	maxFrameHeader  = 10
	maxControlFrame = 2 + 125
)

func (c *socketConn) Write(frame []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = c.closed || frame[0] == frameClose
	return c.Conn.Write(frame)
}

// sendFrame writes a frame that jsonFrame has made.
func (c *socketConn) sendFrame(frame []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return errGone
	}
	if _, err := c.Conn.Write(frame); err != nil {
		return fmt.Errorf("%w: %v", errGone, err)
	}
	c.sent.Add(1)
	return nil
}

// frameHeader puts the header of a text frame before its payload, which begins at maxFrameHeader, and returns both.
func frameHeader(b []byte) []byte {
	switch n := len(b) - maxFrameHeader; {
	case n < 126:
		b = b[maxFrameHeader-2:]
		b[1] = byte(n)
	case n <= math.MaxUint16:
		b = b[maxFrameHeader-4:]
		b[1] = 126
		binary.BigEndian.PutUint16(b[2:], uint16(n))
	default:
		b[1] = 127
		binary.BigEndian.PutUint64(b[2:], uint64(n))
	}
	b[0] = frameText
	return b
}

// What stands around the events in the JSON form of a ChatResponse.
const (
	jsonHead = `{"events":[`
	jsonTail = `]}`
)

// jsonForm is the events of a block as a ChatResponse in JSON. The first who asks makes it, for all.
type jsonForm struct {
	once   sync.Once
	frame  []byte // of a WebSocket
	events []byte // of it, with commas between them
	ends   []int  // where each event ends
}

// json returns the JSON form of a block.
func (b *block) json() *jsonForm {
	b.asJSON.once.Do(func() { b.asJSON.make(b) })
	return &b.asJSON
}

// jsonEvent is protobuf's JSON form of a ChatEvent. protojson itself would take three times as long.
type jsonEvent struct {
	UserName        string `json:"userName,omitempty"`
	Body            string `json:"body,omitempty"`
	Seq             uint64 `json:"seq,omitempty,string"`
	SentAt          string `json:"sentAt,omitempty"`
	ClientMessageID string `json:"clientMessageId,omitempty"`
	Kind            string `json:"kind,omitempty"`
}

func (f *jsonForm) make(b *block) {
	out := make([]byte, maxFrameHeader, maxFrameHeader+len(jsonHead)+2*len(b.data)+64*len(b.marks))
	out = append(out, jsonHead...)
	start := len(out)
	f.ends = make([]int, len(b.marks))
	for i := range b.marks {
		if i > 0 {
			out = append(out, ',')
		}
		out = appendJSON(out, b.event(i))
		f.ends[i] = len(out) - start
	}
	f.events = out[start:len(out):len(out)]
	f.frame = frameHeader(append(out, jsonTail...))
}

func appendJSON(b []byte, e event) []byte {
	j := jsonEvent{UserName: e.userName, Body: e.body, Seq: e.seq, ClientMessageID: e.clientMessageID, Kind: e.kind.String()}
	if e.sentAt != 0 {
		j.SentAt = time.UnixMicro(e.sentAt).UTC().Format("2006-01-02T15:04:05.000000Z07:00")
	}
	text, _ := json.Marshal(j) // strings and a number
	return append(b, text...)
}

// some returns the events from and before to.
func (f *jsonForm) some(from, to int) []byte {
	start := 0
	if from > 0 {
		start = f.ends[from-1] + len(",")
	}
	return f.events[start:f.ends[to-1]]
}

// jsonFrame returns a frame of one ChatResponse with the events of spans: in *buf, unless it is just a block, which all
// share.
func jsonFrame(buf *[]byte, spans []span) []byte {
	if len(spans) == 1 {
		if sp := spans[0]; sp.to-sp.from == len(sp.block.marks) {
			return sp.block.json().frame
		}
	}
	b := append((*buf)[:0], make([]byte, maxFrameHeader)...)
	b = append(b, jsonHead...)
	for i, sp := range spans {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, sp.block.json().some(sp.from, sp.to)...)
	}
	b = append(b, jsonTail...)
	if *buf = b; cap(b) > keptBuffer {
		*buf = nil
	}
	return frameHeader(b)
}
