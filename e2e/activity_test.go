package e2e_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/halleypush/halley/e2e/rig"
)

// TestLiveActivities makes a broadcast channel at Apple over REST, broadcasts to it, and deletes it.
func TestLiveActivities(t *testing.T) {
	t.Parallel()
	cluster := rig.StartCluster(t, rig.Options{})
	vendors := cluster.StartVendors(t, "apns")
	address := vendors.URLs["apns"]
	sender := cluster.StartSender(t, "apns", "production: "+address+"\nmanage: "+address+"\nca: "+vendors.CA+"\n")
	app := cluster.CreateApp(t, "matches")
	vendors.SetChannel(t, app, "apns", sender)

	channels := "/v1/apps/" + app.ID + "/activityChannels"
	var made struct{ Channel string }
	rest(t, app, http.MethodPost, channels, map[string]any{"keep_latest": true}, http.StatusOK, &made)
	var listed struct{ Channels []string }
	if rest(t, app, http.MethodGet, channels, nil, http.StatusOK, &listed); len(listed.Channels) != 1 || listed.Channels[0] != made.Channel {
		t.Fatalf("the channels are %q, not %q", listed.Channels, made.Channel)
	}
	for _, event := range []string{"UPDATE", "END"} {
		broadcast := map[string]any{"channel": made.Channel, "event": event, "content_state": map[string]any{"score": 3}, "ttl": "3600s"}
		var sent struct {
			RequestID string `json:"request_id"`
		}
		rest(t, app, http.MethodPost, channels+":broadcast", broadcast, http.StatusOK, &sent)
		accepted := vendors.Text(t, http.MethodGet, "/v1/apns/accepted", nil)
		if sent.RequestID == "" || !strings.Contains(accepted, sent.RequestID) || !strings.Contains(accepted, `\"event\":\"`+strings.ToLower(event)+`\"`) {
			t.Errorf("Apple has accepted %s, not %s of %s", accepted, event, sent.RequestID)
		}
	}
	var refused struct{ Message string }
	long := map[string]any{"channel": made.Channel, "event": "UPDATE", "content_state": map[string]any{"text": strings.Repeat("x", 5120)}}
	if rest(t, app, http.MethodPost, channels+":broadcast", long, http.StatusBadRequest, &refused); !strings.Contains(refused.Message, "5120") {
		t.Errorf("a broadcast that is too long: %q", refused.Message)
	}
	vendors.Text(t, http.MethodPost, "/v1/apns/expire?app="+app.ID, nil) // a fresh provider token is made
	rest(t, app, http.MethodDelete, channels+"?channel="+url.QueryEscape(made.Channel), nil, http.StatusOK, nil)
	gone := map[string]any{"channel": made.Channel, "event": "END", "content_state": map[string]any{}}
	if rest(t, app, http.MethodPost, channels+":broadcast", gone, http.StatusBadRequest, &refused); !strings.Contains(refused.Message, "ChannelNotRegistered") {
		t.Errorf("a broadcast to a channel that is gone: %q", refused.Message)
	}
}

// rest makes a REST call of the business API.
func rest(t *testing.T, app *rig.App, method, path string, body any, want int, answer any) {
	t.Helper()
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			t.Fatal(err)
		}
	}
	request, err := http.NewRequestWithContext(t.Context(), method, app.URL+path, bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+app.ServerKey)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer response.Body.Close()
	text, err = io.ReadAll(response.Body)
	if err != nil || response.StatusCode != want {
		t.Fatalf("%s %s: %s: %s (%v)", method, path, response.Status, text, err)
	}
	if answer != nil {
		if err := json.Unmarshal(text, answer); err != nil {
			t.Fatalf("%s %s: %v: %s", method, path, err, text)
		}
	}
}
