package vivo_test

import (
	"testing"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
	"github.com/halleypush/halley/services/vendorsim/internal/frametest"
	"github.com/halleypush/halley/services/vendorsim/internal/vivo"
)

// The lists are copied from the sheet.
func TestTheSheetsCodesAreThere(t *testing.T) {
	t.Parallel()
	need := func(place frame.Place, group frame.Group, list string) {
		t.Helper()
		frametest.NeedCodes(t, vivo.Codes(), place, group, list)
	}
	need(frame.InAnswer, frame.Refresh, "10000")
	need(frame.InAnswer, frame.Configuration, "10200 10201 10094")
	need(frame.InAuth, frame.Configuration, "10200 10201")
	need(frame.InAnswer, frame.TokenInvalid, "10302")
	need(frame.InToken, frame.TokenInvalid, "1 2")
	need(frame.InToken, frame.TokenKeep, "4")
	need(frame.InAnswer, frame.Payload, "10054 10085 10104 10096 10097")
	need(frame.InAnswer, frame.Quota, "10070 10073 10252 10254")
	need(frame.InAnswer, frame.Hours, "10071")
	need(frame.InAnswer, frame.Rate, "10072")
	need(frame.InAnswer, frame.RetryLater, "10040 500")
	need(frame.InReceipt, frame.Delivered, "0")
}
