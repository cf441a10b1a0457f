package huawei

import (
	"strconv"
	"time"

	"github.com/halleypush/halley/pkg/sender"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	"github.com/halleypush/halley/services/senders/internal/hms"
)

type message struct {
	Data    string  `json:"data"`
	Android android `json:"android"`
}

type android struct {
	TTL            string        `json:"ttl"`
	Category       string        `json:"category,omitempty"`
	Urgency        string        `json:"urgency,omitempty"`
	BITag          string        `json:"bi_tag,omitempty"`
	ReceiptID      string        `json:"receipt_id,omitempty"`
	TargetUserType int           `json:"target_user_type,omitempty"`
	Notification   *notification `json:"notification,omitempty"`
}

type notification struct {
	Title        string      `json:"title"`
	Body         string      `json:"body"`
	Image        string      `json:"image,omitempty"`
	Sound        string      `json:"sound,omitempty"`
	DefaultSound bool        `json:"default_sound,omitempty"`
	ChannelID    string      `json:"channel_id,omitempty"`
	NotifyID     int32       `json:"notify_id,omitempty"`
	Group        string      `json:"group,omitempty"`
	Importance   string      `json:"importance"`
	ClickAction  clickAction `json:"click_action"`
	Badge        *badge      `json:"badge,omitempty"`
}

type clickAction struct {
	Type   int    `json:"type"`
	Intent string `json:"intent,omitempty"`
	Action string `json:"action,omitempty"`
	URL    string `json:"url,omitempty"`
}

type badge struct {
	Add   int32  `json:"add_num,omitempty"`
	Set   *int32 `json:"set_num,omitempty"`
	Class string `json:"class"`
}

// request returns the JSON of a message. The override is merged over the whole of it but the tokens.
func request(c *credential, m *sender.Message) ([]byte, error) {
	inner := message{Data: m.AppData(), Android: android{
		TTL: strconv.FormatInt(int64(m.TTL/time.Second), 10) + "s", BITag: m.Tag, ReceiptID: c.ID,
	}}
	if m.Sandbox {
		inner.Android.TargetUserType = 1 // a test message, free of the daily cap
	}
	if m.Notification != nil {
		inner.Android.Notification, inner.Android.Category = notify(c, m), c.Of(m.Notification)
	} else if m.High && c.Urgent {
		inner.Android.Urgency = "HIGH"
	}
	fields, err := sender.Fields(map[string]any{"validate_only": false, "message": inner}, m.Override)
	if err != nil {
		return nil, err
	}
	return hms.Encode(fields, "message", m)
}

func notify(c *credential, m *sender.Message) *notification {
	from := m.Notification
	n := &notification{
		Title: from.GetTitle(), Body: from.GetBody(), Image: from.GetImage(), ChannelID: from.GetChannelId(), Group: from.GetGroup(),
		Importance: "NORMAL", ClickAction: click(from.GetClick()), Badge: number(c, from.GetBadge()),
	}
	switch {
	case m.Low:
		n.Importance = "LOW"
	case m.High && c.Urgent:
		n.Importance = "HIGH"
	}
	if n.Sound = from.GetSound(); n.Sound == "default" {
		n.Sound, n.DefaultSound = "", true
	}
	if m.CollapseKey != "" { // collapse_key has 100 values for all keys of an app: two keys could share one
		n.NotifyID = sender.NotifyID(m.CollapseKey)
	}
	return n
}

func click(c *pushv1.Click) clickAction {
	switch c.GetType() {
	case pushv1.Click_URL:
		return clickAction{Type: 2, URL: c.GetValue()}
	case pushv1.Click_PAGE:
		return clickAction{Type: 1, Action: c.GetValue()}
	case pushv1.Click_INTENT:
		return clickAction{Type: 1, Intent: c.GetValue()}
	default:
		return clickAction{Type: 3}
	}
}

// number returns the badge: Huawei sets 0 to 99, and adds 1 to 99.
func number(c *credential, b *pushv1.Badge) *badge {
	if c.BadgeClass == "" {
		return nil
	}
	switch change := b.GetChange().(type) {
	case *pushv1.Badge_Set:
		set := min(change.Set, 99)
		return &badge{Set: &set, Class: c.BadgeClass}
	case *pushv1.Badge_Add:
		if change.Add > 0 {
			return &badge{Add: min(change.Add, 99), Class: c.BadgeClass}
		}
	}
	return nil
}
