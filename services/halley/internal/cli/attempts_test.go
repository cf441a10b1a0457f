package cli

import (
	"testing"

	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
)

func TestAttemptsAreToldInOneLine(t *testing.T) {
	t.Parallel()
	got := attempts(&pushv1.Delivery{Attempts: []*pushv1.Delivery_Attempt{
		{Channel: "fcm", Outcome: pushv1.Delivery_Attempt_TOKEN_GONE, Code: "404 UNREGISTERED"}, {Channel: "halley"},
	}})
	if want := "fcm TOKEN_GONE 404 UNREGISTERED, halley"; got != want {
		t.Errorf("attempts are %q, not %q", got, want)
	}
}
