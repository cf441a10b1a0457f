package device

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/eclipse/paho.golang/paho"
)

const (
	methodReport = "report"
	methodBind   = "bind"
	methodUnbind = "unbind"
	methodAttach = "attach"
	methodDetach = "detach"
	// answerWithin is when a call is sent again.
	answerWithin = 20 * time.Second
	// keepGone is how many users are remembered that the device has unbound itself from.
	keepGone = 100
)

// Error is the server's refusal of a call or of events.
type Error struct {
	// Code is a gRPC code's name, such as INVALID_ARGUMENT.
	Code    string
	Message string
	// Field is the field at fault, if one is.
	Field string
	// RetryAfter is how long to wait before the next try, if waiting helps.
	RetryAfter time.Duration
}

func (e *Error) Error() string {
	if e.Field == "" || strings.HasPrefix(e.Message, e.Field+":") {
		return e.Code + ": " + e.Message
	}
	return e.Code + ": " + e.Field + ": " + e.Message
}

// temporary reports whether the same call may succeed later.
func (e *Error) temporary() bool {
	return e.Code == "UNAVAILABLE" || e.Code == "RESOURCE_EXHAUSTED"
}

// reply is the payload on a reply topic.
type reply struct {
	ID    string          `json:"id"`
	OK    json.RawMessage `json:"ok"`
	Error *struct {
		Code         string `json:"code"`
		Message      string `json:"message"`
		Field        string `json:"field"`
		RetryAfterMS int64  `json:"retry_after_ms"`
	} `json:"error"`
}

// Bind binds the device to a user of the app and returns the opaque id that messages for this user carry. proof is a JWT from
// the business server; it may be empty where the app's bind policy is OPEN. Bind waits for a connection and tries again until
// ctx ends while the server is not available; a refusal is an *Error. If ctx ends first it is not known whether the user is
// bound, and messages for unknown users wait until a later Bind or Unbind of that user has an answer.
func (d *member) Bind(ctx context.Context, user, proof string) (id string, err error) {
	if user == "" {
		return "", errors.New("bind: the user is missing")
	}
	leave, err := d.enterBinding(ctx)
	if err != nil {
		return "", err
	}
	defer leave()
	err = d.update(ctx, func(i *Identity) {
		if !slices.Contains(i.Doubtful, user) {
			i.Doubtful = append(i.Doubtful, user)
		}
		i.Gone = slices.DeleteFunc(i.Gone, func(b Binding) bool { return b.User == user })
	})
	if err != nil {
		return "", err
	}
	var ok struct {
		User string `json:"user"`
	}
	err = d.call(ctx, methodBind, map[string]any{"user": user, "proof": proof}, &ok)
	var refusal *Error
	if err != nil && !errors.As(err, &refusal) {
		return "", err
	}
	stored := d.update(context.WithoutCancel(ctx), func(i *Identity) {
		i.settle(user)
		if err == nil {
			if i.Users == nil {
				i.Users = map[string]string{}
			}
			i.Users[user] = ok.User
		}
	})
	return ok.User, errors.Join(err, stored)
}

// Unbind ends the device's binding to a user, or to all users if user is empty. Messages for the user are dropped from this
// call on, whatever becomes of it. It waits and tries again as Bind does.
func (d *member) Unbind(ctx context.Context, user string) error {
	leave, err := d.enterBinding(ctx)
	if err != nil {
		return err
	}
	defer leave()
	err = d.update(ctx, func(i *Identity) {
		for _, name := range slices.Sorted(maps.Keys(i.Users)) {
			if user == "" || user == name {
				i.Gone = append(i.Gone, Binding{name, i.Users[name]})
				delete(i.Users, name)
			}
		}
		i.Gone = i.Gone[max(0, len(i.Gone)-keepGone):]
	})
	if err != nil {
		return err
	}
	body := map[string]any{}
	if user != "" {
		body["user"] = user
	}
	if err := d.call(ctx, methodUnbind, body, nil); err != nil {
		return err
	}
	return d.update(context.WithoutCancel(ctx), func(i *Identity) { i.settle(user) })
}

// settle notes that it is known whether a user is bound; an empty name stands for all.
func (i *Identity) settle(user string) {
	i.Doubtful = slices.DeleteFunc(i.Doubtful, func(name string) bool { return user == "" || user == name })
}

