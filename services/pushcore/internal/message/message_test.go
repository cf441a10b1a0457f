package message_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"

	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	"github.com/halleypush/halley/services/pushcore/internal/fault"
	"github.com/halleypush/halley/services/pushcore/internal/message"
)

func TestBodyIsThePhoneJSONOfAllReceivers(t *testing.T) {
	t.Parallel()
	created := time.UnixMilli(1732330000000)
	for name, c := range map[string]struct{ request, want string }{
		"notification": {
			`{"audience":{"all":{}},"notification":{"title":"Hi","body":"\"q\"","subtitle":"s","image":"https://a.b/c","click":{"type":"APP"},
			"badge":{"set":0},"sound":"default","group":"g","channel_id":"c"},"data":{"b":"2","a":"1"},"policy":{"collapse_key":"k","priority":"LOW"}}`,
			`{"push_id":"01935f3e-0000-7000-8000-000000000000","kind":"notification","title":"Hi","subtitle":"s","body":"\"q\"",` +
				`"image":"https://a.b/c","click":{"type":"app"},"badge":{"set":0},"sound":"default","group":"g","channel_id":"c",` +
				`"collapse_key":"k","data":{"a":"1","b":"2"},"priority":"low","sent_at":1732330000000,"expires_at":1732416400000}`,
		},
		"data": {
			`{"audience":{"all":{}},"payload":"标"}`,
			`{"push_id":"01935f3e-0000-7000-8000-000000000000","kind":"data","payload":"标","priority":"normal",` +
				`"sent_at":1732330000000,"expires_at":1732416400000}`,
		},
	} {
		p, err := message.New(message.Push{
			ID: uuid.MustParse("01935f3e-0000-7000-8000-000000000000"), Request: parse(t, c.request),
			Created: created, Expires: created.Add(message.DefaultTTL), Slices: 1, Trace: "00-t",
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := string(p.Body().GetJson()); got != c.want {
			t.Errorf("%s:\n%s, want\n%s", name, got, c.want)
		}
		if b := p.Body(); b.GetQos() != 1 || !b.GetAudience() || b.GetNotification() != (name == "notification") ||
			b.GetExpiresAt() != 1732416400000 || b.GetTrace() != "00-t" {
			t.Errorf("%s: %v", name, b)
		}
	}
}

func TestContentMayHave4KiBAsJSON(t *testing.T) {
	t.Parallel()
	// {"kind":"data","payload":"…"} is 28 bytes around the payload.
	for size, fits := range map[int]bool{message.MaxContent - 28: true, message.MaxContent - 27: false} {
		err := message.Check(&pushv1.PushRequest{Payload: strings.Repeat("x", size)})
		var f *fault.Error
		if fits && err != nil || !fits && (!errors.As(err, &f) || f.Code != codes.InvalidArgument) {
			t.Errorf("a payload of %d bytes: %v", size, err)
		}
	}
}

func TestHowLongAPushIsKept(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		`{}`: 24 * time.Hour, `{"policy":{"ttl":"60s"}}`: time.Minute, `{"policy":{"ttl":"0s"}}`: message.OnlineOnlyFor,
	} {
		r := parse(t, text)
		if got := message.KeptFor(r); got != want || message.OnlineOnly(r) != (want == message.OnlineOnlyFor) {
			t.Errorf("%s: %v", text, got)
		}
	}
}
