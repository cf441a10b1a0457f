// Package message holds pushes as they were accepted: their content, the phone JSON that every receiver gets, and the
// canonical hash that idempotency keys are bound to.
package message

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/halleypush/halley/pkg/phonejson"
	devicev1 "github.com/halleypush/halley/proto/halley/device/v1"
	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	"github.com/halleypush/halley/services/pushcore/internal/fault"
)

const (
	// MaxContent is how many bytes the content of a push may have: the content fields of its phone JSON, and its overrides
	// as JSON.
	MaxContent = 4096
	// DefaultTTL is how long a push without ttl is kept.
	DefaultTTL = 24 * time.Hour
	// OnlineOnlyFor is how long a push with ttl 0 may wait for the confirmation of a device that is online.
	OnlineOnlyFor = 30 * time.Second
)

// Push is an accepted push. It is immutable.
type Push struct {
	ID      uuid.UUID
	App     uint32
	Request *pushv1.PushRequest
	Created time.Time
	Expires time.Time
	// Slices is how many slices an audience push has; 0 for a direct push.
	Slices int
	// Buckets are the storage buckets of a direct push's deliveries.
	Buckets []int16
	// Trace is the W3C traceparent of the call that accepted the push; empty if it was not sampled.
	Trace string

	body *gatewayv1.Body
}

// New returns a push and builds what gateways hand over for it.
func New(p Push) (*Push, error) {
	json, err := phonejson.Marshal(phoneMessage(&p))
	if err != nil {
		return nil, fmt.Errorf("encode push %s for phones: %w", p.ID, err)
	}
	p.body = &gatewayv1.Body{
		PushId:       p.ID[:],
		Json:         json,
		Qos:          p.QoS(),
		ExpiresAt:    p.Expires.UnixMilli(),
		Audience:     p.Slices > 0,
		Notification: p.Notification(),
		Trace:        p.Trace,
	}
	return &p, nil
}

// Body returns the push as gateways hand it over. It is shared: do not change it.
func (p *Push) Body() *gatewayv1.Body { return p.body }

// Notification reports whether the system shows the push.
func (p *Push) Notification() bool { return p.Request.GetNotification() != nil }

// CollapseKey returns the push's collapse key, empty if it has none.
func (p *Push) CollapseKey() string { return p.Request.GetPolicy().GetCollapseKey() }

// Way returns how the push goes: the own connection and the vendors' channels, and in which order.
func (p *Push) Way() pushv1.Policy_Channel { return Way(p.Request) }

// QoS returns 1, or 0 for fire and forget.
func (p *Push) QoS() uint32 { return QoS(p.Request) }

// OnlineOnly reports whether the push is only for devices that are online now.
func (p *Push) OnlineOnly() bool { return OnlineOnly(p.Request) }

// QoS returns a request's QoS, 1 if it names none.
func QoS(r *pushv1.PushRequest) uint32 {
	if policy := r.GetPolicy(); policy != nil && policy.Qos != nil {
		return policy.GetQos()
	}
	return 1
}

// Way returns how a request's push goes; OWN_FIRST if it does not say.
func Way(r *pushv1.PushRequest) pushv1.Policy_Channel {
	if way := r.GetPolicy().GetChannel(); way != pushv1.Policy_CHANNEL_UNSPECIFIED {
		return way
	}
	return pushv1.Policy_OWN_FIRST
}

// OnlineOnly reports whether a request has ttl 0.
func OnlineOnly(r *pushv1.PushRequest) bool {
	ttl := r.GetPolicy().GetTtl()
	return ttl != nil && ttl.AsDuration() == 0
}

// KeptFor returns how long after its creation a request's push expires.
func KeptFor(r *pushv1.PushRequest) time.Duration {
	switch ttl := r.GetPolicy().GetTtl(); {
	case ttl == nil:
		return DefaultTTL
	case OnlineOnly(r):
		return OnlineOnlyFor
	default:
		return ttl.AsDuration()
	}
}

func phoneMessage(p *Push) *devicev1.Message {
	m := content(p.Request)
	m.PushId = p.ID.String()
	m.CollapseKey = p.CollapseKey()
	m.Priority = devicev1.Message_Priority(p.Request.GetPolicy().GetPriority())
	if m.Priority == devicev1.Message_PRIORITY_UNSPECIFIED {
		m.Priority = devicev1.Message_NORMAL
	}
	m.SentAt = p.Created.UnixMilli()
	m.ExpiresAt = p.Expires.UnixMilli()
	return m
}

// content returns the part of a phone's message that the business server wrote.
func content(r *pushv1.PushRequest) *devicev1.Message {
	m := &devicev1.Message{Kind: devicev1.Message_DATA, Data: r.GetData(), Payload: r.GetPayload()}
	n := r.GetNotification()
	if n == nil {
		return m
	}
	m.Kind = devicev1.Message_NOTIFICATION
	m.Title, m.Subtitle, m.Body, m.Image = n.GetTitle(), n.GetSubtitle(), n.GetBody(), n.GetImage()
	m.Sound, m.Group, m.ChannelId = n.GetSound(), n.GetGroup(), n.GetChannelId()
	if c := n.GetClick(); c != nil {
		m.Click = &devicev1.Click{Type: devicev1.Click_Type(c.GetType()), Value: c.GetValue()}
	}
	switch badge := n.GetBadge().GetChange().(type) {
	case *pushv1.Badge_Set:
		m.Badge = &devicev1.Badge{Change: &devicev1.Badge_Set{Set: badge.Set}}
	case *pushv1.Badge_Add:
		m.Badge = &devicev1.Badge{Change: &devicev1.Badge_Add{Add: badge.Add}}
	}
	return m
}

// Check finds what the rules on the fields cannot say: what is not built yet, and content that is too large.
func Check(r *pushv1.PushRequest) error {
	switch r.GetAudience().GetTarget().(type) {
	case *pushv1.Audience_Expression:
		return fault.Unimplemented("audience.expression", "tag expressions are not built yet")
	case *pushv1.Audience_List:
		return fault.Unimplemented("audience.list", "uploaded lists are not built yet")
	}
	encoded, err := phonejson.Marshal(content(r))
	if err != nil {
		return fault.Invalid("notification", "cannot be encoded: %v", err)
	}
	size := len(encoded)
	if len(r.GetOverrides()) > 0 {
		overrides, err := json.Marshal(overrideMap(r))
		if err != nil {
			return fault.Invalid("overrides", "cannot be encoded: %v", err)
		}
		size += len(overrides)
	}
	if size > MaxContent {
		return fault.Invalid("notification", "the content of a push may have %d bytes as JSON, overrides included; this has %d",
			MaxContent, size)
	}
	return nil
}

func overrideMap(r *pushv1.PushRequest) map[string]map[string]any {
	m := make(map[string]map[string]any, len(r.GetOverrides()))
	for channel, fields := range r.GetOverrides() {
		m[channel] = fields.AsMap()
	}
	return m
}

// Encode returns a request as it is stored.
func Encode(r *pushv1.PushRequest) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(r)
}
