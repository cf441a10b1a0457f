package message

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"hash"
	"slices"

	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
)

// Hash returns the SHA-256 over a canonical list of everything that makes a push what it is: two requests with the same
// hash ask for the same. It does not depend on how a request was encoded (gRPC or REST), on the order of map keys and
// targets, or on whether a default was written out. The idempotency key is not part of it.
//
// Version 1. A field that is added later must leave the hash of requests without it as it is.
func Hash(r *pushv1.PushRequest) [sha256.Size]byte {
	w := canonical{sha256.New()}
	w.text("halley push 1")
	w.audience(r.GetAudience())
	if n := r.GetNotification(); n != nil {
		w.text("notification")
		for _, s := range []string{
			n.GetTitle(), n.GetBody(), n.GetSubtitle(), n.GetImage(), n.GetSound(), n.GetGroup(), n.GetChannelId(),
		} {
			w.text(s)
		}
		w.number(int64(n.GetClick().GetType()))
		w.text(n.GetClick().GetValue())
		switch badge := n.GetBadge().GetChange().(type) {
		case *pushv1.Badge_Set:
			w.text("set")
			w.number(int64(badge.Set))
		case *pushv1.Badge_Add:
			w.text("add")
			w.number(int64(badge.Add))
		}
	}
	w.json("data", r.GetData(), len(r.GetData()))
	w.text(r.GetPayload())
	w.json("overrides", overrideMap(r), len(r.GetOverrides()))
	w.policy(r)
	return [sha256.Size]byte(w.Sum(nil))
}

// canonical writes each value with its length in front, so that no two lists of values look the same.
type canonical struct{ hash.Hash }

func (w canonical) text(s string) {
	w.number(int64(len(s)))
	w.Write([]byte(s))
}

func (w canonical) number(n int64) { w.Write(binary.BigEndian.AppendUint64(nil, uint64(n))) }

func (w canonical) texts(list []string) {
	sorted := slices.Clone(list)
	slices.Sort(sorted)
	sorted = slices.Compact(sorted)
	w.number(int64(len(sorted)))
	for _, s := range sorted {
		w.text(s)
	}
}

// json writes a map as encoding/json does, which sorts keys at every level.
func (w canonical) json(name string, value any, size int) {
	if size == 0 {
		return
	}
	encoded, err := json.Marshal(value)
	if err != nil { // maps of strings and of what google.protobuf.Struct can hold always encode
		panic(err)
	}
	w.text(name)
	w.text(string(encoded))
}

func (w canonical) audience(a *pushv1.Audience) {
	switch target := a.GetTarget().(type) {
	case *pushv1.Audience_Devices_:
		w.text("devices")
		w.texts(target.Devices.GetTokens())
	case *pushv1.Audience_Users_:
		w.text("users")
		w.texts(target.Users.GetIds())
		which := target.Users.GetDevices()
		if which == pushv1.Audience_Users_DEVICES_UNSPECIFIED {
			which = pushv1.Audience_Users_ALL
		}
		w.number(int64(which))
	case *pushv1.Audience_All_:
		w.text("all")
	}
}

func (w canonical) policy(r *pushv1.PushRequest) {
	p := r.GetPolicy()
	priority := p.GetPriority()
	if priority == pushv1.Policy_PRIORITY_UNSPECIFIED {
		priority = pushv1.Policy_NORMAL
	}
	channel := p.GetChannel()
	if channel == pushv1.Policy_CHANNEL_UNSPECIFIED {
		channel = pushv1.Policy_OWN_FIRST
	}
	ttl := DefaultTTL
	if p.GetTtl() != nil {
		ttl = p.GetTtl().AsDuration()
	}
	w.text("policy")
	w.number(int64(ttl))
	w.number(int64(priority))
	w.text(p.GetCollapseKey())
	w.number(int64(channel))
	w.number(int64(QoS(r)))
	if disabled := p.GetDisabledChannels(); len(disabled) > 0 {
		w.text("disabled channels")
		w.texts(disabled)
	}
}
