package webpush

import (
	"net/http"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
)

// The codes that the simulator gives by itself: the HTTP status, with Mozilla's errno or Apple's reason behind it.
const (
	created       = "201"
	badCrypto     = "400/110"
	badHeader     = "400/111"
	badJWT        = "401"
	appleBadJWT   = "403/BadJwtToken"
	appleExpired  = "403/ExpiredJwtToken"
	appleOtherKey = "403/VapidPkHashMismatch"
	otherKey      = "403"
	unknown       = "404/102"
	gone          = "410/106"
	tooLarge      = "413/104"
	tooMany       = "429"
	backOff       = "503/201"
)

// Codes lists the documented answers. The sheet does not say which errno of 400 means what, nor the status of Apple's reasons
// (M): bad crypto is 110 here, a bad header 111, and Apple's are 403.
func Codes() []frame.Code {
	var codes []frame.Code
	add := func(status int, group frame.Group, list ...[2]string) {
		for _, c := range list {
			codes = append(codes, frame.Code{Status: status, Code: c[0], Meaning: c[1], Group: group, Place: frame.InAnswer})
		}
	}
	add(http.StatusCreated, frame.Success, [2]string{created, "created"})
	add(http.StatusOK, frame.Success, [2]string{"200", "accepted"})
	add(http.StatusAccepted, frame.Success, [2]string{"202", "accepted with a receipt subscription"})
	add(http.StatusBadRequest, frame.Payload, [2]string{"400", "bad header or crypto"},
		[2]string{"400/101", "bad header or crypto"}, [2]string{"400/108", "bad header or crypto"},
		[2]string{badCrypto, "bad crypto"}, [2]string{badHeader, "bad header"},
		[2]string{"400/112", "bad header or crypto"}, [2]string{"400/113", "bad header or crypto"})
	add(http.StatusUnauthorized, frame.Refresh, [2]string{badJWT, "VAPID is bad or has expired"})
	add(http.StatusForbidden, frame.Refresh, [2]string{otherKey, "VAPID is bad, or another key than at subscribe"},
		[2]string{appleBadJWT, "VAPID is bad"}, [2]string{appleExpired, "VAPID has expired"})
	add(http.StatusForbidden, frame.TokenInvalid, [2]string{appleOtherKey, "another key than at subscribe"})
	add(http.StatusNotFound, frame.TokenInvalid, [2]string{"404", "endpoint unknown"}, [2]string{unknown, "endpoint unknown"})
	add(http.StatusGone, frame.TokenInvalid, [2]string{"410", "gone"}, [2]string{"410/103", "gone"},
		[2]string{"410/105", "gone"}, [2]string{gone, "gone"})
	add(http.StatusRequestEntityTooLarge, frame.Payload, [2]string{"413", "too large"}, [2]string{tooLarge, "too large"})
	add(http.StatusTooManyRequests, frame.Rate, [2]string{tooMany, "too many"})
	add(http.StatusMovedPermanently, frame.Configuration, [2]string{"301", "moved: not to be followed blindly"})
	add(http.StatusTemporaryRedirect, frame.Configuration, [2]string{"307", "moved: not to be followed blindly"})
	add(http.StatusPermanentRedirect, frame.Configuration, [2]string{"308", "moved: not to be followed blindly"})
	add(http.StatusInternalServerError, frame.RetryLater, [2]string{"500", "internal error"})
	add(http.StatusBadGateway, frame.RetryLater, [2]string{"502", "bad gateway"},
		[2]string{"502/900", "bridge fault"}, [2]string{"502/901", "bridge fault"},
		[2]string{"502/902", "bridge fault"}, [2]string{"502/903", "bridge fault"})
	add(http.StatusServiceUnavailable, frame.RetryLater, [2]string{"503", "down"},
		[2]string{backOff, "back off"}, [2]string{"503/202", "retry at once"})
	return codes
}
