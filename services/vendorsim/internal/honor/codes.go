package honor

import (
	"net/http"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
)

// The codes that the simulator gives by itself.
const (
	success      = "200"
	badParameter = "80100001"
	badStructure = "80100003"
	badTTL       = "80100004"
	authError    = "80200001"
	tokenExpired = "80200003"
	notAllowed   = "80300002"
	allInvalid   = "80300007"
	tooLong      = "80300008"
	tokenCount   = "80300010"
	wrongApp     = "404"
	traffic      = "429"

	expireTokens = "expireTokens"
	failTokens   = "failTokens"

	invalidClient = "invalid_client"
	invalidGrant  = "invalid_grant"
	unauthorized  = "unauthorized_client"
)

// Codes lists the documented answers. But for success all of them are from memory (M), as is what is like Huawei's; a code of
// three digits is an HTTP status without a code of the push service.
func Codes() []frame.Code {
	var codes []frame.Code
	add := func(place frame.Place, status int, group frame.Group, list ...[2]string) {
		for _, c := range list {
			codes = append(codes, frame.Code{Status: status, Code: c[0], Meaning: c[1], Group: group, Place: place})
		}
	}
	answer := func(status int, group frame.Group, list ...[2]string) { add(frame.InAnswer, status, group, list...) }
	answer(http.StatusOK, frame.Success, [2]string{success, "success"})
	answer(http.StatusOK, frame.TokenInvalid,
		[2]string{"80100000", "some tokens are bad"}, [2]string{allInvalid, "all tokens are bad"})
	answer(http.StatusUnauthorized, frame.Refresh,
		[2]string{authError, "accesstoken invalid"}, [2]string{tokenExpired, "accesstoken expired"}, [2]string{"401", "unauthorized"})
	answer(http.StatusForbidden, frame.Refresh, [2]string{"403", "accesstoken invalid"})
	answer(http.StatusOK, frame.Payload,
		[2]string{badParameter, "bad parameter"}, [2]string{badStructure, "bad structure"}, [2]string{badTTL, "bad ttl"},
		[2]string{tooLong, "over 4096 bytes without tokens"}, [2]string{tokenCount, "not 1 to 1000 tokens"})
	answer(http.StatusBadRequest, frame.Payload, [2]string{"400", "bad request"})
	answer(http.StatusOK, frame.Configuration, [2]string{notAllowed, "the app may not send"})
	answer(http.StatusNotFound, frame.Configuration, [2]string{wrongApp, "wrong app id"})
	answer(http.StatusTooManyRequests, frame.Rate, [2]string{traffic, "too many requests"})
	answer(http.StatusServiceUnavailable, frame.Rate, [2]string{"503", "traffic control"})
	answer(http.StatusOK, frame.RetryLater, [2]string{"81000001", "internal error"})
	answer(http.StatusInternalServerError, frame.RetryLater, [2]string{"500", "internal error"})
	answer(http.StatusBadGateway, frame.RetryLater, [2]string{"502", "bad gateway"})
	answer(http.StatusGatewayTimeout, frame.RetryLater, [2]string{"504", "gateway timeout"})

	add(frame.InToken, http.StatusOK, frame.TokenInvalid, [2]string{expireTokens, "listed in data.expireTokens: delete"})
	add(frame.InToken, http.StatusOK, frame.RetryLater, [2]string{failTokens, "listed in data.failTokens: retry once later"})

	// The sheet names the errors, not their statuses; these are OAuth's.
	add(frame.InAuth, http.StatusUnauthorized, frame.Configuration, [2]string{invalidClient, "client_secret is wrong"})
	add(frame.InAuth, http.StatusBadRequest, frame.Configuration,
		[2]string{invalidGrant, "grant_type is not client_credentials"}, [2]string{unauthorized, "client_id is not known"})

	// The sheet has no values of status. This one is like Huawei's; others come if a token asks for them by their number.
	add(frame.InReceipt, 0, frame.Delivered, [2]string{"0", "delivered"})
	return codes
}
