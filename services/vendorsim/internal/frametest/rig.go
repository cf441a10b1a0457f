// Package frametest serves a simulator to a test, which speaks to it as by hand: raw requests, raw answers.
package frametest

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/halleypush/halley/services/vendorsim/internal/authority"
	"github.com/halleypush/halley/services/vendorsim/internal/frame"
)

// within bounds whatever a test waits for.
const within = 10 * time.Second

// Rig is a simulator that is served until the test ends.
type Rig struct {
	t      *testing.T
	Frame  *frame.Frame
	Vendor frame.Vendor
	URL    string
	Client *http.Client // speaks HTTP/2 over TLS, HTTP/1.1 otherwise
	Clock  *Clock
	TLS    *tls.Config // the client's; nil without TLS
}

// Option changes what Start makes.
type Option func(*setup)

type setup struct{ protocols []string }

// OverTLS serves over TLS with these protocols.
func OverTLS(protocols ...string) Option { return func(s *setup) { s.protocols = protocols } }

// Start serves a simulator.
func Start(t *testing.T, construct func(*frame.Frame) frame.Vendor, options ...Option) *Rig {
	t.Helper()
	var s setup
	for _, o := range options {
		o(&s)
	}
	ca, err := authority.Open(t.TempDir())
	Must(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	Must(t, err)
	r := &Rig{t: t, Clock: NewClock(), URL: "http://" + listener.Addr().String()}
	transport := &http.Transport{MaxIdleConnsPerHost: 4}
	var config *tls.Config
	if len(s.protocols) > 0 {
		config, err = ca.Server([]string{"127.0.0.1"}, s.protocols...)
		Must(t, err)
		r.TLS = &tls.Config{RootCAs: ca.Pool(), MinVersion: tls.VersionTLS12}
		transport.TLSClientConfig, transport.ForceAttemptHTTP2 = r.TLS, true
		r.URL = "https://" + listener.Addr().String()
	}
	r.Client = &http.Client{
		Transport: transport, Timeout: within,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	r.Frame = frame.New(frame.Options{
		Channel: "test", URL: r.URL, Log: slog.New(slog.DiscardHandler), Authority: ca, Now: r.Clock.Now,
		Record: frame.RecorderConfig{Bytes: 1 << 20, Pairs: 100_000}, Receipts: &http.Client{Timeout: within},
	})
	r.Vendor = construct(r.Frame)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { r.Frame.Run(ctx) })
	running.Go(func() {
		if err := r.Frame.Serve(ctx, listener, config, r.Vendor); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		cancel()
		running.Wait()
	})
	return r
}

// Register registers an app and decodes its credentials into a value.
func (r *Rig) Register(app string, into any) {
	r.t.Helper()
	credentials, err := r.Vendor.Register(json.RawMessage(app))
	Must(r.t, err)
	document, err := json.Marshal(credentials)
	Must(r.t, err)
	Must(r.t, json.Unmarshal(document, into))
	_, err = r.Vendor.Register(document) // what is given out can be registered again
	Must(r.t, err)
}

// Tokens makes tokens of an app that are texts.
func (r *Rig) Tokens(app string, n int) []string {
	r.t.Helper()
	list, err := r.Vendor.Tokens(app, n)
	Must(r.t, err)
	tokens := make([]string, n)
	for i, t := range list {
		tokens[i] = t.(string)
	}
	return tokens
}

// Patch changes switches.
func (r *Rig) Patch(document string) {
	r.t.Helper()
	_, err := r.Frame.Patch([]byte(document))
	Must(r.t, err)
}

// Answer is what a simulator answered.
type Answer struct {
	Status int
	Header http.Header
	Body   string
}

// Field returns a field of the answer's JSON object, as it is written there; a text without its quotes.
func (a Answer) Field(t *testing.T, name string) string {
	t.Helper()
	var fields map[string]json.RawMessage
	if err := json.Unmarshal([]byte(a.Body), &fields); err != nil {
		t.Fatalf("%d %q: %v", a.Status, a.Body, err)
	}
	return strings.Trim(string(fields[name]), `"`)
}

// Do sends a request. A header is a name and a value; a name may be there twice.
func (r *Rig) Do(method, path string, headers [][2]string, body string) Answer {
	r.t.Helper()
	answer, err := r.Try(method, path, headers, body)
	Must(r.t, err)
	return answer
}

// Try is Do for requests that may fail.
func (r *Rig) Try(method, path string, headers [][2]string, body string) (Answer, error) {
	r.t.Helper()
	target := path
	if !strings.Contains(path, "://") {
		target = r.URL + path
	}
	request, err := http.NewRequestWithContext(r.t.Context(), method, target, strings.NewReader(body))
	Must(r.t, err)
	for _, h := range headers {
		request.Header[http.CanonicalHeaderKey(h[0])] = append(request.Header.Values(h[0]), h[1])
	}
	response, err := r.Client.Do(request)
	if err != nil {
		return Answer{}, err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	return Answer{Status: response.StatusCode, Header: response.Header, Body: string(content)}, err
}

// Form sends a form.
func (r *Rig) Form(path string, headers [][2]string, fields url.Values) Answer {
	r.t.Helper()
	headers = append(slices.Clone(headers), [2]string{"Content-Type", "application/x-www-form-urlencoded; charset=UTF-8"})
	return r.Do(http.MethodPost, path, headers, fields.Encode())
}

// Accepted returns what was accepted.
func (r *Rig) Accepted() []frame.Accepted { return r.Frame.Record.After(0) }

// Last returns what was accepted last.
func (r *Rig) Last() frame.Accepted {
	r.t.Helper()
	list := r.Accepted()
	if len(list) == 0 {
		r.t.Fatal("nothing was accepted")
	}
	return list[len(list)-1]
}

// Must ends the test if there is an error.
func Must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Clock is a clock that a test moves.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// NewClock returns a clock that shows the time and stands still.
func NewClock() *Clock { return &Clock{now: time.Now()} }

// Now returns what the clock shows.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Move moves the clock on.
func (c *Clock) Move(by time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(by)
}

// Receipt is a call that a Receiver was sent.
type Receipt struct {
	Header http.Header
	Body   string
}

// Receiver takes the receipts that a simulator sends.
type Receiver struct {
	URL string
	ch  chan Receipt
}

// NewReceiver serves a receiver until the test ends, at an address of its own.
func NewReceiver(t *testing.T) *Receiver {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	Must(t, err)
	path := "/" + rand.Text()
	r := &Receiver{URL: "http://" + listener.Addr().String() + path, ch: make(chan Receipt, 1000)}
	server := &http.Server{ReadHeaderTimeout: within, Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, err := io.ReadAll(q.Body)
		if err != nil || q.URL.Path != path {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		r.ch <- Receipt{Header: q.Header, Body: string(body)}
		w.WriteHeader(http.StatusOK)
	})}
	var running sync.WaitGroup
	running.Go(func() { _ = server.Serve(listener) }) // ends with Close
	t.Cleanup(func() {
		_ = server.Close()
		running.Wait()
	})
	return r
}

// Next waits for a call.
func (r *Receiver) Next(t *testing.T) Receipt {
	t.Helper()
	select {
	case receipt := <-r.ch:
		return receipt
	case <-time.After(within):
		t.Fatal("no receipt came")
		return Receipt{}
	}
}

// CheckCodes checks that a list of codes is complete and says each once in its place.
func CheckCodes(t *testing.T, codes []frame.Code) {
	t.Helper()
	seen := make(map[[2]string]bool)
	for _, c := range codes {
		key := [2]string{string(c.Place), c.Code}
		if c.Code == "" || c.Meaning == "" || c.Group == "" || c.Place == "" || (c.Status == 0) != (c.Place == frame.InReceipt) {
			t.Errorf("%+v is not complete", c)
		}
		if seen[key] {
			t.Errorf("%s is there twice in %s", c.Code, c.Place)
		}
		seen[key] = true
	}
}

// NeedCodes checks that a list of codes has all those that a sheet lists for a group, divided by spaces.
func NeedCodes(t *testing.T, codes []frame.Code, place frame.Place, group frame.Group, list string) {
	t.Helper()
	for name := range strings.FieldsSeq(list) {
		if c, ok := frame.Find(codes, place, name); !ok || c.Group != group {
			t.Errorf("%s in %s: %+v, want the group %s", name, place, c, group)
		}
	}
}
