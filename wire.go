package main

import (
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers the codec that codec falls back to
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/grpcchatter/grpcchatter/pb"
)

// event is a ChatEvent before it is encoded.
type event struct {
	kind            pb.ChatEventKind
	userName        string
	body            string
	seq             uint64
	sentAt          int64 // microseconds since 1970; 0: none
	clientMessageID string
}

func messageEvent(m message) event {
	return event{pb.ChatEventKind_MESSAGE, m.UserName, m.Body, m.Seq, m.SentAt, m.ClientMessageID}
}

// mark says where an event stands in the bytes of its block.
type mark struct {
	content int // where its fields begin, behind tag and length
	text    int // where user_name and body end: from content to here it is the original's ServerMessage
	end     int
}

// appendEvent encodes e as one element of ChatResponse.events, so that encoded events that stand one after
// the other are a ChatResponse. user_name and body come first.
func appendEvent(b []byte, e event) ([]byte, mark) {
	size := sizeString(e.userName) + sizeString(e.body) + sizeUint(e.seq) + sizeString(e.clientMessageID) + sizeUint(uint64(e.kind))
	seconds, nanos := uint64(e.sentAt/1e6), uint64(e.sentAt%1e6*1e3)
	stamp := sizeUint(seconds) + sizeUint(nanos)
	if stamp > 0 {
		size += 1 + protowire.SizeBytes(stamp)
	}
	var m mark
	b = protowire.AppendTag(b, 1, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(size))
	m.content = len(b)
	b = appendString(b, 1, e.userName)
	b = appendString(b, 2, e.body)
	m.text = len(b)
	b = appendUint(b, 3, e.seq)
	if stamp > 0 {
		b = protowire.AppendTag(b, 4, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(stamp))
		b = appendUint(b, 1, seconds)
		b = appendUint(b, 2, nanos)
	}
	b = appendString(b, 5, e.clientMessageID)
	b = appendUint(b, 6, uint64(e.kind))
	m.end = len(b)
	return b, m
}

// event decodes event i of a block.
func (b *block) event(i int) (e event) {
	_ = pb.EachField(b.data[b.marks[i].content:b.marks[i].end], func(num protowire.Number, v uint64, s []byte) error {
		switch num {
		case 1:
			e.userName = string(s)
		case 2:
			e.body = string(s)
		case 3:
			e.seq = v
		case 4:
			return pb.EachField(s, func(num protowire.Number, v uint64, _ []byte) error {
				switch num {
				case 1:
					e.sentAt += int64(v) * 1e6
				case 2:
					e.sentAt += int64(v) / 1e3
				}
				return nil
			})
		case 5:
			e.clientMessageID = string(s)
		case 6:
			e.kind = pb.ChatEventKind(v)
		}
		return nil
	}) // our own encoding: it cannot fail
	return e
}

// The fields of proto3: an empty one is not written. Every field number here is below 16: its tag is a byte.

func sizeString(s string) int {
	if s == "" {
		return 0
	}
	return 1 + protowire.SizeBytes(len(s))
}

func sizeUint(v uint64) int {
	if v == 0 {
		return 0
	}
	return 1 + protowire.SizeVarint(v)
}

func appendString(b []byte, field protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	b = protowire.AppendTag(b, field, protowire.BytesType)
	return protowire.AppendString(b, s)
}

func appendUint(b []byte, field protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	b = protowire.AppendTag(b, field, protowire.VarintType)
	return protowire.AppendVarint(b, v)
}

// chatRequest is a decoded ChatRequest. It is decoded here, not by generated code: that would end the stream
// at a body that is not UTF-8, where the contract asks for a REJECTED.
type chatRequest struct {
	body            string
	clientMessageID string
	start           bool
	afterSeq        *uint64
	typing          bool
	err             error // why it is no ChatRequest
}

// empty tells a request that has no message.
func (r *chatRequest) empty() bool { return r.body == "" && r.clientMessageID == "" }

func (r *chatRequest) decode(b []byte) {
	*r = chatRequest{}
	r.err = pb.EachField(b, func(num protowire.Number, v uint64, s []byte) error {
		switch {
		case num == 1 && s != nil:
			r.body = string(s)
		case num == 2 && s != nil:
			r.clientMessageID = string(s)
		case num == 3 && s != nil:
			r.start = true
			return pb.EachField(s, func(num protowire.Number, v uint64, s []byte) error {
				if num == 1 && s == nil {
					r.afterSeq = &v
				}
				return nil
			})
		case num == 4 && s == nil:
			r.typing = v != 0
		}
		return nil
	})
}

// decoded is a message with what was wrong with it: grpc-go would answer an error of the codec itself.
type decoded struct {
	v   any
	err error
}

// frame is a message that is encoded already: its buffers go out as they are, shared by all who get them.
type frame struct{ mem.BufferSlice }

// codec sends frames and receives chatRequests without generated code, and leaves the rest to grpc-go's own.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2("proto")} }

func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if f, ok := v.(*frame); ok {
		return f.BufferSlice, nil
	}
	return c.CodecV2.Marshal(v)
}

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	if d, ok := v.(*decoded); ok {
		d.err = c.CodecV2.Unmarshal(data, d.v)
		return nil
	}
	r, ok := v.(*chatRequest)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buf.Free()
	r.decode(buf.ReadOnlyData())
	return nil
}
