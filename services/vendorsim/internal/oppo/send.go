package oppo

import (
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
)

type form = url.Values

// unicast sends one message, whose fault is that of the call.
func (s *Simulator) unicast(w http.ResponseWriter, r *http.Request, a *app, f form) {
	if f.Get("message") == "" {
		s.answer(w, missing)
		return
	}
	list := []message{parse(json.RawMessage(f.Get("message")), a)}
	if list[0].code != "" {
		s.answer(w, list[0].code)
		return
	}
	results, code, err := s.deliver(r, a, list)
	switch {
	case err != nil:
	case code != "":
		s.answer(w, code)
	case results[0].Code != "":
		s.answer(w, results[0].Code)
	default:
		s.finish(w, map[string]string{"messageId": results[0].id})
	}
}

// batch sends up to 1000 messages, each with a fault of its own.
func (s *Simulator) batch(w http.ResponseWriter, r *http.Request, a *app, f form) {
	if f.Get("messages") == "" {
		s.answer(w, missing)
		return
	}
	var texts []json.RawMessage
	if err := json.Unmarshal([]byte(f.Get("messages")), &texts); err != nil || len(texts) < 1 || len(texts) > maxBatch {
		s.answer(w, badValue)
		return
	}
	list := make([]message, len(texts))
	for i, text := range texts {
		list[i] = parse(text, a)
	}
	results, code, err := s.deliver(r, a, list)
	if err != nil {
		return
	}
	if code != "" {
		s.answer(w, code)
		return
	}
	data := make([]map[string]any, len(results))
	for i, one := range results {
		data[i] = map[string]any{"registrationId": list[i].target}
		if one.Code == "" {
			data[i]["messageId"] = one.id
			continue
		}
		known, _ := frame.Find(Codes(), frame.InToken, one.Code)
		s.frame.Answered(one.Code, 1)
		data[i]["errorCode"], data[i]["errorMessage"] = number(one.Code), known.Meaning
	}
	s.finish(w, data)
}

// result is what becomes of one message.
type result struct {
	frame.Target
	id string
}

// deliver asks what becomes of each message, and accepts the good ones; a code answers the whole request. The error is that of the
// request's context.
func (s *Simulator) deliver(r *http.Request, a *app, list []message) (results []result, code string, err error) {
	results = make([]result, len(list))
	good := 0
	for i, m := range list {
		if m.code != "" {
			results[i].Code = m.code
			continue
		}
		sorted, code, err := s.frame.Decide(r.Context(), s.devices, m.notification["title"], targets(a, m.kind, m.target))
		if err != nil || code != "" {
			return nil, code, err
		}
		results[i] = result{Target: sorted[0], id: rand.Text()}
		if sorted[0].Code == "" {
			good++
		}
	}
	if code := s.admit(a, good); code != "" {
		return nil, code, nil
	}
	headers := frame.Headers(r)
	for i, m := range list {
		if results[i].Code == "" {
			n := sending{headers: headers, notification: m.notification, kind: m.kind, id: results[i].id, text: m.text}
			s.record(a, n, frame.Sorted{results[i].Target})
		}
	}
	return results, "", nil
}

// targets are the devices of a request; aliases have codes of their own.
func targets(a *app, kind string, tokens ...string) frame.Targets {
	t := frame.Targets{App: a.Name, Tokens: tokens, Dead: invalidRegID, Foreign: invalidRegID, Codes: Codes()}
	if kind != targetRegID {
		t.Dead, t.Foreign = invalidAlias, invalidAlias
	}
	return t
}

// admit returns the code for n messages, if they are to be refused.
func (s *Simulator) admit(a *app, n int) string {
	switch s.frame.Admit(a.Name, n) {
	case frame.OverRate:
		return overRate
	case frame.OverQuota:
		return overQuota
	}
	return ""
}

// sending is a notification that is on its way to devices.
type sending struct {
	headers      map[string]string // of the request
	notification notification
	kind         string // of the targets
	id, task     string
	text         string // as it was sent
}

// record remembers the good targets of a notification, and queues their receipts.
func (s *Simulator) record(a *app, n sending, list frame.Sorted) {
	good := list.Good()
	if len(good) == 0 {
		return
	}
	dedup := n.notification["app_message_id"]
	accepted := frame.Accepted{
		At: s.frame.Now(), App: a.Name, Tokens: good, PushID: frame.PushID([]byte(n.text)), DedupID: dedup, VendorID: n.id,
		Headers: n.headers, Body: n.text,
	}
	for _, token := range good {
		if dedup != "" && !s.daily.Take(strings.Join([]string{"message", a.Name, dedup, token}, "\n"), 1) {
			accepted.Notes = append(accepted.Notes, "a repeat of app_message_id: "+token+" shows it once")
		}
	}
	s.frame.Record.Accept(accepted)
	s.receipts(a, n, list)
}
