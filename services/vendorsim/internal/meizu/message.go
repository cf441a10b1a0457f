package meizu

import (
	"encoding/json"
	"regexp"
	"slices"
	"unicode/utf8"
)

// The limits of the sheet.
const (
	maxTargets  = 100
	maxTitle    = 32 // characters
	maxContent  = 100
	maxHours    = 72
	maxCallback = 128 // bytes
	maxParam    = 64
	maxTypes    = 3
)

var notifyKey = regexp.MustCompile(`^[0-9a-zA-Z_-]{1,8}$`)

// message is messageJson.
type message struct {
	Bar struct {
		MsgType int    `json:"noticeMsgType"`
		BarType int    `json:"noticeBarType"`
		Title   string `json:"title"`
		Content string `json:"content"`
	} `json:"noticeBarInfo"`
	Expand struct {
		Type    int    `json:"noticeExpandType"`
		Content string `json:"noticeExpandContent"`
		Image   string `json:"noticeExpandImgUrl"`
	} `json:"noticeExpandInfo"`
	Click struct {
		Type       int            `json:"clickType"`
		Activity   string         `json:"activity"`
		URL        string         `json:"url"`
		Custom     string         `json:"customAttribute"`
		Parameters map[string]any `json:"parameters"`
	} `json:"clickTypeInfo"`
	Time struct {
		OffLine *int `json:"offLine"`
		Hours   *int `json:"validTime"`
	} `json:"pushTimeInfo"`
	Advance struct {
		NotifyKey string `json:"notifyKey"`
	} `json:"advanceInfo"`
	VIP   json.RawMessage `json:"vipInfo"`
	Extra struct {
		Callback string          `json:"callback"`
		Param    string          `json:"callback.param"`
		Type     json.RawMessage `json:"callback.type"` // a number or a text
	} `json:"extra"`

	text string // as it was sent
}

// parse reads and checks a message, and returns the code of its fault, if it has one. That faults other than of what is empty are
// 1005 is not documented.
func parse(text string, a *app) (m message, code string) {
	m.text = text
	switch {
	case text == "":
		return m, empty
	case json.Unmarshal([]byte(text), &m) != nil:
		return m, badParameter
	case m.Bar.Title == "" || m.Bar.Content == "":
		return m, empty
	case !m.barIsGood(a) || !m.clickIsGood() || !m.restIsGood(a):
		return m, badParameter
	}
	return m, ""
}

func (m *message) barIsGood(a *app) bool {
	b, e := m.Bar, m.Expand
	if utf8.RuneCountInString(b.Title) > maxTitle || utf8.RuneCountInString(b.Content) > maxContent ||
		b.MsgType < 0 || b.MsgType > 1 || b.BarType != 0 && b.BarType != 2 {
		return false
	}
	switch e.Type {
	case 0:
		return true
	case 1:
		return e.Content != ""
	case 2:
		return e.Image != "" && a.VIP
	}
	return false
}

func (m *message) clickIsGood() bool {
	switch c := m.Click; c.Type {
	case 0:
		return true
	case 1:
		return c.Activity != ""
	case 2:
		return c.URL != ""
	case 3: // retired, and taken with a note
		return c.Custom != ""
	}
	return false
}

func (m *message) restIsGood(a *app) bool {
	if t := m.Time; t.OffLine != nil && (*t.OffLine < 0 || *t.OffLine > 1) || t.Hours != nil && (*t.Hours < 1 || *t.Hours > maxHours) {
		return false
	}
	if key := m.Advance.NotifyKey; key != "" && !notifyKey.MatchString(key) {
		return false
	}
	if len(m.VIP) > 0 && string(m.VIP) != "null" && !a.VIP {
		return false
	}
	x := m.Extra
	if len(x.Callback) > maxCallback || len(x.Param) > maxParam || x.Type != nil && (m.receiptTypes() < 1 || m.receiptTypes() > maxTypes) {
		return false
	}
	// Sends with an address that the console does not know fail in practice.
	return x.Callback == "" || slices.Contains(a.Callbacks, x.Callback)
}
