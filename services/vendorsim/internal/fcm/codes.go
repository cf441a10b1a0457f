package fcm

import (
	"net/http"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
)

// The codes that the simulator gives by itself.
const (
	success          = "200"
	invalidArgument  = "INVALID_ARGUMENT"
	unregistered     = "UNREGISTERED"
	senderMismatch   = "SENDER_ID_MISMATCH"
	unauthenticated  = "UNAUTHENTICATED"
	permissionDenied = "PERMISSION_DENIED"
	quotaExceeded    = "QUOTA_EXCEEDED"
	unavailable      = "UNAVAILABLE"
	notFound         = "404"

	invalidGrant     = "invalid_grant"
	invalidScope     = "invalid_scope"
	unsupportedGrant = "unsupported_grant_type"
)

// Codes lists the documented answers. INVALID_ARGUMENT has two meanings, which only the details tell apart: asked for by a
// title it is about the payload, asked for by a token about that.
func Codes() []frame.Code {
	return []frame.Code{
		{Status: http.StatusOK, Code: success, Meaning: "accepted", Group: frame.Success, Place: frame.InAnswer},
		{Status: http.StatusNotFound, Code: unregistered, Meaning: "the token is dead", Group: frame.TokenInvalid, Place: frame.InAnswer},
		{
			Status: http.StatusBadRequest, Code: invalidArgument, Group: frame.TokenInvalid, Place: frame.InToken,
			Meaning: "not a registration token",
		},
		{
			Status: http.StatusForbidden, Code: senderMismatch, Group: frame.TokenInvalid, Place: frame.InAnswer,
			Meaning: "the token is of another project",
		},
		{
			Status: http.StatusBadRequest, Code: invalidArgument, Group: frame.Payload, Place: frame.InAnswer,
			Meaning: "a field is wrong, or the payload too big",
		},
		{
			Status: http.StatusUnauthorized, Code: unauthenticated, Group: frame.Refresh, Place: frame.InAnswer,
			Meaning: "the access token is not good",
		},
		{
			Status: http.StatusForbidden, Code: permissionDenied, Group: frame.Configuration, Place: frame.InAnswer,
			Meaning: "the role is missing, or the API not enabled",
		},
		{
			Status: http.StatusUnauthorized, Code: "THIRD_PARTY_AUTH_ERROR", Group: frame.Configuration, Place: frame.InAnswer,
			Meaning: "the project's APNs or web push key is wrong",
		},
		{
			Status: http.StatusUnauthorized, Code: "APNS_AUTH_ERROR", Group: frame.Configuration, Place: frame.InAnswer,
			Meaning: "old name of THIRD_PARTY_AUTH_ERROR",
		},
		{
			Status: http.StatusTooManyRequests, Code: quotaExceeded, Group: frame.Rate, Place: frame.InAnswer,
			Meaning: "rate of the project, device or topic",
		},
		{
			Status: http.StatusServiceUnavailable, Code: unavailable, Group: frame.RetryLater, Place: frame.InAnswer,
			Meaning: "overloaded",
		},
		{Status: http.StatusInternalServerError, Code: "INTERNAL", Meaning: "internal error", Group: frame.RetryLater, Place: frame.InAnswer},
		// The sheet gives no status for this one.
		{
			Status: http.StatusInternalServerError, Code: "UNSPECIFIED_ERROR", Group: frame.RetryLater, Place: frame.InAnswer,
			Meaning: "not known",
		},
		// The sheet gives no errors of the token endpoint; these are OAuth's.
		{Status: http.StatusBadRequest, Code: invalidGrant, Meaning: "the assertion is not good", Group: frame.Configuration, Place: frame.InAuth},
		{Status: http.StatusBadRequest, Code: invalidScope, Meaning: "the scope is not FCM's", Group: frame.Configuration, Place: frame.InAuth},
		{
			Status: http.StatusBadRequest, Code: unsupportedGrant, Group: frame.Configuration, Place: frame.InAuth,
			Meaning: "grant_type is not jwt-bearer",
		},
	}
}

// canonical is the status of Google's APIs that stands beside a code of FCM.
func canonical(code frame.Code) string {
	switch code.Code {
	case invalidArgument, unauthenticated, permissionDenied, unavailable, "INTERNAL":
		return code.Code
	case unregistered:
		return "NOT_FOUND"
	case senderMismatch:
		return permissionDenied
	case "THIRD_PARTY_AUTH_ERROR", "APNS_AUTH_ERROR":
		return unauthenticated
	case quotaExceeded:
		return "RESOURCE_EXHAUSTED"
	}
	return "UNKNOWN"
}

// ofFCM says whether a code comes with the detail FcmError; the others are of the API in front of FCM.
func ofFCM(code frame.Code) bool {
	return code.Code != unauthenticated && code.Code != permissionDenied
}
