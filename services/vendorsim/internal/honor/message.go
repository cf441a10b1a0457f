package honor

import (
	"encoding/json"
	"strconv"
	"strings"
)

// The limits of the sheet; those of tokens and bytes are from memory (M).
const (
	maxTokens  = 1000
	maxBody    = 4096 // bytes, without tokens
	maxTTL     = 1296000
	maxButtons = 3
	maxBadge   = 99
)

// message is the body of a send.
type message struct {
	Token        json.RawMessage `json:"token"`
	Data         string          `json:"data"`
	Notification *struct {
		Title string `json:"title"`
		Body  string `json:"body"`
	} `json:"notification"`
	Android android `json:"android"`

	tokens []string
}

type android struct {
	TTL            string        `json:"ttl"`
	Tag            string        `json:"biTag"`
	Data           string        `json:"data"`
	TargetUserType int           `json:"targetUserType"`
	Notification   *notification `json:"notification"`
}

type notification struct {
	Title       string            `json:"title"`
	Body        string            `json:"body"`
	Style       int               `json:"style"`
	Importance  string            `json:"importance"`
	Buttons     []json.RawMessage `json:"buttons"`
	ClickAction *struct {
		Type   int    `json:"type"`
		Intent string `json:"intent"`
		Action string `json:"action"`
		URL    string `json:"url"`
	} `json:"clickAction"`
	Badge *struct {
		Add *int `json:"addNum"`
		Set *int `json:"setNum"`
	} `json:"badge"`
}

// parse reads and checks a body, and returns the code of its fault, if it has one.
func parse(body []byte) (m message, code string) {
	if err := json.Unmarshal(body, &m); err != nil {
		return m, badStructure
	}
	if len(m.Token) > 0 && json.Unmarshal(m.Token, &m.tokens) != nil {
		return m, badStructure
	}
	switch {
	case len(m.tokens) < 1 || len(m.tokens) > maxTokens:
		return m, tokenCount
	case len(body)-len(m.Token) > maxBody:
		return m, tooLong
	case !goodTTL(m.Android.TTL):
		return m, badTTL
	case m.Android.TargetUserType < 0 || m.Android.TargetUserType > 1:
		return m, badParameter
	}
	if m.Notification == nil && m.Android.Notification == nil { // pass-through
		if m.Data == "" && m.Android.Data == "" {
			return m, badParameter
		}
		return m, ""
	}
	if title, text := m.shown(); title == "" || text == "" || !m.Android.Notification.good() {
		return m, badParameter
	}
	return m, ""
}

// goodTTL says whether a ttl is like "86400s", at most 15 days.
func goodTTL(ttl string) bool {
	if ttl == "" {
		return true
	}
	text, ok := strings.CutSuffix(ttl, "s")
	seconds, err := strconv.ParseInt(text, 10, 64)
	return ok && err == nil && seconds > 0 && seconds <= maxTTL
}

// shown returns the title and the text that are shown: those of android win.
func (m *message) shown() (title, body string) {
	if n := m.Notification; n != nil {
		title, body = n.Title, n.Body
	}
	if n := m.Android.Notification; n != nil {
		if n.Title != "" {
			title = n.Title
		}
		if n.Body != "" {
			body = n.Body
		}
	}
	return title, body
}

// good checks what is shown; clickAction is required.
func (n *notification) good() bool {
	if n == nil || n.ClickAction == nil {
		return false
	}
	c := n.ClickAction
	switch c.Type {
	case 1:
		if c.Intent == "" && c.Action == "" {
			return false
		}
	case 2:
		if !strings.HasPrefix(c.URL, "https://") {
			return false
		}
	case 3:
	default:
		return false
	}
	if b := n.Badge; b != nil && (!inBadge(b.Add) || !inBadge(b.Set)) {
		return false
	}
	return (n.Style == 0 || n.Style == 1) && len(n.Buttons) <= maxButtons &&
		(n.Importance == "" || n.Importance == "LOW" || n.Importance == "NORMAL")
}

func inBadge(n *int) bool { return n == nil || *n >= 0 && *n <= maxBadge }
