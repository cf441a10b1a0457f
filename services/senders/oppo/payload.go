package oppo

import (
	"encoding/json"
	"fmt"

	"github.com/halleypush/halley/pkg/sender"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
)

const (
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
	all := make([]target, len(m.Targets))
	for i, t := range m.Targets {
		all[i] = target{byRegistrationID, t.Token, fields}
	}
	text, err := json.Marshal(all)
	if err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	return text, nil
}

func (v *Vendor) notification(c *credential, m *sender.Message) map[string]any {
	n := m.Notification
	fields := map[string]any{
		"app_message_id": m.ID, "title": n.GetTitle(), "content": n.GetBody(), "style": normal, "action_parameters": m.AppData(),
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
