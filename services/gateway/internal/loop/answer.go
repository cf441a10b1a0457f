package loop

import (
	"github.com/halleypush/halley/pkg/ordinal"
	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	"github.com/halleypush/halley/services/gateway/internal/session"
)

// KeptMessage is a message that pushcore kept for a device.
type KeptMessage struct {
	Message *session.Message
	User    string
}

// Opened is pushcore's answer to an Open.
type Opened struct {
	Ref           Ref
	Session       uint64
	Status        gatewayv1.Opened_Status
	PermissionOff bool
	Kept          []KeptMessage
	More          bool
}

// Pulled is pushcore's answer to a Pull. Failed means that there was none: the session asks again later.
type Pulled struct {
	Ref     Ref
	Session uint64
	Seq     uint16
	Failed  bool
	Open    bool
	Kept    []KeptMessage
	More    bool
}

// Answered is the answer to a Call.
type Answered struct {
	Ref    Ref
	Seq    uint16
	Answer session.Answer
}

// Opened passes answers to Opens on to their sessions.
func (s *Set) Opened(answers []Opened) {
	byLoop := map[*Loop]opened{}
	for _, a := range answers {
		byLoop[a.Ref.loop] = append(byLoop[a.Ref.loop], a)
	}
	for l, list := range byLoop {
		l.post(list)
	}
}

// Pulled passes answers to Pulls on to their sessions.
func (s *Set) Pulled(answers []Pulled) {
	byLoop := map[*Loop]pulled{}
	for _, a := range answers {
		byLoop[a.Ref.loop] = append(byLoop[a.Ref.loop], a)
	}
	for l, list := range byLoop {
		l.post(list)
	}
}

// Answered passes answers to Calls on to their sessions.
func (s *Set) Answered(answers []Answered) {
	byLoop := map[*Loop]answered{}
	for _, a := range answers {
		byLoop[a.Ref.loop] = append(byLoop[a.Ref.loop], a)
	}
	for l, list := range byLoop {
		l.post(list)
	}
}

type (
	opened   []Opened
	pulled   []Pulled
	answered []Answered
)

// live returns the session that an answer is for, if it is still there.
func (l *Loop) live(r Ref) *session.Session {
	if c := l.get(r); c != nil && c.state == stateLive {
		return &c.session
	}
	return nil
}

func (list opened) run(l *Loop) {
	for i := range list {
		a := &list[i]
		s := l.live(a.Ref)
		if s == nil {
			continue
		}
		l.set.metrics.opens.WithLabelValues(a.Status.String()).Inc()
		switch a.Status {
		case gatewayv1.Opened_OPEN:
			s.OnOpened(&l.out, l.clock, a.PermissionOff, l.kept(s, a.Kept), a.More)
		case gatewayv1.Opened_SUPERSEDED:
			s.Supersede(&l.out)
		default:
			s.Expel(&l.out)
		}
		l.perform(a.Ref.index)
	}
}

func (list pulled) run(l *Loop) {
	for i := range list {
		a := &list[i]
		s := l.live(a.Ref)
		if s == nil {
			continue
		}
		if a.Failed {
			s.PullFailed(a.Seq)
		} else {
			s.OnPulled(&l.out, l.clock, a.Seq, a.Open, l.kept(s, a.Kept), a.More)
		}
		l.perform(a.Ref.index)
	}
}

func (list answered) run(l *Loop) {
	for i := range list {
		a := &list[i]
		if s := l.live(a.Ref); s != nil {
			s.OnAnswer(&l.out, l.clock, a.Seq, a.Answer)
			l.perform(a.Ref.index)
			if l.live(a.Ref) != nil {
				l.goOn(a.Ref.index)
			}
		}
	}
}

// kept adds to kept messages what the loop knows of their hand-over before.
func (l *Loop) kept(s *session.Session, messages []KeptMessage) []session.Kept {
	kept := make([]session.Kept, len(messages))
	for i, m := range messages {
		kept[i] = session.Kept{Message: m.Message, User: m.User}
		if !m.Message.Audience {
			continue
		}
		key := pushSlice{appSlice{s.App.Number, ordinal.Slice(s.Ordinal)}, m.Message.ID}
		if h := l.memory[key]; h != nil {
			low := ordinal.Low(s.Ordinal)
			kept[i].Handed, kept[i].Proof = h.sent.Contains(low), h.proof(low)
		}
	}
	return kept
}
