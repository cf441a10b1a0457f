package swarm_test

import (
	"testing"

	"github.com/halleypush/halley/bench/internal/swarm"
)

func TestCentrifugePacketsAreFoundWhereverTheyAreCut(t *testing.T) {
	t.Parallel()
	frame := func(text string) string {
		if len(text) > 125 {
			return string([]byte{0x81, 126, byte(len(text) >> 8), byte(len(text))}) + text
		}
		return string([]byte{0x81, byte(len(text))}) + text
	}
	long := `{"push":{"channel":"c","pub":{"data":"` + string(make([]byte, 300)) + `"}}}`
	stream := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n" +
		frame(`{"id":1,"connect":{}}`) + frame("{}") + frame(`{"push":{}}`) + frame(long)
	want := []swarm.Kind{swarm.Other, swarm.Ready, swarm.Other, swarm.Message, swarm.Message}
	for cut := range len(stream) {
		var got []swarm.Kind
		at := 0
		for _, end := range []int{cut, len(stream)} {
			for {
				p, err := (&swarm.Centrifuge{}).Take([]byte(stream[at:end]))
				if err != nil {
					t.Fatalf("cut at %d: %v", cut, err)
				}
				if p.Used == 0 {
					break
				}
				got, at = append(got, p.Kind), at+p.Used
			}
		}
		if len(got) != len(want) || at != len(stream) {
			t.Fatalf("cut at %d: %v, and %d B are left", cut, got, len(stream)-at)
		}
		for i, kind := range got {
			if kind != want[i] {
				t.Fatalf("cut at %d: packet %d is %v, not %v", cut, i, kind, want[i])
			}
		}
	}
}
