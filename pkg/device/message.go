package device

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Kind says what a message is.
type Kind string

// The kinds of messages. A later server may send others: they are acknowledged and passed over.
const (
	// Notification is to be shown.
	Notification Kind = "notification"
	// Data is for the app only.
	Data Kind = "data"
	// Revoke asks to take the message with this push id off the screen.
	Revoke Kind = "revoke"
)

// Message is a push as it came. A field that the server left out is empty.
type Message struct {
	// PushID is a UUID, the same in every repeat.
	PushID   string `json:"push_id"`
	Kind     Kind   `json:"kind"`
	Title    string `json:"title"`
	Subtitle string `json:"subtitle"`
	Body     string `json:"body"`
	// Image is the https address of a picture.
	Image string `json:"image"`
	// Click is what a tap does; nil: it opens the app.
	Click *Click `json:"click"`
	// Badge is what happens to the number on the app's icon; nil: nothing.
	Badge *Badge `json:"badge"`
	// Sound is the name of a sound inside the app, or "default"; empty: silent.
	Sound string `json:"sound"`
	// Notifications of one Group are folded together.
	Group string `json:"group"`
	// ChannelID is the Android notification channel.
	ChannelID string `json:"channel_id"`
	// A message replaces an older one with the same CollapseKey.
	CollapseKey string `json:"collapse_key"`
	// Data and Payload are for the app; at most one of them is set.
	Data    map[string]string `json:"data"`
	Payload string            `json:"payload"`
	// Priority is low, normal or high.
	Priority  string `json:"priority"`
	SentAt    Time   `json:"sent_at"`
	ExpiresAt Time   `json:"expires_at"`
	// User is the opaque id of the user the push was for, as Bind returned it; empty if it was not for a user.
	User string `json:"user"`
	// To is the token of the device that the message is for, on a connection that carries several; else it is empty.
	To string `json:"to"`
}

// Click is what a tap on a notification does.
type Click struct {
	// Type is app, url, page or intent.
	Type  string `json:"type"`
	Value string `json:"value"`
}

// Badge is a change of the number on the app's icon: one of the two is set.
type Badge struct {
	Set *int32 `json:"set"`
	Add *int32 `json:"add"`
}

// Time is a time.Time that is milliseconds since 1970 on the wire.
type Time struct{ time.Time }

// MarshalJSON encodes the milliseconds as a number.
func (t Time) MarshalJSON() ([]byte, error) {
	return strconv.AppendInt(nil, t.UnixMilli(), 10), nil
}

// UnmarshalJSON accepts a number of milliseconds, or a string of digits.
func (t *Time) UnmarshalJSON(text []byte) error {
	ms, err := strconv.ParseInt(strings.Trim(string(text), `"`), 10, 64)
	if err != nil {
		return fmt.Errorf("a time is a number of milliseconds, not %.20q", text)
	}
	t.Time = time.UnixMilli(ms)
	return nil
}

// Report is what the device says of itself. A field that is empty stays as the server knows it.
type Report struct {
	// Platform is android, ios, harmony, web, macos, windows, linux or iot.
	Platform   string `json:"platform,omitempty"`
	Brand      string `json:"brand,omitempty"`
	Model      string `json:"model,omitempty"`
	OSVersion  string `json:"os_version,omitempty"`
	AppVersion string `json:"app_version,omitempty"`
	SDKVersion string `json:"sdk_version,omitempty"`
	// Locale is a BCP 47 tag, TimeZone an IANA name.
	Locale   string `json:"locale,omitempty"`
	TimeZone string `json:"time_zone,omitempty"`
	// Notifications is whether the system shows the app's notifications.
	Notifications *bool          `json:"notifications,omitempty"`
	ChannelTokens []ChannelToken `json:"channel_tokens,omitempty"`
}

// ChannelToken is a vendor's token for this device.
type ChannelToken struct {
	// Channel is the vendor: apns, fcm, huawei, harmony, honor, xiaomi, oppo, vivo, meizu or webpush.
	Channel string `json:"channel"`
	// Token is empty to remove what the server knows.
	Token      string `json:"token"`
	AppPackage string `json:"app_package,omitempty"`
	// Environment is production, also if empty, or sandbox.
	Environment string `json:"environment,omitempty"`
}

// with returns the report with what o says laid over it.
func (r Report) with(o Report) (Report, error) {
	text, err := json.Marshal(o)
	if err != nil {
		return r, err
	}
	tokens := r.ChannelTokens
	r.ChannelTokens = nil
	err = json.Unmarshal(text, &r)
	r.ChannelTokens = append(r.ChannelTokens[:len(r.ChannelTokens):len(r.ChannelTokens)], tokensBut(tokens, o.ChannelTokens)...)
	return r, err
}

// tokensBut returns the tokens of channels that newer does not name.
func tokensBut(tokens, newer []ChannelToken) []ChannelToken {
	named := map[string]bool{}
	for _, t := range newer {
		named[t.Channel] = true
	}
	var rest []ChannelToken
	for _, t := range tokens {
		if !named[t.Channel] {
			rest = append(rest, t)
		}
	}
	return rest
}

// plain returns the fields that a CONNECT can carry, by name.
func (r Report) plain() (map[string]string, error) {
	r.ChannelTokens = nil
	text, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	values := map[string]any{}
	if err := json.Unmarshal(text, &values); err != nil {
		return nil, err
	}
	properties := map[string]string{}
	for name, value := range values {
		properties[name] = fmt.Sprint(value)
	}
	return properties, nil
}

// EventType is what happened to a message on the device.
type EventType string

// The types of events. The SDK's acknowledgement says arrived by itself; the event is for what came through a vendor.
const (
	Arrived   EventType = "arrived"
	Shown     EventType = "shown"
	Clicked   EventType = "clicked"
	Dismissed EventType = "dismissed"
)

// Event is one thing that happened to a message on the device.
type Event struct {
	PushID string    `json:"push_id"`
	Type   EventType `json:"type"`
	// At is when; the server only stores it. Zero means now.
	At Time `json:"at,omitzero"`
	// Channel is the vendor that the message came through; empty: the own connection.
	Channel string `json:"channel,omitempty"`
	// Action is which action the user chose.
	Action string `json:"action,omitempty"`
}
