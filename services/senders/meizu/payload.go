package meizu

import (
	"cmp"
	"crypto/md5" //nolint:gosec // Meizu's own choice
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/halleypush/halley/pkg/sender"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
)

const (
	// clickType: what a tap does.
	openApp, openPage, openURI = 0, 1, 2
	// maxCallback is the longest address of receipts in bytes.
	maxCallback = 128
	// callbackType asks for receipts of deliveries and clicks.
	callbackType = "3"
	// shortest is the least time that Meizu keeps a message, and what it counts in.
	shortest = time.Hour
)

// messageJSON returns the messageJson of a notification. The override is merged into it.
func messageJSON(c *credential, m *sender.Message) (string, error) {
	n := m.Notification
	rings := n.GetSound() != ""
	advance := map[string]any{
		"notificationType": map[string]any{"vibrate": number(rings), "lights": 1, "sound": number(rings)},
		// Meizu has no de-dup id: what is sent again after a crash replaces the same push.
		"notifyKey": notifyKey(cmp.Or(m.CollapseKey, m.PushID)),
	}
	fields := map[string]any{
		"noticeBarInfo": map[string]any{
			"noticeBarType": 0, "noticeMsgType": number(c.Of(n) == private), "title": n.GetTitle(), "content": n.GetBody(),
		},
		"clickTypeInfo": clickInfo(m),
		"pushTimeInfo":  map[string]any{"offLine": 1, "validTime": int((m.TTL + shortest - 1) / shortest)},
		"advanceInfo":   advance,
	}
	if m.ReceiptURL != "" && len(m.ReceiptURL) <= maxCallback {
		fields["extra"] = map[string]any{"callback": m.ReceiptURL, "callback.param": m.Tag, "callback.type": callbackType}
	}
	fields, err := sender.Fields(fields, m.Override)
	if err != nil {
		return "", err
	}
	text, err := json.Marshal(fields)
	if err != nil {
		return "", fmt.Errorf("request: %w", err)
	}
	return string(text), nil
}

func clickInfo(m *sender.Message) map[string]any {
	info := map[string]any{"clickType": openApp, "parameters": m.AppFields()}
	switch click := m.Notification.GetClick(); click.GetType() {
	case pushv1.Click_URL, pushv1.Click_INTENT:
		info["clickType"], info["url"] = openURI, click.GetValue()
	case pushv1.Click_PAGE:
		info["clickType"], info["activity"] = openPage, click.GetValue()
	}
	return info
}

func number(on bool) int {
	if on {
		return 1
	}
	return 0
}

// notifyKey returns a key in the form that Meizu takes: 8 of 0-9, a-z, A-Z, - and _.
func notifyKey(key string) string {
	hash := sha256.Sum256([]byte(key))
	return base64.RawURLEncoding.EncodeToString(hash[:])[:8]
}

// sign returns the signature of parameters: their MD5, sorted and with the secret behind them.
func sign(parameters map[string]string, secret string) string {
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(parameters)) {
		text.WriteString(name + "=" + parameters[name])
	}
	text.WriteString(secret)
	sum := md5.Sum([]byte(text.String())) //nolint:gosec // as above
	return hex.EncodeToString(sum[:])
}
