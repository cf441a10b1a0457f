// Package hms is what Huawei's two push services have in common: the signed calls with receipts, and the limits. Honor's, which
// comes from them, has the limits and some of the codes.
package hms

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/halleypush/halley/pkg/sender"
)

const (
	// MaxBody is the size of a request without its tokens, in bytes.
	MaxBody = 4096
	// MaxTTL is how long Huawei keeps a message.
	MaxTTL = 15 * 24 * time.Hour
	// Batch is the most tokens of one request.
	Batch = 1000
)

// callbackID is the header that Huawei signs its calls with.
const callbackID = "X-Huawei-Callback-Id"

// Receipts are part of a credential: how the app's receipts were set up in AppGallery Connect.
type Receipts struct {
	// User and Key are the user name and the key of the callback. Huawei signs its calls only if both are set there.
	User string `json:"receipt_user"`
	Key  string `json:"receipt_key"`
	// ID picks one of several callbacks of the project.
	ID string `json:"receipt_id"`
}

// Validate says what is wrong. Its error is a *sender.FieldError.
func (r Receipts) Validate() error {
	switch {
	case r.User != "" && r.Key == "":
		return &sender.FieldError{Field: "receipt_key", Problem: "receipt_user and receipt_key go together"}
	case r.User == "" && r.Key != "":
		return &sender.FieldError{Field: "receipt_user", Problem: "receipt_user and receipt_key go together"}
	}
	return nil
}

// Read checks the signature of a call with receipts, if there is a key for it, and that it is not older than age; and reads the
// receipts of it, of either version. A call that comes twice is read twice, although its nonce could tell: Huawei repeats
// calls that it got no answer to, and the same receipts again change nothing.
func (r Receipts) Read(request *http.Request, body []byte, now time.Time, age time.Duration) ([]sender.Receipt, []byte, error) {
	if r.Key != "" && !r.signed(request.Header.Get(callbackID), now, age) {
		return nil, nil, sender.ErrForged
	}
	var call struct {
		Statuses []struct {
			Token    string      `json:"token"`
			BITag    string      `json:"biTag"`
			Status   sender.Text `json:"status"` // version 1
			Delivery struct {
				Result sender.Text `json:"result"`
			} `json:"deliveryStatus"` // version 2
			Form struct {
				Result sender.Text `json:"result"`
			} `json:"formStatus"` // version 2, cards
		} `json:"statuses"`
	}
	if err := json.Unmarshal(body, &call); err != nil {
		return nil, nil, fmt.Errorf("receipts of Huawei: %w", err)
	}
	var receipts []sender.Receipt
	for _, s := range call.Statuses {
		code := string(firstOf(s.Status, s.Delivery.Result, s.Form.Result))
		receipt := sender.Receipt{Tag: s.BITag, Token: s.Token, Code: code}
		for _, known := range ReceiptCodes() {
			if known.Code == code {
				receipt.What, receipt.Code = known.What, code+" "+known.Meaning
			}
		}
		receipts = append(receipts, receipt)
	}
	return receipts, answer(), nil
}

// answer is what Huawei wants to hear. The old document and the new one name different fields (which of them counts is
// uncertain), so it gets all four.
func answer() []byte {
	return []byte(`{"code":"0","message":"success","errno":"0","errmsg":"success"}`)
}

func firstOf(texts ...sender.Text) sender.Text {
	for _, text := range texts {
		if text != "" {
			return text
		}
	}
	return ""
}

// signed reports whether a header, "timestamp=…; nonce=…; value=…", is Huawei's and of now.
func (r Receipts) signed(header string, now time.Time, age time.Duration) bool {
	fields := map[string]string{}
	for part := range strings.SplitSeq(header, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		fields[name] = value
	}
	value, err := base64.StdEncoding.DecodeString(fields["value"])
	if err != nil {
		return false
	}
	mac := hmac.New(sha256.New, []byte(r.Key))
	mac.Write([]byte(fields["timestamp"] + fields["nonce"] + r.User))
	if !hmac.Equal(mac.Sum(nil), value) {
		return false
	}
	at, err := strconv.ParseInt(fields["timestamp"], 10, 64)
	return err == nil && now.Sub(time.UnixMilli(at)).Abs() <= age
}

// ReceiptCodes are the states of Huawei's receipts. Only what the phone itself says of the app or the token voids a token;
// states after which a message may still come say nothing yet.
func ReceiptCodes() []sender.ReceiptCode {
	return []sender.ReceiptCode{
		{Code: "0", What: sender.ReceiptArrived, Meaning: "delivered"},
		{Code: "2", What: sender.ReceiptTokenGone, Meaning: "app not installed"},
		{Code: "5", What: sender.ReceiptTokenGone, Meaning: "token unknown on the device"},
		{Code: "6", What: sender.ReceiptDropped, Meaning: "notifications switched off"},
		{Code: "10", What: sender.ReceiptDropped, Meaning: "device inactive for 30 days"},
		{Code: "14", What: sender.ReceiptUnknown, Meaning: "internal or network error"},
		{Code: "15", What: sender.ReceiptDropped, Meaning: "replaced by a newer one, or too many kept"},
		{Code: "22", What: sender.ReceiptDropped, Meaning: "user id mismatch"},
		{Code: "27", What: sender.ReceiptUnknown, Meaning: "kept until the app runs"},
		{Code: "31", What: sender.ReceiptDropped, Meaning: "page or system cannot handle it"},
		{Code: "51", What: sender.ReceiptUnknown, Meaning: "device locked since it was started"},
		{Code: "102", What: sender.ReceiptDropped, Meaning: "too many for the device today"},
		{Code: "144", What: sender.ReceiptDropped, Meaning: "profile id absent"},
		{Code: "201", What: sender.ReceiptDropped, Meaning: "held back by the server"},
		{Code: "256", What: sender.ReceiptDropped, Meaning: "daily cap of marketing or test messages"},
	}
}

// Encode returns the JSON of a request. The targets' tokens go into its object of a name, or into the request itself if that
// is empty, whatever an override says.
func Encode(fields map[string]any, object string, m *sender.Message) ([]byte, error) {
	inner := fields
	if object != "" {
		var ok bool
		if inner, ok = fields[object].(map[string]any); !ok {
			return nil, fmt.Errorf("the override of %s must be an object", object)
		}
	}
	delete(inner, "token")
	bare, err := json.Marshal(fields)
	if err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	if len(bare) > MaxBody {
		return nil, fmt.Errorf("the request has %d bytes, more than the %d that the vendor takes", len(bare), MaxBody)
	}
	inner["token"] = m.Tokens()
	return json.Marshal(fields)
}

// Refused reports whether an answer says that the access token is not taken: a fresh one may be.
func Refused(a *sender.Answer, code string) bool {
	switch code {
	case "80200001", "80200003", "80200005", "80300036", "80600003":
		return true
	}
	return a.Status == http.StatusUnauthorized
}

// Statuses are the HTTP statuses that Huawei documents; a business code counts first.
func Statuses() sender.Codes {
	return sender.Codes{
		{Code: "HTTP 400", Outcome: sender.Rejected, Meaning: "bad parameter"},
		{Code: "HTTP 401", Outcome: sender.CredentialBad, Meaning: "authentication failed"},
		{Code: "HTTP 404", Outcome: sender.CredentialBad, Meaning: "no such app or project"},
		{Code: "HTTP 500", Outcome: sender.Retry, Meaning: "internal error"},
		{Code: "HTTP 502", Outcome: sender.Retry, Meaning: "bad gateway"},
		{Code: "HTTP 503", Outcome: sender.Retry, Meaning: "traffic control"},
	}
}
