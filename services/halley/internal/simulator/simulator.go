// Package simulator asks the vendor simulators for what a vendor's console and a phone's maker give out: apps with their
// credentials, and phones' tokens.
package simulator

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"

	"github.com/halleypush/halley/pkg/channel"
)

// Simulators are running vendor simulators.
type Simulators struct{ control string }

// At returns the simulators with the control API at a URL.
func At(control string) *Simulators { return &Simulators{strings.TrimSuffix(control, "/")} }

// console is what a vendor's console asks for, and how the sender's credential comes from what it gives out.
type console struct {
	app   map[string]any    // beside the app's name
	own   string            // the field with the name that no other app has there; empty: none
	given map[string]string // the sender's field: the console's
	fixed map[string]any    // what the sender has to be told beside that
	// receipts sets up in the console where receipts go; nil: as receipt.
	receipts func(app map[string]any, url string)
}

// appPackage is the app's name with the vendors.
const appPackage = "com.example.app"

// consoles returns the channels whose credentials are understood. A new one is added here.
func consoles() map[string]console {
	return map[string]console{
		channel.APNs: {
			app: map[string]any{"broadcast": true}, own: "bundle_id",
			given: map[string]string{"bundle_id": "bundle_id", "key": "key", "key_id": "key_id", "team_id": "team_id"},
		},
		channel.FCM:     {given: map[string]string{"service_account": "service_account"}},
		channel.Harmony: {app: map[string]any{"key_bits": 2048}, given: map[string]string{"service_account": "service_account"}},
		channel.Honor:   {given: map[string]string{"app_id": "app_id", "client_id": "client_id", "client_secret": "client_secret"}},
		channel.Huawei:  {given: map[string]string{"app_id": "client_id", "app_secret": "client_secret"}},
		channel.Meizu: {
			given:    map[string]string{"app_id": "app_id", "app_secret": "app_secret", "receipt_token": "access_token"},
			receipts: func(app map[string]any, url string) { app["callbacks"] = []string{url} },
		},
		channel.OPPO: {given: map[string]string{"app_key": "app_key", "master_secret": "master_secret"}},
		channel.Vivo: {
			given:    map[string]string{"app_id": "app_id", "app_key": "app_key", "app_secret": "app_secret"},
			fixed:    map[string]any{"receipt_id": "1"},
			receipts: func(app map[string]any, url string) { app["receipts"] = map[string]string{"1": url} },
		},
		channel.WebPush: {
			given: map[string]string{"private_key": "vapid_private_key"}, fixed: map[string]any{"subject": "mailto:push@example.com"},
		},
		channel.Xiaomi: {
			app:   map[string]any{"packages": []string{appPackage}},
			given: map[string]string{"app_secret": "app_secret"}, fixed: map[string]any{"package": appPackage},
		},
	}
}

// Channels returns the channels that are simulated and whose credentials are understood, the preferred ones first.
func (s *Simulators) Channels(ctx context.Context) ([]string, error) {
	var running struct{ Channels map[string]string }
	if err := s.call(ctx, http.MethodGet, "/v1/channels", nil, &running); err != nil {
		return nil, err
	}
	var found []string
	for _, name := range channel.Vendors() {
		_, understood := consoles()[name]
		if _, runs := running.Channels[name]; runs && understood {
			found = append(found, name)
		}
	}
	return found, nil
}

// Credential makes an app known to a vendor, and returns its credential as the channel's sender takes it. An app that is known
// keeps the one it has.
func (s *Simulators) Credential(ctx context.Context, name, app string) (map[string]any, error) {
	c, understood := consoles()[name]
	if !understood {
		return nil, fmt.Errorf("%s has no simulator whose credentials are understood", name)
	}
	document, err := s.app(ctx, name, app)
	if err != nil {
		return nil, err
	}
	if document == nil {
		document = map[string]any{"app": app}
		maps.Copy(document, c.app)
		if c.own != "" {
			document[c.own] = appPackage + "." + app
		}
		if err := s.call(ctx, http.MethodPost, "/v1/"+name+"/apps", document, &document); err != nil {
			return nil, err
		}
	}
	credential := map[string]any{}
	maps.Copy(credential, c.fixed)
	for field, from := range c.given {
		credential[field] = document[from]
		if number, ok := document[from].(json.Number); ok { // ids are texts with the senders
			credential[field] = number.String()
		}
	}
	return credential, nil
}

// app returns an app as a vendor knows it; nil: it does not.
func (s *Simulators) app(ctx context.Context, name, app string) (map[string]any, error) {
	var apps map[string]map[string]any
	err := s.call(ctx, http.MethodGet, "/v1/"+name+"/apps", nil, &apps)
	return apps[app], err
}

// SendReceipts has a vendor send an app's receipts to a URL, as it is set up in the vendor's console. Vendors that send none, or that
// are told the URL with every push, take no notice.
func (s *Simulators) SendReceipts(ctx context.Context, name, app, url string) error {
	document, err := s.app(ctx, name, app)
	if err != nil {
		return err
	}
	if document == nil {
		return fmt.Errorf("%s does not know the app %s", name, app)
	}
	if set := consoles()[name].receipts; set != nil {
		set(document, url)
	} else {
		document["receipt"] = map[string]any{"url": url}
	}
	return s.call(ctx, http.MethodPost, "/v1/"+name+"/apps", document, nil)
}

// Tokens makes the channel tokens of n new phones of an app.
func (s *Simulators) Tokens(ctx context.Context, name, app string, n int) ([]string, error) {
	var lines []byte
	if err := s.call(ctx, http.MethodPost, "/v1/"+name+"/tokens", map[string]any{"app": app, "count": n}, &lines); err != nil {
		return nil, err
	}
	var tokens []string
	for scanner := bufio.NewScanner(bytes.NewReader(lines)); scanner.Scan(); {
		var token string
		if json.Unmarshal(scanner.Bytes(), &token) != nil { // Web Push: a subscription, as the browser gives it
			token = scanner.Text()
		}
		tokens = append(tokens, token)
	}
	return tokens, nil
}

// call makes a call of the control API. body nil: none. answer is nil, *[]byte, or what the JSON answer is read into.
func (s *Simulators) call(ctx context.Context, method, path string, body, answer any) error {
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("simulators: %w", err)
		}
		content = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, s.control+path, content)
	if err != nil {
		return fmt.Errorf("simulators: %w", err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("simulators: %w", err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode/100 != 2 {
		err = fmt.Errorf("%s: %s", response.Status, bytes.TrimSpace(text))
	}
	if err != nil {
		return fmt.Errorf("simulators: %s %s: %w", method, path, err)
	}
	switch into := answer.(type) {
	case nil:
		return nil
	case *[]byte:
		*into = text
		return nil
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(answer); err != nil {
		return fmt.Errorf("simulators: %s %s: %w", method, path, err)
	}
	return nil
}
