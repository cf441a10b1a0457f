package honor

import (
	"strconv"
	"time"

	"github.com/halleypush/halley/pkg/sender"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	"github.com/halleypush/halley/services/senders/internal/hms"
)

// The classes of notifications, which Honor calls their importance: marketing and service.
const low, normal = "LOW", "NORMAL"

type body struct {
	Data    string  `json:"data"`
	Android android `json:"android"`
}

type android struct {
	TTL            string        `json:"ttl"`
	BITag          string        `json:"biTag,omitempty"`
	TargetUserType int           `json:"targetUserType,omitempty"`
	Notification   *notification `json:"notification,omitempty"`
}

type notification struct {
	Title       string      `json:"title"`
	Body        string      `json:"body"`
	Image       string      `json:"image,omitempty"`
	NotifyID    int32       `json:"notifyId,omitempty"`
	Group       string      `json:"group,omitempty"`
	Importance  string      `json:"importance"`
	ClickAction clickAction `json:"clickAction"`
	Badge       *badge      `json:"badge,omitempty"`
}

type clickAction struct {
	Type   int    `json:"type"`
	Intent string `json:"intent,omitempty"`
	Action string `json:"action,omitempty"`
	URL    string `json:"url,omitempty"`
}

type badge struct {
	Add   int32  `json:"addNum,omitempty"`
	Set   *int32 `json:"setNum,omitempty"`
	Class string `json:"badgeClass"`
}

// request returns the JSON of a message. The override is merged over the whole of it but the tokens.
func request(c *credential, m *sender.Message) ([]byte, error) {
	b := body{Data: m.AppData(), Android: android{TTL: strconv.FormatInt(int64(m.TTL/time.Second), 10) + "s", BITag: m.Tag}}
	if m.Sandbox {
		b.Android.TargetUserType = 1 // a test message, free of the daily cap
	}
	if m.Notification != nil {
		b.Android.Notification = notify(c, m)
	}
	fields, err := sender.Fields(b, m.Override)
	if err != nil {
		return nil, err
	}
	return hms.Encode(fields, "", m)
}

func notify(c *credential, m *sender.Message) *notification {
	from := m.Notification
	n := &notification{
		Title: from.GetTitle(), Body: from.GetBody(), Image: from.GetImage(), Group: from.GetGroup(), Importance: c.Of(from),
		ClickAction: click(from.GetClick()), Badge: number(c, from.GetBadge()),
	}
	switch {
	case m.Low:
		n.Importance = low
	case n.Importance == "":
		n.Importance = normal
	}
	if m.CollapseKey != "" {
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

// number returns the badge: Honor sets 0 to 99; that it adds 1 to 99, as Huawei does, is uncertain.
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
