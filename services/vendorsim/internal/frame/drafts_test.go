package frame_test

import (
	"testing"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
)

func TestDraftsBelongToTheirAppAndTheOldestMakeRoom(t *testing.T) {
	t.Parallel()
	d := frame.NewDrafts()
	first := d.Put("one", 1)
	if v, ok := d.Get("one", first); !ok || v != 1 {
		t.Errorf("got %v %v", v, ok)
	}
	if _, ok := d.Get("two", first); ok {
		t.Error("another app has it, too")
	}
	var last string
	for i := range 10_000 {
		last = d.Put("one", i)
	}
	if _, ok := d.Get("one", first); ok {
		t.Error("the oldest is still there")
	}
	if v, ok := d.Get("one", last); !ok || v != 9999 {
		t.Errorf("got %v %v", v, ok)
	}
}
