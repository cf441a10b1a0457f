package hms

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/halleypush/halley/pkg/sender"
	"github.com/halleypush/halley/services/senders/internal/vendortest"
)

const media = "application/json"

func header(key string, at time.Time, nonce, user string) string {
	mac := hmac.New(sha256.New, []byte(key))
	fmt.Fprintf(mac, "%d%s%s", at.UnixMilli(), nonce, user)
	return fmt.Sprintf("timestamp=%d; nonce=%s; value=%s", at.UnixMilli(), nonce, base64.StdEncoding.EncodeToString(mac.Sum(nil)))
}

func TestOnlySignedCallsCount(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	r := Receipts{User: "halley", Key: "key"}
	good := header("key", now, "n1", "halley")
	for name, c := range map[string]struct {
		header string
		forged bool
	}{
		"signed":           {good, false},
		"again":            {good, false},
		"a little old":     {header("key", now.Add(-4*time.Minute), "n", "halley"), false},
		"too old":          {header("key", now.Add(-6*time.Minute), "n", "halley"), true},
		"of the future":    {header("key", now.Add(6*time.Minute), "n", "halley"), true},
		"no header":        {"", true},
		"another key":      {header("other", now, "n", "halley"), true},
		"another user":     {header("key", now, "n", "other"), true},
		"no base64":        {"timestamp=1; nonce=n; value=%%", true},
		"nonsense":         {";;=;value", true},
		"signed, no time":  {"nonce=n; value=" + header("key", now, "n", "halley")[50:], true},
		"an empty message": {"timestamp=; nonce=; value=", true},
	} {
		request := vendortest.Callback(t, media, nil)
		request.Header.Set(callbackID, c.header)
		receipts, answer, err := r.Read(request, []byte(`{"statuses":[{"token":"a","status":0,"biTag":"t"}]}`), now, 5*time.Minute)
		if errors.Is(err, sender.ErrForged) != c.forged || !c.forged && (err != nil || len(receipts) != 1 || len(answer) == 0) {
			t.Errorf("%s: %v, %v", name, receipts, err)
		}
	}
}

func TestReceiptsOfBothVersions(t *testing.T) {
	t.Parallel()
	for _, known := range append(ReceiptCodes(), sender.ReceiptCode{Code: "4711", What: sender.ReceiptUnknown}) {
		for _, form := range []string{
			`{"statuses":[{"token":"a","status":%s,"biTag":"t","timestamp":1732330000000,"appid":"1","requestId":"r"}]}`,
			`{"statuses":[{"token":"a","status":"%s","biTag":"t"}]}`,
			`{"statuses":[{"token":"a","pushType":0,"biTag":"t","deliveryStatus":{"result":%s,"timestamp":1732330000000}}]}`,
			`{"statuses":[{"token":"a","pushType":1,"biTag":"t","formStatus":{"formId":1,"result":%s}}]}`,
		} {
			body := fmt.Sprintf(form, known.Code)
			receipts, _, err := Receipts{}.Read(vendortest.Callback(t, media, nil), []byte(body), time.Now(), time.Minute)
			if err != nil || len(receipts) != 1 || receipts[0].What != known.What || receipts[0].Token != "a" || receipts[0].Tag != "t" {
				t.Errorf("%s: %+v, %v", body, receipts, err)
			}
		}
	}
}

func FuzzReceipts(f *testing.F) {
	f.Add("timestamp=1; nonce=n; value=AAAA", []byte(`{"statuses":[{"token":"a","status":0}]}`))
	f.Add("", []byte(`{"statuses":[{"deliveryStatus":{"result":[]}}]}`))
	f.Add("", []byte(`[]`))
	f.Fuzz(func(t *testing.T, header string, body []byte) {
		request := vendortest.Callback(t, media, nil)
		request.Header.Set(callbackID, header)
		if _, _, err := (Receipts{User: "u", Key: "k"}).Read(request, body, time.Now(), time.Minute); !errors.Is(err, sender.ErrForged) {
			t.Errorf("taken as Huawei's: %q", header)
		}
		receipts, answer, err := Receipts{}.Read(request, body, time.Now(), time.Minute)
		if (err == nil) != (answer != nil) || err != nil && receipts != nil {
			t.Errorf("%v, %s, %v", receipts, answer, err)
		}
	})
}
