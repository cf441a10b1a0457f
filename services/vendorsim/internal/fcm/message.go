package fcm

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
)

// The limits of the sheet; all but the form of topics are from memory (M).
const (
	maxPayload       = 4096 // bytes
	maxTopicPayload  = 2048
	maxTTL           = 28 * 24 * time.Hour
	maxConditionSize = 5 // topics
)

var (
	ttlText   = regexp.MustCompile(`^\d+(\.\d{1,9})?s$`)
	colorText = regexp.MustCompile(`^#[0-9A-Fa-f]{6}$`)
	topicText = regexp.MustCompile(`^[a-zA-Z0-9\-_.~%]+$`)
	inTopics  = regexp.MustCompile(`'[a-zA-Z0-9\-_.~%]+' in topics`)
)

// The fields that the API knows. The sheet does not say so, but Google's APIs refuse JSON with any other.
var (
	topFields     = fieldsOf("validate_only message")
	messageFields = fieldsOf("name token topic condition fid data notification android apns webpush fcm_options")
	androidFields = fieldsOf("collapse_key priority ttl restricted_package_name data notification direct_boot_ok fcm_options " +
		"bandwidth_constrained_ok restricted_satellite_ok")
	noticeFields        = fieldsOf("title body image")
	androidNoticeFields = fieldsOf("title body icon color sound tag click_action channel_id image ticker sticky event_time " +
		"local_only notification_priority vibrate_timings light_settings visibility notification_count proxy " +
		"title_loc_key title_loc_args body_loc_key body_loc_args default_sound default_vibrate_timings default_light_settings")
	apnsFields    = fieldsOf("headers payload fcm_options live_activity_token")
	webpushFields = fieldsOf("headers data notification fcm_options")
)

func fieldsOf(names string) []string { return strings.Fields(names) }

type object = map[string]json.RawMessage

// message is what the simulator looks at in a request.
type message struct {
	validateOnly bool
	token        string // or fid
	topic        string // or condition
	title        string
}

// wrong is an INVALID_ARGUMENT about a field.
func wrong(field, text string, args ...any) *fault {
	return &fault{code: invalidArgument, field: field, message: fmt.Sprintf(text, args...)}
}

// parse reads and checks a body.
func parse(body []byte) (m message, f *fault) {
	var top object
	if json.Unmarshal(body, &top) != nil {
		return m, wrong("", "Invalid JSON payload received.")
	}
	if f := known("", top, topFields); f != nil {
		return m, f
	}
	if raw, there := top["validate_only"]; there && json.Unmarshal(raw, &m.validateOnly) != nil {
		return m, wrong("validate_only", "not a boolean")
	}
	var msg object
	if json.Unmarshal(top["message"], &msg) != nil || msg == nil {
		return m, wrong("message", "Recipient of the message is not set.")
	}
	if f := known("message", msg, messageFields); f != nil {
		return m, f
	}
	if f := m.target(msg); f != nil {
		return m, f
	}
	return m, m.content(msg)
}

// known refuses fields that are not in a list.
func known(path string, o object, fields []string) *fault {
	for _, name := range slices.Sorted(maps.Keys(o)) {
		if !slices.Contains(fields, name) {
			return wrong(path, "Unknown name %q: Cannot find field.", name)
		}
	}
	return nil
}

// target checks that there is exactly one.
func (m *message) target(msg object) *fault {
	n := 0
	for name, to := range map[string]*string{"token": &m.token, "fid": &m.token, "topic": &m.topic, "condition": &m.topic} {
		raw, there := msg[name]
		if !there {
			continue
		}
		n++
		if json.Unmarshal(raw, to) != nil {
			return wrong("message."+name, "not a text")
		}
		switch {
		case name == "topic" && !topicText.MatchString(*to):
			return wrong("message.topic", "Invalid topic name")
		case name == "condition" && !conditionIsGood(*to):
			return wrong("message.condition", "Invalid condition expression")
		}
	}
	switch {
	case n == 0 || m.token == "" && m.topic == "":
		return wrong("message", "Recipient of the message is not set.")
	case n > 1:
		return wrong("message", "oneof field 'target' is already set.")
	}
	return nil
}

// conditionIsGood checks the number of topics, and that only operators and brackets stand between them.
func conditionIsGood(text string) bool {
	n := len(inTopics.FindAllString(text, -1))
	rest := strings.NewReplacer("&&", "", "||", "", "!", "", "(", "", ")", "", " ", "").Replace(inTopics.ReplaceAllString(text, ""))
	return n >= 1 && n <= maxConditionSize && rest == ""
}

// content checks everything but the target.
func (m *message) content(msg object) *fault {
	size := 0
	for _, check := range []func(object) (int, *fault){m.notice, data, m.android, apns, webpush} {
		n, f := check(msg)
		if f != nil {
			return f
		}
		size += n
	}
	limit := maxPayload
	if m.topic != "" {
		limit = maxTopicPayload
	}
	if size > limit {
		return wrong("message", "Android message is too big: %d bytes, at most %d", size, limit)
	}
	return nil
}

