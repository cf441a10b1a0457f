package phonejson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	devicev1 "github.com/halleypush/halley/proto/halley/device/v1"
)

// Unmarshal decodes a JSON object into a message, which is reset first. Unknown fields are ignored, null is absent, of
// duplicate keys the last counts. Errors are of type *Error.
func Unmarshal(data []byte, m proto.Message) error {
	value, err := parse(data)
	if err != nil {
		return err
	}
	proto.Reset(m)
	return decodeMessage("", value, m.ProtoReflect())
}

// UnmarshalEvents decodes what a phone sends as events: one event, an array of events, or {"events": [...]}.
func UnmarshalEvents(data []byte) (*devicev1.EventsRequest, error) {
	value, err := parse(data)
	if err != nil {
		return nil, err
	}
	if object, ok := value.(map[string]any); !ok || object["events"] == nil {
		if ok {
			value = []any{value}
		}
		value = map[string]any{"events": value}
	}
	request := &devicev1.EventsRequest{}
	if err := decodeMessage("", value, request.ProtoReflect()); err != nil {
		return nil, err
	}
	return request, nil
}

// parse reads exactly one JSON value.
func parse(data []byte) (any, error) {
	if !utf8.Valid(data) {
		return nil, wrong("", "the text is not valid UTF-8")
	}
	if depth(data) > MaxDepth {
		return nil, wrong("", "the text is nested deeper than %d", MaxDepth)
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, wrong("", "the text is empty")
		}
		return nil, wrong("", "not valid JSON: %v", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, wrong("", "there is more behind the JSON value")
	}
	return value, nil
}

// depth returns how deep arrays and objects are nested, counting brackets outside strings.
func depth(data []byte) int {
	deepest, now, quoted := 0, 0, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			now++
			deepest = max(deepest, now)
		case c == '}' || c == ']':
			now--
		}
	}
	return deepest
}

func decodeMessage(path string, value any, m protoreflect.Message) error {
	object, ok := value.(map[string]any)
	if !ok {
		return wrong(path, "must be an object")
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		if flat(field) {
			if err := decodeMessage(path, value, m.Mutable(field).Message()); err != nil {
				return err
			}
			continue
		}
		name := string(field.Name())
		given, ok := object[name]
		if !ok || given == nil {
			continue
		}
		if err := decodeField(join(path, name), given, field, m); err != nil {
			return err
		}
	}
	return nil
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func decodeField(path string, given any, field protoreflect.FieldDescriptor, m protoreflect.Message) error {
	switch {
	case field.IsMap():
		return decodeMap(path, given, field, m.Mutable(field).Map())
	case field.IsList():
		items, ok := given.([]any)
		if !ok {
			return wrong(path, "must be an array")
		}
		list := m.Mutable(field).List()
		for i, item := range items {
			value, err := decodeValue(fmt.Sprintf("%s[%d]", path, i), item, field, list.NewElement)
			if err != nil {
				return err
			}
			list.Append(value)
		}
		return nil
	default:
		value, err := decodeValue(path, given, field, func() protoreflect.Value { return m.NewField(field) })
		if err != nil {
			return err
		}
		m.Set(field, value)
		return nil
	}
}

func decodeMap(path string, given any, field protoreflect.FieldDescriptor, m protoreflect.Map) error {
	object, ok := given.(map[string]any)
	if !ok {
		return wrong(path, "must be an object")
	}
	for k, item := range object {
		if item == nil {
			continue
		}
		value, err := decodeValue(join(path, k), item, field.MapValue(), m.NewValue)
		if err != nil {
			return err
		}
		m.Set(protoreflect.ValueOfString(k).MapKey(), value)
	}
	return nil
}

// decodeValue decodes one value; empty makes a new one where the field is a message.
func decodeValue(
	path string, given any, field protoreflect.FieldDescriptor, empty func() protoreflect.Value,
) (protoreflect.Value, error) {
	switch field.Kind() {
	case protoreflect.BoolKind:
		if b, ok := given.(bool); ok {
			return protoreflect.ValueOfBool(b), nil
		}
		return protoreflect.Value{}, wrong(path, "must be true or false")
	case protoreflect.StringKind:
		if s, ok := given.(string); ok {
			return protoreflect.ValueOfString(s), nil
		}
		return protoreflect.Value{}, wrong(path, "must be a string")
	case protoreflect.Int32Kind:
		n, err := decodeInt(path, given, 32)
		return protoreflect.ValueOfInt32(int32(n)), err
	case protoreflect.Int64Kind:
		n, err := decodeInt(path, given, 64)
		return protoreflect.ValueOfInt64(n), err
	case protoreflect.EnumKind:
		return decodeEnum(path, given, field.Enum().Values())
	case protoreflect.MessageKind:
		value := empty()
		return value, decodeMessage(path, given, value.Message())
	}
	return protoreflect.Value{}, wrong(path, "has no form in the phone JSON")
}

// decodeInt accepts a whole number, also as a string of digits: some platforms have no 64-bit numbers in JSON.
func decodeInt(path string, given any, bits int) (int64, error) {
	var text string
	switch v := given.(type) {
	case json.Number:
		text = v.String()
	case string:
		text = v
	default:
		return 0, wrong(path, "must be a whole number")
	}
	n, err := strconv.ParseInt(text, 10, bits)
	if err != nil {
		return 0, wrong(path, "must be a whole number of %d bits", bits)
	}
	return n, nil
}

func decodeEnum(path string, given any, values protoreflect.EnumValueDescriptors) (protoreflect.Value, error) {
	s, ok := given.(string)
	if !ok {
		return protoreflect.Value{}, wrong(path, "must be a word")
	}
	if value := values.ByName(protoreflect.Name(strings.ToUpper(s))); value != nil && value.Number() != 0 {
		return protoreflect.ValueOfEnum(value.Number()), nil
	}
	var words []string
	for i := range values.Len() {
		if v := values.Get(i); v.Number() != 0 {
			words = append(words, strings.ToLower(string(v.Name())))
		}
	}
	return protoreflect.Value{}, wrong(path, "must be one of %s", strings.Join(words, ", "))
}
