package loop

import (
	"bytes"
	"crypto/tls"
	"reflect"
	"unsafe"
)

// maxSpare is the capacity that an empty buffer of an idle TLS connection may keep, in bytes: what a heartbeat needs.
const maxSpare = 1 << 10

// spareBuffers are where a tls.Conn keeps buffers that grow with the handshake and never shrink: more than half of what an idle
// connection costs. There is no public way to them; where they are not found, nothing shrinks.
var spareBuffers = findBuffers("rawInput", "hand") //nolint:gochecknoglobals // the layout of a type

func findBuffers(names ...string) (offsets []uintptr) {
	conn := reflect.TypeFor[tls.Conn]()
	for _, name := range names {
		if f, ok := conn.FieldByName(name); ok && f.Type == reflect.TypeFor[bytes.Buffer]() {
			offsets = append(offsets, f.Offset)
		}
	}
	return offsets
}

// shrink frees the large buffers of a connection that are empty. Nobody else may use it meanwhile.
func shrink(conn *tls.Conn) {
	for _, offset := range spareBuffers {
		b := (*bytes.Buffer)(unsafe.Add(unsafe.Pointer(conn), offset)) //nolint:gosec // the field has this type
		if b.Len() == 0 && b.Cap() > maxSpare {
			*b = bytes.Buffer{}
		}
	}
}
