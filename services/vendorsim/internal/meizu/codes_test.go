package meizu_test

import (
	"testing"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
	"github.com/halleypush/halley/services/vendorsim/internal/frametest"
	"github.com/halleypush/halley/services/vendorsim/internal/meizu"
)

// The lists are copied from the sheet.
func TestTheSheetsCodesAreThere(t *testing.T) {
	t.Parallel()
	need := func(place frame.Place, group frame.Group, list string) {
		t.Helper()
		frametest.NeedCodes(t, meizu.Codes(), place, group, list)
	}
	need(frame.InAnswer, frame.RetryLater, "500 1001 1003")
	need(frame.InAnswer, frame.Rate, "110010")
	need(frame.InAnswer, frame.Quota, "110019 110051 110053")
	need(frame.InAnswer, frame.Configuration, "1006 110000 110001 110033 110031 110009")
	need(frame.InAnswer, frame.Payload, "1005 110004 110032 300")
	need(frame.InAnswer, frame.TokenInvalid, "110002 110003")
	need(frame.InToken, frame.TokenInvalid, "110002 110003 110005")
	need(frame.InToken, frame.TokenKeep, "110010 520")
	need(frame.InToken, frame.Quota, "110011")
	need(frame.InToken, frame.RetryLater, "501 513 518 519")
	need(frame.InToken, frame.Configuration, "201")
	need(frame.InReceipt, frame.Delivered, "1 2")
}
