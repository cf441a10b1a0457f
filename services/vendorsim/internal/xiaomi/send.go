package xiaomi

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
)

// request is a request that is good: one message for all targets, or one for each.
type request struct {
	app      *app
	kind     kind
	targets  []string
	messages []message // one, or as many as targets
}

// message returns the message for a target.
func (q *request) message(i int) message {
	if len(q.messages) == 1 {
		return q.messages[0]
	}
	return q.messages[i]
}

// send answers the paths with one message for all targets.
func (s *Simulator) send(w http.ResponseWriter, r *http.Request, version string, k kind) {
	a, form, code := s.open(w, r)
	if code != "" {
		s.answer(w, code)
		return
	}
	m := message{form}
	q := request{app: a, kind: k, targets: []string{""}, messages: []message{m}}
	if k.field != "" {
		if code = m.need(k.field); code != "" {
			s.answer(w, code)
			return
		}
		q.targets = []string{form.Get(k.field)}
		if !k.one {
			q.targets = strings.Split(form.Get(k.field), ",")
		}
	}
	if len(q.targets) > maxTargets || k.field == "topics" && !goodTopics(form) {
		s.answer(w, badValue) // which code this gets is not documented
		return
	}
	if code = m.check(a, version, s.frame.Now()); code != "" {
		s.answer(w, code)
		return
	}
	s.accept(w, r, &q)
}

// sendMany answers the paths with a message for each target.
func (s *Simulator) sendMany(w http.ResponseWriter, r *http.Request, k kind) {
	a, form, code := s.open(w, r)
	if code != "" {
		s.answer(w, code)
		return
	}
	var list []struct {
		Target  string                     `json:"target"`
		Message map[string]json.RawMessage `json:"message"`
	}
	if err := json.Unmarshal([]byte(form.Get("messages")), &list); err != nil || len(list) < 1 || len(list) > maxTargets {
		s.answer(w, badValue)
		return
	}
	q := request{app: a, kind: k}
	for _, one := range list {
		m := flat(one.Message)
		if form.Has("time_to_send") {
			m.Set("time_to_send", form.Get("time_to_send"))
		}
		code := m.check(a, "v2", s.frame.Now())
		if one.Target == "" {
			code = missing
		}
		if code != "" {
			s.answer(w, code)
			return
		}
		q.targets, q.messages = append(q.targets, one.Target), append(q.messages, m)
	}
	s.accept(w, r, &q)
}

// open checks the credential and reads the form.
func (s *Simulator) open(w http.ResponseWriter, r *http.Request) (*app, url.Values, string) {
	a := s.authenticate(r)
	if a == nil {
		return nil, nil, authFailed
	}
	form, err := frame.ReadForm(w, r)
	if err != nil {
		return nil, nil, badValue
	}
	return a, form, ""
}

// flat returns the fields of a message in JSON as a form has them. How extra stands in it is not documented: it may be an object
// or have its keys as in a form.
func flat(fields map[string]json.RawMessage) message {
	m := message{make(url.Values)}
	for name, value := range fields {
		var inner map[string]json.RawMessage
		if name == "extra" && json.Unmarshal(value, &inner) == nil {
			for key, v := range inner {
				m.Set("extra."+key, frame.Text(v))
			}
			continue
		}
		m.Set(name, frame.Text(value))
	}
	return m
}

func goodTopics(form url.Values) bool {
	if len(strings.Split(form.Get("topics"), ";$;")) > maxTopics {
		return false
	}
	switch form.Get("topic_op") {
	case "", "UNION", "INTERSECTION", "EXCEPT":
		return true
	}
	return false
}

// accept answers a good request.
func (s *Simulator) accept(w http.ResponseWriter, r *http.Request, q *request) {
	tokens := make([]string, len(q.targets))
	for i, t := range q.targets {
		tokens[i] = q.kind.prefix + t
	}
	list, code, err := s.frame.Decide(r.Context(), s.devices, q.messages[0].Get("title"), frame.Targets{
		App: q.app.Name, Tokens: tokens, Dead: badRegids, Foreign: badRegids, Codes: Codes(),
	})
	if err != nil {
		return
	}
	good := list.Good()
	if code == "" {
		code = s.admit(q.app, len(good))
	}
	if code == channelQuota {
		s.frame.Answered(code, 1)
		s.finish(w, map[string]any{channelQuota: true})
		return
	}
	if code != "" {
		s.answer(w, code)
		return
	}
	id := "sdm" + strings.ToLower(rand.Text())
	s.record(r, q, list, id)
	s.receipts(q, list, id)
	data := map[string]any{"id": id}
	if bad := list.Bad()[badRegids]; len(bad) > 0 {
		for i := range bad {
			bad[i] = strings.TrimPrefix(bad[i], q.kind.prefix)
		}
		data["bad_regids"] = strings.Join(bad, ",")
		s.frame.Answered(badRegids, len(bad))
	}
	if quota := s.frame.Switches().Limit.Daily; quota > 0 {
		data["day_quota"] = strconv.FormatInt(quota, 10)
	}
	s.frame.Answered(success, 1)
	s.finish(w, data)
}

// admit returns the code for n good targets of a request, if it is to be refused.
func (s *Simulator) admit(a *app, n int) string {
	if n == 0 {
		return allInvalid
	}
	switch s.frame.Admit(a.Name, n) {
	case frame.OverRate:
		return overRate
	case frame.OverQuota:
		return overQuota
	}
	return ""
}

// record remembers a request: each message by itself, with the tokens that were accepted.
func (s *Simulator) record(r *http.Request, q *request, list frame.Sorted, id string) {
	headers := frame.Headers(r)
	one := func(m message, tokens []string) {
		fields := make(url.Values, len(m.Values))
		for name, values := range m.Values {
			fields[name] = values
		}
		fields.Set("payload", m.payload())
		body := frame.FormText(fields, "registration_id")
		a := frame.Accepted{
			At: s.frame.Now(), App: q.app.Name, Tokens: tokens, PushID: frame.PushID([]byte(body)), DedupID: m.extra("jobkey"),
			VendorID: id, Headers: headers, Body: body,
		}
		if m.extra("channel_id") == "" {
			a.Notes = append(a.Notes, "no channel_id: shown in the default channel, one a day")
		}
		s.frame.Record.Accept(a)
	}
	if len(q.messages) == 1 {
		one(q.messages[0], list.Good())
		return
	}
	for i, t := range list {
		if t.Code == "" {
			one(q.messages[i], []string{t.Token})
		}
	}
}

// answer writes a code and counts it.
func (s *Simulator) answer(w http.ResponseWriter, name string) {
	code := frame.Wanted(Codes(), frame.InAnswer, name)
	s.frame.Answered(code.Code, 1)
	if code.Status != http.StatusOK {
		http.Error(w, code.Meaning, code.Status)
		return
	}
	var number any = code.Code
	if n, err := strconv.Atoi(code.Code); err == nil {
		number = n
	}
	frame.WriteJSON(w, code.Status, map[string]any{
		"result": "error", "code": number, "description": code.Meaning, "reason": code.Meaning,
		"info": fmt.Sprintf("error code %s", code.Code), "trace_id": "Xdm" + rand.Text(),
	})
}

// finish writes success with its data.
func (s *Simulator) finish(w http.ResponseWriter, data map[string]any) {
	frame.WriteJSON(w, http.StatusOK, map[string]any{
		"result": "ok", "code": 0, "description": "success", "info": "Received push messages", "trace_id": "Xdm" + rand.Text(),
		"data": data,
	})
}
