package honor_test

import (
	"testing"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
	"github.com/halleypush/halley/services/vendorsim/internal/frametest"
	"github.com/halleypush/halley/services/vendorsim/internal/honor"
)

// The lists are copied from the sheet.
func TestTheSheetsCodesAreThere(t *testing.T) {
	t.Parallel()
	need := func(place frame.Place, group frame.Group, list string) {
		t.Helper()
		frametest.NeedCodes(t, honor.Codes(), place, group, list)
	}
	need(frame.InAnswer, frame.Refresh, "401 403 80200001 80200003")
	need(frame.InAnswer, frame.TokenInvalid, "80100000 80300007")
	need(frame.InAnswer, frame.Payload, "80100001 80100003 80100004 80300008 80300010 400")
	need(frame.InAnswer, frame.Configuration, "80300002 404")
	need(frame.InAnswer, frame.Rate, "429 503")
	need(frame.InAnswer, frame.RetryLater, "500 502 504 81000001")
	need(frame.InToken, frame.TokenInvalid, "expireTokens")
	need(frame.InToken, frame.RetryLater, "failTokens")
	need(frame.InAuth, frame.Configuration, "unauthorized_client invalid_client invalid_grant")
}
