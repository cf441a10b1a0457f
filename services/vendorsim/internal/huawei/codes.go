package huawei

import (
	"net/http"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
)

// The codes that the simulator gives by itself.
const (
	success        = "80000000"
	partial        = "80100000"
	badParameter   = "80100001"
	badStructure   = "80100003"
	badTTL         = "80100004"
	badCollapseKey = "80100013"
	authError      = "80200001"
	tokenExpired   = "80200003"
	notAllowed     = "80300002"
	allInvalid     = "80300007"
	tooLong        = "80300008"
	tokenCount     = "80300010"
	noHighRight    = "80300011"
	badReceipt     = "80300013"
	traffic        = "503"
	wrongURL       = "404"
	illegalTokens  = "illegal_tokens"

	invalidRequest   = "invalid_request"
	invalidClient    = "invalid_client"
	unsupportedGrant = "unsupported_grant_type"
)

// Codes lists the documented answers. The sheet gives no HTTP status for each code: authentication is answered with 401,
// parameters with 400, internal errors with 500 and the rest with 200, so that a client has to read the code.
func Codes() []frame.Code {
	var codes []frame.Code
	add := func(place frame.Place, status int, group frame.Group, list ...[2]string) {
		for _, c := range list {
			codes = append(codes, frame.Code{Status: status, Code: c[0], Meaning: c[1], Group: group, Place: place})
		}
	}
	answer := func(status int, group frame.Group, list ...[2]string) { add(frame.InAnswer, status, group, list...) }
	answer(http.StatusOK, frame.Success, [2]string{success, "accepted"})
	answer(http.StatusOK, frame.TokenInvalid,
		[2]string{partial, "msg lists the illegal tokens, the others are accepted"},
		[2]string{allInvalid, "all tokens are bad"})
	answer(http.StatusUnauthorized, frame.Refresh,
		[2]string{tokenExpired, "the access token has expired"}, [2]string{authError, "authentication failed"},
		[2]string{"80600003", "the OAuth call failed"}, [2]string{"401", "authentication failed"})
	answer(http.StatusBadRequest, frame.Payload,
		[2]string{badParameter, "bad parameter"}, [2]string{"80100002", "a synchronous send needs exactly one token"},
		[2]string{badStructure, "bad structure"}, [2]string{badTTL, "ttl is in the past"},
		[2]string{badCollapseKey, "bad collapse_key"}, [2]string{"80100016", "sensitive content"},
		[2]string{"80100018", "the review check failed"}, [2]string{tooLong, "over 4096 bytes without tokens"},
		[2]string{tokenCount, "not 1 to 1000 tokens"}, [2]string{"400", "bad parameter"})
	answer(http.StatusNotFound, frame.Payload, [2]string{wrongURL, "no such URL"})
	answer(http.StatusOK, frame.Configuration,
		[2]string{notAllowed, "the app may not send"}, [2]string{noHighRight, "no right to the high level"},
		[2]string{badReceipt, "bad receipt address or certificate"})
	answer(http.StatusServiceUnavailable, frame.Rate, [2]string{traffic, "traffic control"})
	answer(http.StatusOK, frame.Rate, [2]string{"80100017", "more than 100 topic tasks at once"})
	answer(http.StatusInternalServerError, frame.RetryLater,
		[2]string{"81000001", "internal error"}, [2]string{"500", "internal error"})
	answer(http.StatusBadGateway, frame.RetryLater, [2]string{"502", "bad gateway"})

	add(frame.InToken, http.StatusOK, frame.TokenInvalid, [2]string{illegalTokens, "listed in msg"})
	// The sheet names the fields error and error_description, not their values; these are OAuth's.
	add(frame.InAuth, http.StatusBadRequest, frame.Configuration,
		[2]string{invalidRequest, "a field is missing"}, [2]string{invalidClient, "client_id or client_secret is wrong"},
		[2]string{unsupportedGrant, "grant_type is not client_credentials"})
	add(frame.InAuth, http.StatusServiceUnavailable, frame.Rate, [2]string{traffic, "over 1000 calls in 5 minutes"})

	receipts := func(group frame.Group, list ...[2]string) { add(frame.InReceipt, 0, group, list...) }
	receipts(frame.Delivered, [2]string{"0", "delivered"})
	receipts(frame.TokenInvalid, [2]string{"2", "app not installed"}, [2]string{"5", "token unknown on the device"})
	receipts(frame.TokenKeep, [2]string{"6", "notifications are switched off"},
		[2]string{"10", "device inactive for 30 days"}, [2]string{"201", "held back by the server"})
	receipts(frame.Quota, [2]string{"256", "marketing or test daily cap reached"})
	receipts(frame.Rate, [2]string{"102", "frequency control"})
	receipts(frame.NotDelivered, [2]string{"14", "network error"}, [2]string{"15", "replaced, or over 120 cached offline"},
		[2]string{"22", "user id mismatch"}, [2]string{"27", "pass-through cached, process not running"},
		[2]string{"31", "target page or system cannot handle it"}, [2]string{"51", "booted but locked"},
		[2]string{"144", "profile id absent"})
	return codes
}
