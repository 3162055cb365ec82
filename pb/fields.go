package pb

import (
	"errors"

	"google.golang.org/protobuf/encoding/protowire"
)

// ErrMalformed is returned by EachField for bytes that are no protobuf message.
var ErrMalformed = errors.New("pb: not a protobuf message")

// EachField calls fn for every varint of an encoded message, as v with data nil, and for every length-delimited
// field, as data, which is not nil and part of b. It passes over fields of other types. It returns ErrMalformed, or
// the first error of fn. It is for those who decode what is sent most often without making objects of it.
func EachField(b []byte, fn func(num protowire.Number, v uint64, data []byte) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 || num > protowire.MaxValidNumber {
			return ErrMalformed
		}
		b = b[n:]
		var v uint64
		var data []byte
		switch typ {
		case protowire.VarintType:
			v, n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			if data, n = protowire.ConsumeBytes(b); data == nil {
				data = []byte{}
			}
		default:
			if n = protowire.ConsumeFieldValue(num, typ, b); n >= 0 {
				b = b[n:]
				continue
			}
		}
		if n < 0 {
			return ErrMalformed
		}
		if err := fn(num, v, data); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}
