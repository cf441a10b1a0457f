package pushkit

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// MaxStatuses is how many receipts a call carries.
const MaxStatuses = 100

// Callback is a receipt configuration of the vendor's console.
type Callback struct {
	URL  string `json:"url"`
	User string `json:"user"` // without user and key there is no signature
	Key  string `json:"key"`
}

// Request returns the call for a list of statuses.
func (c Callback) Request(ctx context.Context, now time.Time, statuses []any) (*http.Request, error) {
	body, err := json.Marshal(map[string]any{"statuses": statuses})
	if err != nil {
		return nil, fmt.Errorf("encode statuses: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.URL, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make the call: %w", err)
	}
	request.Header.Set("Content-Type", "application/json; charset=UTF-8")
	if c.User != "" && c.Key != "" {
		timestamp, nonce := fmt.Sprint(now.UnixMilli()), rand.Text()
		mac := hmac.New(sha256.New, []byte(c.Key))
		_, _ = mac.Write([]byte(timestamp + nonce + c.User)) // never fails
		value := base64.StdEncoding.EncodeToString(mac.Sum(nil))
		request.Header.Set("X-HUAWEI-CALLBACK-ID",
			fmt.Sprintf("timestamp=%s; nonce=%s; value=%s", timestamp, nonce, value))
	}
	return request, nil
}
