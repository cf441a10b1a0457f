package phonejson

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// firstSize is the room for an encoded message that most need, in bytes.
const firstSize = 512

// Marshal encodes a message: compact, fields in the order of their numbers, map keys sorted. What is not set is left out;
// a field with presence that is set to its zero value is written.
func Marshal(m proto.Message) ([]byte, error) {
	return appendMessage(make([]byte, 0, firstSize), m.ProtoReflect())
}

func appendMessage(out []byte, m protoreflect.Message) ([]byte, error) {
	out = append(out, '{')
	out, _, err := appendFields(out, m, false)
	return append(out, '}'), err
}

// appendFields appends the fields of a message, the first with a comma in front if more is true, and returns whether the
// next one needs a comma.
func appendFields(out []byte, m protoreflect.Message, more bool) ([]byte, bool, error) {
	fields := m.Descriptor().Fields()
	var err error
	for i := range fields.Len() { // in the order of the file, which is that of the numbers in this project
		field := fields.Get(i)
		if !m.Has(field) {
			continue
		}
		if flat(field) {
			out, more, err = appendFields(out, m.Get(field).Message(), more)
		} else {
			if more {
				out = append(out, ',')
			}
			more = true
			out = append(out, '"')
			out = append(out, field.Name()...)
			out = append(out, '"', ':')
			out, err = appendField(out, field, m.Get(field))
		}
		if err != nil {
			return nil, false, err
		}
	}
	return out, more, nil
}

func appendField(out []byte, field protoreflect.FieldDescriptor, value protoreflect.Value) ([]byte, error) {
	switch {
	case field.IsMap():
		return appendMap(out, field.MapValue(), value.Map())
	case field.IsList():
		out = append(out, '[')
		var err error
		for i := range value.List().Len() {
			if i > 0 {
				out = append(out, ',')
			}
			if out, err = appendValue(out, field, value.List().Get(i)); err != nil {
				return nil, err
			}
		}
		return append(out, ']'), nil
	default:
		return appendValue(out, field, value)
	}
}

func appendMap(out []byte, of protoreflect.FieldDescriptor, m protoreflect.Map) ([]byte, error) {
	keys := make([]string, 0, m.Len())
	m.Range(func(k protoreflect.MapKey, _ protoreflect.Value) bool {
		keys = append(keys, k.String())
		return true
	})
	slices.Sort(keys)
	out = append(out, '{')
	var err error
	for i, k := range keys {
		if i > 0 {
			out = append(out, ',')
		}
		if out, err = appendString(out, k); err != nil {
			return nil, err
		}
		out = append(out, ':')
		if out, err = appendValue(out, of, m.Get(protoreflect.ValueOfString(k).MapKey())); err != nil {
			return nil, err
		}
	}
	return append(out, '}'), nil
}

func appendValue(out []byte, field protoreflect.FieldDescriptor, value protoreflect.Value) ([]byte, error) {
	switch field.Kind() {
	case protoreflect.BoolKind:
		return strconv.AppendBool(out, value.Bool()), nil
	case protoreflect.StringKind:
		return appendString(out, value.String())
	case protoreflect.Int32Kind, protoreflect.Int64Kind:
		return strconv.AppendInt(out, value.Int(), 10), nil
	case protoreflect.Uint32Kind, protoreflect.Uint64Kind:
		return strconv.AppendUint(out, value.Uint(), 10), nil
	case protoreflect.EnumKind:
		word := field.Enum().Values().ByNumber(value.Enum())
		if word == nil {
			return nil, fmt.Errorf("field %s: there is no value %d", field.FullName(), value.Enum())
		}
		return append(append(append(out, '"'), strings.ToLower(string(word.Name()))...), '"'), nil
	case protoreflect.MessageKind:
		return appendMessage(out, value.Message())
	}
	return nil, fmt.Errorf("field %s: the phone JSON has no form for a %s", field.FullName(), field.Kind())
}

// appendString leaves the escaping to encoding/json where there is anything to escape.
func appendString(out []byte, s string) ([]byte, error) {
	if plain(s) {
		return append(append(append(out, '"'), s...), '"'), nil
	}
	var b strings.Builder
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(s); err != nil {
		return nil, err
	}
	return append(out, strings.TrimSuffix(b.String(), "\n")...), nil
}

// plain reports whether a text stands in JSON as it is. The line separators are no plain text, because JavaScript before 2019
// does not take them inside a string.
func plain(s string) bool {
	for _, r := range s {
		switch r {
		case '"', '\\', '\u2028', '\u2029', utf8.RuneError:
			return false
		}
		if r < ' ' {
			return false
		}
	}
	return true
}
