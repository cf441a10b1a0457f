package honor

import (
	"crypto/rand"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
)

// testDaily is how many test messages an app may send in a day.
const testDaily = 1000

// send accepts a message for up to 1000 devices.
func (s *Simulator) send(w http.ResponseWriter, r *http.Request, id string) {
	a := s.byID(id)
	if a == nil {
		s.answer(w, honors, wrongApp)
		return
	}
	d := a.dialect()
	if code := s.authenticate(r, a); code != "" {
		s.answer(w, d, code)
		return
	}
	if a.Disabled {
		s.answer(w, d, notAllowed)
		return
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		s.answer(w, d, badStructure)
		return
	}
	body, err := frame.ReadBody(w, r)
	if err != nil {
		s.answer(w, d, tooLong)
		return
	}
	m, code := parse(body)
	if code != "" {
		s.answer(w, d, code)
		return
	}
	s.accept(w, r, a, m, body)
}

// accept answers a good request.
func (s *Simulator) accept(w http.ResponseWriter, r *http.Request, a *app, m message, body []byte) {
	title, _ := m.shown()
	list, code, err := s.frame.Decide(r.Context(), s.devices, title, frame.Targets{
		App: a.Name, Tokens: m.tokens, Dead: expireTokens, Foreign: expireTokens, Codes: Codes(),
	})
	if err != nil {
		return
	}
	good := list.Good()
	switch {
	case code != "":
	case len(good) == 0 && len(list.Bad()[failTokens]) == 0:
		code = allInvalid
	// No code is documented for quotas that are spent.
	case m.Android.TargetUserType == 1 && !s.daily.Take("test "+a.Name, testDaily), s.frame.Admit(a.Name, len(good)) != frame.Admitted:
		code = traffic
	default:
		code = success
	}
	id := rand.Text()
	if code == success && len(good) > 0 {
		s.frame.Record.Accept(frame.Accepted{
			At: s.frame.Now(), App: a.Name, Tokens: good, PushID: frame.PushID(body), VendorID: id,
			Headers: frame.Headers(r), Body: string(body),
		})
		s.receipts(a, m, list, id)
	}
	s.finish(w, a.dialect(), result{code: code, id: id, bad: list.Bad()})
}

// result is what a request is answered with.
type result struct {
	code string
	id   string
	bad  map[string][]string
}

// formHuawei is the form of answers that one client expects, possibly copied from Huawei.
const formHuawei = "huawei"

// dialect is how answers are written: the code for success, and the name of the message.
type dialect struct{ success, message string }

var (
	honors = dialect{success: success, message: "message"}
	others = dialect{success: "80000000", message: "msg"}
)

func (a *app) dialect() dialect {
	if a.Answers == formHuawei {
		return others
	}
	return honors
}

// answer writes a code that no lists belong to.
func (s *Simulator) answer(w http.ResponseWriter, d dialect, name string) {
	s.finish(w, d, result{code: name, id: rand.Text()})
}

// finish writes an answer and counts it.
func (s *Simulator) finish(w http.ResponseWriter, d dialect, o result) {
	code := frame.Wanted(Codes(), frame.InAnswer, o.code)
	s.frame.Answered(code.Code, 1)
	for name, tokens := range o.bad {
		s.frame.Answered(name, len(tokens))
	}
	if len(code.Code) == 3 && code.Code != success {
		frame.RetryAfter(w, s.retryAfter(code))
		http.Error(w, strings.ToLower(code.Meaning), code.Status)
		return
	}
	frame.WriteJSON(w, code.Status, map[string]any{
		"code": d.number(code.Code), d.message: code.Meaning,
		"data": map[string]any{
			"sendResult": code.Code == success, "requestId": o.id,
			failTokens: append([]string{}, o.bad[failTokens]...), expireTokens: append([]string{}, o.bad[expireTokens]...),
		},
	})
}

// number returns a code as the dialect has it: Honor's own is a number, Huawei's a text.
func (d dialect) number(code string) any {
	if code == success {
		code = d.success
	}
	if n, err := strconv.Atoi(code); err == nil && d == honors {
		return n
	}
	return code
}

func (s *Simulator) retryAfter(c frame.Code) frame.Duration {
	if c.Group == frame.Rate {
		return s.frame.Switches().Limit.RetryAfter
	}
	return 0
}
