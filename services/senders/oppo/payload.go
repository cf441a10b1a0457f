package oppo

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"

	"github.com/halleypush/halley/pkg/sender"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
)

const (
	// deDup is the field of the de-dup id.
	deDup = "app_message_id"
	// byRegistrationID is the target_type of registration ids.
	byRegistrationID = 2
	// style of a notification: a long text has another one.
	normal, longText = 1, 2
	// click_action_type: what a tap does.
	openApp, openWeb, openClass, openIntent = 0, 2, 4, 5
	// maxCallback and maxData are limits in bytes.
	maxCallback, maxData = 200, 4000
)

// target is one message of a batch.
type target struct {
	Type         int            `json:"target_type"`
	Value        string         `json:"target_value"`
	Notification map[string]any `json:"notification"`
}

// messages returns the batch's JSON. The override is merged into the notification.
func (v *Vendor) messages(c *credential, m *sender.Message) ([]byte, error) {
	fields, err := sender.Fields(v.notification(c, m), m.Override)
	if err != nil {
		return nil, err
	}
	if data, _ := fields["action_parameters"].(string); len(data) > maxData {
		return nil, fmt.Errorf("the data has %d bytes, more than the %d that OPPO takes", len(data), maxData)
	}
	_, given := m.Override[deDup]
	all := make([]target, len(m.Targets))
	for i, t := range m.Targets {
		own := maps.Clone(fields)
		if !given {
			own[deDup] = messageID(m, t.Token)
		}
		all[i] = target{byRegistrationID, t.Token, own}
	}
	text, err := json.Marshal(all)
	if err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	return text, nil
}

// messageID returns the de-dup id of a message for one target. It is the target's own, not the request's: it stays the same if the
// others have their message and only this one is tried again, and if an id counts once, whatever the target, nobody is left out.
func messageID(m *sender.Message, token string) string {
	hash := sha256.Sum256([]byte(m.PushID + "\n" + m.User + "\n" + token))
	return hex.EncodeToString(hash[:16])
}

func (v *Vendor) notification(c *credential, m *sender.Message) map[string]any {
	n := m.Notification
	fields := map[string]any{
		"title": n.GetTitle(), "content": n.GetBody(), "style": normal, "action_parameters": m.AppData(),
		"off_line": true, "off_line_ttl": int64(m.TTL.Seconds()),
	}
	if len([]rune(n.GetBody())) > v.config.ShortLength {
		fields["style"] = longText
	}
	if sub := []rune(n.GetSubtitle()); len(sub) > 0 {
		fields["sub_title"] = string(sub[:min(len(sub), 10)])
	}
	if m.CollapseKey != "" {
		fields["notify_id"] = sender.NotifyID(m.CollapseKey)
	}
	channel := n.GetChannelId()
	if class := c.Of(n); class != "" {
		fields["category"] = class
		if c.NotifyLevel > 0 {
			fields["notify_level"] = c.NotifyLevel
		}
	}
	if mapped, ok := c.Channels[channel]; ok {
		channel = mapped
	}
	if channel != "" {
		fields["channel_id"] = channel
	}
	switch click := n.GetClick(); click.GetType() {
	case pushv1.Click_URL:
		fields["click_action_type"], fields["click_action_url"] = openWeb, click.GetValue()
	case pushv1.Click_PAGE:
		fields["click_action_type"], fields["click_action_activity"] = openClass, click.GetValue()
	case pushv1.Click_INTENT:
		fields["click_action_type"], fields["click_action_url"] = openIntent, click.GetValue()
	default:
		fields["click_action_type"] = openApp
	}
	if m.ReceiptURL != "" && len(m.ReceiptURL) <= maxCallback {
		fields["call_back_url"], fields["call_back_parameter"] = m.ReceiptURL, m.Tag
	}
	return fields
}
