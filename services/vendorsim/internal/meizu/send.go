package meizu

import (
	"crypto/rand"
	"net/http"
	"net/url"
	"strings"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
)

// targets names the field that holds a request's targets, and what they are called in the record.
type targets struct{ field, prefix string }

var (
	pushIDs = targets{field: "pushIds"}
	aliases = targets{field: "alias", prefix: "alias:"}
)

func (s *Simulator) byPushID(w http.ResponseWriter, r *http.Request, a *app, form url.Values) {
	s.direct(w, r, a, form, pushIDs)
}

func (s *Simulator) byAlias(w http.ResponseWriter, r *http.Request, a *app, form url.Values) {
	s.direct(w, r, a, form, aliases)
}

// direct sends the message of the request.
func (s *Simulator) direct(w http.ResponseWriter, r *http.Request, a *app, form url.Values, t targets) {
	m, code := parse(form.Get("messageJson"), a)
	if code != "" {
		s.answer(w, code, "")
		return
	}
	s.send(w, r, sending{app: a, message: m, id: "NS" + rand.Text()}, form, t)
}

// task stores a message.
func (s *Simulator) task(w http.ResponseWriter, _ *http.Request, a *app, form url.Values) {
	m, code := parse(form.Get("messageJson"), a)
	if code == "" && form.Get("pushType") != "0" {
		code = badParameter
	}
	if code != "" {
		s.answer(w, code, "")
		return
	}
	s.finish(w, map[string]any{"taskId": s.drafts.Put(a.Name, m)}, "")
}

func (s *Simulator) taskByPushID(w http.ResponseWriter, r *http.Request, a *app, form url.Values) {
	s.stored(w, r, a, form, pushIDs)
}

func (s *Simulator) taskByAlias(w http.ResponseWriter, r *http.Request, a *app, form url.Values) {
	s.stored(w, r, a, form, aliases)
}

// stored sends the message of a task.
func (s *Simulator) stored(w http.ResponseWriter, r *http.Request, a *app, form url.Values, t targets) {
	draft, ok := s.drafts.Get(a.Name, form.Get("taskId"))
	if !ok {
		s.answer(w, badTask, "")
		return
	}
	s.send(w, r, sending{app: a, message: draft.(message), id: "NS" + rand.Text()}, form, t)
}

// sending is a message on its way to devices.
type sending struct {
	message
	app  *app
	id   string // msgId
	list frame.Sorted
}

func (s *Simulator) send(w http.ResponseWriter, r *http.Request, n sending, form url.Values, t targets) {
	if form.Get(t.field) == "" {
		s.answer(w, empty, "")
		return
	}
	tokens := strings.Split(form.Get(t.field), ",")
	if len(tokens) > maxTargets {
		s.answer(w, badParameter, "")
		return
	}
	for i := range tokens {
		tokens[i] = t.prefix + tokens[i]
	}
	list, code, err := s.frame.Decide(r.Context(), s.devices, n.Bar.Title, frame.Targets{
		App: n.app.Name, Tokens: tokens, Dead: notRegistered, Foreign: illegal, Codes: Codes(),
	})
	if err != nil {
		return
	}
	if code == "" {
		s.countPublic(&n, list)
		code = s.admit(&n, list)
	}
	if code != "" {
		to := ""
		if code == redirect {
			to = s.frame.URL + r.URL.Path
		}
		s.answer(w, code, to)
		return
	}
	n.list = list
	s.record(r, &n)
	s.receipts(&n)
	bad := list.Bad()
	for code, tokens := range bad {
		s.frame.Answered("value "+code, len(tokens))
		for i := range tokens {
			tokens[i] = strings.TrimPrefix(tokens[i], t.prefix)
		}
	}
	if len(bad) == 0 {
		s.finish(w, "", n.id)
		return
	}
	s.finish(w, bad, n.id)
}

// countPublic marks the targets that have had their public messages of today.
func (s *Simulator) countPublic(n *sending, list frame.Sorted) {
	if n.app.PublicDaily == 0 || n.Bar.MsgType == 1 {
		return
	}
	for i := range list {
		if list[i].Code == "" && !s.daily.Take(n.app.Name+"\n"+list[i].Token, n.app.PublicDaily) {
			list[i].Code = publicQuota
		}
	}
}

// admit returns the code of a request that is to be refused as a whole: also if its only target is not registered or illegal.
func (s *Simulator) admit(n *sending, list frame.Sorted) string {
	if len(list) == 1 && (list[0].Code == notRegistered || list[0].Code == illegal) {
		return list[0].Code
	}
	switch s.frame.Admit(n.app.Name, len(list.Good())) {
	case frame.OverRate:
		return overRate
	case frame.OverQuota:
		return overQuota
	}
	return ""
}

// record remembers the good targets of a message.
func (s *Simulator) record(r *http.Request, n *sending) {
	good := n.list.Good()
	if len(good) == 0 {
		return
	}
	accepted := frame.Accepted{
		At: s.frame.Now(), App: n.app.Name, Tokens: good, PushID: frame.PushID([]byte(n.text)), VendorID: n.id,
		Headers: frame.Headers(r), Body: n.text,
	}
	if n.Click.Type == 3 {
		accepted.Notes = []string{"clickType 3 is retired: it does not open anything on Android 12"}
	}
	s.frame.Record.Accept(accepted)
}
