package oppo_test

import (
	"testing"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
	"github.com/halleypush/halley/services/vendorsim/internal/frametest"
	"github.com/halleypush/halley/services/vendorsim/internal/oppo"
)

// The lists are copied from the sheet.
func TestTheSheetsCodesAreThere(t *testing.T) {
	t.Parallel()
	need := func(place frame.Place, group frame.Group, list string) {
		t.Helper()
		frametest.NeedCodes(t, oppo.Codes(), place, group, list)
	}
	need(frame.InAnswer, frame.RetryLater, "-2 -1 500 502 503")
	need(frame.InAnswer, frame.Rate, "13 55")
	need(frame.InAnswer, frame.Quota, "33 34")
	need(frame.InAnswer, frame.Refresh, "11 29")
	need(frame.InAnswer, frame.Configuration, "14 15 16 17 18 19 26 27 28 30 59")
	need(frame.InAnswer, frame.TokenInvalid, "10000 10001 10002 10003")
	need(frame.InToken, frame.TokenInvalid, "10000 10001 10002 10003")
	need(frame.InAnswer, frame.Payload, "12 20 21 22 23 24 25 31 32 40 41 51 67")
	need(frame.InReceipt, frame.Delivered, "push_arrive")
	need(frame.InReceipt, frame.TokenInvalid, "regid_invalid")
	need(frame.InReceipt, frame.Quota, "user_daily_limit")
}
