package apns

import (
	"encoding/hex"
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The limits of the sheet, in bytes unless they say otherwise.
const (
	maxPayload      = 4096
	maxPayloadVoIP  = 5120
	maxCollapseID   = 64
	minToken        = 64 // hex digits
	maxToken        = 200
	maxStorage      = 30 * 24 * time.Hour // upper bound of what apns-expiration can ask for (M)
	maxPayloadAtAll = 5120                // of broadcasts (M)
)

// suffixes are what each push type puts behind the bundle id. mdm has a topic of its own.
var suffixes = map[string]string{
	"alert": "", "background": "", "voip": ".voip", "complication": ".complication",
	"fileprovider": ".pushkit.fileprovider", "location": ".location-query", "liveactivity": ".push-type.liveactivity",
	"pushtotalk": ".voip-ptt", "mdm": "", "controls": ".push-type.controls", "widgets": ".push-type.widgets",
}

// notification is a request that has passed all checks.
type notification struct {
	app   *app
	token string
	title string
	notes []string
}

// single are the headers that may be there once.
var single = []string{
	"authorization", "apns-id", "apns-topic", "apns-push-type", "apns-expiration", "apns-priority", "apns-collapse-id",
	"apns-channel-id", "apns-request-id",
}

// check checks a request for a device. The sheet has no order of checks: credential, headers, topic, payload, token.
func (s *Simulator) check(r *http.Request, token string, body []byte) (notification, fault) {
	n := notification{token: token}
	for _, name := range single {
		if len(r.Header.Values(name)) > 1 {
			return n, fault{reason: duplicateHeaders}
		}
	}
	from, f := s.authenticate(r)
	if !f.ok() {
		return n, f
	}
	pushType := r.Header.Get("apns-push-type")
	if _, known := suffixes[pushType]; pushType != "" && !known {
		return n, fault{reason: invalidPushType}
	}
	if f := n.headers(r, pushType, s.frame.Now()); !f.ok() {
		return n, f
	}
	if n.app, f = s.topic(from, r.Header.Get("apns-topic"), pushType); !f.ok() {
		return n, f
	}
	if f := n.payload(body, pushType); !f.ok() {
		return n, f
	}
	if token == "" {
		return n, fault{reason: missingDeviceToken}
	}
	if _, err := hex.DecodeString(token); err != nil || len(token) < minToken || len(token) > maxToken {
		return n, fault{reason: badDeviceToken}
	}
	return n, s.owner(token, n.app)
}

// headers checks expiration, priority and collapse id.
func (n *notification) headers(r *http.Request, pushType string, now time.Time) fault {
	if v := r.Header.Get("apns-expiration"); v != "" {
		seconds, err := strconv.ParseInt(v, 10, 64)
		at := time.Unix(seconds, 0)
		switch {
		case err != nil || seconds < 0:
			return fault{reason: badExpirationDate}
		case seconds > 0 && at.Before(now):
			n.note("expired before it was sent")
		case at.After(now.Add(maxStorage)):
			n.note("kept for 30 days at most")
		}
	}
	priority := r.Header.Get("apns-priority")
	switch priority {
	case "", "10", "5", "1":
	default:
		return fault{reason: badPriority}
	}
	if pushType == "background" && priority != "5" { // missing means 10
		return fault{reason: badPriority}
	}
	if len(r.Header.Get("apns-collapse-id")) > maxCollapseID {
		return fault{reason: badCollapseID}
	}
	return fault{}
}

func (n *notification) note(text string) { n.notes = append(n.notes, text) }

// topicText is what a topic may consist of.
var topicText = regexp.MustCompile(`^[A-Za-z0-9.-]+$`)

// topic finds the app that a topic and push type are for. The sheet gives no reason for a topic without the suffix of its push
// type; it is BadTopic here.
func (s *Simulator) topic(from sender, topic, pushType string) (*app, fault) {
	if topic == "" {
		if from.cert == nil || len(from.cert.Topics) > 1 {
			return nil, fault{reason: missingTopic}
		}
		topic = from.cert.Topics[0]
	}
	if !topicText.MatchString(topic) {
		return nil, fault{reason: badTopic}
	}
	if from.cert != nil {
		return s.certificateTopic(from.cert, topic, pushType)
	}
	id, ok := strings.CutSuffix(topic, suffixes[pushType])
	if !ok || pushType == "mdm" { // its topic is in a certificate
		return nil, fault{reason: badTopic}
	}
	if pushType == "" {
		id = s.withoutSuffix(topic)
	}
	a := s.bundle(id)
	switch {
	case a == nil || a.TeamID != from.team:
		return nil, fault{reason: topicDisallowed}
	case len(from.key.topics) > 0 && !slices.Contains(from.key.topics, topic):
		return nil, fault{reason: unrelatedKeyID}
	}
	return a, fault{}
}

// certificateTopic checks a topic against those of a certificate, which cannot be used for live activities and locations.
func (s *Simulator) certificateTopic(a *app, topic, pushType string) (*app, fault) {
	switch {
	case pushType == "liveactivity" || pushType == "location" || !a.hasTopic(topic):
		return nil, fault{reason: topicDisallowed}
	case !strings.HasSuffix(topic, suffixes[pushType]):
		return nil, fault{reason: badTopic}
	}
	return a, fault{}
}

// withoutSuffix returns the bundle id of a topic whose push type is not said.
func (s *Simulator) withoutSuffix(topic string) string {
	if s.bundle(topic) != nil {
		return topic
	}
	for _, suffix := range suffixes {
		if id, ok := strings.CutSuffix(topic, suffix); ok && suffix != "" {
			return id
		}
	}
	return topic
}

// payload checks size and form of the body. The sheet gives no reason for one that is not a JSON object; it counts as empty.
// What does not fit its push type is accepted, and may be dropped later.
func (n *notification) payload(body []byte, pushType string) fault {
	limit := maxPayload
	if pushType == "voip" {
		limit = maxPayloadVoIP
	}
	if len(body) > limit {
		return fault{reason: payloadTooLarge}
	}
	root, ok := object(body)
	if !ok || len(root) == 0 {
		return fault{reason: payloadEmpty}
	}
	aps, _ := object(root["aps"])
	n.title = title(aps["alert"])
	switch {
	case pushType == "background" && (string(aps["content-available"]) != "1" || aps["alert"] != nil || aps["sound"] != nil || aps["badge"] != nil):
		n.note("the payload does not fit the push type")
	case pushType == "liveactivity" && (aps["event"] == nil || aps["timestamp"] == nil || aps["content-state"] == nil):
		n.note("the payload does not fit the push type")
	case pushType == "alert" && aps["alert"] == nil && aps["sound"] == nil && aps["badge"] == nil:
		n.note("the payload does not fit the push type")
	}
	return fault{}
}

// title returns the title of an alert: its field, or the whole if it is a text.
func title(alert json.RawMessage) string {
	var text string
	if json.Unmarshal(alert, &text) == nil {
		return text
	}
	var fields struct{ Title string }
	_ = json.Unmarshal(alert, &fields) // an alert without a title has none
	return fields.Title
}
