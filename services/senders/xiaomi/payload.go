package xiaomi

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"

	"github.com/halleypush/halley/pkg/sender"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
)

// notify_type: everything, and the light alone for a silent notification.
const everything, light = -1, 4

// notify_effect: what a tap does.
const openApp, openPage, openWeb = 1, 2, 3

// request returns the form of a message. The override's fields are the form's, and those in its object "extra" are the form's
// extra.…; it changes all but the targets.
func (v *Vendor) request(c *credential, m *sender.Message) (url.Values, error) {
	payload := m.AppData()
	if len(payload) > maxPayload {
		return nil, fmt.Errorf("the payload has %d bytes, more than the %d that Xiaomi takes", len(payload), maxPayload)
	}
	if v.config.EscapePayload {
		payload = url.QueryEscape(payload)
	}
	extra := map[string]any{"jobkey": jobKey(m.ID)}
	fields := map[string]any{
		"restricted_package_name": packageOf(c, m), "payload": payload, "pass_through": 1,
		"time_to_live": m.TTL.Milliseconds(), "extra": extra,
	}
	if m.Notification != nil {
		notify(c, m, fields, extra)
	}
	if m.ReceiptURL != "" {
		extra["callback"], extra["callback.param"], extra["callback.type"] = m.ReceiptURL, m.Tag, v.config.CallbackType
	}
	fields, err := sender.Fields(fields, m.Override)
	if err != nil {
		return nil, err
	}
	form, err := formOf(fields)
	if err != nil {
		return nil, err
	}
	form.Set("registration_id", strings.Join(m.Tokens(), ","))
	return form, nil
}

func packageOf(c *credential, m *sender.Message) string { return cmp.Or(m.AppPackage, c.Package) }

// notify adds the fields of a notification.
func notify(c *credential, m *sender.Message, fields, extra map[string]any) {
	n := m.Notification
	key := cmp.Or(m.CollapseKey, m.PushID) // without an id each notification would replace the one before
	fields["pass_through"], fields["title"], fields["description"] = 0, n.GetTitle(), n.GetBody()
	fields["notify_id"], fields["notify_type"] = sender.NotifyID(key), everything
	switch sound := n.GetSound(); {
	case sound == "":
		fields["notify_type"] = light
	case sound != "default" && strings.Contains(sound, "://"):
		extra["sound_uri"] = sound
	case sound != "default":
		extra["sound_uri"] = "android.resource://" + packageOf(c, m) + "/raw/" + sound
	}
	id := n.GetChannelId()
	if class := c.Of(n); c.Categories[id] != "" || id == "" {
		id = class
	}
	if id != "" {
		extra["channel_id"] = id
	}
	switch click := n.GetClick(); click.GetType() {
	case pushv1.Click_URL:
		extra["notify_effect"], extra["web_uri"] = openWeb, click.GetValue()
	case pushv1.Click_PAGE:
		extra["notify_effect"] = openPage
		extra["intent_uri"] = "intent:#Intent;component=" + packageOf(c, m) + "/" + click.GetValue() + ";end"
	case pushv1.Click_INTENT:
		extra["notify_effect"], extra["intent_uri"] = openPage, click.GetValue()
	default:
		extra["notify_effect"] = openApp
	}
}

// jobKey returns a de-dup id in the form that Xiaomi takes: 20 of 0-9, a-z, A-Z, - and _, which does not stand first.
func jobKey(id string) string {
	hash := sha256.Sum256([]byte(id))
	return "h" + base64.RawURLEncoding.EncodeToString(hash[:])[:19]
}

// formOf returns the form of fields: texts and numbers as they are, other values as JSON.
func formOf(fields map[string]any) (url.Values, error) {
	form := url.Values{}
	for name, value := range fields {
		inner, isObject := value.(map[string]any)
		if name != "extra" || !isObject {
			inner, name = map[string]any{name: value}, ""
		} else {
			name += "."
		}
		for key, value := range inner {
			text, ok := value.(string)
			if !ok {
				encoded, err := json.Marshal(value)
				if err != nil {
					return nil, fmt.Errorf("request: %w", err)
				}
				text = string(encoded)
			}
			form.Set(name+key, text)
		}
	}
	return form, nil
}
