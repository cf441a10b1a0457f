package huawei

import (
	"encoding/json"
	"mime"
	"net/http"
	"strconv"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
	"github.com/halleypush/halley/services/vendorsim/internal/pushkit"
)

const (
	// testDaily is how many test messages an app may send in a day; deviceDaily how many of an app's messages a device gets.
	testDaily   = 500
	deviceDaily = 3000
)

// send accepts a message for up to 1000 devices.
func (s *Simulator) send(w http.ResponseWriter, r *http.Request, version, id string) {
	a, code := s.authenticate(r)
	if code != "" {
		s.answer(w, code)
		return
	}
	// A token of another app or project is no good (80200001).
	if version == "v1" && id != a.ClientID || version == "v2" && id != a.ProjectID {
		s.answer(w, authError)
		return
	}
	if a.Disabled {
		s.answer(w, notAllowed)
		return
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		s.answer(w, badStructure)
		return
	}
	body, err := frame.ReadBody(w, r)
	if err != nil {
		s.answer(w, tooLong)
		return
	}
	e, code := parse(body, a)
	if code != "" {
		s.answer(w, code)
		return
	}
	s.accept(w, r, a, e, body)
}

// accept answers a good request.
func (s *Simulator) accept(w http.ResponseWriter, r *http.Request, a *app, e envelope, body []byte) {
	m := e.Message
	list, code, err := s.frame.Decide(r.Context(), s.devices, m.title(), frame.Targets{
		App: a.Name, Tokens: m.tokens, Dead: illegalTokens, Foreign: illegalTokens, Codes: Codes(),
	})
	if err != nil {
		return
	}
	if code != "" {
		s.answer(w, code)
		return
	}
	id, good, illegal := pushkit.RequestID(s.frame.Now()), list.Good(), list.Bad()[illegalTokens]
	if e.ValidateOnly {
		s.finish(w, id, len(good), illegal)
		return
	}
	if n := max(len(good), 1); s.frame.Admit(a.Name, n) == frame.OverRate { // a topic counts as one
		s.answer(w, traffic)
		return
	}
	if len(good) > 0 || len(m.tokens) == 0 {
		s.record(r, a, m, good, id, body)
	}
	for _, t := range list {
		if t.Code == "" {
			s.receipt(a, m, t, id)
		}
	}
	s.finish(w, id, len(good), illegal)
}

// finish writes success, partial success, or that all tokens are bad.
func (s *Simulator) finish(w http.ResponseWriter, id string, good int, illegal []string) {
	name := success
	message := "Success"
	if len(illegal) > 0 {
		name = partial
		text, _ := json.Marshal(map[string]any{ // numbers and texts can be encoded
			"success": good, "failure": len(illegal), "illegal_tokens": illegal,
		})
		message = string(text)
		s.frame.Answered(illegalTokens, len(illegal))
	}
	if good == 0 && len(illegal) > 0 {
		name, message = allInvalid, "All the tokens are invalid"
	}
	s.answers.Message(w, name, id, message)
}

func (s *Simulator) record(r *http.Request, a *app, m *message, tokens []string, id string, body []byte) {
	if len(m.tokens) == 0 {
		tokens = []string{"topic:" + m.Topic + m.Condition}
	}
	s.frame.Record.Accept(frame.Accepted{
		At: s.frame.Now(), App: a.Name, Tokens: tokens, PushID: frame.PushID(body), DedupID: m.Android.Tag, VendorID: id,
		Headers: frame.Headers(r), Body: string(body),
	})
}

// receipt queues the receipt of a device, if the app has a receiver.
func (s *Simulator) receipt(a *app, m *message, t frame.Target, id string) {
	code := t.Receipt
	switch {
	case code != "":
	case m.Android.TargetUserType == 1 && !s.daily.Take("test "+a.Name, testDaily):
		code = "256"
	case m.marketing() && a.MarketingDaily > 0 && !s.daily.Take("marketing "+a.Name+" "+t.Token, a.MarketingDaily):
		code = "256"
	case s.frame.Switches().Limit.Daily > 0 && !s.daily.Take("app "+a.Name, int(s.frame.Switches().Limit.Daily)):
		code = "256" // Huawei's daily caps show in receipts only
	case !s.daily.Take("device "+a.Name+" "+t.Token, deviceDaily):
		code = "102"
	default:
		code = "0"
	}
	n, err := strconv.Atoi(code)
	if config, _ := a.receiptConfig(m.Android.ReceiptID); err != nil || config.URL == "" {
		return
	}
	s.courier.Add(frame.Receipt{To: receiver(a.ClientID, m.Android.ReceiptID), Item: status{
		Token: t.Token, Status: n, Timestamp: s.frame.Now().UnixMilli(), AppID: a.ClientID, Tag: m.Android.Tag, RequestID: id,
	}})
}

// marketing says whether a message counts as such: notifications without another category do.
func (m *message) marketing() bool {
	return m.Android.TargetUserType != 1 && (m.Notification != nil || m.Android.Notification != nil) &&
		(m.Android.Category == "" || m.Android.Category == "MARKETING")
}
