package session_test

import (
	"encoding/binary"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/halleypush/halley/services/gateway/internal/mqtt"
	"github.com/halleypush/halley/services/gateway/internal/session"
)

// Of each packet the largest form goes out that the client takes, and never a larger one.
// MQTT 5: 2.2.2-1, 3.1.2-24, 3.2.2-19, 3.2.2-20, 3.4.2-2, 3.4.2-3, 3.9.2-1, 3.9.2-2, 3.11.2-1, 3.11.2-2, 3.14.2-3, 3.14.2-4
func TestNoPacketIsLargerThanTheClientTakes(t *testing.T) {
	t.Parallel()
	begin := func(limit uint32, token, secret string) (*session.Session, *session.Output) {
		out := &session.Output{}
		s := session.New(session.Start{
			App: newApp(t), Connect: &mqtt.Connect{Version: mqtt.V5, ReceiveMaximum: 16, MaximumPacketSize: limit}, Token: token, Secret: secret,
		}, limits, session.Clock{}, out)
		return &s, out
	}
	after := func(input string) func(uint32) session.Output {
		return func(limit uint32) session.Output {
			s, out := begin(limit, "", "")
			if !closes(out.Actions) {
				out.Reset()
				s.Input(out, session.Clock{}, limits, []byte(input))
			}
			return *out
		}
	}
	topics := strings.Repeat("\x00\x01a", 60)
	options := strings.Repeat("\x00\x01a\x01", 60)
	for name, c := range map[string]struct {
		say func(limit uint32) session.Output
		// forms are the sizes that there are, in ascending order. 0: nothing, and the end of the connection.
		forms []int
	}{
		"CONNACK": {func(limit uint32) session.Output {
			_, out := begin(limit, "", "")
			return *out
		}, []int{0, 34}},
		"CONNACK to a registration": {func(limit uint32) session.Output {
			_, out := begin(limit, "a23456789012345678901234", "a secret")
			return *out // without its secret the device could never come back
		}, []int{0, 80}},
		"CONNACK that refuses: reason and time to come back": {func(limit uint32) session.Output {
			var out session.Output
			hello := session.Unidentified{}
			hello.Input(&out, limits, connectOf(limit, "p"))
			hello.Refuse(&out, mqtt.QuotaExceeded, "too many", time.Minute)
			return out
		}, []int{0, 5, 29, 40}},
		"CONNACK that refuses what CONNECT asks": {func(limit uint32) session.Output {
			var out session.Output
			hello := session.Unidentified{}
			hello.Input(&out, limits, connectOf(limit, ""))
			return out
		}, []int{0, 5, 74}},
		"SUBACK":               {after("\x82\xf3\x01\x00\x01\x00" + options), []int{0, 4, 65}},
		"UNSUBACK":             {after("\xa2\xb7\x01\x00\x01\x00" + topics), []int{0, 4, 65}},
		"PUBACK with a reason": {after("\x32\x07\x00\x01a\x00\x01\x00x"), []int{0, 6, 54}},
		"DISCONNECT":           {after("\x00\x00"), []int{0, 4}},
		"DISCONNECT, time to come back": {func(limit uint32) session.Output {
			s, out := begin(limit, "", "")
			if !closes(out.Actions) {
				out.Reset()
				s.Disconnect(out, mqtt.Disconnect{
					Code: mqtt.ShuttingDown, ServerReference: strings.Repeat("host", 10) + ":1883", User: []mqtt.UserProperty{session.RetryAfter(time.Minute)},
				}, session.Shutdown)
			}
			return *out
		}, []int{0, 52, 76}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			seen := map[int]bool{}
			for limit := range 200 {
				out := c.say(uint32(limit + 1))
				size := len(out.Bytes)
				seen[size] = true
				if size > limit+1 {
					t.Errorf("a client that takes %d bytes is sent %d: % X", limit+1, size, out.Bytes)
				}
				if size == 0 && !closes(out.Actions) {
					t.Errorf("a client that takes %d bytes is neither told anything nor closed", limit+1)
				}
			}
			if got := slices.Sorted(maps.Keys(seen)); !slices.Equal(got, c.forms) {
				t.Errorf("sizes %v, want %v", got, c.forms)
			}
		})
	}
}

// connectOf returns the CONNECT of a client that takes packets up to a limit.
func connectOf(limit uint32, password string) []byte {
	connect := []byte("\x10\x00\x00\x04MQTT\x05\xc2\x00\x00\x05\x27\x00\x00\x00\x00\x00\x01a\x00\x01u\x00" + string([]byte{byte(len(password))}) + password)
	connect[1] = byte(len(connect) - 2)
	binary.BigEndian.PutUint32(connect[14:], limit)
	return connect
}
