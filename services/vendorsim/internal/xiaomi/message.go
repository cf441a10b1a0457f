package xiaomi

import (
	"math"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// The limits of the sheet.
const (
	maxTargets       = 1000
	maxTopics        = 5
	maxTitle         = 49  // characters: fewer than 50
	maxDescription   = 127 // characters: fewer than 128
	maxPayload       = 4096
	maxTTL           = 14 * 24 * time.Hour
	maxAhead         = 7 * 24 * time.Hour
	maxJobKey        = 20
	maxCallbackParam = 256 // bytes, in the newer text; 64 in the older
	maxOwnPairs      = 10
	maxOwnLength     = 1024 // characters
	allTypes         = 1 | 2 | 16 | 32 | 64 | 128
)

var jobKey = regexp.MustCompile(`^[0-9a-zA-Z-][0-9a-zA-Z_-]*$`)

// known are the keys of extra that Xiaomi reads itself; others are the app's own. Filters have a form that ends in _not_in.
var known = []string{
	"channel_id", "channel_name", "channel_description", "notify_effect", "intent_uri", "web_uri", "notify_foreground", "jobkey",
	"only_send_once", "flow_control", "sound_uri", "ticker", "locale", "model", "app_version", "connpt", "callback",
	"callback.param", "callback.type",
}

// message is a message's fields, as a form has them.
type message struct{ url.Values }

func (m message) extra(name string) string { return m.Get("extra." + name) }

// check returns the code of a message's fault, if it has one.
func (m message) check(a *app, version string, now time.Time) string {
	if code := m.packages(a, version); code != "" {
		return code
	}
	passThrough := m.Get("pass_through") == "1"
	switch {
	case !m.within("pass_through", 0, 1), !m.within("notify_type", -1, 7),
		!m.within("time_to_live", 1, maxTTL.Milliseconds()), !m.within("time_to_send", 0, now.Add(maxAhead).UnixMilli()):
		return badValue
	case !m.within("notify_id", 0, math.MaxInt32):
		return badNotifyID
	case len(m.payload()) > maxPayload:
		return tooLong
	case passThrough:
		if code := m.need("payload"); code != "" {
			return code
		}
		return m.checkExtra(a)
	}
	for _, name := range []string{"title", "description"} {
		if code := m.need(name); code != "" {
			return code
		}
	}
	if utf8.RuneCountInString(m.Get("title")) > maxTitle || utf8.RuneCountInString(m.Get("description")) > maxDescription {
		return tooLong
	}
	return m.checkExtra(a)
}

// packages checks that the message is for the app's package: v2 has one, later versions several.
func (m message) packages(a *app, version string) string {
	if code := m.need("restricted_package_name"); code != "" {
		return code
	}
	list := strings.Split(m.Get("restricted_package_name"), ",")
	if version == "v2" && len(list) > 1 {
		return badValue
	}
	for _, name := range list {
		if !slices.Contains(a.Packages, name) {
			return packageMismatch
		}
	}
	return ""
}

func (m message) checkExtra(a *app) string {
	switch m.extra("notify_effect") {
	case "", "1":
	case "2":
		if code := m.need("extra.intent_uri"); code != "" {
			return code
		}
	case "3":
		if code := m.need("extra.web_uri"); code != "" {
			return code
		}
	default:
		return badValue
	}
	if !m.within("extra.notify_foreground", 0, 1) || !m.within("extra.only_send_once", 0, 1) {
		return badValue
	}
	if key := m.extra("jobkey"); key != "" && !jobKey.MatchString(key) {
		return badValue
	} else if len(key) > maxJobKey {
		return tooLong
	}
	// The sheet says that the channel is required, and that there is a default one: it is required of apps that registered some.
	if id := m.extra("channel_id"); len(a.Channels) > 0 {
		if id == "" {
			return missing
		}
		if _, ok := a.Channels[id]; !ok {
			return badValue
		}
	}
	if code := m.checkCallback(); code != "" {
		return code
	}
	return m.checkOwn()
}

func (m message) checkCallback() string {
	if address := m.extra("callback"); address != "" {
		u, err := url.Parse(address)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return badCallback
		}
	}
	if len(m.extra("callback.param")) > maxCallbackParam {
		return tooLong
	}
	if m.Has("extra.callback.type") {
		if types, err := strconv.Atoi(m.extra("callback.type")); err != nil || types < 1 || types&^allTypes != 0 {
			return badValue
		}
	}
	return ""
}

// checkOwn checks the app's own pairs.
func (m message) checkOwn() string {
	pairs, length := 0, 0
	for name := range m.Values {
		key, ok := strings.CutPrefix(name, "extra.")
		if !ok || slices.Contains(known, strings.TrimSuffix(key, "_not_in")) {
			continue
		}
		pairs++
		length += utf8.RuneCountInString(key) + utf8.RuneCountInString(m.Get(name))
	}
	if pairs > maxOwnPairs || length > maxOwnLength {
		return tooLong
	}
	return ""
}

// need returns the code for a field that is not there, or empty.
func (m message) need(name string) string {
	switch {
	case !m.Has(name):
		return missing
	case strings.TrimSpace(m.Get(name)) == "":
		return emptyParameter
	}
	return ""
}

// within says whether a field is left out, or a whole number in a range.
func (m message) within(name string, least, most int64) bool {
	if !m.Has(name) {
		return true
	}
	n, err := strconv.ParseInt(m.Get(name), 10, 64)
	return err == nil && n >= least && n <= most
}

// payload returns the data that the phone gets. The vendor's text wants its value encoded once more; many do not.
func (m message) payload() string {
	text := m.Get("payload")
	if plain, err := url.QueryUnescape(text); err == nil && !strings.ContainsAny(text, `{"`) {
		return plain
	}
	return text
}

// wants says whether receipts of a type are asked for; delivered and clicked are, if nothing is said.
func (m message) wants(receipt int) bool {
	types, err := strconv.Atoi(m.extra("callback.type"))
	if err != nil {
		types = 1 | 2
	}
	return types&receipt != 0
}
