package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"math"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/grpcchatter/grpcchatter/pb"
)

const (
	// frameText is the first byte of a text frame that is a whole message (RFC 6455, section 5.2).
	frameText      = 0x80 | 1
	maxFrameHeader = 10
	// keptBuffer is how much a WebSocket keeps for its next frame, in bytes.
	keptBuffer = 4 << 10
)

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
	var out bytes.Buffer
	out.Grow(maxFrameHeader + len(jsonHead) + len(b.data) + len(b.data)/4 + 80*len(b.marks))
	out.Write(make([]byte, maxFrameHeader))
	out.WriteString(jsonHead)
	start := out.Len()
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false) // it is no HTML, and six bytes for each < and >
	f.ends = make([]int, len(b.marks))
	for i := range b.marks {
		if i > 0 {
			out.WriteByte(',')
		}
		_ = enc.Encode(toJSON(b.event(i))) // strings and a number, into memory
		out.Truncate(out.Len() - 1)        // its line break
		f.ends[i] = out.Len() - start
	}
	end := out.Len()
	out.WriteString(jsonTail)
	frame := slices.Clip(out.Bytes())
	f.events = frame[start:end:end]
	f.frame = frameHeader(frame)
}

func toJSON(e event) jsonEvent {
	j := jsonEvent{UserName: e.userName, Body: e.body, Seq: e.seq, ClientMessageID: e.clientMessageID, Kind: e.kind.String()}
	if e.sentAt != 0 {
		j.SentAt = time.UnixMicro(e.sentAt).UTC().Format("2006-01-02T15:04:05.000000Z07:00")
	}
	return j
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
