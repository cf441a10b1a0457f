package frame_test

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
)

func TestPairsAreExact(t *testing.T) {
	t.Parallel()
	r := frame.NewRecorder(frame.RecorderConfig{Bytes: 1 << 20, Pairs: 100})
	r.Accept(frame.Accepted{Tokens: []string{"a", "b"}, PushID: "1", DedupID: "x"})
	r.Accept(frame.Accepted{Tokens: []string{"b", "c"}, PushID: "1"})
	r.Accept(frame.Accepted{Tokens: []string{"a"}, DedupID: "2"}) // without a push_id, the vendor's id stands for it
	got := make(map[frame.Pair]bool)
	for _, p := range r.Pairs() {
		got[p] = true
	}
	want := map[frame.Pair]bool{
		{Token: "a", PushID: "1", Count: 1}: true, {Token: "b", PushID: "1", Count: 2}: true,
		{Token: "c", PushID: "1", Count: 1}: true, {Token: "a", PushID: "2", Count: 1}: true,
	}
	if !maps.Equal(got, want) {
		t.Errorf("pairs are %v", got)
	}
	if c := r.Counts(); c != (frame.RecordCounts{Requests: 3, Devices: 5, Pairs: 4, Repeats: 1}) {
		t.Errorf("counted %+v", c)
	}
}

func TestFullPairsAreCountedAndKnownOnesStillFound(t *testing.T) {
	t.Parallel()
	r := frame.NewRecorder(frame.RecorderConfig{Bytes: 1 << 20, Pairs: 2})
	for range 2 {
		for _, token := range []string{"a", "b", "c"} {
			r.Accept(frame.Accepted{Tokens: []string{token}, PushID: "1"})
		}
	}
	if c := r.Counts(); c.Pairs != 2 || c.Repeats != 2 || c.PairsDropped != 2 || c.Devices != 6 {
		t.Errorf("counted %+v", c)
	}
}

func TestTheRecordForgetsTheOldestFirst(t *testing.T) {
	t.Parallel()
	r := frame.NewRecorder(frame.RecorderConfig{Bytes: 10_000, Pairs: 100})
	for i := range 50 {
		r.Accept(frame.Accepted{Tokens: []string{fmt.Sprint(i)}, Body: strings.Repeat("x", 1000)})
	}
	list := r.After(0)
	if len(list) == 0 || len(list) > 10 {
		t.Fatalf("%d requests of 1 kB are kept in 10 kB", len(list))
	}
	for i, a := range list {
		if want := uint64(50 - len(list) + 1 + i); a.Seq != want || a.Tokens[0] != fmt.Sprint(want-1) {
			t.Errorf("request %d has number %d and token %s", i, a.Seq, a.Tokens[0])
		}
	}
	if c := r.Counts(); c.Forgotten != uint64(50-len(list)) || c.Pairs != 50 {
		t.Errorf("counted %+v", c)
	}
	if after := r.After(49); len(after) != 1 || after[0].Seq != 50 {
		t.Errorf("after 49 there is %v", after)
	}
	r.Reset()
	r.Accept(frame.Accepted{Tokens: []string{"new"}})
	if list := r.After(0); len(list) != 1 || list[0].Seq != 51 {
		t.Errorf("after a reset there is %v", list)
	}
}

func TestFollowingSeesWhatComes(t *testing.T) {
	t.Parallel()
	r := frame.NewRecorder(frame.RecorderConfig{Bytes: 1 << 20, Pairs: 100})
	r.Accept(frame.Accepted{Tokens: []string{"0"}})
	ctx, cancel := context.WithCancel(t.Context())
	seen := make(chan string)
	go func() {
		defer close(seen)
		for a := range r.Follow(ctx) {
			seen <- a.Tokens[0]
		}
	}()
	for i := range 20 {
		if got := <-seen; got != fmt.Sprint(i) {
			t.Fatalf("saw %s, want %d", got, i)
		}
		r.Accept(frame.Accepted{Tokens: []string{fmt.Sprint(i + 1)}})
	}
	<-seen
	cancel()
	if _, more := <-seen; more {
		t.Error("it goes on after the end")
	}
}

func TestThePushIDIsFoundWhereverItStands(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		`{"push_id":"1"}`: "1",
		`{"a":{"b":[{"push_id" : "01935f3e-0000-7000-8000-000000000001"}]}}`: "01935f3e-0000-7000-8000-000000000001",
		`{"data":"{\"push_id\":\"x_1\"}"}`:                                   "x_1",
		`{"data":"{\"a\":\"{\\\"push_id\\\":\\\"2\\\"}\"}"}`:                 "2",
		`{"push_ids":"1"}`: "",
		`{"push_id":1}`:    "",
		``:                 "",
	} {
		if got := frame.PushID([]byte(body)); got != want {
			t.Errorf("found %q in %s, want %q", got, body, want)
		}
	}
}