// enterBinding waits for its turn to bind or unbind. Messages for unknown users wait until leave is called.
func (d *member) enterBinding(ctx context.Context) (leave func(), err error) {
	select {
	case d.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	under := make(chan struct{})
	d.mu.Lock()
	d.binding = under
	d.mu.Unlock()
	return func() {
		d.mu.Lock()
		d.binding = nil
		d.mu.Unlock()
		close(under)
		<-d.turn
	}, nil
}

// Report tells the server what has changed on the device. It waits and tries again as Bind does. After a restart the device
// sends Options.Report again if that says something else.
func (d *member) Report(ctx context.Context, r Report) error {
	d.mu.Lock()
	whole, err := d.report.with(r)
	if err == nil {
		d.report = whole
	}
	d.mu.Unlock()
	if err != nil {
		return fmt.Errorf("encode the report: %w", err)
	}
	if err := d.call(ctx, methodReport, r, nil); err != nil {
		return err
	}
	return d.update(context.WithoutCancel(ctx), func(i *Identity) { i.Reported = whole.digest() })
}

// sendReport sends the report on a new connection if the server does not have it yet.
func (d *member) sendReport(s *session) {
	d.mu.Lock()
	report, reported := d.report, d.identity.Reported
	d.mu.Unlock()
	digest := report.digest()
	if digest == (Report{}).digest() || digest == reported {
		return
	}
	err := d.call(s.ctx, methodReport, report, nil)
	if err == nil {
		err = d.update(s.ctx, func(i *Identity) { i.Reported = digest })
	}
	if err != nil && s.ctx.Err() == nil {
		d.log.WarnContext(s.ctx, "the report was not taken", "error", err)
	}
}

func (r Report) digest() string {
	text, err := json.Marshal(r)
	if err != nil {
		return "" // a report has nothing that cannot be encoded; sent once too often at worst
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// call sends a request and decodes its answer into ok. It goes on until there is one, or ctx ends, or Run.
func (d *member) call(ctx context.Context, method string, body, ok any) error {
	pause := d.backoff
	for attempt := 0; ; attempt++ {
		answer, err := d.ask(ctx, method, body)
		var refusal *Error
		switch {
		case err == nil && ok != nil:
			if err := json.Unmarshal(answer, ok); err != nil {
				return fmt.Errorf("%s: the answer: %w", method, err)
			}
			return nil
		case err == nil:
			return nil
		case ctx.Err() != nil || d.life.Err() != nil || errors.As(err, &refusal) && !refusal.temporary():
			return fmt.Errorf("%s: %w", method, err)
		}
		d.log.DebugContext(ctx, "a call is tried again", "method", method, "error", err)
		wait := pause.after(attempt)
		if refusal != nil && refusal.RetryAfter > 0 {
			wait = spread(refusal.RetryAfter)
		}
		if err := sleep(ctx, wait); err != nil {
			return fmt.Errorf("%s: %w; the last answer was: %w", method, err, errOr(refusal))
		}
	}
}

// errOr keeps a nil *Error from becoming an error that is not nil.
func errOr(e *Error) error {
	if e == nil {
		return errors.New("none")
	}
	return e
}

// ask sends a request once and returns its answer.
func (d *member) ask(ctx context.Context, method string, body any) (json.RawMessage, error) {
	s, err := d.connected(ctx)
	if err != nil {
		return nil, err
	}
	return d.askOn(ctx, s, method, body)
}

// askOn is ask on a given connection.
func (d *member) askOn(ctx context.Context, s *session, method string, body any) (json.RawMessage, error) {
	id, payload, err := withID(body)
	if err != nil {
		return nil, err
	}
	answers := make(chan reply, 1)
	s.mu.Lock()
	s.calls[id] = answers
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.calls, id)
		s.mu.Unlock()
	}()
	within, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	if err := s.publish(within, "call/"+d.app+"/"+method, payload); err != nil {
		return nil, err
	}
	select {
	case answer := <-answers:
		if e := answer.Error; e != nil {
			return nil, &Error{e.Code, e.Message, e.Field, min(time.Duration(e.RetryAfterMS)*time.Millisecond, maxRetryAfter)}
		}
		return answer.OK, nil
	case <-s.ctx.Done():
		return nil, context.Cause(s.ctx)
	case <-within.Done():
		return nil, fmt.Errorf("no answer: %w", context.Cause(within))
	}
}

// withID encodes a body with a random id, by which its answer is found.
func withID(body any) (id string, payload []byte, err error) {
	text, err := json.Marshal(body)
	if err != nil {
		return "", nil, fmt.Errorf("encode the call: %w", err)
	}
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(text, &fields); err != nil {
		return "", nil, fmt.Errorf("encode the call: %w", err)
	}
	id = rand.Text()
	fields["id"] = json.RawMessage(`"` + id + `"`)
	payload, err = json.Marshal(fields)
	return id, payload, err
}

// answer gives a reply to the call that waits for it; others come too late.
func (s *session) answer(payload []byte) {
	var r reply
	if json.Unmarshal(payload, &r) != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if waiting := s.calls[r.ID]; waiting != nil {
		waiting <- r // it has room, and gets one answer only
		delete(s.calls, r.ID)
	}
}

// publish sends with QoS 1 and returns after the PUBACK.
func (s *session) publish(ctx context.Context, topic string, payload []byte) error {
	ctx, cancel := s.within(ctx)
	defer cancel()
	response, err := s.client.Publish(ctx, &paho.Publish{Topic: topic, QoS: 1, Payload: payload})
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case response != nil && response.ReasonCode >= firstErrorCode:
		return pubackError(response)
	}
	return err
}

// pubackError translates a refusal into what a call's error would be.
func pubackError(r *paho.PublishResponse) error {
	e := &Error{Code: "INVALID_ARGUMENT", Message: fmt.Sprintf("the server refused it with 0x%02X", r.ReasonCode)}
	if r.Properties != nil && r.Properties.ReasonString != "" {
		e.Message = r.Properties.ReasonString
	}
	switch r.ReasonCode {
	case 0x87:
		e.Code = "PERMISSION_DENIED"
	case 0x97:
		e.Code = "RESOURCE_EXHAUSTED"
	}
	return e
}
