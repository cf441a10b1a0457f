// Package vendortest is what tests of vendors' packages share: a server that answers by a script and keeps what it was asked,
// messages with everything a push can hold, and golden files of the requests that come of them.
package vendortest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/halleypush/halley/pkg/config"
	"github.com/halleypush/halley/pkg/sender"
)

// Request is one that the server was asked.
type Request struct {
	Method string
	Path   string
	Header http.Header
	Body   []byte
}

// Form returns the fields of a form.
func (r *Request) Form() url.Values {
	form, _ := url.ParseQuery(string(r.Body)) // what is no form has no fields
	return form
}

// Server answers by a script.
type Server struct {
	URL string

	mu       sync.Mutex
	script   func(*Request) (status int, body string) // guarded by mu
	requests []*Request                               // guarded by mu
}

// NewServer returns a server that answers by a script until the test ends.
func NewServer(t testing.TB, script func(*Request) (status int, body string)) *Server {
	t.Helper()
	s := &Server{script: script}
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body) // a client that goes away asks nothing
		request := &Request{r.Method, r.URL.Path, r.Header, body}
		s.mu.Lock()
		s.requests = append(s.requests, request)
		script := s.script
		s.mu.Unlock()
		status, answer := script(request)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, answer)
	}))
	t.Cleanup(h.Close)
	s.URL = h.URL
	return s
}

// Script changes the script.
func (s *Server) Script(script func(*Request) (status int, body string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.script = script
}

// Requests returns what the server was asked since the last call.
func (s *Server) Requests() []*Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	requests := s.requests
	s.requests = nil
	return requests
}

// Config fills a vendor's configuration with its defaults.
func Config[C any](t testing.TB) *C {
	t.Helper()
	var c C
	if err := config.Defaults(&c); err != nil {
		t.Fatal(err)
	}
	return &c
}

