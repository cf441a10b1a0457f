package mqtt_test

import (
	"testing"

	"github.com/halleypush/halley/services/gateway/internal/mqtt"
)

// MQTT 5: 1.5.5-1
func TestLengthsTakeAsFewBytesAsTheyCan(t *testing.T) {
	t.Parallel()
	for length, digits := range map[int]int{
		127: 1, 128: 2, 1<<14 - 1: 2, 1 << 14: 3, 1<<21 - 1: 3, 1 << 21: 4,
	} {
		const before = 2 + len("push/demo") + 1 // the topic, and the length of no properties
		o := mqtt.Outgoing{Topic: "push/demo", Payload: make([]byte, length-before)}
		packet, _ := o.Append(nil, mqtt.V5, nil)
		p, n, err := mqtt.Next(packet, 1<<28)
		if err != nil || n != len(packet) || len(p.Body) != length || n != 1+digits+length {
			t.Errorf("a body of %d bytes makes a packet of %d (%v), want %d", length, n, err, 1+digits+length)
		}
	}
}
