package loop

import "testing"

// A Go release that keeps them elsewhere must not go unnoticed: it would double what a connection costs.
func TestTheBuffersOfTLSAreFound(t *testing.T) {
	t.Parallel()
	if len(spareBuffers) != 2 {
		t.Errorf("%d of 2 buffers are found", len(spareBuffers))
	}
}
