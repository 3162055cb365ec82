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
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"
)

const (
	// closeTimeout is how long the end of a WebSocket may take: to write the close code, and to wait for the other side's.
	closeTimeout = time.Second
	// maxCloseReason is how long the reason may be, in bytes (RFC 6455, sections 5.5 and 5.5.1).
	maxCloseReason = 123
	// sendBuffer is how much the kernel keeps for a WebSocket that is slow, in bytes. It would let it grow to megabytes, and
	// then not tell for longer than stallLimit that something was read.
	sendBuffer = 128 << 10
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
	s.sockets.Add(1) // before http.Server lets go of the connection, for whose handler it would wait
	defer s.sockets.Done()
	leave, _, err := s.enterByProxy(r.Context(), peerAddr(r.RemoteAddr))
	if err != nil {
		writeError(r.Context(), s.log, w, err)
		return
	}
	defer leave()
	up := &upgrade{ResponseWriter: w}
	conn, err := websocket.Accept(up, r, &websocket.AcceptOptions{InsecureSkipVerify: true}) // the handler of all routes has verified the origin
	if err != nil {
		if up.conn == nil {
			w.Header().Set("Connection", "Upgrade") // with the status 426 (RFC 9110, section 15.5.22)
			w.Header().Set("Upgrade", "websocket")
			writeError(r.Context(), s.log, w, errNotAWebSocket)
		}
		return
	}
	conn.SetReadLimit(-1) // readText has one
	err = s.openSocket(r.Context(), &socket{conn: conn, out: up.conn, first: &chatRequest{}, maxFrame: int64(maxBody + s.maxMessage)})
	// Nothing may block any more: no writer in the middle of a frame, and no peer that does not answer.
	_ = up.conn.SetDeadline(time.Now().Add(closeTimeout))
	_ = conn.Close(closing(r.Context(), s.log, err)) // fails if it is closed already
}

// openSocket opens a session by the first frame and serves it until its end. It returns why it ended.
func (s *chatServer) openSocket(ctx context.Context, t *socket) error {
	start := time.Now()
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
			return err
		}
	case <-timeout.C:
		return errNotOpened()
	case <-s.auth.stopped.Done():
		return errShuttingDown
	}
	if token == "" {
		return errSocketToken
	}
	c, err := s.auth.authenticate(ctx, audienceRoom, token)
	if err != nil {
		return err
	}
	t.maxFrame = int64(maxRequest + escapedSize*s.maxMessage) // of a stranger, less is kept
	ctx, cancel := context.WithCancelCause(context.WithValue(ctx, callerKey{}, c))
	var pinging sync.WaitGroup
	defer pinging.Wait()
	defer cancel(nil)
	pinging.Go(func() {
		t.ping(ctx)
		cancel(errPingTimeout)
	})
	if err = s.serve(ctx, t, false); errors.Is(err, context.Canceled) {
		err = context.Cause(ctx)
	}
	s.log.DebugContext(ctx, "socket", "user", c.user.ID, "end", err, "client", clientAddr(ctx), "took", time.Since(start))
	return err
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
	case isLost(err):
		return nil, fmt.Errorf("%w: %v", errGone, err) // not its io.EOF, which would be a half-close
	case err != nil:
		return nil, fmt.Errorf("%w: %v", errNotAFrame, err)
	case int64(len(b)) > t.maxFrame:
		return nil, errFrameTooLarge
	}
	return b, nil
}

// isLost tells whether an error is about the connection, and not about what came by it.
func isLost(err error) bool {
	var op *net.OpError
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || errors.As(err, &op)
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

func (t *socket) name() string { return transportSocket }

// opened sends a response without events.
func (t *socket) opened() error { return t.out.sendFrame(jsonFrame(&t.buf, nil)) }

func (t *socket) send(s *session, spans []span) error {
	frame := jsonFrame(&t.buf, spans)
	return s.sending(func() error { return t.out.sendFrame(frame) })
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
	case errors.Is(e, errNotAFrame):
		code = websocket.StatusProtocolError
	}
	reason := e.Reason + ": " + e.Message
	return code, strings.ToValidUTF8(reason[:min(len(reason), maxCloseReason)], "")
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
	if tcp := clientConnOf(conn); tcp != nil {
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
	frameClose      = 0x80 | 8 // its first byte (RFC 6455, section 5.2)
	maxControlFrame = 2 + 125
)

func (c *socketConn) Write(frame []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if frame[0] != frameClose {
		return c.Conn.Write(frame)
	}
	c.closed = true
	if _, err := c.Conn.Write(closeFrame(frame)); err != nil {
		return 0, err
	}
	return len(frame), nil
}

// closeFrame is a close frame that the library has made, with a reason that may be sent: of a protocol error ours, as of every
// end, and not the library's; and not what the client has sent as its own, if that is no text (RFC 6455, section 5.5.1).
func closeFrame(frame []byte) []byte {
	const beforeReason = 2 + 2 // the header, and the code
	if len(frame) < beforeReason {
		return frame
	}
	reason := frame[beforeReason:]
	switch code := websocket.StatusCode(binary.BigEndian.Uint16(frame[2:])); {
	case code == websocket.StatusProtocolError:
		reason = []byte(errNotAFrame.Reason + ": " + errNotAFrame.Message)
	case !utf8.Valid(reason):
		reason = nil
	}
	return slices.Concat([]byte{frameClose, byte(2 + len(reason))}, frame[2:beforeReason], reason)
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
