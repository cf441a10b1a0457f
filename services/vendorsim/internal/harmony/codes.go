package harmony

import (
	"net/http"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
)

// The codes that the simulator gives by itself.
const (
	success       = "80000000"
	partial       = "80100000"
	badParameter  = "80100001"
	badStructure  = "80100003"
	badTTL        = "80100004"
	authError     = "80200001"
	jwtExpired    = "80200005"
	notAllowed    = "80300002"
	allInvalid    = "80300007"
	tooLong       = "80300008"
	tokenCount    = "80300010"
	testTooOften  = "80300029"
	testTokens    = "80300030"
	jwtTooLong    = "80300036"
	traffic       = "503"
	wrongURL      = "404"
	badFormat     = "tokenFormatError"
	noRight       = "noRight"
	noTypeRight   = "noPushTypeRight"
	receiptOK     = "0"
	receiptCapped = "256"
	receiptLimit  = "102"
)

// Codes lists the documented answers. As with Huawei the sheet gives no HTTP status for each code: authentication is answered
// with 401, parameters with 400, internal errors with 500 and the rest with 200, so that a client has to read the code. The
// receipts are Huawei's; the list of those that only this system has was not seen in full.
func Codes() []frame.Code {
	var codes []frame.Code
	add := func(place frame.Place, status int, group frame.Group, list ...[2]string) {
		for _, c := range list {
			codes = append(codes, frame.Code{Status: status, Code: c[0], Meaning: c[1], Group: group, Place: place})
		}
	}
	answer := func(status int, group frame.Group, list ...[2]string) { add(frame.InAnswer, status, group, list...) }
	answer(http.StatusOK, frame.Success, [2]string{success, "accepted"},
		[2]string{partial, "msg lists the illegal tokens by reason, the others are accepted"})
	answer(http.StatusOK, frame.TokenInvalid, [2]string{allInvalid, "all tokens are refused, msg lists them by reason"})
	answer(http.StatusUnauthorized, frame.Refresh,
		[2]string{jwtExpired, "the JWT has expired"}, [2]string{jwtTooLong, "the JWT is valid for more than a day"},
		[2]string{authError, "wrong project, key, or kind of token"}, [2]string{"401", "authentication failed"})
	answer(http.StatusBadRequest, frame.Payload,
		[2]string{badParameter, "bad parameter"}, [2]string{badStructure, "bad structure"}, [2]string{badTTL, "ttl has expired"},
		[2]string{"80100022", "the image is not verified"}, [2]string{tooLong, "over 4096 bytes without tokens"},
		[2]string{tokenCount, "wrong number of tokens"}, [2]string{testTokens, "over 10 tokens in a test message"},
		[2]string{"400", "bad parameter"})
	answer(http.StatusNotFound, frame.Payload, [2]string{wrongURL, "no such URL"})
	answer(http.StatusOK, frame.Configuration,
		[2]string{notAllowed, "push is not enabled, or wrong project"}, [2]string{"80300037", "penalty: the app may not send"})
	answer(http.StatusServiceUnavailable, frame.Rate, [2]string{traffic, "traffic control"})
	answer(http.StatusOK, frame.Rate, [2]string{testTooOften, "test messages too often"})
	answer(http.StatusInternalServerError, frame.RetryLater,
		[2]string{"81000001", "internal error"}, [2]string{"500", "internal error"})
	answer(http.StatusBadGateway, frame.RetryLater, [2]string{"502", "bad gateway"})

	add(frame.InToken, http.StatusOK, frame.TokenInvalid, [2]string{badFormat, "not a token"},
		[2]string{"tokenPlatformNotSupport", "a token of another system"})
	add(frame.InToken, http.StatusOK, frame.TokenKeep,
		[2]string{noTypeRight, "no right to the push type"}, [2]string{noRight, "token of another project, or from before an upgrade"},
		[2]string{"appinfoError", "app information is wrong"}, [2]string{"countryNotSupport", "country is not supported"},
		[2]string{"disableSendHuaweiMsgBecauseOfPenalty", "penalty"},
		[2]string{"atomicUnableSendUnsubscribedMsg", "atomic service without subscription"},
		[2]string{"differentImgVerifyPolicy", "images are verified in different ways"},
		[2]string{"notSupportPlayVoice", "no voice broadcast on the device"},
		[2]string{"noRightToSendThisLiveNotificationEvent", "no right to the live view's event"})

	receipts := func(group frame.Group, list ...[2]string) { add(frame.InReceipt, 0, group, list...) }
	receipts(frame.Delivered, [2]string{receiptOK, "delivered"})
	receipts(frame.TokenInvalid, [2]string{"2", "app not installed"}, [2]string{"5", "token unknown on the device"})
	receipts(frame.TokenKeep, [2]string{"6", "notifications are switched off"},
		[2]string{"10", "device inactive for 30 days"}, [2]string{"201", "held back by the server"})
	receipts(frame.Quota, [2]string{receiptCapped, "a daily cap is reached"})
	receipts(frame.Rate, [2]string{receiptLimit, "the device's daily total is reached"})
	receipts(frame.NotDelivered, [2]string{"15", "replaced, or over 120 cached offline"},
		[2]string{"27", "background message cached, process not running"}, [2]string{"144", "profile id absent"})
	return codes
}
