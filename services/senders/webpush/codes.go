package webpush

import "github.com/halleypush/halley/pkg/sender"

var codes = Codes()

// mismatch is 403 for another key than the one of the subscription, which is of no use any more.
const mismatch = "mismatch HTTP 403"

// Codes returns every status that RFC 8030 and the browsers' services document.
func Codes() sender.Codes {
	return sender.Codes{
		{Code: "HTTP 200", Outcome: sender.Accepted, Meaning: "success"},
		{Code: "HTTP 201", Outcome: sender.Accepted, Meaning: "success"},
		{Code: "HTTP 202", Outcome: sender.Accepted, Meaning: "success"},
		{Code: "HTTP 404", Outcome: sender.TokenGone, Meaning: "no such subscription"},
		{Code: "HTTP 410", Outcome: sender.TokenGone, Meaning: "the subscription has ended"},
		{Code: mismatch, Outcome: sender.TokenGone, Meaning: "the subscription is for another VAPID key"},
		{Code: "HTTP 401", Outcome: sender.CredentialBad, Meaning: "the VAPID token is not taken"},
		{Code: "HTTP 403", Outcome: sender.CredentialBad, Meaning: "the VAPID token is not taken"},
		{Code: "HTTP 400", Outcome: sender.Rejected, Meaning: "bad header or encryption"},
		{Code: "HTTP 413", Outcome: sender.Rejected, Meaning: "too large"},
		{Code: "HTTP 301", Outcome: sender.Rejected, Meaning: "moved, which is not followed"},
		{Code: "HTTP 307", Outcome: sender.Rejected, Meaning: "moved, which is not followed"},
		{Code: "HTTP 308", Outcome: sender.Rejected, Meaning: "moved, which is not followed"},
		{Code: "HTTP 429", Outcome: sender.Retry, Meaning: "too many messages"},
		{Code: "HTTP 500", Outcome: sender.Retry, Meaning: "internal error"},
		{Code: "HTTP 502", Outcome: sender.Retry, Meaning: "bad gateway"},
		{Code: "HTTP 503", Outcome: sender.Retry, Meaning: "unavailable"},
		{Code: "HTTP 504", Outcome: sender.Retry, Meaning: "gateway time-out"},
	}
}
