package apns_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/halleypush/halley/pkg/sender"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	senderv1 "github.com/halleypush/halley/proto/halley/sender/v1"
)

const channelID = "dGhlIGNoYW5uZWw="

func TestChannelsAreManagedAsAppleDocuments(t *testing.T) {
	t.Parallel()
	a, v := newApple(t)
	c := credential(t, v)
	for name, test := range map[string]struct { //nolint:paralleltest // the server answers one after the other
		call               *senderv1.Check
		status             int
		body               string
		method, path, want string
		channels           int
	}{
		"create": {
			&senderv1.Check{Call: &senderv1.Check_CreateChannel{CreateChannel: &pushv1.CreateActivityChannelRequest{}}}, 201, "",
			"POST", "/manage/1/apps/com.example.app/channels", `{"message-storage-policy":0,"push-type":"LiveActivity"}`, 0,
		},
		"create, keeping the latest": {
			&senderv1.Check{Call: &senderv1.Check_CreateChannel{CreateChannel: &pushv1.CreateActivityChannelRequest{KeepLatest: true, Sandbox: true}}},
			201, "", "POST", "/manage/sandbox/1/apps/com.example.app/channels", `{"message-storage-policy":1,"push-type":"LiveActivity"}`, 0,
		},
		"list": {
			&senderv1.Check{Call: &senderv1.Check_ListChannels{ListChannels: &pushv1.ListActivityChannelsRequest{}}}, 200, `{"channels":["YQ==","Yg=="]}`,
			"GET", "/manage/1/apps/com.example.app/all-channels", "", 2,
		},
		"delete": {
			&senderv1.Check{Call: &senderv1.Check_DeleteChannel{DeleteChannel: &pushv1.DeleteActivityChannelRequest{Channel: channelID}}}, 204, "",
			"DELETE", "/manage/1/apps/com.example.app/channels", "", 0,
		},
	} {
		t.Run(name, func(t *testing.T) {
			a.mu.Lock()
			a.status, a.body = test.status, test.body
			a.mu.Unlock()
			channels, r, err := v.Broadcast(t.Context(), c, test.call)
			a.mu.Lock()
			defer a.mu.Unlock()
			if err != nil || r.Outcome != sender.Accepted || len(channels) != test.channels {
				t.Errorf("the answer is %v, %+v, %v", channels, r, err)
			}
			if a.request.Method != test.method || a.request.URL.Path != test.path || string(a.payload) != test.want {
				t.Errorf("asked %s %s %s", a.request.Method, a.request.URL.Path, a.payload)
			}
			if name == "delete" && a.request.Header.Get("apns-channel-id") != channelID {
				t.Errorf("the channel is %q", a.request.Header.Get("apns-channel-id"))
			}
		})
	}
}

func TestBroadcastsAreWhatAppleDocuments(t *testing.T) {
	t.Parallel()
	a, v := newApple(t)
	c := credential(t, v)
	b := &pushv1.BroadcastActivityRequest{
		Channel: channelID, Event: pushv1.BroadcastActivityRequest_END,
		ContentState: &structpb.Struct{Fields: map[string]*structpb.Value{"score": structpb.NewNumberValue(3)}},
		Alert:        &pushv1.BroadcastActivityRequest_Alert{Title: "Over", Sound: "default"},
		StaleAt:      &timestamppb.Timestamp{Seconds: 1732330000}, DismissAt: &timestamppb.Timestamp{Seconds: 1732340000},
		Ttl: durationpb.New(time.Hour), LowPriority: true,
	}
	call := &senderv1.Check{Call: &senderv1.Check_Broadcast{Broadcast: b}}
	_, r, err := v.Broadcast(t.Context(), c, call)
	if err != nil || r.Outcome != sender.Accepted {
		t.Fatalf("the answer is %+v, %v", r, err)
	}
	header := a.request.Header
	expires, err := strconv.ParseInt(header.Get("apns-expiration"), 10, 64)
	if in := time.Until(time.Unix(expires, 0)); err != nil || in < 59*time.Minute || in > time.Hour {
		t.Errorf("it expires in %v, %v", in, err)
	}
	if a.request.URL.Path != "/4/broadcasts/apps/com.example.app" || header.Get("apns-channel-id") != channelID ||
		header.Get("apns-push-type") != "liveactivity" || header.Get("apns-priority") != "5" {
		t.Errorf("asked %s with %v", a.request.URL.Path, header)
	}
	var sent struct {
		APS map[string]any `json:"aps"`
	}
	if err := json.Unmarshal(a.payload, &sent); err != nil {
		t.Fatal(err)
	}
	if at, _ := sent.APS["timestamp"].(float64); time.Since(time.Unix(int64(at), 0)).Abs() > time.Minute {
		t.Errorf("the timestamp is %v", sent.APS["timestamp"])
	}
	delete(sent.APS, "timestamp")
	text, err := json.Marshal(sent.APS)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"alert":{"sound":"default","title":"Over"},"content-state":{"score":3},"dismissal-date":1732340000,"event":"end","stale-date":1732330000}`
	if string(text) != want {
		t.Errorf("the payload is %s, not %s", text, want)
	}
	b.Ttl, b.Alert, b.Event = nil, nil, pushv1.BroadcastActivityRequest_UPDATE
	if _, r, err = v.Broadcast(t.Context(), c, call); err != nil || r.Outcome != sender.Accepted ||
		a.request.Header.Get("apns-expiration") != "0" {
		t.Errorf("without a ttl: %+v, %v", r, a.request.Header)
	}
	a.mu.Lock()
	a.status, a.body = http.StatusBadRequest, `{"reason":"ChannelNotRegistered"}`
	a.mu.Unlock()
	if _, r, err = v.Broadcast(t.Context(), c, call); err != nil || r.Outcome != sender.Rejected ||
		r.Code != "400 ChannelNotRegistered" {
		t.Errorf("for an unknown channel: %+v", r)
	}
	b.ContentState.Fields["text"] = structpb.NewStringValue(strings.Repeat("x", 5120))
	var field *sender.FieldError
	if _, _, err = v.Broadcast(t.Context(), c, call); !errors.As(err, &field) || field.Field != "content_state" {
		t.Errorf("for a payload that is too long: %v", err)
	}
}
