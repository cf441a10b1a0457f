package oppo

import (
	"encoding/json"
	"net/url"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
)

// The limits of the sheet. Where two texts differ the wider one holds here.
const (
	maxBatch      = 1000
	maxTitle      = 50 // characters
	maxSubTitle   = 10
	maxContent    = 200 // style 1; 50 in the newest text
	maxLongText   = 128 // style 2
	maxPicture    = 50  // style 3
	maxActivity   = 500
	maxURL        = 2000
	maxParameters = 4000
	maxTTL        = 864000 // seconds
	maxShowTTL    = 172800 // seconds, in the vendor's SDK; 12 or 24 h in the text
	maxCallback   = 200
	maxParam      = 100
)

// The targets of target_type; alias was 3 in an old text.
const (
	targetAll      = "1"
	targetRegID    = "2"
	targetOldAlias = "3"
	targetAlias    = "5"
)

// The message classes, from a library (L).
var (
	services  = []string{"IM", "ACCOUNT", "DEVICE_REMINDER", "ORDER", "TODO", "SUBSCRIPTION"}
	marketing = []string{"NEWS", "CONTENT", "MARKETING", "SOCIAL"}
)

// notification is what is shown: its fields as a form has them, without a difference between texts and numbers.
type notification map[string]string

// message is a notification for one device.
type message struct {
	kind, target string
	notification notification
	text         string // as it was sent
	code         string // of its fault; empty: none
}

// parse reads and checks a message of a single send.
func parse(text json.RawMessage, a *app) message {
	m := message{text: string(text)}
	var body struct {
		Kind         json.RawMessage            `json:"target_type"`
		Target       string                     `json:"target_value"`
		Notification map[string]json.RawMessage `json:"notification"`
	}
	if json.Unmarshal(text, &body) != nil {
		m.code = badValue
		return m
	}
	m.kind, m.target = frame.Text(body.Kind), body.Target
	m.notification = make(notification, len(body.Notification))
	for name, value := range body.Notification {
		m.notification[name] = frame.Text(value)
	}
	switch {
	case m.kind == "" || m.target == "" || body.Notification == nil:
		m.code = missing
	case m.kind != targetRegID && m.kind != targetAlias && m.kind != targetOldAlias, m.notification["style"] == "3":
		m.code = badValue // big pictures are for broadcasts
	default:
		m.code = m.notification.check(a)
	}
	return m
}

// flat returns the notification whose fields stand in a form.
func flat(form url.Values) notification {
	n := make(notification, len(form))
	for name := range form {
		if name != "auth_token" {
			n[name] = form.Get(name)
		}
	}
	return n
}

// check returns the code of a notification's fault, if it has one.
func (n notification) check(a *app) string {
	if n["title"] == "" || n["content"] == "" {
		return missing
	}
	content := map[string]int{"": maxContent, "1": maxContent, "2": maxLongText, "3": maxPicture}
	most, ok := content[n["style"]]
	switch {
	case !ok, n.longer("title", maxTitle), n.longer("sub_title", maxSubTitle), n.longer("content", most),
		n.longer("action_parameters", maxParameters), n.longer("call_back_url", maxCallback), n.longer("call_back_parameter", maxParam),
		!n.within("off_line_ttl", 1, maxTTL), !n.within("show_ttl", 0, maxShowTTL), !n.within("network_type", 0, 1),
		!n.within("fix_speed_rate", 1000, 10000):
		return badValue
	case n["action_parameters"] != "" && !json.Valid([]byte(n["action_parameters"])):
		return badValue
	case n["off_line"] != "" && n["off_line"] != "true" && n["off_line"] != "false":
		return badValue
	}
	if _, known := a.Channels[n["channel_id"]]; n["channel_id"] != "" && len(a.Channels) > 0 && !known {
		return badValue
	}
	if code := n.checkClick(); code != "" {
		return code
	}
	return n.checkLevel(a)
}

func (n notification) checkClick() string {
	switch n["click_action_type"] {
	case "", "0":
	case "1", "4":
		if n["click_action_activity"] == "" {
			return missing
		}
	case "2", "5":
		if n["click_action_url"] == "" {
			return missing
		}
	default:
		return badValue
	}
	if n.longer("click_action_activity", maxActivity) || n.longer("click_action_url", maxURL) {
		return badValue
	}
	return ""
}

// checkLevel checks that category and notify_level fit each other: marketing has level 1 alone, 16 needs approval (both M).
func (n notification) checkLevel(a *app) string {
	category, level := n["category"], n["notify_level"]
	known := slices.Contains(services, category) || slices.Contains(marketing, category)
	switch {
	case category != "" && !known, level != "" && category == "":
		return badLevel
	case slices.Contains(marketing, category) && level != "" && level != "1", level == "16" && a.NoBanner:
		return badLevel
	case level != "" && level != "1" && level != "2" && level != "16":
		return badLevel
	}
	return ""
}

// private says whether a notification is of the private class, which no daily limit is for.
func (n notification) private(a *app) bool {
	return a.Channels[n["channel_id"]] == classPrivate || slices.Contains(services, n["category"])
}

func (n notification) longer(name string, most int) bool {
	return utf8.RuneCountInString(n[name]) > most
}

// within says whether a field is left out, or a whole number in a range.
func (n notification) within(name string, least, most int) bool {
	if n[name] == "" {
		return true
	}
	i, err := strconv.Atoi(n[name])
	return err == nil && i >= least && i <= most
}
