package harmony

import (
	"errors"
	"strconv"
	"time"

	"github.com/halleypush/halley/pkg/sender"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	"github.com/halleypush/halley/services/senders/internal/hms"
)

// Push types, which go into a header.
const (
	alert      = "0"
	background = "6"
)

// defaultCategory is the class without a right to another.
const defaultCategory = "MARKETING"

type body struct {
	Payload payload        `json:"payload"`
	Target  map[string]any `json:"target"`
	Options options        `json:"pushOptions"`
}

type payload struct {
	Notification *notification `json:"notification,omitempty"`
	ExtraData    string        `json:"extraData,omitempty"`
}

type options struct {
	TTL       int64  `json:"ttl"`
	BITag     string `json:"biTag,omitempty"`
	ReceiptID string `json:"receiptId,omitempty"`
	Test      bool   `json:"testMessage,omitempty"`
}

type notification struct {
	Category     string      `json:"category"`
	Title        string      `json:"title"`
	Body         string      `json:"body"`
	Image        string      `json:"image,omitempty"`
	Sound        string      `json:"sound,omitempty"`
	NotifyID     int32       `json:"notifyId,omitempty"`
	AppMessageID string      `json:"appMessageId,omitempty"`
	Badge        *badge      `json:"badge,omitempty"`
	ClickAction  clickAction `json:"clickAction"`
}

type clickAction struct {
	Type   int               `json:"actionType"`
	Action string            `json:"action,omitempty"`
	URI    string            `json:"uri,omitempty"`
	Data   map[string]string `json:"data"`
}

type badge struct {
	Add int32  `json:"addNum,omitempty"`
	Set *int32 `json:"setNum,omitempty"`
}

// request returns the JSON of a message and its push type. The override is merged over the whole of it but the tokens; its
// push_type is the header's.
func request(c *credential, m *sender.Message) (text []byte, pushType string, err error) {
	b := body{Target: map[string]any{}, Options: options{TTL: int64(m.TTL / time.Second), BITag: m.Tag, ReceiptID: c.ID, Test: m.Sandbox}}
	pushType = alert
	if m.Notification != nil {
		b.Payload.Notification = notify(c, m)
	} else {
		pushType, b.Payload.ExtraData = background, m.AppData()
	}
	fields, err := sender.Fields(b, m.Override)
	if err != nil {
		return nil, "", err
	}
	if given, ok := fields["push_type"]; ok {
		number, isNumber := given.(float64)
		if !isNumber {
			return nil, "", errors.New("the override of push_type must be a number")
		}
		pushType = strconv.Itoa(int(number))
		delete(fields, "push_type")
	}
	text, err = hms.Encode(fields, "target", m)
	return text, pushType, err
}

func notify(c *credential, m *sender.Message) *notification {
	from := m.Notification
	n := &notification{
		Category: c.Of(from), Title: from.GetTitle(), Body: from.GetBody(), Image: from.GetImage(), AppMessageID: m.ID,
		Badge: number(from.GetBadge()), ClickAction: click(from.GetClick()),
	}
	if n.Category == "" {
		n.Category = defaultCategory
	}
	if from.GetSound() != "default" {
		n.Sound = from.GetSound()
	}
	if m.CollapseKey != "" { // collapseKey has 101 values for all keys of an app: two keys could share one
		n.NotifyID = sender.NotifyID(m.CollapseKey)
	}
	n.ClickAction.Data = m.AppFields()
	return n
}

// click returns what a tap does: HarmonyOS opens the app's home, or one of its pages by action or URI.
func click(c *pushv1.Click) clickAction {
	switch c.GetType() {
	case pushv1.Click_PAGE:
		return clickAction{Type: 1, Action: c.GetValue()}
	case pushv1.Click_URL, pushv1.Click_INTENT:
		return clickAction{Type: 1, URI: c.GetValue()}
	default:
		return clickAction{Type: 0}
	}
}

// number returns the badge: Huawei sets 0 to 99, and adds 1 to 99.
func number(b *pushv1.Badge) *badge {
	switch change := b.GetChange().(type) {
	case *pushv1.Badge_Set:
		set := min(change.Set, 99)
		return &badge{Set: &set}
	case *pushv1.Badge_Add:
		if change.Add > 0 {
			return &badge{Add: min(change.Add, 99)}
		}
	}
	return nil
}
