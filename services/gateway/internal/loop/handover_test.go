package loop

import (
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
)

func TestALoopThatGivesWayLetsOthersHandOver(t *testing.T) {
	t.Parallel()
	set, err := NewSet(Config{Loops: 1}, Parts{Metrics: NewMetrics(prometheus.NewRegistry())})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = set.closePollers() })
	l := set.loops[0]
	var order []string
	deliver := func(name string) {
		set.Deliver([]Target{{App: 7, Ordinal: 12}}, func([]gatewayv1.DeliverResponse_Result) { order = append(order, name) })
	}
	deliver("at work")
	if len(order) != 0 {
		t.Fatal("a delivery did not wait for the loop, which was at work")
	}
	l.own.Unlock() // it gives way
	deliver("giving way")
	l.own.Lock()
	if want := []string{"at work", "giving way"}; !slices.Equal(order, want) {
		t.Fatalf("handed over: %q, want %q", order, want)
	}
	deliver("at work again")
	l.readMail()
	if len(order) != 3 {
		t.Errorf("handed over: %q; one was lost", order)
	}
}

func TestALoopThatWaitsLetsOthersHandOver(t *testing.T) {
	t.Parallel()
	set, err := NewSet(Config{Loops: 1}, Parts{Metrics: NewMetrics(prometheus.NewRegistry())})
	if err != nil {
		t.Fatal(err)
	}
	set.Start()
	t.Cleanup(set.Stop)
	for begun := time.Now(); ; { // again if the loop was at work just then
		handed := make(chan struct{})
		set.Deliver([]Target{{App: 7, Ordinal: 12}}, func([]gatewayv1.DeliverResponse_Result) { close(handed) })
		select {
		case <-handed:
			return
		default:
		}
		select {
		case <-handed:
		case <-time.After(10 * time.Second):
			t.Fatal("a delivery was not handed over at all")
		}
		if time.Since(begun) > 10*time.Second {
			t.Fatal("in 10 s nobody who brought a delivery handed it over himself")
		}
	}
}

func TestALoopKeepsAThirdOfItsTime(t *testing.T) {
	t.Parallel()
	var y yielding
	now, given := time.Now(), time.Duration(0)
	const each, works, lasts = 4 * time.Millisecond, 200 * time.Microsecond, 10 * time.Second
	for end := now.Add(lasts); now.Before(end); now = now.Add(works) {
		if y.may(now) { // the neighbour keeps the processor until the next tick
			y.given += each
			now, given = now.Add(each), given+each
		}
	}
	if share := float64(given) / float64(lasts); share > 0.75 || share < 0.6 {
		t.Errorf("it gives away %.2f of its time", share)
	}
}
