package fcm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"github.com/halleypush/halley/pkg/sender"
)

// exchange is one request that the library makes: what is put over its message, and what was answered.
type exchange struct {
	override map[string]any
	token    string // the access token
	answer   *sender.Answer
	err      error
}

type exchangeKey struct{}

// wire is below Google's library, which builds and checks messages. It puts the push's override over them, which may hold fields
// that the library does not know, and keeps the answer for us: the library's own retries would hold the runtime's attempt back, so
// it hears of success only.
type wire struct{ client *http.Client }

// taken is what the library hears.
const taken = `{"name":"taken"}`

// RoundTrip makes the request of the exchange in the request's context.
func (w wire) RoundTrip(r *http.Request) (*http.Response, error) {
	x, ok := r.Context().Value(exchangeKey{}).(*exchange)
	if !ok {
		return nil, fmt.Errorf("a request of nobody to %s", r.URL.Path)
	}
	x.answer, x.err = w.make(r, x)
	return &http.Response{
		StatusCode: http.StatusOK, Proto: r.Proto, ProtoMajor: r.ProtoMajor, ProtoMinor: r.ProtoMinor, Request: r,
		Header: http.Header{"Content-Type": {sender.JSON}}, Body: io.NopCloser(bytes.NewReader([]byte(taken))),
	}, nil
}

func (w wire) make(r *http.Request, x *exchange) (*sender.Answer, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	if len(x.override) > 0 {
		if body, err = merge(body, x.override); err != nil {
			return nil, err
		}
	}
	return sender.Post(r.Context(), w.client, r.URL.String(), sender.JSON, body, "Authorization", "Bearer "+x.token)
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
