package oppo

import (
	"crypto/rand"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
)

// save stores a notification for broadcasts.
func (s *Simulator) save(w http.ResponseWriter, _ *http.Request, a *app, f form) {
	n := flat(f)
	if code := n.check(a); code != "" {
		s.answer(w, code)
		return
	}
	s.finish(w, map[string]string{"message_id": s.drafts.Put(a.Name, n)})
}

// broadcast sends a stored notification to up to 1000 registration ids (L), or to everyone.
func (s *Simulator) broadcast(w http.ResponseWriter, r *http.Request, a *app, f form) {
	kind := f.Get("target_type")
	switch {
	case f.Get("message_id") == "" || kind == "" || f.Get("target_value") == "" && kind != targetAll:
		s.answer(w, missing)
		return
	case kind != targetAll && kind != targetRegID && kind != targetAlias && kind != targetOldAlias:
		s.answer(w, badValue)
		return
	}
	draft, ok := s.drafts.Get(a.Name, f.Get("message_id"))
	if !ok {
		s.answer(w, absent)
		return
	}
	n := draft.(notification)
	tokens := strings.Split(f.Get("target_value"), ";")
	if kind == targetAll {
		tokens = []string{"all"}
	}
	if len(tokens) > maxBatch {
		s.answer(w, badValue)
		return
	}
	list, code, err := s.frame.Decide(r.Context(), s.devices, n["title"], targets(a, kind, tokens...))
	if err != nil {
		return
	}
	if code == "" {
		code = s.admit(a, len(list.Good()))
	}
	if code != "" {
		s.answer(w, code)
		return
	}
	text, _ := json.Marshal(n) // texts can be encoded
	task := rand.Text()
	s.record(a, sending{headers: frame.Headers(r), notification: n, kind: kind, id: f.Get("message_id"), task: task, text: string(text)}, list)
	data := map[string]any{"message_id": f.Get("message_id"), "task_id": task}
	for name, bad := range list.Bad() { // the form of this is from memory (M)
		data[name] = bad
		s.frame.Answered(name, len(bad))
	}
	s.finish(w, data)
}
