package mqtt

import (
	"encoding/binary"
	"unicode/utf8"
)

// Packet is one control packet as it came: its first byte and what follows the fixed header. Body is a view of the input.
type Packet struct {
	First byte
	Body  []byte
}

// Type returns the packet type.
func (p Packet) Type() byte { return p.First >> 4 }

// Next splits the first packet off input and returns how many bytes it takes; 0 if it is not complete yet. A packet of more
// than limit bytes in all is refused as soon as its length is known.
func Next(input []byte, limit int) (p Packet, n int, err error) {
	if len(input) == 0 {
		return p, 0, nil
	}
	length, digits := 0, 0
	for shift := 0; ; shift += 7 {
		if digits == 4 {
			return p, 0, malformed("the remaining length has more than 4 bytes")
		}
		if 1+digits >= len(input) {
			return p, 0, nil
		}
		b := input[1+digits]
		digits++
		length |= int(b&0x7F) << shift
		if b&0x80 == 0 {
			break
		}
	}
	total := 1 + digits + length
	if total > limit {
		return p, 0, &Error{Code: PacketTooLarge, Reason: "the packet is too large"}
	}
	if len(input) < total {
		return p, 0, nil
	}
	return Packet{First: input[0], Body: input[1+digits : total]}, total, nil
}

// reader reads the fields of one packet. After the first failure it returns zeros and keeps the error.
type reader struct {
	rest []byte
	err  error
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
	r.rest = nil
}

func (r *reader) take(n int) []byte {
	if len(r.rest) < n {
		r.fail(malformed("the packet ends too early"))
		return nil
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uint16() uint16 {
	if b := r.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// varint reads a variable byte integer (1.5.5).
func (r *reader) varint() int {
	value := 0
	for shift := 0; shift < 28; shift += 7 {
		b := r.byte()
		value |= int(b&0x7F) << shift
		if b&0x80 == 0 {
			return value
		}
	}
	r.fail(malformed("a variable byte integer has more than 4 bytes"))
	return 0
}

// binary reads binary data (1.5.6); the result is a view.
func (r *reader) binary() []byte { return r.take(int(r.uint16())) }

// text reads a UTF-8 string (1.5.4); the result is a view. Null characters and surrogates are refused.
func (r *reader) text() []byte {
	b := r.binary()
	if !utf8.Valid(b) {
		r.fail(malformed("a string is not valid UTF-8"))
		return nil
	}
	for _, c := range b {
		if c == 0 {
			r.fail(malformed("a string holds a null character"))
			return nil
		}
	}
	return b
}

// properties returns a reader of the property list that stands next (2.2.2).
func (r *reader) properties() *reader {
	length := r.varint()
	return &reader{rest: r.take(length), err: r.err}
}

// end returns the reader's error, or one if something stands behind the last field.
func (r *reader) end() error {
	if r.err == nil && len(r.rest) > 0 {
		return malformed("the packet is longer than its fields")
	}
	return r.err
}

// once refuses a property that stands twice.
type once uint64

func (o *once) check(r *reader, id byte) {
	if *o&(1<<id) != 0 {
		r.fail(violation("property 0x%02X stands twice", id))
	}
	*o |= 1 << id
}

// flag reads a property byte that may be 0 or 1.
func (r *reader) flag() bool {
	b := r.byte()
	if b > 1 {
		r.fail(violation("a flag property is %d", b))
	}
	return b == 1
}

func (r *reader) userProperty() UserProperty {
	return UserProperty{Name: string(r.text()), Value: string(r.text())}
}
