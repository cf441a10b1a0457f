package rig

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
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
	c.write(t, "vendorsim.yaml", fmt.Appendf(nil, "dir: vendorsim\nchannels: [%s]\ncontrol: %s\ntelemetry: {listen: %q}\n",
		strings.Join(list, ", "), control, admin))
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

// Register makes an app known to a vendor and returns what the vendor's console would give out.
func (v *Vendors) Register(t testing.TB, channel string, app map[string]any) map[string]any {
	t.Helper()
	var got map[string]any
	v.call(t, http.MethodPost, "/v1/"+channel+"/apps", app, &got)
	return got
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

// StartSender starts the sender of a channel; lines are keys of its configuration. It ends with the test.
func (c *Cluster) StartSender(t testing.TB, channel, lines string) *Process {
	t.Helper()
	admin, name := Addr(t), "sender-"+channel
	c.write(t, name+".yaml", fmt.Appendf(nil, `
pushcore: %s
service_token_file: service.token
nats: {url: "nats://%s", user: sender, password_file: nats.password}
telemetry: {listen: "%s"}
%s
`, c.Internal, c.Links[0].Addr(), admin, lines))
	p := c.process(t, name, name, admin, "-config", name+".yaml")
	p.Start(t)
	return p
}
