package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/coder/websocket"
)

// maxSocketFrame is how large a frame may be, in bytes: the server makes them of about 64 KiB of protobuf.
const maxSocketFrame = 1 << 20

// socketMember speaks the WebSocket of grpcchatter.
type socketMember struct {
	conn   *websocket.Conn
	ctx    context.Context
	cancel context.CancelFunc
}

func (t *target) joinSocket(ctx context.Context, room string, received func(n int)) (*socketMember, error) {
	conn, _, err := websocket.Dial(ctx, "ws://"+t.proc.addr+"/chat", nil)
	if err != nil {
		return nil, err
	}
	conn.SetReadLimit(maxSocketFrame)
	opening, _ := json.Marshal(map[string]any{"token": t.rooms[room], "start": map[string]string{"afterSeq": "0"}})
	if err := conn.Write(ctx, websocket.MessageText, opening); err != nil {
		return nil, err
	}
	if _, _, err := conn.Read(ctx); err != nil { // the session is open
		return nil, err
	}
	m := &socketMember{conn: conn}
	m.ctx, m.cancel = context.WithCancel(ctx)
	go func() {
		var numbers sequence
		for {
			n := 0
			_, frame, err := conn.Read(m.ctx)
			if err == nil {
				n, err = numbers.countJSON(frame)
			}
			if err != nil {
				if m.ctx.Err() == nil { // it was not closed
					t.fail(fmt.Errorf("a member of %s: %w", room, err))
				}
				return
			}
			if n > 0 {
				received(n)
			}
		}
	}()
	return m, nil
}

// countJSON counts the events of a ChatResponse that have a seq, and decodes nothing else of them.
func (s *sequence) countJSON(frame []byte) (n int, err error) {
	for {
		_, after, found := bytes.Cut(frame, []byte(`"seq":"`)) // no body has one
		if !found {
			return n, nil
		}
		var seq uint64
		for len(after) > 0 && after[0] != '"' {
			seq, after = seq*10+uint64(after[0]-'0'), after[1:]
		}
		if err := s.next(seq); err != nil {
			return 0, err
		}
		n, frame = n+1, after
	}
}

func (m *socketMember) send(body string, id int) error {
	frame, _ := json.Marshal(map[string]string{"body": body, "clientMessageId": strconv.Itoa(id)})
	return m.conn.Write(m.ctx, websocket.MessageText, frame)
}

func (m *socketMember) close() {
	m.cancel()
	_ = m.conn.CloseNow()
}
