package rig

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// Vendors are the vendors' push services, simulated in a process of its own.
type Vendors struct {
	*Process
	// URLs are the services' by channel, Control is the simulators' control API, CA the file with what signs their certificates.
	URLs    map[string]string
	Control string
	CA      string
}

// StartVendors starts simulators of channels. They end with the test.
func (c *Cluster) StartVendors(t testing.TB, channels ...string) *Vendors {
	t.Helper()
	v := &Vendors{}
	var list []string
	for _, channel := range channels {
		list = append(list, fmt.Sprintf("%q", channel+"="+Addr(t)))
	}
	control, admin := Addr(t), Addr(t)
	tls := ""
	if slices.Contains(channels, "webpush") { // a subscription is a URL, and https
		tls = "webpush"
	}
	c.write(t, "vendorsim.yaml", fmt.Appendf(nil, "dir: vendorsim\nchannels: [%s]\ntls: [%s]\ncontrol: %s\ntelemetry: {listen: %q}\n",
		strings.Join(list, ", "), tls, control, admin))
	v.Process = c.process(t, "vendorsim", "vendorsim", admin, "-config", "vendorsim.yaml")
	v.Start(t)
	v.Control = "http://" + control
	var found struct {
		CAFile   string `json:"ca_file"`
		Channels map[string]string
	}
	v.call(t, http.MethodGet, "/v1/channels", nil, &found)
	v.CA, v.URLs = found.CAFile, found.Channels
	return v
}

// Switch changes how a vendor behaves.
func (v *Vendors) Switch(t testing.TB, channel string, switches map[string]any) {
	t.Helper()
	v.call(t, http.MethodPost, "/v1/"+channel+"/switches", switches, nil)
}

// Text returns what a call of the control API answers.
func (v *Vendors) Text(t testing.TB, method, path string, body any) string {
	t.Helper()
	var text string
	v.call(t, method, path, body, &text)
	return text
}

func (v *Vendors) call(t testing.TB, method, path string, body, answer any) {
	t.Helper()
	data, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), method, v.Control+path, bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode/100 != 2 {
		t.Fatalf("%s %s: %s: %s (%v)", method, path, response.Status, text, err)
	}
	switch into := answer.(type) {
	case nil:
	case *string:
		*into = string(text)
	default:
		if err := json.Unmarshal(text, answer); err != nil {
			t.Fatalf("%s %s: %v: %s", method, path, err, text)
		}
	}
}

// SetChannel gives an app, with the command line, the credential that a vendor's console gives out for it, and has the vendor
// send its receipts to the sender.
func (v *Vendors) SetChannel(t testing.TB, app *App, channel string, sender *Sender) {
	t.Helper()
	out := Command(t, sender.dir, Bin(t, "halley"), "channel", "set", channel, "--simulator", v.Control,
		"--receipts", "http://"+sender.Receipts, "--output", "json",
		"--grpc", app.GRPC, "--admin-token", app.AdminToken, "--app", app.ID)
	var set struct{ Unchecked bool }
	if err := json.Unmarshal(out, &set); err != nil || set.Unchecked {
		t.Fatalf("halley channel set %s: %s, %v", channel, out, err)
	}
}

// Tokens makes the channel tokens of n new phones of an app.
func (v *Vendors) Tokens(t testing.TB, app *App, channel string, n int) []string {
	t.Helper()
	var tokens []string
	for line := range strings.Lines(v.Text(t, http.MethodPost, "/v1/"+channel+"/tokens", map[string]any{"app": app.ID, "count": n})) {
		line = strings.TrimSpace(line)
		var token string
		if json.Unmarshal([]byte(line), &token) != nil { // Web Push: a subscription
			token = line
		}
		tokens = append(tokens, token)
	}
	return tokens
}

// Accepted returns how often a vendor has accepted a push, by channel token.
func (v *Vendors) Accepted(t testing.TB, channel, pushID string) map[string]int {
	t.Helper()
	accepted := map[string]int{}
	for line := range strings.Lines(v.Text(t, http.MethodGet, "/v1/"+channel+"/pairs", nil)) {
		var pair struct {
			Token  string
			PushID string `json:"push_id"`
			Count  int
		}
		if err := json.Unmarshal([]byte(line), &pair); err != nil {
			t.Fatalf("pairs of %s: %v: %s", channel, err, line)
		}
		if pair.PushID == pushID {
			accepted[pair.Token] = pair.Count
		}
	}
	return accepted
}

// DedupIDs returns the ids by which a vendor could tell repeats of a push, by channel token, each once.
func (v *Vendors) DedupIDs(t testing.TB, channel, pushID string) map[string][]string {
	t.Helper()
	ids := map[string][]string{}
	for line := range strings.Lines(v.Text(t, http.MethodGet, "/v1/"+channel+"/accepted", nil)) {
		var request struct {
			Tokens  []string
			PushID  string `json:"push_id"`
			DedupID string `json:"dedup_id"`
		}
		if err := json.Unmarshal([]byte(line), &request); err != nil {
			t.Fatalf("accepted by %s: %v: %s", channel, err, line)
		}
		for _, token := range request.Tokens {
			if request.PushID == pushID && !slices.Contains(ids[token], request.DedupID) {
				ids[token] = append(ids[token], request.DedupID)
			}
		}
	}
	return ids
}

// Sender is the sender of a channel.
type Sender struct {
	*Process
	// Receipts is host:port of where the vendor sends receipts.
	Receipts string
}

// StartSender starts the sender of a channel; lines are keys of its configuration. It ends with the test.
func (c *Cluster) StartSender(t testing.TB, channel, lines string) *Sender {
	t.Helper()
	admin, receipts, name := Addr(t), Addr(t), "sender-"+channel
	c.write(t, name+".yaml", fmt.Appendf(nil, `
pushcore: %s
service_token_file: service.token
nats: {url: "nats://%s", user: sender, password_file: nats.password}
telemetry: {listen: "%s"}
receipts: %s
public_url: http://%s
%s
`, c.Internal, c.nats, admin, receipts, receipts, lines))
	s := &Sender{c.process(t, name, name, admin, "-config", name+".yaml"), receipts}
	s.Start(t)
	return s
}

// Parked returns how often the sender has put jobs off, for a reason.
func (s *Sender) Parked(t testing.TB, why string) float64 {
	t.Helper()
	times, err := s.Metric("halley_sender_parked_total", fmt.Sprintf("why=%q", why))
	if err != nil {
		t.Fatal(err)
	}
	return times
}
