package fcm

import "github.com/halleypush/halley/pkg/sender"

var codes = Codes()

// badToken is INVALID_ARGUMENT that is about the registration token.
const badToken = "token INVALID_ARGUMENT"

// Codes returns every error that FCM documents, by its errorCode or, without one, its status.
func Codes() sender.Codes {
	return sender.Codes{
		{Code: "HTTP 200", Outcome: sender.Accepted, Meaning: "success"},
		{Code: "UNREGISTERED", Outcome: sender.TokenGone, Meaning: "uninstalled, or the token has changed"},
		{Code: badToken, Outcome: sender.TokenGone, Meaning: "no registration token; rejected if the push has an override, which may be at fault"},
		{Code: "SENDER_ID_MISMATCH", Outcome: sender.TokenGone, Meaning: "another project's token"},
		{Code: "INVALID_ARGUMENT", Outcome: sender.Rejected, Meaning: "bad payload"},
		{Code: "THIRD_PARTY_AUTH_ERROR", Outcome: sender.Rejected, Meaning: "the project's APNs key or Web Push key is bad"},
		{Code: "APNS_AUTH_ERROR", Outcome: sender.Rejected, Meaning: "the project's APNs key is bad"},
		{Code: "UNAUTHENTICATED", Outcome: sender.CredentialBad, Meaning: "access token void"},
		{Code: "PERMISSION_DENIED", Outcome: sender.CredentialBad, Meaning: "the service account may not send, or the API is not enabled"},
		{Code: "NOT_FOUND", Outcome: sender.CredentialBad, Meaning: "no such project"},
		{Code: "QUOTA_EXCEEDED", Outcome: sender.Retry, Meaning: "too many messages of the project, to the device or to the topic"},
		{Code: "RESOURCE_EXHAUSTED", Outcome: sender.Retry, Meaning: "too many messages"},
		{Code: "UNAVAILABLE", Outcome: sender.Retry, Meaning: "overloaded"},
		{Code: "INTERNAL", Outcome: sender.Retry, Meaning: "internal error"},
		{Code: "UNSPECIFIED_ERROR", Outcome: sender.Retry, Meaning: "unknown error"},
		{Code: "HTTP 400", Outcome: sender.Rejected, Meaning: "bad request"},
		{Code: "HTTP 401", Outcome: sender.CredentialBad, Meaning: "access token void"},
		{Code: "HTTP 403", Outcome: sender.CredentialBad, Meaning: "not allowed"},
		{Code: "HTTP 404", Outcome: sender.CredentialBad, Meaning: "no such project"},
		{Code: "HTTP 429", Outcome: sender.Retry, Meaning: "too many messages"},
		{Code: "HTTP 500", Outcome: sender.Retry, Meaning: "internal error"},
		{Code: "HTTP 502", Outcome: sender.Retry, Meaning: "bad gateway"},
		{Code: "HTTP 503", Outcome: sender.Retry, Meaning: "unavailable"},
		{Code: "HTTP 504", Outcome: sender.Retry, Meaning: "gateway time-out"},
	}
}
