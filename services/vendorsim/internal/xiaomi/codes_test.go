package xiaomi_test

import (
	"testing"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
	"github.com/halleypush/halley/services/vendorsim/internal/frametest"
	"github.com/halleypush/halley/services/vendorsim/internal/xiaomi"
)

// The lists are copied from the sheet.
func TestTheSheetsCodesAreThere(t *testing.T) {
	t.Parallel()
	need := func(place frame.Place, group frame.Group, list string) {
		t.Helper()
		frametest.NeedCodes(t, xiaomi.Codes(), place, group, list)
	}
	need(frame.InAnswer, frame.TokenInvalid, "20301 10029")
	need(frame.InToken, frame.TokenInvalid, "bad_regids")
	need(frame.InAnswer, frame.RetryLater, "-1 10001 10002 10003 10009 10010 10011 22102 500 502 503")
	need(frame.InAnswer, frame.Rate, "200002 10022 10023 10024 10027 10028")
	need(frame.InAnswer, frame.Quota, "200001 channel_exceed_quota 22101")
	need(frame.InAnswer, frame.Configuration, "21301 10004 10005 10006 10012 10013 10014 10026 22000 22001 22002 22003 22004 22005 22006 22007 22008 22021 22022 66108")
	need(frame.InAnswer, frame.Payload, "100 10007 10008 10016 10017 10018 10020 10021 10025 22100 22103")
	need(frame.InReceipt, frame.Delivered, "1 2")
	need(frame.InReceipt, frame.TokenInvalid, "16")
	need(frame.InReceipt, frame.TokenKeep, "32")
	need(frame.InReceipt, frame.NotDelivered, "64")
	need(frame.InReceipt, frame.Quota, "128")
}
