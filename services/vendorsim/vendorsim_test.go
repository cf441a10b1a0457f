package vendorsim_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/halleypush/halley/pkg/config"
	"github.com/halleypush/halley/pkg/telemetry"
	"github.com/halleypush/halley/services/vendorsim"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// settings returns a configuration with all channels on free ports.
func settings(t *testing.T, dir string) vendorsim.Config {
	t.Helper()
	var c vendorsim.Config
	c.Dir = dir
	for _, name := range vendorsim.Channels() {
		c.Channels = append(c.Channels, name+"=127.0.0.1:0")
	}
	c.Control, c.Telemetry.Listen = "127.0.0.1:0", "127.0.0.1:0"
	c.TLS = []string{"webpush"}
	c.TelemetryOptions = []telemetry.Option{telemetry.WithLogs(io.Discard)}
	must(t, config.Defaults(&c))
	return c
}

// start runs simulators until the test ends, or until stop is called.
func start(t *testing.T, c vendorsim.Config) (s *vendorsim.Simulators, stop func()) {
	t.Helper()
	s, err := vendorsim.New(t.Context(), c)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
	})
	t.Cleanup(stop)
	return s, stop
}

// call calls the control API and returns the answer's status and body.
func call(t *testing.T, s *vendorsim.Simulators, method, path, body string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, s.ControlURL()+path, strings.NewReader(body))
	must(t, err)
	response, err := http.DefaultClient.Do(request)
	must(t, err)
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	must(t, err)
	return response.StatusCode, string(content)
}

// huaweiApp is Huawei's app demo.
type huaweiApp struct {
	ClientID     string `json:"client_id"`
	ClientSecret string `json:"client_secret"`
}

// push sends a message to tokens of Huawei, and returns the answer.
func push(t *testing.T, s *vendorsim.Simulators, a huaweiApp, id string, tokens ...string) string {
	t.Helper()
	url := s.URL("huawei")
	form := "grant_type=client_credentials&client_id=" + a.ClientID + "&client_secret=" + a.ClientSecret
	response, err := http.Post(url+"/oauth2/v3/token", "application/x-www-form-urlencoded", strings.NewReader(form))
	must(t, err)
	defer response.Body.Close()
	var login struct {
		Token string `json:"access_token"`
	}
	must(t, json.NewDecoder(response.Body).Decode(&login))
	list, err := json.Marshal(tokens)
	must(t, err)
	body := `{"message":{"data":"{\"push_id\":\"` + id + `\"}","token":` + string(list) + `}}`
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/v1/"+a.ClientID+"/messages:send", strings.NewReader(body))
	must(t, err)
	request.Header.Set("Authorization", "Bearer "+login.Token)
	request.Header.Set("Content-Type", "application/json; charset=UTF-8")
	sent, err := http.DefaultClient.Do(request)
	must(t, err)
	defer sent.Body.Close()
	answer, err := io.ReadAll(sent.Body)
	must(t, err)
	return string(answer)
}

func register(t *testing.T, s *vendorsim.Simulators) (a huaweiApp) {
	t.Helper()
	status, body := call(t, s, "POST", "/v1/huawei/apps", `{"app":"demo"}`)
	if status != http.StatusOK {
		t.Fatalf("answered %d %s", status, body)
	}
	must(t, json.Unmarshal([]byte(body), &a))
	return a
}

