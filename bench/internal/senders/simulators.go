package senders

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/halleypush/halley/bench/internal/process"
	"github.com/halleypush/halley/pkg/channel"
)

// simulators are the vendors', in a process of their own, all over TLS. Stop it.
type simulators struct {
	*process.Process
	// URLs are the services' by channel, CA is the file with what signs their certificates.
	URLs map[string]string
	CA   string

	control string
}

func startSimulators(ctx context.Context, bin, dir string) (_ *simulators, err error) {
	control, err := process.Address()
	if err != nil {
		return nil, err
	}
	admin, err := process.Address()
	if err != nil {
		return nil, err
	}
	var channels, names []string
	for _, v := range vendors() {
		channels, names = append(channels, fmt.Sprintf("%q", v.channel+"=127.0.0.1:0")), append(names, v.channel)
	}
	settings := fmt.Sprintf("dir: %s\nchannels: [%s]\ntls: [%s]\ncontrol: %s\ntelemetry: {listen: %q}\n",
		filepath.Join(dir, "vendorsim"), strings.Join(channels, ", "), strings.Join(names, ", "), control, admin)
	if err := os.WriteFile(filepath.Join(dir, "vendorsim.yaml"), []byte(settings), 0o600); err != nil {
		return nil, err
	}
	s := &simulators{control: "http://" + control}
	s.Process, err = process.Start(dir, "vendorsim", nil, filepath.Join(bin, "vendorsim"), "-config", "vendorsim.yaml")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.Stop()
		}
	}()
	if err := s.Await(ctx, process.Ready(ctx, "http://"+admin+"/readyz")); err != nil {
		return nil, err
	}
	var found struct {
		CAFile   string `json:"ca_file"`
		Channels map[string]string
	}
	err = s.call(ctx, http.MethodGet, "/v1/channels", nil, &found)
	s.URLs, s.CA = found.Channels, found.CAFile
	return s, err
}

// call asks the control API; answer is decoded from JSON, or the text where it is a *string.
func (s *simulators) call(ctx context.Context, method, path string, body, answer any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, method, s.control+path, bytes.NewReader(data))
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode/100 != 2 {
		err = errors.New(response.Status)
	}
	if err != nil {
		return fmt.Errorf("vendorsim: %s %s: %w: %s", method, path, err, text)
	}
	switch into := answer.(type) {
	case nil:
		return nil
	case *string:
		*into = string(text)
		return nil
	default:
		return json.Unmarshal(text, answer)
	}
}

// register makes the app known to a vendor.
func (s *simulators) register(ctx context.Context, name string) (c credential, err error) {
	app := map[string]string{"app": appID}
	if name == channel.APNs {
		app["bundle_id"] = "com.example.app"
	}
	c.channel = name
	if err := s.call(ctx, http.MethodPost, "/v1/"+name+"/apps", app, &c); err != nil {
		return c, err
	}
	c.forSender, err = c.encode()
	return c, err
}

// tokens makes those of n devices.
func (s *simulators) tokens(ctx context.Context, name string, n int) (tokens []string, err error) {
	var text string
	if err := s.call(ctx, http.MethodPost, "/v1/"+name+"/tokens", map[string]any{"app": appID, "count": n}, &text); err != nil {
		return nil, err
	}
	for line := range strings.Lines(text) {
		var token string
		if err := json.Unmarshal([]byte(line), &token); err != nil {
			return nil, fmt.Errorf("tokens: %w", err)
		}
		tokens = append(tokens, token)
	}
	return tokens, nil
}

// acceptedRequest is a request that a vendor has accepted.
type acceptedRequest struct {
	Headers map[string]string
	Body    string
}

// accepted returns the one request that a vendor has accepted.
func (s *simulators) accepted(ctx context.Context, name string) (r acceptedRequest, err error) {
	err = s.call(ctx, http.MethodGet, "/v1/"+name+"/accepted", nil, &r)
	return r, err
}

// forget has a vendor forget what it has accepted.
func (s *simulators) forget(ctx context.Context, name string) error {
	return s.call(ctx, http.MethodDelete, "/v1/"+name+"/accepted", nil, nil)
}

// counts returns how many messages a vendor has accepted, and for how many devices.
func (s *simulators) counts(ctx context.Context, name string) (messages, devices int, err error) {
	var stats struct {
		Accepted struct{ Devices, Pairs int }
	}
	err = s.call(ctx, http.MethodGet, "/v1/"+name+"/stats", nil, &stats)
	return stats.Accepted.Devices, stats.Accepted.Pairs, err
}
