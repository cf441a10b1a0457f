package loop

import (
	"bufio"
	"encoding/binary"
	"io"
	"os"
	"sync"
	"testing"

	"github.com/RoaringBitmap/roaring/v2"

	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	"github.com/halleypush/halley/services/gateway/internal/mqtt"
)

// publishes counts the PUBLISHes that come until the connection ends.
func publishes(conn io.Reader) (n int) {
	r := bufio.NewReader(conn)
	for {
		head, err := r.ReadByte()
		if err != nil {
			return n
		}
		length, err := binary.ReadUvarint(r) // as MQTT writes lengths
		if err != nil {
			return n
		}
		if _, err := r.Discard(int(length)); err != nil {
			return n
		}
		if head>>4 == 3 {
			n++
		}
	}
}

// Run with -race: a loop that gives way shares everything with those who hand over meanwhile.
func TestDirectMessagesAmongBroadcastsAreHandedOverOnce(t *testing.T) {
	t.Parallel()
	const each = 300
	p := newPhone(t, mqtt.V5)
	conn := os.NewFile(uintptr(p.fd), "phone")
	p.fd = -1 // conn's now
	received := make(chan int)
	go func() {
		n := publishes(conn)
		_ = conn.Close()
		received <- n
	}()
	direct, audience := messages(each), messages(each)
	for i := range each {
		direct[i].QoS, audience[i].QoS = 0, 0 // no window that could be full
	}
	set := p.loop.set
	set.Start()
	var all sync.WaitGroup
	all.Go(func() {
		for _, m := range direct {
			answer := make(chan gatewayv1.DeliverResponse_Result, 1)
			set.Deliver([]Target{{App: 7, Ordinal: 12, Session: p.session, Message: m}}, func(results []gatewayv1.DeliverResponse_Result) {
				answer <- results[0]
			})
			if got := <-answer; got != gatewayv1.DeliverResponse_TAKEN {
				t.Errorf("a direct message is %v", got)
			}
		}
	})
	all.Go(func() {
		for _, m := range audience {
			answer := make(chan SliceResult, 1)
			set.Slice(7, 0, m, roaring.BitmapOf(12), func(r SliceResult) { answer <- r })
			if r := <-answer; !r.Sent.Contains(12) {
				t.Error("a broadcast did not reach its session")
			}
		}
	})
	all.Wait()
	set.Stop()
	if got := <-received; got != 2*each {
		t.Errorf("%d PUBLISHes have come of %d messages", got, 2*each)
	}
}