func TestTheControlAPIShowsWhatWasAccepted(t *testing.T) {
	t.Parallel()
	s, _ := start(t, settings(t, t.TempDir()))
	a := register(t, s)
	status, lines := call(t, s, "POST", "/v1/huawei/tokens", `{"app":"demo","count":3}`)
	var tokens []string
	for line := range strings.Lines(lines) {
		var token string
		must(t, json.Unmarshal([]byte(line), &token))
		tokens = append(tokens, token)
	}
	if status != http.StatusOK || len(tokens) != 3 {
		t.Fatalf("answered %d %s", status, lines)
	}
	for range 2 {
		if answer := push(t, s, a, "p-1", tokens...); !strings.Contains(answer, "80000000") {
			t.Fatalf("answered %s", answer)
		}
	}
	_, lines = call(t, s, "GET", "/v1/huawei/pairs", "")
	found := make(map[string]uint32)
	for line := range strings.Lines(lines) {
		var p vendorsim.Pair
		must(t, json.Unmarshal([]byte(line), &p))
		if p.PushID != "p-1" {
			t.Errorf("pair %s", line)
		}
		found[p.Token] = p.Count
	}
	for _, token := range tokens {
		if found[token] != 2 {
			t.Errorf("%s was accepted %d times, want 2", token, found[token])
		}
	}
	var stats vendorsim.Stats
	_, body := call(t, s, "GET", "/v1/huawei/stats", "")
	must(t, json.Unmarshal([]byte(body), &stats))
	if n := stats.Accepted; n.Requests != 2 || n.Devices != 6 || n.Pairs != 3 || n.Repeats != 3 || stats.Answers["80000000"] != 2 {
		t.Errorf("stats are %s", body)
	}
	if status, _ := call(t, s, "DELETE", "/v1/huawei/accepted", ""); status != http.StatusNoContent {
		t.Errorf("answered %d", status)
	}
	if _, lines := call(t, s, "GET", "/v1/huawei/pairs", ""); lines != "" {
		t.Errorf("after a reset there is %s", lines)
	}
}

func TestAFollowerSeesRequestsAsTheyCome(t *testing.T) {
	t.Parallel()
	s, stop := start(t, settings(t, t.TempDir()))
	a := register(t, s)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.ControlURL()+"/v1/huawei/accepted?follow=true", nil)
	must(t, err)
	response, err := http.DefaultClient.Do(request) // returns once the stream has begun
	must(t, err)
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	for _, id := range []string{"p-1", "p-2"} {
		push(t, s, a, id, "token-a")
		if !lines.Scan() {
			t.Fatal("the stream ended")
		}
		var got vendorsim.Accepted
		must(t, json.Unmarshal(lines.Bytes(), &got))
		if got.PushID != id || got.Tokens[0] != "token-a" || got.App != "demo" {
			t.Errorf("got %s, want %s", lines.Bytes(), id)
		}
	}
	stop()
	if lines.Scan() {
		t.Errorf("got %s from what has stopped", lines.Bytes())
	}
}

func TestSwitchesAreSetAndReset(t *testing.T) {
	t.Parallel()
	s, _ := start(t, settings(t, t.TempDir()))
	a := register(t, s)
	if status, body := call(t, s, "POST", "/v1/huawei/switches", `{"answers":[{"code":"81000001"}]}`); status != http.StatusOK {
		t.Fatalf("answered %d %s", status, body)
	}
	if answer := push(t, s, a, "p", "token-a"); !strings.Contains(answer, "81000001") {
		t.Errorf("answered %s", answer)
	}
	if status, _ := call(t, s, "DELETE", "/v1/huawei/switches", ""); status != http.StatusNoContent {
		t.Errorf("answered %d", status)
	}
	if answer := push(t, s, a, "p", "token-a"); !strings.Contains(answer, "80000000") {
		t.Errorf("answered %s", answer)
	}
	if _, body := call(t, s, "POST", "/v1/huawei/expire?app=demo", ""); !strings.Contains(body, `"expired":2`) {
		t.Errorf("answered %s, with two logins before", body)
	}
}

func TestTheControlAPIRefuses(t *testing.T) {
	t.Parallel()
	s, _ := start(t, settings(t, t.TempDir()))
	for _, c := range []struct {
		method, path, body string
		status             int
	}{
		{"GET", "/v1/telegraph/stats", "", 404},
		{"POST", "/v1/huawei/switches", `{"wether":1}`, 400},
		{"POST", "/v1/huawei/apps", `{}`, 400},
		{"POST", "/v1/huawei/tokens", `{"app":"nobody","count":1}`, 400},
		{"POST", "/v1/huawei/tokens", `{"app":"demo","count":0}`, 400},
		{"PUT", "/v1/huawei/apps", `{}`, 405},
	} {
		if status, body := call(t, s, c.method, c.path, c.body); status != c.status {
			t.Errorf("%s %s: answered %d %s, want %d", c.method, c.path, status, body, c.status)
		}
	}
}

func TestCredentialsOutliveARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, stop := start(t, settings(t, dir))
	a := register(t, s)
	before, err := os.ReadFile(s.CAFile())
	must(t, err)
	stop()
	if info, err := os.Stat(filepath.Join(dir, "huawei.apps.json")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the apps' file: %v, %v", info, err)
	}
	s, _ = start(t, settings(t, dir))
	if answer := push(t, s, a, "p", "token-a"); !strings.Contains(answer, "80000000") {
		t.Errorf("answered %s", answer)
	}
	if after, err := os.ReadFile(s.CAFile()); err != nil || string(after) != string(before) {
		t.Error("there is a new authority")
	}
	if _, body := call(t, s, "GET", "/v1/huawei/apps", ""); !strings.Contains(body, a.ClientSecret) {
		t.Errorf("apps are %s", body)
	}
}

func TestTheAuthoritySignsTheServers(t *testing.T) {
	t.Parallel()
	s, _ := start(t, settings(t, t.TempDir()))
	var channels struct {
		Channels map[string]string
		CAFile   string `json:"ca_file"`
	}
	_, body := call(t, s, "GET", "/v1/channels", "")
	must(t, json.Unmarshal([]byte(body), &channels))
	content, err := os.ReadFile(channels.CAFile)
	must(t, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(content)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
	for name, url := range channels.Channels {
		over := strings.HasPrefix(name, "apns") || name == "webpush"
		if over != strings.HasPrefix(url, "https://") {
			t.Errorf("%s is at %s", name, url)
		}
		if !over {
			continue
		}
		response, err := client.Get(url + "/nothing")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if response.StatusCode != http.StatusNotFound || response.ProtoMajor != 2 {
			t.Errorf("%s answered %d over %s", name, response.StatusCode, response.Proto)
		}
		_ = response.Body.Close()
	}
}

func TestEveryChannelListsItsCodes(t *testing.T) {
	t.Parallel()
	s, _ := start(t, settings(t, t.TempDir()))
	for _, name := range vendorsim.Channels() {
		codes := vendorsim.Codes(name)
		if len(codes) < 10 {
			t.Errorf("%s lists %d codes", name, len(codes))
		}
		var listed []vendorsim.Code
		_, body := call(t, s, "GET", "/v1/"+name+"/codes", "")
		must(t, json.Unmarshal([]byte(body), &listed))
		if len(listed) != len(codes) {
			t.Errorf("%s lists %d codes over HTTP, %d in Go", name, len(listed), len(codes))
		}
	}
	if vendorsim.Codes("telegraph") != nil {
		t.Error("there are codes of an unknown channel")
	}
}

func TestConfigurationsAreChecked(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*vendorsim.Config){
		"no folder":          func(c *vendorsim.Config) { c.Dir = "" },
		"no channels":        func(c *vendorsim.Config) { c.Channels = nil },
		"unknown channel":    func(c *vendorsim.Config) { c.Channels = []string{"telegraph=127.0.0.1:0"} },
		"no address":         func(c *vendorsim.Config) { c.Channels = []string{"fcm"} },
		"twice":              func(c *vendorsim.Config) { c.Channels = []string{"fcm=:0", "fcm=:0"} },
		"TLS of nothing":     func(c *vendorsim.Config) { c.TLS = []string{"telegraph"} },
		"control for all":    func(c *vendorsim.Config) { c.Control = "0.0.0.0:0" },
		"control everywhere": func(c *vendorsim.Config) { c.Control = ":9200" },
		"no record":          func(c *vendorsim.Config) { c.RecordBytes = 0 },
	} {
		c := settings(t, t.TempDir())
		change(&c)
		if err := c.Validate(); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	c := vendorsim.Config{Dir: t.TempDir()}
	must(t, config.Defaults(&c))
	must(t, c.Validate()) // the defaults are good
	if len(c.Channels) != len(vendorsim.Channels()) {
		t.Errorf("by default there are %v, of %v", c.Channels, vendorsim.Channels())
	}
}
