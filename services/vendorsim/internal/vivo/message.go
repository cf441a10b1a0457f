package vivo

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// The limits of the sheet.
const (
	maxTitle       = 40 // characters
	maxContent     = 100
	maxSkipContent = 1024
	maxCustom      = 1024 // characters of names and values
	maxPairs       = 10
	minTTL         = 60 // seconds
	maxTTL         = 86400
	maxRequestID   = 64
	maxAlias       = 70
	maxProfileID   = 64
	maxCallback    = 128
	maxParam       = 64
	minList        = 2
	maxList        = 1000

	firstHour = 7 // of the operation class, in Beijing
	lastHour  = 23
)

// The message classes (L, M).
var (
	systemClasses    = []string{"IM", "ACCOUNT", "TODO", "DEVICE_REMINDER", "ORDER", "SUBSCRIPTION"}
	operationClasses = []string{"NEWS", "CONTENT", "MARKETING", "SOCIAL"}
)

// message is the body of a single send; that of a list payload has no target and no profile.
type message struct {
	AppID          *int              `json:"appId"`
	RegID          string            `json:"regId"`
	Alias          string            `json:"alias"`
	NotifyType     *int              `json:"notifyType"`
	Title          string            `json:"title"`
	Content        string            `json:"content"`
	TTL            *int              `json:"timeToLive"`
	SkipType       *int              `json:"skipType"`
	SkipContent    string            `json:"skipContent"`
	Custom         map[string]string `json:"clientCustomMap"`
	NetworkType    *int              `json:"networkType"`
	Classification int               `json:"classification"`
	Category       string            `json:"category"`
	RequestID      string            `json:"requestId"`
	PushMode       int               `json:"pushMode"`
	NotifyID       *int              `json:"notifyId"`
	ProfileID      string            `json:"profileId"`
	Extra          struct {
		Callback   string `json:"callback"`
		Param      string `json:"callback.param"`
		CallbackID string `json:"callback.id"` // the name of this key is from memory (M)
	} `json:"extra"`

	text string // as it was sent
}

// parse reads a message.
func parse(body []byte) (message, bool) {
	m := message{text: string(body)}
	return m, json.Unmarshal(body, &m) == nil
}

// check returns the code of a message's fault, if it has one. That most faults are 10054 is not documented.
func (m *message) check(a *app) string {
	if m.AppID == nil || *m.AppID != a.ID {
		return appMismatch
	}
	ttl := maxTTL
	if a.LongTTL {
		ttl = 7 * maxTTL
	}
	switch {
	case m.Title == "" || m.Content == "", longer(m.Title, maxTitle), longer(m.Content, maxContent),
		longer(m.SkipContent, maxSkipContent), longer(m.RequestID, maxRequestID), longer(m.Alias, maxAlias),
		longer(m.ProfileID, maxProfileID), longer(m.Extra.Callback, maxCallback), longer(m.Extra.Param, maxParam),
		m.RequestID == "",
		outside(m.NotifyType, 1, 4), outside(m.SkipType, 1, 4), outside(m.TTL, minTTL, ttl), outside(m.NotifyID, 1, math.MaxInt32),
		m.SkipType != nil && *m.SkipType > 1 && m.SkipContent == "",
		m.NetworkType != nil && *m.NetworkType != -1 && *m.NetworkType != 1,
		m.Classification < 0 || m.Classification > 1, m.PushMode < 0 || m.PushMode > 1, !m.customFits():
		return badArgument
	}
	if _, ok := a.Receipts[m.Extra.CallbackID]; m.Extra.CallbackID != "" && !ok {
		return badArgument
	}
	if code := m.checkCategory(); code != "" {
		return code
	}
	if m.PushMode == 0 && a.TextRules && (!saysSomething(m.Title) || !saysSomething(m.Content)) {
		return badText
	}
	return ""
}

// inHours says whether a message may be sent at this time of day, if the app wants that to be checked.
func (m *message) inHours(a *app, now time.Time) bool {
	hour := now.In(beijing).Hour()
	return !a.Hours || m.PushMode == 1 || m.Classification == 1 || hour >= firstHour && hour < lastHour
}

// beijing is where the hours of the operation class are.
var beijing = time.FixedZone("UTC+8", 8*60*60)

func (m *message) checkCategory() string {
	system, operation := slices.Contains(systemClasses, m.Category), slices.Contains(operationClasses, m.Category)
	switch {
	case m.Category == "":
		return ""
	case !system && !operation:
		return badCategory
	case system != (m.Classification == 1):
		return categoryClass
	}
	return ""
}

func (m *message) customFits() bool {
	length := 0
	for name, value := range m.Custom {
		length += utf8.RuneCountInString(name) + utf8.RuneCountInString(value)
	}
	return len(m.Custom) <= maxPairs && length <= maxCustom
}

// saysSomething says whether a text keeps the rules (L): it is not of digits, signs and Latin letters alone, and has neither
// brackets nor words of tests. A text with a directive does.
func saysSomething(text string) bool {
	if strings.HasPrefix(text, "sim:") {
		return true
	}
	letters := strings.ContainsFunc(text, func(c rune) bool { return c > unicode.MaxLatin1 && unicode.IsLetter(c) })
	return letters && !strings.ContainsAny(text, "()[]{}（）【】") && !strings.Contains(strings.ToLower(text), "test") &&
		!strings.Contains(text, "测试")
}

func longer(text string, most int) bool { return utf8.RuneCountInString(text) > most }

// outside says whether a number is there and not in a range.
func outside(n *int, least, most int) bool { return n != nil && (*n < least || *n > most) }
