package apns

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sideshow/apns2"

	"github.com/halleypush/halley/pkg/sender"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
)

const (
	// maxPayload is the size of the JSON, maxVoIP that of VoIP pushes (Apple, "Generating a remote notification").
	maxPayload, maxVoIP = 4096, 5120
	maxCollapseID       = 64
)

// topics are what stands behind the bundle id in the topic of each push type (Apple, "Sending notification requests to APNs").
var topics = map[string]string{
	"alert": "", "background": "", "voip": ".voip", "complication": ".complication", "fileprovider": ".pushkit.fileprovider",
	"location": ".location-query", "liveactivity": ".push-type.liveactivity", "pushtotalk": ".voip-ptt",
	"controls": ".push-type.controls", "widgets": ".push-type.widgets",
}

// headers are what an override may set beside the payload.
type headers struct {
	PushType   string `json:"push_type"`
	Topic      string `json:"topic"`
	Priority   int    `json:"priority"`
	CollapseID string `json:"collapse_id"`
	// Token replaces the device's token: a Live Activity has a push token of its own.
	Token string `json:"token"`
}

// notification returns what the requests of a job have in common. The override is the payload's fields, such as
// {"aps": {"interruption-level": "time-sensitive"}}, and "headers".
func notification(m *sender.Message, bundle string, now time.Time) (*apns2.Notification, error) {
	override, h, err := split(m.Override)
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(sender.Merge(payload(m), override))
	if err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	if h.PushType == "" {
		h.PushType = "alert"
		if m.Notification == nil && !hasAlert(override) {
			h.PushType = "background"
		}
	}
	suffix, known := topics[h.PushType]
	if !known {
		return nil, fmt.Errorf("headers.push_type: there is no push type %q", h.PushType)
	}
	limit := maxPayload
	if h.PushType == "voip" {
		limit = maxVoIP
	}
	if len(body) > limit {
		return nil, fmt.Errorf("the payload has %d bytes, more than the %d that Apple takes", len(body), limit)
	}
	n := &apns2.Notification{
		DeviceToken: h.Token, Topic: bundle + suffix, PushType: apns2.EPushType(h.PushType), Payload: body,
		Expiration: now.Add(m.TTL), Priority: priority(m, h), CollapseID: collapseID(m, h),
	}
	if m.AppPackage != "" {
		n.Topic = m.AppPackage + suffix // a credential's key serves all apps of a team
	}
	if h.Topic != "" {
		n.Topic = h.Topic
	}
	return n, nil
}

// addressed returns the request for a message's device, unless the override names another token.
func addressed(common *apns2.Notification, m *sender.Message) *apns2.Notification {
	n := *common
	n.ApnsID = m.ID
	if n.DeviceToken == "" {
		n.DeviceToken = m.Targets[0].Token
	}
	return &n
}

func split(override map[string]any) (fields map[string]any, h headers, err error) {
	fields = map[string]any{}
	for name, value := range override {
		fields[name] = value
	}
	if raw, ok := fields["headers"]; ok {
		delete(fields, "headers")
		text, err := json.Marshal(raw)
		if err == nil {
			err = json.Unmarshal(text, &h)
		}
		if err != nil {
			return nil, h, errors.New("headers: push_type, topic, priority, collapse_id and token are known")
		}
	}
	return fields, h, nil
}

func hasAlert(fields map[string]any) bool {
	aps, _ := fields["aps"].(map[string]any)
	return aps["alert"] != nil
}

func priority(m *sender.Message, h headers) int {
	switch {
	case h.Priority != 0:
		return h.Priority
	case h.PushType == "background" || m.Low:
		return apns2.PriorityLow // background must be 5
	default:
		return apns2.PriorityHigh
	}
}

func collapseID(m *sender.Message, h headers) string {
	if h.CollapseID != "" {
		return h.CollapseID
	}
	if len(m.CollapseKey) > maxCollapseID {
		return m.CollapseKey[:maxCollapseID]
	}
	return m.CollapseKey
}

// payload returns the JSON fields of a message: what Apple shows in aps, the rest for the app.
func payload(m *sender.Message) map[string]any {
	aps := map[string]any{}
	fields := map[string]any{"aps": aps, "push_id": m.PushID}
	if m.User != "" {
		fields["user"] = m.User
	}
	if len(m.Data) > 0 {
		fields["data"] = m.Data
	}
	if m.Payload != "" {
		fields["payload"] = m.Payload
	}
	n := m.Notification
	if n == nil {
		aps["content-available"] = 1
		return fields
	}
	alert := map[string]any{}
	for name, text := range map[string]string{"title": n.GetTitle(), "subtitle": n.GetSubtitle(), "body": n.GetBody()} {
		if text != "" {
			alert[name] = text
		}
	}
	aps["alert"] = alert
	if n.GetSound() != "" {
		aps["sound"] = n.GetSound()
	}
	if n.GetGroup() != "" {
		aps["thread-id"] = n.GetGroup()
	}
	if b, ok := n.GetBadge().GetChange().(*pushv1.Badge_Set); ok { // Apple only sets
		aps["badge"] = b.Set
	}
	if n.GetImage() != "" { // the app's extension fetches it
		aps["mutable-content"] = 1
		fields["image"] = n.GetImage()
	}
	if c := n.GetClick(); c != nil {
		click := map[string]any{"type": strings.ToLower(c.GetType().String())}
		if c.GetValue() != "" {
			click["value"] = c.GetValue()
		}
		fields["click"] = click
	}
	return fields
}
