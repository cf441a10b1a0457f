package harmony

import (
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strconv"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
	"github.com/halleypush/halley/services/vendorsim/internal/pushkit"
)

const (
	// testDaily is how many requests with test messages a project may make in a day.
	testDaily = 1000
	// formDaily is how many updates a card gets in a day after its release.
	formDaily = 2
	// deviceDaily is how many of an app's messages a device gets in a day: the sheet has a total without its number, this is Huawei's.
	deviceDaily = 3000
)

// send accepts a message for up to 1000 devices.
func (s *Simulator) send(w http.ResponseWriter, r *http.Request, project string) {
	a, code := s.authenticate(r)
	if code == "" && project != a.Account.ProjectID {
		code = authError
	}
	if code == "" && a.Disabled {
		code = notAllowed
	}
	if code != "" {
		s.answers.Write(w, code)
		return
	}
	pushType, ok := pushTypeOf(r)
	if !ok {
		s.answers.Write(w, badParameter)
		return
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		s.answers.Write(w, badStructure)
		return
	}
	body, err := frame.ReadBody(w, r)
	if err != nil {
		s.answers.Write(w, tooLong)
		return
	}
	m, code := parse(body, pushType, a)
	if code != "" {
		s.answers.Write(w, code)
		return
	}
	s.accept(w, r, a, &m, body)
}

func pushTypeOf(r *http.Request) (int, bool) {
	n, err := strconv.Atoi(r.Header.Get("push-type"))
	switch n {
	case typeAlert, typeForm, typeVoice, typeBackground, typeLiveView, typeCall:
		return n, err == nil
	}
	return 0, false
}

// device is one token of a request and what becomes of it.
type device struct {
	token   string
	receipt string // its code
}

// accept answers a good request.
func (s *Simulator) accept(w http.ResponseWriter, r *http.Request, a *app, m *message, body []byte) {
	request := s.frame.ForRequest(a.Name, m.title())
	if !frame.Pause(r.Context(), request.Delay) {
		return
	}
	if request.Code != "" && request.Code != success {
		s.answers.Write(w, request.Code)
		return
	}
	good, illegal, code := s.sort(r, a, m, request.Receipt)
	if code != "" {
		s.answers.Write(w, code)
		return
	}
	if m.Options.Test && !s.daily.Take("test "+a.Name, testDaily) {
		s.answers.Write(w, testTooOften)
		return
	}
	if len(good) > 0 && s.frame.Admit(a.Name, len(good)) == frame.OverRate {
		s.answers.Write(w, traffic)
		return
	}
	id := pushkit.RequestID(s.frame.Now())
	if len(good) > 0 {
		s.record(r, a, m, good, id, body)
	}
	for _, d := range good {
		s.receipt(a, m, d, id)
	}
	s.finish(w, id, len(good), illegal)
}

// sort asks what becomes of each token; illegal are those that are refused, by reason. A code that is not about the token
// itself answers the whole request.
func (s *Simulator) sort(
	r *http.Request, a *app, m *message, receipt string,
) (good []device, illegal map[string][]string, code string) {
	illegal = make(map[string][]string)
	for _, token := range m.tokens {
		v := s.frame.ForToken(a.Name, token)
		if !frame.Pause(r.Context(), v.Delay) {
			return nil, nil, traffic
		}
		reason := s.refused(token, a.Name)
		if v.Invalid {
			reason = badFormat
		}
		if v.Code != "" && v.Code != success {
			if _, ofToken := frame.Find(Codes(), frame.InToken, v.Code); !ofToken {
				return nil, nil, v.Code
			}
			reason = v.Code
		}
		if reason == "" && slices.Contains(a.NoRights, m.pushType) {
			reason = noTypeRight
		}
		if reason != "" {
			illegal[reason] = append(illegal[reason], token)
			continue
		}
		d := device{token: token, receipt: receipt}
		if v.Receipt != "" {
			d.receipt = v.Receipt
		}
		good = append(good, d)
	}
	return good, illegal, ""
}

// finish writes success, partial success, or that all tokens are refused.
func (s *Simulator) finish(w http.ResponseWriter, id string, good int, illegal map[string][]string) {
	if len(illegal) == 0 {
		s.answers.Message(w, success, id, "Success")
		return
	}
	bad := 0
	for reason, tokens := range illegal {
		bad += len(tokens)
		s.frame.Answered(reason, len(tokens))
	}
	text, _ := json.Marshal(map[string]any{"success": good, "failure": bad, "illegalTokens": illegal}) // can be encoded
	name := partial
	if good == 0 {
		name = allInvalid
	}
	s.answers.Message(w, name, id, string(text))
}

func (s *Simulator) record(r *http.Request, a *app, m *message, good []device, id string, body []byte) {
	tokens := make([]string, len(good))
	for i, d := range good {
		tokens[i] = d.token
	}
	dedup := m.Options.Tag
	if n := m.Payload.Notification; n != nil && n.MessageID != "" {
		dedup = n.MessageID
	}
	s.frame.Record.Accept(frame.Accepted{
		At: s.frame.Now(), App: a.Name, Tokens: tokens, PushID: frame.PushID(body), DedupID: dedup, VendorID: id,
		Headers: frame.Headers(r), Body: string(body),
	})
}

// status is a receipt in V2 of the protocol.
type status struct {
	Token     string  `json:"token"`
	PushType  int     `json:"pushType"`
	Package   string  `json:"appPackageName"`
	RequestID string  `json:"requestId"`
	Tag       string  `json:"biTag"`
	Delivery  *result `json:"deliveryStatus,omitempty"` // all but cards
	Form      *result `json:"formStatus,omitempty"`     // cards
}

type result struct {
	FormID    json.RawMessage `json:"formId,omitempty"`
	Result    int             `json:"result"`
	Timestamp int64           `json:"timestamp"` // ms
}

// receipt queues the receipt of a device, if the app has a receiver. Live views have caps of minutes and hours, which are not
// simulated.
func (s *Simulator) receipt(a *app, m *message, d device, id string) {
	code := d.receipt
	limit := s.frame.Switches().Limit.Daily
	switch {
	case code != "":
	case m.marketing() && a.MarketingDaily > 0 && !s.daily.Take("marketing "+a.Name+" "+d.token, a.MarketingDaily):
		code = receiptCapped
	case m.pushType == typeForm && !m.Options.Test &&
		!s.daily.Take(fmt.Sprintf("form %s %s %s", a.Name, d.token, m.Payload.FormID), formDaily):
		code = receiptCapped
	case limit > 0 && !s.daily.Take("app "+a.Name, int(limit)):
		code = receiptCapped // daily caps show in receipts only
	case !s.daily.Take("device "+a.Name+" "+d.token, deviceDaily):
		code = receiptLimit
	default:
		code = receiptOK
	}
	n, err := strconv.Atoi(code)
	if callback, _ := a.callback(m.Options.ReceiptID); err != nil || callback.URL == "" {
		return
	}
	item := status{Token: d.token, PushType: m.pushType, Package: a.Package, RequestID: id, Tag: m.Options.Tag}
	outcome := &result{Result: n, Timestamp: s.frame.Now().UnixMilli()}
	if m.pushType == typeForm {
		outcome.FormID = m.Payload.FormID
		item.Form = outcome
	} else {
		item.Delivery = outcome
	}
	s.courier.Add(frame.Receipt{To: receiver(a.Account.ProjectID, m.Options.ReceiptID), Item: item})
}
