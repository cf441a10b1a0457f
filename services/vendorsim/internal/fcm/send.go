package fcm

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"strings"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
)

// send accepts one message.
func (s *Simulator) send(w http.ResponseWriter, r *http.Request, project string) {
	a, ok := s.authenticate(r)
	if !ok {
		s.fail(w, fault{code: unauthenticated, message: "Request had invalid authentication credentials."})
		return
	}
	if a.NoRole || a.Account.ProjectID != project {
		s.fail(w, fault{code: permissionDenied, message: "Permission 'cloudmessaging.messages.create' denied"})
		return
	}
	body, err := frame.ReadBody(w, r)
	if err != nil {
		s.fail(w, *wrong("", "the request is too big"))
		return
	}
	m, f := parse(body)
	if f == nil {
		f = s.decide(r, a, m)
	}
	if f != nil {
		s.fail(w, *f)
		return
	}
	id := fmt.Sprintf("0:%d%%%s", s.frame.Now().UnixMicro(), strings.ToLower(rand.Text()[:16]))
	if m.validateOnly {
		id = "fake_message_id"
	} else {
		token := m.token
		if token == "" {
			token = "topic:" + m.topic
		}
		s.frame.Record.Accept(frame.Accepted{
			At: s.frame.Now(), App: a.Name, Tokens: []string{token}, PushID: frame.PushID(body), VendorID: id,
			Headers: frame.Headers(r), Body: string(body),
		})
	}
	s.frame.Answered(success, 1)
	frame.WriteJSON(w, http.StatusOK, map[string]string{"name": "projects/" + project + "/messages/" + id})
}

// decide asks the switches, the token and the limits about a good message.
func (s *Simulator) decide(r *http.Request, a *app, m message) *fault {
	request := s.frame.ForRequest(a.Name, m.title)
	if !frame.Pause(r.Context(), request.Delay) {
		return &fault{code: unavailable}
	}
	if request.Code != "" && request.Code != success {
		return &fault{code: request.Code}
	}
	if m.token != "" {
		token := s.frame.ForToken(a.Name, m.token)
		if !frame.Pause(r.Context(), token.Delay) {
			return &fault{code: unavailable}
		}
		switch owner := s.owner(m.token); {
		case token.Code != "" && token.Code != success:
			return &fault{code: token.Code, token: true}
		case token.Invalid:
			return &fault{code: unregistered}
		case strings.ContainsAny(m.token, " \t\r\n/") && !strings.HasPrefix(m.token, "sim:"):
			return &fault{code: invalidArgument, token: true}
		case owner != "" && owner != a.Account.ProjectID:
			return &fault{code: senderMismatch}
		}
	}
	// A project's default is 600,000 a minute. The switch sets what there is; a daily quota is not FCM's, and answered alike.
	if !m.validateOnly && s.frame.Admit(a.Name, 1) != frame.Admitted {
		return &fault{code: quotaExceeded}
	}
	return nil
}
