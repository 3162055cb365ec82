package client

import (
	"strings"
	"time"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers the codec that codec falls back to
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/grpcchatter/grpcchatter/pb"
)

// event is a ChatEvent.
type event struct {
	Message
	kind pb.ChatEventKind
	id   []byte // client_message_id; valid until the frame is decoded again
}

// frame is a ChatResponse. It is decoded here and not by generated code, which makes five objects of each
// event: in a busy room that is most of what a client does. A frame is used again and again.
type frame struct {
	events []event
	ids    []byte            // what the events' ids are parts of
	names  map[string]string // user names that were seen; there are few
	chunk  strings.Builder   // what short bodies are parts of
}

// Bodies up to shortBody bytes are made of one piece of memory for chunkSize bytes of them. Who keeps a message keeps
// that much.
const (
	shortBody = 256
	chunkSize = 1 << 10
)

// maxNames bounds frame.names.
const maxNames = 1024

func (f *frame) decode(b []byte) error {
	clear(f.events)
	f.events, f.ids = f.events[:0], f.ids[:0]
	return pb.EachField(b, func(num protowire.Number, _ uint64, data []byte) error {
		if num != 1 || data == nil {
			return nil
		}
		f.events = append(f.events, event{})
		return f.decodeEvent(data, &f.events[len(f.events)-1])
	})
}

// decodeEvent knows the fields as a server writes them, with a tag of one byte; what else may come takes the long way.
func (f *frame) decodeEvent(b []byte, e *event) error {
	for len(b) > 0 {
		tag := b[0]
		var v uint64
		var data []byte
		n := 0
		if tag >= 1<<3 && tag < 7<<3 { // fields 1 to 6
			switch tag & 7 {
			case byte(protowire.VarintType):
				v, n = protowire.ConsumeVarint(b[1:])
			case byte(protowire.BytesType):
				data, n = protowire.ConsumeBytes(b[1:])
			}
		}
		var err error
		switch {
		case n < 0:
			return pb.ErrMalformed
		case n == 0:
			if _, _, n = protowire.ConsumeField(b); n < 0 {
				return pb.ErrMalformed
			}
			err = pb.EachField(b[:n], func(num protowire.Number, v uint64, data []byte) error { return f.set(e, num, v, data) })
			n--
		case data != nil:
			err = f.set(e, protowire.Number(tag>>3), 0, data)
		default:
			err = f.set(e, protowire.Number(tag>>3), v, nil)
		}
		if err != nil {
			return err
		}
		b = b[1+n:]
	}
	return nil
}

// set sets a field: v is a varint, and data is not nil for what has a length.
func (f *frame) set(e *event, num protowire.Number, v uint64, data []byte) error {
	switch {
	case num == 1 && data != nil:
		e.UserName = f.name(data)
	case num == 2 && data != nil:
		e.Body = f.text(data)
	case num == 3 && data == nil:
		e.Seq = v
	case num == 4 && data != nil:
		return decodeTime(data, &e.SentAt)
	case num == 5 && data != nil:
		start := len(f.ids)
		f.ids = append(f.ids, data...)
		e.id = f.ids[start:]
	case num == 6 && data == nil:
		e.kind = pb.ChatEventKind(v)
	}
	return nil
}

func decodeTime(b []byte, t *time.Time) error {
	var seconds, nanos uint64
	err := pb.EachField(b, func(num protowire.Number, v uint64, data []byte) error {
		switch {
		case num == 1 && data == nil:
			seconds = v
		case num == 2 && data == nil:
			nanos = v
		}
		return nil
	})
	*t = time.Unix(int64(seconds), int64(int32(nanos))).UTC()
	return err
}

// text returns b as a string of its own.
func (f *frame) text(b []byte) string {
	if len(b) > shortBody {
		return string(b)
	}
	if f.chunk.Cap()-f.chunk.Len() < len(b) {
		f.chunk = strings.Builder{}
		f.chunk.Grow(chunkSize)
	}
	start := f.chunk.Len()
	f.chunk.Write(b)
	return f.chunk.String()[start:]
}

// name returns a user name, and the same string for the same name.
func (f *frame) name(b []byte) string {
	if name, ok := f.names[string(b)]; ok {
		return name
	}
	if f.names == nil || len(f.names) == maxNames {
		f.names = make(map[string]string)
	}
	name := string(b)
	f.names[name] = name
	return name
}

// codec decodes frames, and leaves the rest to grpc-go's own codec.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2("proto")} }

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	f, ok := v.(*frame)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buf.Free()
	return f.decode(buf.ReadOnlyData())
}
