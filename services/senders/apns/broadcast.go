package apns

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/sideshow/apns2"

	"github.com/halleypush/halley/pkg/sender"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	senderv1 "github.com/halleypush/halley/proto/halley/sender/v1"
)

// maxBroadcast is the size of a broadcast's JSON (from memory).
const maxBroadcast = 5120

// headers of calls about channels.
const (
	channelHeader = "apns-channel-id"
	requestHeader = "apns-request-id"
)

// call is one HTTP request about broadcast channels.
type call struct {
	sandbox bool
	manage  bool // on the host that manages channels
	method  string
	path    string // behind …/apps/{bundle id}
	body    any    // JSON; nil: none
	headers []string
}

// Broadcast makes one call about broadcast channels (Apple, "Sending channel management requests to APNs" and "Sending broadcast
// push notification requests to APNs").
func (v *Vendor) Broadcast(ctx context.Context, c sender.Credential, asked *senderv1.Check) (
	channels []string, r sender.Result, err error,
) {
	credential := c.(*credential)
	if credential.token == nil {
		return nil, sender.Result{Outcome: sender.Rejected, Code: "broadcasts need a key; the app has a certificate"}, nil
	}
	var one call
	switch asked := asked.GetCall().(type) {
	case *senderv1.Check_CreateChannel:
		policy := 0
		if asked.CreateChannel.GetKeepLatest() {
			policy = 1
		}
		one = call{
			sandbox: asked.CreateChannel.GetSandbox(), manage: true, method: http.MethodPost, path: "/channels",
			body: map[string]any{"message-storage-policy": policy, "push-type": "LiveActivity"},
		}
	case *senderv1.Check_ListChannels:
		one = call{sandbox: asked.ListChannels.GetSandbox(), manage: true, method: http.MethodGet, path: "/all-channels"}
	case *senderv1.Check_DeleteChannel:
		one = call{
			sandbox: asked.DeleteChannel.GetSandbox(), manage: true, method: http.MethodDelete, path: "/channels",
			headers: []string{channelHeader, asked.DeleteChannel.GetChannel()},
		}
	case *senderv1.Check_Broadcast:
		one = broadcast(asked.Broadcast, time.Now())
	}
	return v.ask(ctx, credential, one)
}

// broadcast returns the request of a broadcast to a channel.
func broadcast(b *pushv1.BroadcastActivityRequest, now time.Time) call {
	aps := map[string]any{
		"timestamp": now.Unix(), "event": strings.ToLower(b.GetEvent().String()), "content-state": b.GetContentState().AsMap(),
	}
	alert := map[string]string{}
	for name, text := range map[string]string{"title": b.GetAlert().GetTitle(), "body": b.GetAlert().GetBody(), "sound": b.GetAlert().GetSound()} {
		if text != "" {
			alert[name] = text
		}
	}
	if len(alert) > 0 {
		aps["alert"] = alert
	}
	if b.GetStaleAt() != nil {
		aps["stale-date"] = b.GetStaleAt().GetSeconds()
	}
	if b.GetDismissAt() != nil {
		aps["dismissal-date"] = b.GetDismissAt().GetSeconds()
	}
	expires, priority := int64(0), apns2.PriorityHigh
	if b.GetTtl().AsDuration() > 0 {
		expires = now.Add(b.GetTtl().AsDuration()).Unix()
	}
	if b.GetLowPriority() {
		priority = apns2.PriorityLow
	}
	return call{
		sandbox: b.GetSandbox(), method: http.MethodPost, body: map[string]any{"aps": aps},
		headers: []string{
			channelHeader, b.GetChannel(), "apns-push-type", string(apns2.PushTypeLiveActivity),
			"apns-expiration", strconv.FormatInt(expires, 10), "apns-priority", strconv.Itoa(priority),
		},
	}
}

func (v *Vendor) ask(ctx context.Context, c *credential, one call) (channels []string, r sender.Result, err error) {
	hosts, path := [2]string{v.config.Production, v.config.Sandbox}, "/4/broadcasts/apps/"
	if one.manage {
		hosts, path = [2]string{v.config.Manage, v.config.ManageSandbox}, "/1/apps/"
	}
	address := hosts[0]
	if one.sandbox {
		address = hosts[1]
	}
	var body []byte
	if one.body != nil {
		if body, err = json.Marshal(one.body); err != nil {
			return nil, r, &sender.FieldError{Field: "content_state", Problem: err.Error()}
		}
	}
	if len(body) > maxBroadcast {
		problem := fmt.Sprintf("makes a payload of %d bytes with the alert; Apple takes %d", len(body), maxBroadcast)
		return nil, r, &sender.FieldError{Field: "content_state", Problem: problem}
	}
	headers := append([]string{"authorization", "bearer " + c.token.GenerateIfExpired(), requestHeader, uuid.NewString()}, one.headers...)
	a, err := sender.Do(ctx, c.client, one.method, address+path+c.topic+one.path, body, headers...)
	if err != nil {
		return nil, sender.ResultOf(err), nil
	}
	var answer struct {
		Reason   string
		Channels []string
	}
	a.Decode(&answer)
	if made := a.Header.Get(channelHeader); made != "" {
		answer.Channels = []string{made}
	}
	response := &apns2.Response{StatusCode: a.Status, Reason: answer.Reason, ApnsID: a.Header.Get(requestHeader)}
	return answer.Channels, c.result(response), nil
}
