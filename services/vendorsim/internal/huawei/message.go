package huawei

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
)

// The limits of the sheet.
const (
	maxTokens      = 1000
	maxBody        = 4096 // bytes, without tokens
	maxTTL         = 1296000
	maxCollapseKey = 100
	maxProfileID   = 64
	maxButtons     = 3
	maxInbox       = 5
	maxBadge       = 99
)

// categories are what self-classification knows.
var categories = []string{
	"IM", "VOIP", "SUBSCRIPTION", "TRAVEL", "HEALTH", "WORK", "ACCOUNT", "EXPRESS", "FINANCE", "DEVICE_REMINDER", "MAIL",
	"PLAY_VOICE", "MARKETING",
}

// envelope is the body of a send.
type envelope struct {
	ValidateOnly bool     `json:"validate_only"`
	Message      *message `json:"message"`
}

type message struct {
	Token        json.RawMessage `json:"token"`
	Topic        string          `json:"topic"`
	Condition    string          `json:"condition"`
	Data         string          `json:"data"`
	Notification *struct {
		Title string `json:"title"`
		Body  string `json:"body"`
		Image string `json:"image"`
	} `json:"notification"`
	Android android `json:"android"`

	tokens []string
}

type android struct {
	TTL            string        `json:"ttl"`
	CollapseKey    *int          `json:"collapse_key"`
	Category       string        `json:"category"`
	Urgency        string        `json:"urgency"`
	Tag            string        `json:"bi_tag"`
	ReceiptID      string        `json:"receipt_id"`
	TargetUserType int           `json:"target_user_type"`
	FastAppTarget  int           `json:"fast_app_target"`
	Data           string        `json:"data"`
	Notification   *notification `json:"notification"`
}

type notification struct {
	Title       string            `json:"title"`
	Body        string            `json:"body"`
	Image       string            `json:"image"`
	Style       int               `json:"style"`
	BigTitle    string            `json:"big_title"`
	BigBody     string            `json:"big_body"`
	Inbox       []string          `json:"inbox_content"`
	Importance  string            `json:"importance"`
	ProfileID   string            `json:"profile_id"`
	Buttons     []json.RawMessage `json:"buttons"`
	ClickAction *struct {
		Type   int    `json:"type"`
		Intent string `json:"intent"`
		Action string `json:"action"`
		URL    string `json:"url"`
	} `json:"click_action"`
	Badge *struct {
		Add   *int   `json:"add_num"`
		Set   *int   `json:"set_num"`
		Class string `json:"class"`
	} `json:"badge"`
}

// parse reads and checks a body, and returns the code of its fault, if it has one.
func parse(body []byte, a *app) (envelope, string) {
	var e envelope
	if err := json.Unmarshal(body, &e); err != nil || e.Message == nil {
		return e, badStructure
	}
	m := e.Message
	if code := m.target(); code != "" {
		return e, code
	}
	if len(body)-len(m.Token) > maxBody {
		return e, tooLong
	}
	if code := m.Android.check(); code != "" {
		return e, code
	}
	if _, known := a.receiptConfig(m.Android.ReceiptID); !known {
		return e, badReceipt
	}
	if m.Notification == nil && m.Android.Notification == nil {
		return e, m.passThrough(a)
	}
	return e, m.shown(a)
}

// target checks that there is exactly one kind of target.
func (m *message) target() string {
	kinds := 0
	for _, there := range []bool{len(m.Token) > 0, m.Topic != "", m.Condition != ""} {
		if there {
			kinds++
		}
	}
	switch {
	case kinds == 0:
		return tokenCount // also when token stands at the wrong place
	case kinds > 1:
		return badParameter
	case len(m.Token) == 0:
		return ""
	}
	if json.Unmarshal(m.Token, &m.tokens) != nil {
		return badStructure
	}
	if len(m.tokens) < 1 || len(m.tokens) > maxTokens {
		return tokenCount
	}
	return ""
}

func (a *android) check() string {
	if a.TTL != "" {
		text, ok := strings.CutSuffix(a.TTL, "s")
		seconds, err := strconv.ParseInt(text, 10, 64)
		switch {
		case !ok || err != nil || seconds > maxTTL:
			return badParameter
		case seconds <= 0:
			return badTTL
		}
	}
	if a.CollapseKey != nil && (*a.CollapseKey < -1 || *a.CollapseKey > maxCollapseKey) {
		return badCollapseKey
	}
	if a.Category != "" && !slices.Contains(categories, a.Category) ||
		a.Urgency != "" && a.Urgency != "HIGH" && a.Urgency != "NORMAL" ||
		a.TargetUserType < 0 || a.TargetUserType > 1 || a.FastAppTarget < 0 || a.FastAppTarget > 2 {
		return badParameter
	}
	return ""
}

// passThrough checks a message without any notification.
func (m *message) passThrough(a *app) string {
	switch {
	case m.Data == "" && m.Android.Data == "":
		return badParameter
	case m.Android.Urgency == "HIGH" && a.NoHighRight:
		return noHighRight
	}
	return ""
}

// shown checks a message with a notification.
func (m *message) shown(a *app) string {
	n := m.Android.Notification
	if n == nil || n.ClickAction == nil || m.Android.Category == "PLAY_VOICE" || m.Android.Urgency != "" {
		return badParameter
	}
	if m.title() == "" || m.body() == "" || !n.badgeIsGood() {
		return badParameter
	}
	if c := n.ClickAction; c.Type < 1 || c.Type > 3 || c.Type == 1 && c.Intent == "" && c.Action == "" ||
		c.Type == 2 && !strings.HasPrefix(c.URL, "https://") {
		return badParameter
	}
	images := []string{n.Image}
	if m.Notification != nil {
		images = append(images, m.Notification.Image)
	}
	for _, image := range images {
		if image != "" && !strings.HasPrefix(image, "https://") {
			return badParameter
		}
	}
	switch {
	case n.Style != 0 && n.Style != 1 && n.Style != 3, len(n.Inbox) > maxInbox, len(n.Buttons) > maxButtons,
		len(n.ProfileID) > maxProfileID:
		return badParameter
	}
	switch n.Importance {
	case "", "LOW", "NORMAL":
	case "HIGH":
		if a.NoHighRight {
			return noHighRight
		}
	default:
		return badParameter
	}
	return ""
}

func (n *notification) badgeIsGood() bool {
	b := n.Badge
	return b == nil || (b.Add == nil || *b.Add >= 1 && *b.Add <= maxBadge) && (b.Set == nil || *b.Set >= 0 && *b.Set <= maxBadge)
}

// title returns the title that is shown.
func (m *message) title() string {
	if n := m.Android.Notification; n != nil && n.Title != "" {
		return n.Title
	}
	if m.Notification != nil {
		return m.Notification.Title
	}
	return ""
}

func (m *message) body() string {
	if n := m.Android.Notification; n != nil && n.Body != "" {
		return n.Body
	}
	if m.Notification != nil {
		return m.Notification.Body
	}
	return ""
}
