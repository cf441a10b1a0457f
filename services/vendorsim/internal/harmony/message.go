package harmony

import (
	"encoding/json"
	"slices"
)

// The limits of the sheet.
const (
	maxTokens      = 1000
	maxTestTokens  = 10
	maxBody        = 4096 // bytes, without tokens
	maxTTL         = 1296000
	maxCollapseKey = 100
	maxTag         = 64 // bytes
	maxBadge       = 99
)

// The push types of the header push-type.
const (
	typeAlert      = 0
	typeForm       = 1
	typeVoice      = 2
	typeBackground = 6
	typeLiveView   = 7
	typeCall       = 10
)

var categories = []string{
	"IM", "VOIP", "SUBSCRIPTION", "TRAVEL", "HEALTH", "WORK", "ACCOUNT", "EXPRESS", "FINANCE", "DEVICE_REMINDER", "MAIL",
	"MARKETING",
}

// message is the body of a send.
type message struct {
	Payload *payload `json:"payload"`
	Target  struct {
		Token json.RawMessage `json:"token"`
	} `json:"target"`
	Options options `json:"pushOptions"`

	pushType int
	tokens   []string
}

type options struct {
	Test        bool   `json:"testMessage"`
	TTL         *int64 `json:"ttl"` // s
	CollapseKey *int   `json:"collapseKey"`
	Tag         string `json:"biTag"`
	ReceiptID   string `json:"receiptId"`
}

type payload struct {
	Notification *notification   `json:"notification"`
	ExtraData    string          `json:"extraData"`
	FormID       json.RawMessage `json:"formId"` // of a card; the sheet does not show a card's payload
}

type notification struct {
	Category    string `json:"category"`
	Title       string `json:"title"`
	Body        string `json:"body"`
	Style       int    `json:"style"`
	MessageID   string `json:"appMessageId"`
	ClickAction *struct {
		Type   int    `json:"actionType"`
		Action string `json:"action"`
		URI    string `json:"uri"`
	} `json:"clickAction"`
	Badge *struct {
		Add *int `json:"addNum"`
		Set *int `json:"setNum"`
	} `json:"badge"`
}

// parse reads and checks a body, and returns the code of its fault, if it has one.
func parse(body []byte, pushType int, a *app) (message, string) {
	m := message{pushType: pushType}
	if json.Unmarshal(body, &m) != nil || m.Payload == nil {
		return m, badStructure
	}
	if code := m.target(); code != "" {
		return m, code
	}
	if len(body)-len(m.Target.Token) > maxBody {
		return m, tooLong
	}
	if code := m.options(a); code != "" {
		return m, code
	}
	return m, m.content()
}

// target checks the number of tokens.
func (m *message) target() string {
	if len(m.Target.Token) == 0 {
		return tokenCount
	}
	if json.Unmarshal(m.Target.Token, &m.tokens) != nil {
		return badStructure
	}
	n := len(m.tokens)
	switch {
	case n < 1 || n > maxTokens || m.pushType == typeForm && n != 1:
		return tokenCount
	case m.Options.Test && n > maxTestTokens:
		return testTokens
	}
	return ""
}

func (m *message) options(a *app) string {
	o := m.Options
	switch {
	case o.TTL != nil && *o.TTL <= 0:
		return badTTL
	case o.TTL != nil && *o.TTL > maxTTL, len(o.Tag) > maxTag:
		return badParameter
	case o.CollapseKey == nil:
	case *o.CollapseKey < -1 || *o.CollapseKey > maxCollapseKey || m.pushType != typeAlert && m.pushType != typeVoice:
		return badParameter
	}
	if _, known := a.callback(o.ReceiptID); !known {
		return badParameter // the sheet has no code for it
	}
	return ""
}

// content checks the payload by its push type. The sheet does not show those of cards and live views.
func (m *message) content() string {
	n := m.Payload.Notification
	switch m.pushType {
	case typeBackground, typeCall:
		if m.Payload.ExtraData == "" {
			return badParameter
		}
		return ""
	case typeVoice:
		if n == nil || n.Category != "PLAY_VOICE" || m.Payload.ExtraData == "" {
			return badParameter
		}
	case typeAlert:
		if n == nil || !slices.Contains(categories, n.Category) {
			return badParameter
		}
	default:
		return ""
	}
	onlyBadge := n.Badge != nil && n.Title == "" && n.Body == ""
	if !onlyBadge && (n.Title == "" || n.Body == "") || !n.isGood() {
		return badParameter
	}
	return ""
}

// isGood checks what a notification holds beside its texts.
func (n *notification) isGood() bool {
	if n.Style != 0 && n.Style != 3 {
		return false
	}
	if c := n.ClickAction; c != nil && (c.Type < 0 || c.Type > 1 || c.Type == 1 && c.Action == "" && c.URI == "") {
		return false
	}
	b := n.Badge
	return b == nil || (b.Add == nil || *b.Add >= 1 && *b.Add <= maxBadge) && (b.Set == nil || *b.Set >= 0 && *b.Set <= maxBadge)
}

// title returns the text that may hold a directive.
func (m *message) title() string {
	if n := m.Payload.Notification; n != nil {
		return n.Title
	}
	return m.Payload.ExtraData
}

// marketing says whether a message counts as such.
func (m *message) marketing() bool {
	n := m.Payload.Notification
	return m.pushType == typeAlert && !m.Options.Test && n.Category == "MARKETING"
}
