package device

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/eclipse/paho.golang/paho"
)

// bindPatience is how long a message waits for a Bind that is under way.
const bindPatience = 10 * time.Second

// Counts tells what became of messages since New.
type Counts struct {
	// Handled were taken by OnMessage, Failed refused by it: those come again.
	Handled, Failed uint64
	// Repeats had been handled before; OtherUser were for a user that is not bound here; Unknown were of a kind, or in a
	// form, that this SDK does not know. All of these were acknowledged.
	Repeats, OtherUser, Unknown uint64
	// Undecided were for a user of whom it is not known whether he is bound, because a Bind had no answer: those come again.
	Undecided uint64
	// Dropped found no room, though the server may send only so many at a time. Those of QoS 1 come again.
	Dropped uint64
}

type counters struct {
	handled, failed, repeats, otherUser, unknown, undecided, dropped atomic.Uint64
}

// Counts returns what became of messages since New.
func (d *member) Counts() Counts {
	c := &d.counts
	return Counts{
		Handled: c.handled.Load(), Failed: c.failed.Load(), Repeats: c.repeats.Load(), OtherUser: c.otherUser.Load(),
		Unknown: c.unknown.Load(), Undecided: c.undecided.Load(), Dropped: c.dropped.Load(),
	}
}

// seat is a device's place on a connection.
type seat struct {
	member *member
	inbox  chan *paho.Publish
	notice chan []byte // has room for one: the server has ended its session, but not the connection
}

// sit gives a device a place on the connection: from now on messages for it are kept until they are handled.
func (s *session) sit(m *member) *seat {
	place := &seat{member: m, inbox: make(chan *paho.Publish, inboxSize), notice: make(chan []byte, 1)}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seats[m.app] = place
	return place
}

// stand gives the place up. Messages that come still are not acknowledged: they come again.
func (s *session) stand(m *member) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.seats, m.app)
}

// receive takes what the server publishes, and never blocks: answers go to their calls, messages to the inbox of the device
// that they are for, which their topic says.
func (d *Device) receive(s *session) func(paho.PublishReceived) (bool, error) {
	return func(p paho.PublishReceived) (bool, error) {
		kind, topic, _ := strings.Cut(p.Packet.Topic, "/")
		app, method, _ := strings.Cut(topic, "/")
		s.mu.Lock()
		place := s.seats[app]
		s.mu.Unlock()
		switch {
		case kind == "reply" && method == methodDetach && app != d.app && place != nil: // calls to detach are not a guest's
			select {
			case place.notice <- p.Packet.Payload:
			default: // it knows
			}
			s.ack(p.Packet)
		case kind == "reply":
			s.answer(p.Packet.Payload)
			s.ack(p.Packet)
		case kind == "push" && place != nil:
			select {
			case place.inbox <- p.Packet:
			default:
				place.member.counts.dropped.Add(1)
			}
		}
		return true, nil
	}
}

// ack acknowledges a message. If that fails the connection is gone, and the message comes again.
func (s *session) ack(p *paho.Publish) {
	if p.QoS > 0 {
		_ = s.state.Ack(p.Packet())
	}
}

// handleAll handles the device's messages, one at a time, until its place on the connection is given up, or the connection;
// ctx is Run's.
func (d *member) handleAll(ctx context.Context, s *session, place *seat, up <-chan struct{}) {
	for {
		select {
		case <-up:
			return
		case p := <-place.inbox:
			select {
			case <-up:
				return
			case d.handling <- struct{}{}:
			}
			done := d.handle(ctx, s, p.Payload)
			select {
			case <-up: // its packet identifier may be another message's by now
			default:
				if done {
					s.ack(p)
				}
			}
			<-d.handling
		}
	}
}

// handle reports whether a message is done with, now or before, so that it can be acknowledged. d.handling is taken.
func (d *member) handle(ctx context.Context, s *session, payload []byte) bool {
	var m Message
	if err := json.Unmarshal(payload, &m); err != nil || m.PushID == "" || !m.known() {
		d.counts.unknown.Add(1)
		d.log.WarnContext(ctx, "a message that this SDK does not know is passed over", "push_id", m.PushID, "kind", m.Kind)
		return true
	}
	key := m.key()
	if d.seen.has(key) {
		d.counts.repeats.Add(1)
		return true
	}
	switch d.isFor(s, m.User) {
	case someoneElse:
		d.counts.otherUser.Add(1)
		return true
	case undecided:
		d.counts.undecided.Add(1)
		return false
	}
	if err := d.onMessage(ctx, m); err != nil {
		d.counts.failed.Add(1)
		d.log.WarnContext(ctx, "the message is left for the next connection", "push_id", m.PushID, "error", err)
		return false
	}
	d.counts.handled.Add(1)
	d.seen.add(key)
	if err := d.store.AddSeen(ctx, key); err != nil {
		d.log.ErrorContext(ctx, "the push id cannot be stored: the message is left for the next connection",
			"push_id", m.PushID, "error", err)
		return false
	}
	return true
}

func (m *Message) known() bool {
	return m.Kind == Notification || m.Kind == Data || m.Kind == Revoke
}

// key is what repeats of a message have in common. A revocation carries the push id of what it revokes.
func (m *Message) key() string {
	if m.Kind == Revoke {
		return "revoke " + m.PushID
	}
	return m.PushID
}

type verdict int

const (
	forUs verdict = iota
	someoneElse
	undecided
)

// isFor says whether a message for a user may be shown here. Once the device has bound itself to users, only they may have
// messages here. Until then the business server binds, and the device takes what comes, but for users that it has unbound
// itself from. While a Bind is under way it waits for the answer, which names the user.
func (d *member) isFor(s *session, user string) verdict {
	if user == "" {
		return forUs
	}
	patience := time.After(bindPatience)
	for {
		d.mu.Lock()
		i, binding := d.identity, d.binding
		d.mu.Unlock()
		for _, id := range i.Users {
			if id == user {
				return forUs
			}
		}
		switch {
		case binding != nil:
			select {
			case <-binding:
				continue
			case <-patience:
				return undecided
			case <-s.ctx.Done():
				return undecided
			}
		case slices.ContainsFunc(i.Gone, func(b Binding) bool { return b.ID == user }):
			return someoneElse
		case len(i.Doubtful) > 0:
			return undecided
		case len(i.Users) > 0:
			return someoneElse
		}
		return forUs
	}
}

// String names the counts.
func (c Counts) String() string {
	return fmt.Sprintf("handled %d, failed %d, repeats %d, other user %d, unknown %d, undecided %d, dropped %d",
		c.Handled, c.Failed, c.Repeats, c.OtherUser, c.Unknown, c.Undecided, c.Dropped)
}
