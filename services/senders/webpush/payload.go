package webpush

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/halleypush/halley/pkg/sender"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
)

// payload returns what the service worker gets: a message as phones get it over the own connection (docs/device-protocol.md). The
// override is merged into it.
func payload(m *sender.Message, now time.Time) ([]byte, error) {
	fields := map[string]any{
		"push_id": m.PushID, "kind": "data", "priority": urgency(m), "sent_at": m.SentAt.UnixMilli(), "expires_at": now.Add(m.TTL).UnixMilli(),
	}
	put := func(name, value string) {
		if value != "" {
			fields[name] = value
		}
	}
	if n := m.Notification; n != nil {
		fields["kind"] = "notification"
		for name, value := range map[string]string{
			"title": n.GetTitle(), "subtitle": n.GetSubtitle(), "body": n.GetBody(), "image": n.GetImage(), "sound": n.GetSound(),
			"group": n.GetGroup(), "channel_id": n.GetChannelId(),
		} {
			put(name, value)
		}
		if click := n.GetClick(); click != nil {
			fields["click"] = map[string]string{"type": strings.ToLower(click.GetType().String()), "value": click.GetValue()}
		}
		switch badge := n.GetBadge().GetChange().(type) {
		case *pushv1.Badge_Set:
			fields["badge"] = map[string]any{"set": badge.Set}
		case *pushv1.Badge_Add:
			fields["badge"] = map[string]any{"add": badge.Add}
		}
	}
	put("collapse_key", m.CollapseKey)
	put("payload", m.Payload)
	put("user", m.User)
	if len(m.Data) > 0 {
		fields["data"] = m.Data
	}
	fields, err := sender.Fields(fields, m.Override)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(fields)
	if err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	if len(text) > maxPlaintext {
		return nil, fmt.Errorf("the message has %d bytes, more than the %d that browsers' services take", len(text), maxPlaintext)
	}
	return text, nil
}

func urgency(m *sender.Message) string {
	switch {
	case m.High:
		return "high"
	case m.Low:
		return "low"
	default:
		return "normal"
	}
}

// topic returns a collapse key in the form that a Topic has: 32 of the base64url alphabet.
func topic(key string) string {
	hash := sha256.Sum256([]byte(key))
	return base64.RawURLEncoding.EncodeToString(hash[:])[:32]
}
