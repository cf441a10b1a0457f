package vivo

import (
	"encoding/json"
	"fmt"
	"slices"
	"unicode/utf8"

	"github.com/halleypush/halley/pkg/sender"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
)

const (
	// skipType: what a tap does.
	openHome, openWeb, openIntent, openPage = 1, 2, 3, 4
	// notifyType: none, and sound with vibration.
	silent, loud = 1, 4
	// classification: what vivo takes for marketing, and what serves the user.
	operation, system = 0, 1
	// shortest is the least timeToLive in seconds, maxCustom the most characters of the data, maxCallback the most bytes of an
	// address of receipts.
	shortest, maxCustom, maxCallback = 60, 1024, 128
)

// systemClasses are the categories of classification 1.
var systemClasses = []string{"IM", "ACCOUNT", "TODO", "DEVICE_REMINDER", "ORDER", "SUBSCRIPTION"}

// request returns the fields of a message without its targets. The override is merged into them.
func request(c *credential, m *sender.Message) (map[string]any, error) {
	n := m.Notification
	custom := m.AppFields()
	length := 0
	for name, value := range custom {
		length += utf8.RuneCountInString(name) + utf8.RuneCountInString(value)
	}
	if length > maxCustom {
		return nil, fmt.Errorf("the data has %d characters, more than the %d that vivo takes", length, maxCustom)
	}
	fields := map[string]any{
		"appId": json.Number(c.AppID), "title": n.GetTitle(), "content": n.GetBody(), "notifyType": silent,
		"timeToLive": max(int64(m.TTL.Seconds()), shortest), "clientCustomMap": custom, "classification": operation,
		"requestId": m.ID, "pushMode": 0,
	}
	if n.GetSound() != "" {
		fields["notifyType"] = loud
	}
	if class := c.Of(n); class != "" {
		fields["category"] = class
		if slices.Contains(systemClasses, class) {
			fields["classification"] = system
		}
	}
	if m.Sandbox {
		fields["pushMode"] = 1
	}
	if m.CollapseKey != "" {
		fields["notifyId"] = sender.NotifyID(m.CollapseKey)
	}
	switch click := n.GetClick(); click.GetType() {
	case pushv1.Click_URL:
		fields["skipType"], fields["skipContent"] = openWeb, click.GetValue()
	case pushv1.Click_INTENT:
		fields["skipType"], fields["skipContent"] = openIntent, click.GetValue()
	case pushv1.Click_PAGE:
		fields["skipType"], fields["skipContent"] = openPage, click.GetValue()
	default:
		fields["skipType"] = openHome
	}
	switch {
	case m.ReceiptURL == "":
	case c.ReceiptID != "":
		fields["extra"] = map[string]any{"callback.id": c.ReceiptID, "callback.param": m.Tag}
	case len(m.ReceiptURL) <= maxCallback:
		fields["extra"] = map[string]any{"callback": m.ReceiptURL, "callback.param": m.Tag}
	}
	return sender.Fields(fields, m.Override)
}
