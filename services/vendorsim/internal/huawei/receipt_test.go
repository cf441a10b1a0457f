package huawei_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"testing"

	"github.com/halleypush/halley/services/vendorsim/internal/frametest"
)

// statuses is the body of a receipt call, V1.
type statuses struct {
	Statuses []struct {
		Token     string
		Status    int
		Timestamp int64
		AppID     string `json:"appid"`
		Tag       string `json:"biTag"`
		RequestID string `json:"requestId"`
	}
}

var header = regexp.MustCompile(`^timestamp=(\d+); nonce=(\S+); value=(\S+)$`)

func TestReceiptsAreSignedAndSayWhatTheyAreFor(t *testing.T) {
	t.Parallel()
	receiver := frametest.NewReceiver(t)
	r := start(t, fmt.Sprintf(`,"receipt":{"url":%q,"user":"halley","key":"secret"}`, receiver.URL))
	a, _ := r.send(r.login(), notice("", "token-a"))
	call := receiver.Next(t)

	part := header.FindStringSubmatch(call.Header.Get("X-HUAWEI-CALLBACK-ID"))
	if part == nil {
		t.Fatalf("signed with %q", call.Header.Get("X-HUAWEI-CALLBACK-ID"))
	}
	mac := hmac.New(sha256.New, []byte("secret"))
	mac.Write([]byte(part[1] + part[2] + "halley"))
	if want := base64.StdEncoding.EncodeToString(mac.Sum(nil)); part[3] != want {
		t.Errorf("value is %s, want %s", part[3], want)
	}
	if want := strconv.FormatInt(r.Clock.Now().UnixMilli(), 10); part[1] != want {
		t.Errorf("timestamp is %s, want %s", part[1], want)
	}
	var body statuses
	frametest.Must(t, json.Unmarshal([]byte(call.Body), &body))
	s := body.Statuses[0]
	if len(body.Statuses) != 1 || s.Token != "token-a" || s.Status != 0 || s.AppID != r.App.ClientID || s.Tag != "tag-1" ||
		s.RequestID != a.Field(t, "requestId") || s.Timestamp != r.Clock.Now().UnixMilli() {
		t.Errorf("receipt is %s", call.Body)
	}
}

func TestReceiptsComeByAHundred(t *testing.T) {
	t.Parallel()
	receiver := frametest.NewReceiver(t)
	r := start(t, fmt.Sprintf(`,"receipt":{"url":%q}`, receiver.URL))
	tokens := make([]string, 250)
	for i := range tokens {
		tokens[i] = fmt.Sprint("token-", i)
	}
	r.send(r.login(), notice("", tokens...))
	seen := make(map[string]bool)
	for len(seen) < len(tokens) {
		call := receiver.Next(t)
		if call.Header.Get("X-HUAWEI-CALLBACK-ID") != "" {
			t.Error("signed without user and key")
		}
		var body statuses
		frametest.Must(t, json.Unmarshal([]byte(call.Body), &body))
		if len(body.Statuses) > 100 {
			t.Errorf("%d receipts in a call", len(body.Statuses))
		}
		for _, s := range body.Statuses {
			seen[s.Token] = true
		}
	}
}

func TestReceiptsGoWhereTheMessageSays(t *testing.T) {
	t.Parallel()
	usual, special := frametest.NewReceiver(t), frametest.NewReceiver(t)
	r := start(t, fmt.Sprintf(`,"receipt":{"url":%q},"receipts":{"rc1":{"url":%q}}`, usual.URL, special.URL))
	headers := r.login()
	r.send(headers, notice(`,"receipt_id":"rc1"`, "token-a"))
	special.Next(t)
	r.send(headers, notice("", "token-b"))
	usual.Next(t)
}

func TestReceiptSwitches(t *testing.T) {
	t.Parallel()
	receiver := frametest.NewReceiver(t)
	r := start(t, fmt.Sprintf(`,"receipt":{"url":%q}`, receiver.URL))
	headers := r.login()
	r.Patch(`{"receipts":{"off":true}}`)
	r.send(headers, notice("", "off"))
	r.Patch(`{"receipts":{"off":false,"lost":1}}`)
	r.send(headers, notice("", "lost"))
	r.Patch(`{"receipts":{"lost":0,"duplicate":1}}`)
	r.send(headers, notice("", "twice"))
	n := 0
	for n < 2 {
		var body statuses
		frametest.Must(t, json.Unmarshal([]byte(receiver.Next(t).Body), &body))
		for _, s := range body.Statuses {
			if s.Token != "twice" {
				t.Errorf("a receipt of %s", s.Token)
			}
			n++
		}
	}
	if c := r.Frame.Stats().Receipts; c.Queued != 2 || c.Lost != 1 || c.Duplicated != 1 {
		t.Errorf("counted %+v", c)
	}
}
