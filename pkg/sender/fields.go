package sender

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
)

// Text is a text that JSON may also give as a number: vendors do, with ids and codes.
type Text string

// UnmarshalJSON reads a text, a number, or null as "". Other values give their JSON.
func (t *Text) UnmarshalJSON(data []byte) error {
	var text string
	switch {
	case bytes.Equal(data, []byte("null")):
		*t = ""
	case json.Unmarshal(data, &text) == nil:
		*t = Text(text)
	default:
		*t = Text(data)
	}
	return nil
}

// ParseFields reads a credential into a struct. Fields that it does not have are refused. Its errors are *FieldError.
func ParseFields(credential []byte, fields any) error {
	decoder := json.NewDecoder(bytes.NewReader(credential))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(fields)
	if err == nil {
		return nil
	}
	var mistyped *json.UnmarshalTypeError
	if errors.As(err, &mistyped) && mistyped.Field != "" {
		return &FieldError{fieldOf(mistyped), "must be " + kindOf(mistyped)}
	}
	if _, name, ok := strings.Cut(err.Error(), "unknown field "); ok {
		return &FieldError{strings.Trim(name, `"`), "there is no such field"}
	}
	return &FieldError{"credential", "not a JSON object"}
}

// fieldOf returns the field's name without those of embedded structs, which are Go's.
func fieldOf(err *json.UnmarshalTypeError) string {
	names := strings.Split(err.Field, ".")
	return strings.Join(slices.DeleteFunc(names, func(name string) bool { return strings.ToLower(name) != name }), ".")
}

func kindOf(err *json.UnmarshalTypeError) string {
	switch kind := err.Type.Kind().String(); kind {
	case "string":
		return "a text"
	case "bool":
		return "true or false"
	case "map", "struct":
		return "an object"
	default:
		return "a number"
	}
}

// Required checks fields, given as names and values in turn: each is there and has no space around it, as what is copied from
// a console often has. Its errors are *FieldError.
func Required(namesAndValues ...string) error {
	for i := 0; i+1 < len(namesAndValues); i += 2 {
		name, value := namesAndValues[i], namesAndValues[i+1]
		switch {
		case value == "":
			return &FieldError{name, "is missing"}
		case strings.TrimSpace(value) != value:
			return &FieldError{name, "has space before or behind it"}
		}
	}
	return nil
}

// Forever is embedded in credentials that do not end by themselves.
type Forever struct{}

// ExpiresAt returns the zero time.
func (Forever) ExpiresAt() time.Time { return time.Time{} }

// Classes are part of a credential: which of the vendor's message classes the app's notifications are of.
type Classes struct {
	// Category is the class of notifications without a channel id, or of one that Categories does not have.
	Category string `json:"category"`
	// Categories are classes by the notification's channel id.
	Categories map[string]string `json:"categories"`
}

// Of returns a notification's class; empty: none is set.
func (c Classes) Of(n *pushv1.Notification) string {
	if class, ok := c.Categories[n.GetChannelId()]; ok {
		return class
	}
	return c.Category
}

// Fields returns the JSON fields of a request, a struct or map, with an override put over them (see Merge), which stays as it is.
func Fields(request any, override map[string]any) (map[string]any, error) {
	text, err := json.Marshal(request)
	if err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	var fields map[string]any
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber() // ids are not floating-point numbers
	if err := decoder.Decode(&fields); err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	return Merge(fields, clone(override).(map[string]any)), nil
}

// clone copies the objects of a JSON value, so that who merges into them changes nobody else's.
func clone(value any) any {
	object, ok := value.(map[string]any)
	if !ok {
		return value
	}
	copied := make(map[string]any, len(object))
	for name, inner := range object {
		copied[name] = clone(inner)
	}
	return copied
}

// AppFields returns what the app gets with a message, for vendors that carry texts by name: push_id; user, payload, and data, as
// a JSON object, where the message has them.
func (m *Message) AppFields() map[string]string {
	fields := map[string]string{"push_id": m.PushID}
	if m.User != "" {
		fields["user"] = m.User
	}
	if m.Payload != "" {
		fields["payload"] = m.Payload
	}
	if len(m.Data) > 0 {
		text, _ := json.Marshal(m.Data) // texts always can be
		fields["data"] = string(text)
	}
	return fields
}

// AppData returns what the app gets with a message, for vendors that carry one text: a JSON object of push_id, user, payload
// and data.
func (m *Message) AppData() string {
	fields := map[string]any{}
	for name, text := range m.AppFields() {
		fields[name] = text
	}
	if len(m.Data) > 0 {
		fields["data"] = m.Data
	}
	text, _ := json.Marshal(fields) // texts always can be
	return string(text)
}

// NotifyID returns a number between 1 and 2^31-1 for a key, the same for the same: on a phone a notification replaces the one
// that has its number.
func NotifyID(key string) int32 {
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(key)) // cannot fail
	return max(int32(hash.Sum32()>>1), 1)
}