// Credential parses a credential.
func Credential(t testing.TB, v sender.Vendor, text string) sender.Credential {
	t.Helper()
	c, err := v.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Golden sends messages and compares what was asked, and what became of the targets, with testdata/<name>.json. With
// HALLEY_GOLDEN=write the files are written.
func Golden(t *testing.T, s *Server, v sender.Vendor, c sender.Credential, messages map[string]*sender.Message) {
	t.Helper()
	for name, m := range messages {
		s.Requests()
		results := v.Send(t.Context(), c, m)
		if len(results) != len(m.Targets) {
			t.Errorf("%s: %d results for %d targets", name, len(results), len(m.Targets))
		}
		shown := map[string]any{"message": showMessage(t, m), "requests": showRequests(s.Requests()), "results": showResults(results)}
		got, err := json.MarshalIndent(shown, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, '\n')
		path := filepath.Join("testdata", name+".json")
		if os.Getenv("HALLEY_GOLDEN") == "write" {
			if err := os.MkdirAll("testdata", 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, got, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s (- golden, + sent):\n%s", name, diff)
		}
	}
}

func showMessage(t *testing.T, m *sender.Message) any {
	t.Helper()
	text, err := json.Marshal(struct {
		*sender.Message
		Notification json.RawMessage `json:",omitempty"`
	}{m, notification(t, m)})
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(text, &fields); err != nil {
		t.Fatal(err)
	}
	for name, value := range fields {
		if value == nil || value == "" || value == false || name == "SentAt" {
			delete(fields, name)
		}
	}
	fields["TTL"], fields["Targets"] = m.TTL.String(), m.Tokens()
	return fields
}

func notification(t *testing.T, m *sender.Message) json.RawMessage {
	t.Helper()
	if m.Notification == nil {
		return nil
	}
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m.Notification)
	if err != nil {
		t.Fatal(err)
	}
	var compact bytes.Buffer // protojson's spaces differ from run to run
	if err := json.Compact(&compact, text); err != nil {
		t.Fatal(err)
	}
	return compact.Bytes()
}

// notOurs are headers that net/http sets by itself.
var notOurs = []string{"User-Agent", "Content-Length", "Accept-Encoding"}

func showRequests(requests []*Request) any {
	all := []any{}
	for _, r := range requests {
		header := map[string]string{}
		for name, values := range r.Header {
			header[name] = strings.Join(values, ", ")
			if strings.HasPrefix(values[0], "Bearer ey") {
				header[name] = "Bearer <JWT>" // signatures differ from run to run
			}
		}
		if at, err := strconv.ParseInt(header["Timestamp"], 10, 64); err == nil && time.Since(time.UnixMilli(at)).Abs() < time.Minute {
			header["Timestamp"] = "<now in ms>"
		}
		for _, name := range notOurs {
			delete(header, name)
		}
		var body any = map[string]any{}
		if err := json.Unmarshal(r.Body, &body); err != nil {
			fields := map[string]string{}
			for name, values := range r.Form() {
				fields[name] = strings.Join(values, " AND ")
			}
			body = fields
		}
		all = append(all, map[string]any{"path": r.Path, "header": header, "body": body})
	}
	return all
}

func showResults(results []sender.Result) any {
	all := make([]map[string]any, len(results))
	for i, r := range results {
		all[i] = map[string]any{"outcome": Name(r.Outcome), "code": r.Code, "vendor_id": r.VendorID}
	}
	return all
}

// Name returns an outcome in words.
func Name(o sender.Outcome) string {
	return map[sender.Outcome]string{
		sender.Retry: "retry", sender.Accepted: "accepted", sender.TokenGone: "token gone", sender.Rejected: "rejected",
		sender.CredentialBad: "credential bad", sender.QuotaSpent: "quota spent",
	}[o]
}

// Status returns the HTTP status that an entry of a vendor's list is about, if it is.
func Status(code string) (status int, ok bool) {
	text, ok := strings.CutPrefix(code, "HTTP ")
	if !ok {
		return 0, false
	}
	status, err := strconv.Atoi(text)
	return status, err == nil
}

// OAuth puts a server for access tokens, which gives t-1, t-2 and so on, before a script.
func OAuth(path string, script func(*Request) (status int, body string)) func(*Request) (status int, body string) {
	var given atomic.Int32
	return func(r *Request) (int, string) {
		if r.Path != path {
			return script(r)
		}
		return http.StatusOK, fmt.Sprintf(`{"access_token":"t-%d","expires_in":3600,"token_type":"Bearer"}`, given.Add(1))
	}
}

// RefreshedOnce checks that of many requests that are refused for an access token that has ended, each is made again with the
// same fresh one, and that a second refusal is a bad credential. tokenPath is where access tokens are from.
func RefreshedOnce(t *testing.T, s *Server, v sender.Vendor, c sender.Credential, tokenPath, refused, success string) {
	t.Helper()
	var fetched atomic.Int32
	s.Script(OAuth(tokenPath, func(r *Request) (int, string) {
		if strings.HasSuffix(r.Header.Get("Authorization"), "t-1") {
			return http.StatusOK, refused
		}
		return http.StatusOK, success
	}))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { Outcomes(t, v.Send(t.Context(), c, Message(nil)), sender.Accepted) })
	}
	wg.Wait()
	for _, r := range s.Requests() {
		if r.Path == tokenPath {
			fetched.Add(1)
		}
	}
	if fetched.Load() != 2 {
		t.Errorf("%d access tokens were fetched, not 2", fetched.Load())
	}
	s.Script(OAuth(tokenPath, func(*Request) (int, string) { return http.StatusOK, refused }))
	Outcomes(t, v.Send(t.Context(), c, Message(nil)), sender.CredentialBad)
	if n := len(s.Requests()); n != 3 { // one more token, and the message twice
		t.Errorf("%d requests, not 3", n)
	}
}

// SignedReceipts checks that a Huawei vendor looks at signatures if its credential, which has no key yet, gets one.
func SignedReceipts(t *testing.T, v interface {
	sender.Vendor
	sender.Receiver
}, credential string,
) {
	t.Helper()
	body := []byte(`{"statuses":[{"token":"a","status":0,"biTag":"t"},{"token":"a","status":0,"biTag":"t"}]}`)
	receipts, answer, err := v.Receipts(Credential(t, v, credential), Callback(t, "application/json", body), body)
	if err != nil || len(receipts) != 2 || receipts[0].What != sender.ReceiptArrived || !json.Valid(answer) {
		t.Errorf("without a key: %v, %s, %v", receipts, answer, err)
	}
	signed := strings.TrimSuffix(credential, "}") + `,"receipt_user":"u","receipt_key":"k"}`
	if _, _, err := v.Receipts(Credential(t, v, signed), Callback(t, "application/json", body), body); !errors.Is(err, sender.ErrForged) {
		t.Errorf("with a key, but not signed: %v", err)
	}
	if _, _, err := v.Receipts(Credential(t, v, credential), Callback(t, "application/json", nil), []byte("garbage")); err == nil {
		t.Error("garbage was read")
	}
}
