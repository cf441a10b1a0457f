package sender

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	senderv1 "github.com/halleypush/halley/proto/halley/sender/v1"
)

// idSpace is the name space of the deterministic ids of requests.
var idSpace = uuid.MustParse("6f1c1f0e-9a52-5d0e-8f4e-3b6a6f1f4a11")

// request is one message with the targets it is for.
type request struct {
	message *Message
	targets []*senderv1.Target
}

// requests splits a job into what one request each may carry: targets of one environment, package and user, up to the batch.
func requests(job *senderv1.Job, l Limits, h *held, receiptURL string, now time.Time) (all []request, clamped bool, err error) {
	id, err := uuid.FromBytes(job.GetPushId())
	if err != nil {
		return nil, false, fmt.Errorf("push id: %w", err)
	}
	base, clamped, err := messageOf(job, l, h.refuse, now)
	if err != nil {
		return nil, clamped, err
	}
	base.PushID, base.Tag, base.ReceiptURL = id.String(), tag{id, job.GetSlice(), job.GetAudience()}.String(), receiptURL
	targets := slices.Clone(job.GetTargets())
	slices.SortStableFunc(targets, func(a, b *senderv1.Target) int {
		return cmp.Or(cmp.Compare(a.GetEnvironment(), b.GetEnvironment()), cmp.Compare(a.GetAppPackage(), b.GetAppPackage()),
			cmp.Compare(a.GetUser(), b.GetUser()), cmp.Compare(a.GetOrdinal(), b.GetOrdinal()))
	})
	for len(targets) > 0 {
		first, n := targets[0], 1
		for n < len(targets) && alike(first, targets[n]) {
			n++
		}
		kind := *base
		kind.AppPackage, kind.User, kind.Sandbox = first.GetAppPackage(), first.GetUser(), first.GetEnvironment() == "sandbox"
		kind.common = &common{}
		for some := range slices.Chunk(targets[:n], max(l.Batch, 1)) {
			all = append(all, kind.request(id, some))
		}
		targets = targets[n:]
	}
	return all, clamped, nil
}

// alike says whether two targets may be in one request.
func alike(a, b *senderv1.Target) bool {
	return a.GetEnvironment() == b.GetEnvironment() && a.GetAppPackage() == b.GetAppPackage() && a.GetUser() == b.GetUser()
}

// request returns the request for some targets.
func (m Message) request(push uuid.UUID, targets []*senderv1.Target) request {
	hash, text := sha256.New(), make([]byte, 0, 24)
	m.Targets = make([]Target, len(targets))
	for i, t := range targets {
		m.Targets[i] = Target{Token: t.GetToken(), ReportedAt: t.GetReportedAt().AsTime()}
		text = append(strconv.AppendUint(text[:0], t.GetOrdinal(), 10), ' ')
		_, _ = hash.Write(text) // cannot fail
	}
	m.ID = uuid.NewSHA1(idSpace, hash.Sum(push[:])).String()
	return request{&m, targets}
}

// messageOf returns what all requests of a job have in common.
func messageOf(job *senderv1.Job, l Limits, refuse bool, now time.Time) (m *Message, clamped bool, err error) {
	c := job.GetContent()
	m = &Message{
		Data: c.GetData(), Payload: c.GetPayload(), CollapseKey: c.GetCollapseKey(), SentAt: c.GetSentAt().AsTime(),
		High: c.GetPriority() == pushv1.Policy_HIGH, Low: c.GetPriority() == pushv1.Policy_LOW,
		TTL: job.GetExpiresAt().AsTime().Sub(now).Round(time.Second),
	}
	m.TTL = max(m.TTL, time.Second)
	if l.MaxTTL > 0 && m.TTL > l.MaxTTL {
		m.TTL, clamped = l.MaxTTL, true
	}
	if c.GetOverride() != nil {
		m.Override = c.GetOverride().AsMap()
	}
	if c.GetNotification() == nil {
		return m, clamped, nil
	}
	n := proto.CloneOf(c.GetNotification())
	for _, text := range []struct {
		name  string
		value *string
		limit Length
	}{{"title", &n.Title, l.Title}, {"body", &n.Body, l.Body}} {
		short := text.limit.cut(*text.value)
		if short != *text.value && refuse {
			return nil, clamped, fmt.Errorf("the %s is longer than this channel takes (%s)", text.name, text.limit)
		}
		*text.value = short
	}
	m.Notification = n
	return m, clamped, nil
}

func (l Length) String() string {
	var limits []string
	if l.Characters > 0 {
		limits = append(limits, fmt.Sprintf("%d characters", l.Characters))
	}
	if l.Bytes > 0 {
		limits = append(limits, fmt.Sprintf("%d bytes", l.Bytes))
	}
	return strings.Join(limits, ", ")
}

const ellipsis = "…"

// cut returns a text within the limit, with an ellipsis where something is missing.
func (l Length) cut(text string) string {
	over := func(s string) bool {
		return l.Characters > 0 && utf8.RuneCountInString(s) > l.Characters || l.Bytes > 0 && len(s) > l.Bytes
	}
	if !over(text) {
		return text
	}
	for text != "" && over(text+ellipsis) {
		_, size := utf8.DecodeLastRuneInString(text)
		text = text[:len(text)-size]
	}
	return text + ellipsis
}

// tag is what comes back with receipts: which push they are about, and where its deliveries are.
type tag struct {
	push     uuid.UUID
	slice    uint32
	audience bool
}

func (t tag) String() string {
	kind := "d"
	if t.audience {
		kind = "a"
	}
	return hex.EncodeToString(t.push[:]) + "-" + kind + fmt.Sprint(t.slice)
}

func parseTag(s string) (t tag, ok bool) {
	id, rest, found := strings.Cut(s, "-")
	if !found || rest == "" || rest[0] != 'a' && rest[0] != 'd' {
		return t, false
	}
	raw, err := hex.DecodeString(id)
	if err != nil || len(raw) != len(t.push) {
		return t, false
	}
	t.push, t.audience = uuid.UUID(raw), rest[0] == 'a'
	n, err := fmt.Sscanf(rest[1:]+" ", "%d ", &t.slice)
	return t, err == nil && n == 1
}

// Merge puts override over a request's fields: objects are merged, field by field, everything else is replaced, and null
// removes a field.
func Merge(fields, override map[string]any) map[string]any {
	if fields == nil {
		fields = map[string]any{}
	}
	for name, value := range override {
		inner, isObject := value.(map[string]any)
		old, wasObject := fields[name].(map[string]any)
		switch {
		case value == nil:
			delete(fields, name)
		case isObject && wasObject:
			fields[name] = Merge(old, inner)
		default:
			fields[name] = value
		}
	}
	return fields
}
