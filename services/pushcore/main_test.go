package pushcore_test

import (
	"slices"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	"github.com/halleypush/halley/services/pushcore/pushcoretest"
)

func TestMain(m *testing.M) { pushcoretest.Main(m) }

// wantError checks an error's code, its reason and the field it names; an empty field means none.
func wantError(t *testing.T, err error, code codes.Code, reason, field string) {
	t.Helper()
	s := status.Convert(err)
	if s.Code() != code {
		t.Errorf("%s (%s), want %s", s.Code(), s.Message(), code)
		return
	}
	var gotReason, gotField string
	for _, detail := range s.Details() {
		switch d := detail.(type) {
		case *errdetails.ErrorInfo:
			gotReason = d.GetReason()
		case *errdetails.BadRequest:
			gotField = d.GetFieldViolations()[0].GetField()
		}
	}
	if gotReason != reason || gotField != field {
		t.Errorf("%s: reason %q, field %q; want %q, %q", s.Message(), gotReason, gotField, reason, field)
	}
}

// wantCounts checks the counts of a push and that they add up. Only what is not zero is given; targeted is worked out.
func wantCounts(t *testing.T, push *pushv1.Push, want *pushv1.Counts) {
	t.Helper()
	want.Targeted = sum(want)
	if !proto.Equal(push.GetCounts(), want) {
		t.Errorf("counts are %v, want %v", push.GetCounts(), want)
	}
}

func sum(c *pushv1.Counts) uint32 {
	return c.GetPending() + c.GetSent() + c.GetArrived() + c.GetShown() + c.GetClicked() + c.GetDismissed() + c.GetFailed() +
		c.GetExpired() + c.GetEvicted() + c.GetCollapsed() + c.GetRevoked()
}

// waitCounts waits until the counts of a push are these.
func waitCounts(t *testing.T, app *pushcoretest.App, id string, want *pushv1.Counts) {
	t.Helper()
	want.Targeted = sum(want)
	var last *pushv1.Counts
	defer func() {
		if t.Failed() {
			t.Logf("the counts of %s were %v, not %v", id, last, want)
		}
	}()
	pushcoretest.Eventually(t, "the counts are "+want.String(), func() bool {
		last = app.Get(t, id).GetCounts()
		return proto.Equal(last, want)
	})
}

func wantDelivery(t *testing.T, d *pushv1.Delivery, state pushv1.Delivery_State, reason pushv1.Delivery_Reason) {
	t.Helper()
	if d.GetState() != state || d.GetReason() != reason {
		t.Errorf("the delivery is %s (%s), want %s (%s)", d.GetState(), d.GetReason(), state, reason)
	}
}

func wantIDs(t *testing.T, got []pushcoretest.Message, want ...string) {
	t.Helper()
	if ids := pushcoretest.IDs(got); !slices.Equal(ids, want) {
		t.Errorf("kept: %v\nwant: %v", ids, want)
	}
}
