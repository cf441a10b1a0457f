package fcm

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"firebase.google.com/go/v4/messaging"

	"github.com/halleypush/halley/pkg/sender"
)

// draft is what the requests of a job have in common: all but the device's token.
type draft struct {
	url           string
	before, after []byte // the body around the token
}

// newDraft has Google's library build and check a message, and puts the push's override over it, which may hold fields that the
// library does not know.
func newDraft(library *messaging.Client, m *sender.Message, now time.Time) (*draft, error) {
	mark := rand.Text() // stands for the token; nobody has written it into the message
	message, err := messageOf(m, mark, now)
	if err != nil {
		return nil, err
	}
	send := library.Send
	if m.Sandbox {
		send = library.SendDryRun
	}
	built := &built{}
	if _, err := send(context.WithValue(context.Background(), builtKey{}, built), message); err != nil {
		return nil, err
	}
	body := built.body
	if len(m.Override) > 0 {
		if body, err = merge(body, m.Override); err != nil {
			return nil, err
		}
	}
	before, after, found := bytes.Cut(body, []byte(`"`+mark+`"`))
	if !found {
		return nil, errors.New("the request has no place for the token")
	}
	return &draft{built.url, before, after}, nil
}

// body returns the body for a device.
func (d *draft) body(token string) []byte {
	text, _ := json.Marshal(token) // a text always can be
	return slices.Concat(d.before, text, d.after)
}

// built is the request that the library has built.
type built struct {
	url  string
	body []byte
}

type builtKey struct{}

// wire is below Google's library. It keeps what is built instead of sending it: the library has retries of its own, which would
// hold the runtime's attempt back, and would build the message anew for every device.
type wire struct{}

// taken is what the library hears.
const taken = `{"name":"taken"}`

// RoundTrip keeps the request for who has its context.
func (wire) RoundTrip(r *http.Request) (*http.Response, error) {
	b, ok := r.Context().Value(builtKey{}).(*built)
	if !ok {
		return nil, fmt.Errorf("a request of nobody to %s", r.URL.Path)
	}
	var err error
	if b.body, err = io.ReadAll(r.Body); err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	b.url = r.URL.String()
	return &http.Response{
		StatusCode: http.StatusOK, Proto: r.Proto, ProtoMajor: r.ProtoMajor, ProtoMinor: r.ProtoMinor, Request: r,
		Header: http.Header{"Content-Type": {sender.JSON}}, Body: io.NopCloser(bytes.NewReader([]byte(taken))),
	}, nil
}

// merge puts an override over the message; its target stays.
func merge(body []byte, override map[string]any) ([]byte, error) {
	var request struct {
		ValidateOnly bool            `json:"validate_only,omitempty"`
		Message      json.RawMessage `json:"message"`
	}
	if err := json.Unmarshal(body, &request); err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	var target struct {
		Token string `json:"token"`
	}
	if err := json.Unmarshal(request.Message, &target); err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	fields, err := sender.Fields(request.Message, override)
	if err != nil {
		return nil, err
	}
	for _, other := range []string{"topic", "condition", "fid"} {
		delete(fields, other)
	}
	fields["token"] = target.Token
	if request.Message, err = json.Marshal(fields); err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	return json.Marshal(request)
}
