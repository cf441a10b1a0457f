package fcm

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"firebase.google.com/go/v4/messaging"

	"github.com/halleypush/halley/pkg/sender"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
)

// maxPayload bounds the texts and the data together, in bytes (from memory); FCM refuses more.
const maxPayload = 4096

// messageOf returns the message for a device with a token, which may be an Android phone, an Apple device or a browser.
func messageOf(m *sender.Message, token string, now time.Time) (*messaging.Message, error) {
	data := m.AppFields()
	n := m.Notification
	if click := n.GetClick(); click.GetType() != pushv1.Click_APP && click.GetValue() != "" {
		text, err := json.Marshal(map[string]string{"type": clickNames[click.GetType()], "value": click.GetValue()})
		if err != nil {
			return nil, fmt.Errorf("request: %w", err)
		}
		data["click"] = string(text)
	}
	size := len(n.GetTitle()) + len(n.GetBody()) + len(n.GetImage())
	for name, value := range data {
		size += len(name) + len(value)
	}
	if size > maxPayload {
		return nil, fmt.Errorf("the message has %d bytes, more than the %d that FCM takes", size, maxPayload)
	}
	message := &messaging.Message{Token: token, Data: data, Android: android(m), APNS: apns(m, now), Webpush: webpush(m)}
	if n != nil {
		message.Notification = &messaging.Notification{Title: n.GetTitle(), Body: n.GetBody(), ImageURL: n.GetImage()}
	}
	return message, nil
}

var clickNames = map[pushv1.Click_Type]string{pushv1.Click_URL: "url", pushv1.Click_PAGE: "page", pushv1.Click_INTENT: "intent"}

func android(m *sender.Message) *messaging.AndroidConfig {
	ttl := m.TTL
	config := &messaging.AndroidConfig{CollapseKey: m.CollapseKey, Priority: "high", TTL: &ttl, RestrictedPackageName: m.AppPackage}
	if m.Low || m.Notification == nil && !m.High {
		config.Priority = "normal"
	}
	n := m.Notification
	if n == nil {
		return config
	}
	config.Notification = &messaging.AndroidNotification{
		Sound: n.GetSound(), Tag: m.CollapseKey, ChannelID: n.GetChannelId(), ImageURL: n.GetImage(),
	}
	switch click := n.GetClick(); click.GetType() {
	case pushv1.Click_PAGE, pushv1.Click_INTENT:
		config.Notification.ClickAction = click.GetValue()
	}
	if set, ok := n.GetBadge().GetChange().(*pushv1.Badge_Set); ok {
		count := int(set.Set)
		config.Notification.NotificationCount = &count
	}
	return config
}

func apns(m *sender.Message, now time.Time) *messaging.APNSConfig {
	headers := map[string]string{"apns-expiration": strconv.FormatInt(now.Add(m.TTL).Unix(), 10), "apns-priority": "10"}
	if m.CollapseKey != "" && len(m.CollapseKey) <= 64 {
		headers["apns-collapse-id"] = m.CollapseKey
	}
	n := m.Notification
	if m.Low || n == nil {
		headers["apns-priority"] = "5"
	}
	aps := &messaging.Aps{ContentAvailable: n == nil, ThreadID: n.GetGroup(), Sound: n.GetSound(), MutableContent: n.GetImage() != ""}
	if n.GetSubtitle() != "" {
		aps.Alert = &messaging.ApsAlert{Title: n.GetTitle(), SubTitle: n.GetSubtitle(), Body: n.GetBody()}
	}
	if set, ok := n.GetBadge().GetChange().(*pushv1.Badge_Set); ok {
		count := int(set.Set)
		aps.Badge = &count
	}
	return &messaging.APNSConfig{Headers: headers, Payload: &messaging.APNSPayload{Aps: aps}}
}

func webpush(m *sender.Message) *messaging.WebpushConfig {
	urgency := "normal"
	switch {
	case m.High:
		urgency = "high"
	case m.Low:
		urgency = "low"
	}
	config := &messaging.WebpushConfig{Headers: map[string]string{"TTL": strconv.Itoa(int(m.TTL / time.Second)), "Urgency": urgency}}
	if click := m.Notification.GetClick(); click.GetType() == pushv1.Click_URL && isHTTPS(click.GetValue()) {
		config.FCMOptions = &messaging.WebpushFCMOptions{Link: click.GetValue()}
	}
	return config
}

func isHTTPS(text string) bool { return len(text) > 8 && text[:8] == "https://" }