// section reads a part of the message that is an object of known fields; nil if it is not there.
func section(parent object, path, name string, fields []string) (object, *fault) {
	raw, there := parent[name]
	if !there {
		return nil, nil
	}
	var o object
	if json.Unmarshal(raw, &o) != nil || o == nil {
		return nil, wrong(path, "not an object")
	}
	if fields == nil {
		return o, nil
	}
	return o, known(path, o, fields)
}

// notice checks message.notification.
func (m *message) notice(msg object) (size int, f *fault) {
	n, f := section(msg, "message.notification", "notification", noticeFields)
	for name, raw := range n {
		var text string
		if json.Unmarshal(raw, &text) != nil {
			return 0, wrong("message.notification."+name, "not a text")
		}
		if name == "title" {
			m.title = text
		}
		size += len(name) + len(text)
	}
	return size, f
}

// data checks message.data.
func data(msg object) (int, *fault) {
	raw, there := msg["data"]
	if !there {
		return 0, nil
	}
	return dataIsGood("message.data", raw)
}

// dataIsGood checks a map of texts; some keys are reserved.
func dataIsGood(path string, raw json.RawMessage) (size int, f *fault) {
	var o object
	if json.Unmarshal(raw, &o) != nil {
		return 0, wrong(path, "not an object")
	}
	for i, key := range slices.Sorted(maps.Keys(o)) {
		var value string
		if o[key][0] != '"' || json.Unmarshal(o[key], &value) != nil {
			return 0, wrong(fmt.Sprintf("%s[%d].value", path, i), "Invalid value (TYPE_STRING)")
		}
		if key == "from" || key == "message_type" || strings.HasPrefix(key, "google") || strings.HasPrefix(key, "gcm") {
			return 0, wrong(path, "Invalid data payload key: %s", key)
		}
		size += len(key) + len(value)
	}
	return size, nil
}

// android checks message.android.
func (m *message) android(msg object) (size int, f *fault) {
	a, f := section(msg, "message.android", "android", androidFields)
	if f != nil || a == nil {
		return 0, f
	}
	var ttl, priority string
	if raw, there := a["ttl"]; there {
		if json.Unmarshal(raw, &ttl) != nil || !ttlText.MatchString(ttl) {
			return 0, wrong("message.android.ttl", "Invalid duration")
		}
		if d, err := time.ParseDuration(ttl); err != nil || d > maxTTL {
			return 0, wrong("message.android.ttl", "Invalid ttl value: must be between 0 and 2419200 s")
		}
	}
	if raw, there := a["priority"]; there {
		if json.Unmarshal(raw, &priority) != nil || !strings.EqualFold(priority, "normal") && !strings.EqualFold(priority, "high") {
			return 0, wrong("message.android.priority", "Invalid priority")
		}
	}
	if raw, there := a["data"]; there {
		if size, f = dataIsGood("message.android.data", raw); f != nil {
			return 0, f
		}
	}
	more, f := m.androidNotice(a)
	return size + more, f
}

// androidNotice checks message.android.notification.
func (m *message) androidNotice(android object) (size int, f *fault) {
	const path = "message.android.notification"
	n, f := section(android, path, "notification", androidNoticeFields)
	if f != nil {
		return 0, f
	}
	for name, raw := range n {
		var text string
		if json.Unmarshal(raw, &text) != nil {
			size += len(name) + len(raw)
			continue
		}
		size += len(name) + len(text)
		switch {
		case name == "title":
			m.title = text
		case name == "color" && !colorText.MatchString(text):
			return 0, wrong(path+".color", "Invalid color")
		}
	}
	if raw, there := n["notification_count"]; there {
		var count int
		if json.Unmarshal(raw, &count) != nil || count < 0 {
			return 0, wrong(path+".notification_count", "Invalid count")
		}
	}
	return size, nil
}

// apns checks message.apns, whose payload has APNs' limit of its own.
func apns(msg object) (int, *fault) {
	a, f := section(msg, "message.apns", "apns", apnsFields)
	if f != nil {
		return 0, f
	}
	headers, f := section(a, "message.apns.headers", "headers", nil)
	for name, raw := range headers {
		if raw[0] != '"' {
			return 0, wrong("message.apns.headers", "%s is not a text", name)
		}
	}
	if f != nil {
		return 0, f
	}
	_, f = section(a, "message.apns.payload", "payload", nil)
	if f == nil && len(a["payload"]) > maxPayload {
		f = wrong("message.apns.payload", "the payload is too big")
	}
	return 0, f
}

// webpush checks message.webpush.
func webpush(msg object) (int, *fault) {
	p, f := section(msg, "message.webpush", "webpush", webpushFields)
	if f != nil {
		return 0, f
	}
	options, f := section(p, "message.webpush.fcm_options", "fcm_options", nil)
	if raw, there := options["link"]; there {
		var link string
		if json.Unmarshal(raw, &link) != nil || !strings.HasPrefix(link, "https://") {
			return 0, wrong("message.webpush.fcm_options.link", "not an https address")
		}
	}
	return 0, f
}
