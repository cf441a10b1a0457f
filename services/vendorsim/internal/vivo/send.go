package vivo

import (
	"crypto/rand"
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
)

// testDaily is how many test messages an app may send in a day, by classification.
var testDaily = [...]int{100, 10_000}

// aliasPrefix begins aliases in the record.
const aliasPrefix = "alias:"

// sending is a message on its way to devices.
type sending struct {
	message
	app    *app
	task   string // its id
	single bool
	list   frame.Sorted
}

// send answers a message for one device; regId wins over alias.
func (s *Simulator) send(w http.ResponseWriter, r *http.Request, a *app, body []byte) {
	m, ok := parse(body)
	if !ok {
		s.answer(w, badArgument)
		return
	}
	if code := m.check(a); code != "" {
		s.answer(w, code)
		return
	}
	token := m.RegID
	if token == "" && m.Alias != "" {
		token = aliasPrefix + m.Alias
	}
	if token == "" {
		s.answer(w, badArgument)
		return
	}
	list, code, err := s.decide(r, a, &m, token)
	if err != nil {
		return
	}
	if code == "" && list[0].Code != "" {
		s.frame.Answered("status "+list[0].Code, 1)
		s.finish(w, invalidUser, map[string]any{"invalidUser": invalid(list[0])})
		return
	}
	if code == "" {
		code = s.admit(a, &m, 1)
	}
	if code != "" {
		s.answer(w, code)
		return
	}
	n := sending{message: m, app: a, task: rand.Text(), single: true, list: list}
	s.record(r, &n, m.text)
	s.finish(w, success, map[string]any{"taskId": n.task})
}

// save stores the message of a list.
func (s *Simulator) save(w http.ResponseWriter, _ *http.Request, a *app, body []byte) {
	m, ok := parse(body)
	if !ok || m.ProfileID != "" {
		s.answer(w, badArgument)
		return
	}
	if code := m.check(a); code != "" {
		s.answer(w, code)
		return
	}
	// What a title asks for is answered when the list is sent, but for the code that only this call has.
	if v, _, _ := frame.Directive(m.Title); v.Code == payloadQuota && s.frame.ForRequest(a.Name, m.Title).Code == payloadQuota {
		s.answer(w, payloadQuota)
		return
	}
	s.finish(w, success, map[string]any{"taskId": s.drafts.Put(a.Name, m)})
}

// list answers a stored message for 2 to 1000 devices.
func (s *Simulator) list(w http.ResponseWriter, r *http.Request, a *app, body []byte) {
	var call struct {
		AppID     *int     `json:"appId"`
		TaskID    string   `json:"taskId"`
		RegIDs    []string `json:"regIds"`
		Aliases   []string `json:"aliases"`
		RequestID string   `json:"requestId"`
		PushMode  int      `json:"pushMode"`
	}
	if json.Unmarshal(body, &call) != nil {
		s.answer(w, badArgument)
		return
	}
	if call.AppID == nil || *call.AppID != a.ID {
		s.answer(w, appMismatch)
		return
	}
	tokens := call.RegIDs
	if len(tokens) == 0 {
		for _, alias := range call.Aliases {
			tokens = append(tokens, aliasPrefix+alias)
		}
	}
	draft, ok := s.drafts.Get(a.Name, call.TaskID)
	if !ok || len(tokens) < minList || len(tokens) > maxList || call.RequestID == "" || longer(call.RequestID, maxRequestID) ||
		call.PushMode < 0 || call.PushMode > 1 {
		s.answer(w, badArgument)
		return
	}
	m := draft.(message)
	m.RequestID, m.PushMode = call.RequestID, call.PushMode
	list, code, err := s.decide(r, a, &m, tokens...)
	if err != nil {
		return
	}
	if code == "" {
		code = s.admit(a, &m, len(list.Good()))
	}
	if code != "" {
		s.answer(w, code)
		return
	}
	s.record(r, &sending{message: m, app: a, task: call.TaskID, list: list}, m.text)
	fields := map[string]any{"taskId": call.TaskID}
	var users []user
	for _, t := range list {
		if t.Code != "" {
			users = append(users, invalid(t))
			s.frame.Answered("status "+t.Code, 1)
		}
	}
	if len(users) > 0 {
		fields["invalidUsers"] = users
	}
	s.finish(w, success, fields)
}

// all answers a message for everyone, once a day.
func (s *Simulator) all(w http.ResponseWriter, r *http.Request, a *app, body []byte) {
	m, ok := parse(body)
	if !ok {
		s.answer(w, badArgument)
		return
	}
	code := m.check(a)
	if code == "" {
		code = s.frame.ForRequest(a.Name, m.Title).Code
	}
	if code == "" && !s.daily.Take("all\n"+a.Name, 1) {
		code = broadcastQuota
	}
	if code != "" {
		s.answer(w, code)
		return
	}
	n := sending{message: m, app: a, task: rand.Text(), list: frame.Sorted{{Token: "all"}}}
	s.record(r, &n, m.text)
	s.finish(w, success, map[string]any{"taskId": n.task})
}

// user is a target that is not reached.
type user struct {
	Status int    `json:"status"`
	UserID string `json:"userid"`
}

func invalid(t frame.Target) user {
	status, _ := number(t.Code).(int) // the statuses are numbers
	return user{Status: status, UserID: strings.TrimPrefix(t.Token, aliasPrefix)}
}

// decide asks what becomes of a message and its targets. Test messages reach test devices alone.
func (s *Simulator) decide(r *http.Request, a *app, m *message, tokens ...string) (frame.Sorted, string, error) {
	if !m.inHours(a, s.frame.Now()) {
		return nil, outsideHours, nil
	}
	list, code, err := s.frame.Decide(r.Context(), s.devices, m.Title, frame.Targets{
		App: a.Name, Tokens: tokens, Dead: statusRemoved, Foreign: statusUnknown, Codes: Codes(),
	})
	for i := range list {
		if m.PushMode == 1 && list[i].Code == "" && !slices.Contains(a.TestDevices, list[i].Token) {
			list[i].Code = statusNotTester
		}
	}
	return list, code, err
}

// admit returns the code for n devices, if they are to be refused.
func (s *Simulator) admit(a *app, m *message, n int) string {
	quota := [...]string{operationQuota, systemQuota}[m.Classification]
	if m.PushMode == 1 {
		for range n {
			if !s.daily.Take("test\n"+a.Name+"\n"+quota, testDaily[m.Classification]) {
				return quota
			}
		}
	}
	switch s.frame.Admit(a.Name, n) {
	case frame.OverRate:
		return overRate
	case frame.OverQuota:
		return quota
	}
	return ""
}

// record remembers the good targets of a message, and queues their receipts.
func (s *Simulator) record(r *http.Request, n *sending, text string) {
	good := n.list.Good()
	if len(good) == 0 {
		return
	}
	accepted := frame.Accepted{
		At: s.frame.Now(), App: n.app.Name, Tokens: good, PushID: frame.PushID([]byte(text)), DedupID: n.RequestID, VendorID: n.task,
		Headers: frame.Headers(r), Body: text,
	}
	if !s.daily.Take("request\n"+n.app.Name+"\n"+n.RequestID, 1) {
		accepted.Notes = append(accepted.Notes, "a repeat of requestId")
	}
	s.frame.Record.Accept(accepted)
	s.receipts(n)
}
