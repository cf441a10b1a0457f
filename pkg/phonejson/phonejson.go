// Package phonejson is the JSON that phones speak: an encoding of halley.device.v1 of its own, not protojson.
//
// Names are those of the proto (snake_case), enum words are in lower case, 64-bit integers are plain numbers (times are
// milliseconds; a string of digits is accepted too), unknown fields are ignored and absent ones left out. The fields of a
// report stand flat in the request that carries it.
package phonejson

import (
	"fmt"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// MaxDepth bounds the nesting of what is decoded.
const MaxDepth = 32

// Error says what is wrong with a JSON text, and where.
type Error struct {
	// Field is the path of the value at fault, such as events[3].type; empty for the text as a whole.
	Field string
	// Message says what is wrong with it.
	Message string
}

func (e *Error) Error() string {
	if e.Field == "" {
		return e.Message
	}
	return e.Field + ": " + e.Message
}

func wrong(path, format string, args ...any) *Error {
	return &Error{Field: path, Message: fmt.Sprintf(format, args...)}
}

// flat reports whether the fields of a message field stand beside the field's siblings in the JSON. Decoding always sets
// such a field, because its object is always there.
func flat(field protoreflect.FieldDescriptor) bool {
	switch field.FullName() {
	case "halley.device.v1.RegisterRequest.report", "halley.device.v1.ReportRequest.report":
		return true
	}
	return false
}
