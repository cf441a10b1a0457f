package vivo

import "github.com/halleypush/halley/pkg/sender"

var codes = Codes()

// Codes returns every answer that vivo documents, or that its clients in public know. One with "target" before it is the status of
// a single target.
func Codes() sender.Codes {
	return sender.Codes{
		{Code: "0", Outcome: sender.Accepted, Meaning: "success"},
		{Code: "target 1", Outcome: sender.TokenGone, Meaning: "unknown in this app"},
		{Code: "target 2", Outcome: sender.TokenGone, Meaning: "uninstalled or unsubscribed"},
		{Code: "target 4", Outcome: sender.Rejected, Meaning: "not a test user"},
		{Code: invalidID, Outcome: sender.TokenGone, Meaning: "invalid regId; rejected if it is not said which"},
		{Code: authenticate, Outcome: sender.CredentialBad, Meaning: "authentication failed"},
		{Code: "10094", Outcome: sender.CredentialBad, Meaning: "another app's token"},
		{Code: "10200", Outcome: sender.CredentialBad, Meaning: "appId empty"},
		{Code: "10201", Outcome: sender.CredentialBad, Meaning: "appKey empty"},
		{Code: "10202", Outcome: sender.CredentialBad, Meaning: "a parameter of the authentication"},
		{Code: "10203", Outcome: sender.CredentialBad, Meaning: "a parameter of the authentication"},
		{Code: "10204", Outcome: sender.CredentialBad, Meaning: "a parameter of the authentication"},
		{Code: "10205", Outcome: sender.CredentialBad, Meaning: "a parameter of the authentication"},
		{Code: "10206", Outcome: sender.CredentialBad, Meaning: "a parameter of the authentication"},
		{Code: "10207", Outcome: sender.CredentialBad, Meaning: "a parameter of the authentication"},
		{Code: "10070", Outcome: sender.QuotaSpent, Meaning: "operation messages of the day"},
		{Code: "10073", Outcome: sender.QuotaSpent, Meaning: "system messages of the day"},
		{Code: "10252", Outcome: sender.QuotaSpent, Meaning: "list payloads of the day"},
		{Code: "10254", Outcome: sender.QuotaSpent, Meaning: "broadcasts of the day"},
		{Code: night, Outcome: sender.Retry, Meaning: "operation messages go out between 7:00 and 23:00"},
		{Code: "10072", Outcome: sender.Retry, Meaning: "too fast"},
		{Code: "10040", Outcome: sender.Retry, Meaning: "resources exhausted"},
		{Code: "10054", Outcome: sender.Rejected, Meaning: "bad content or target"},
		{Code: "10085", Outcome: sender.Rejected, Meaning: "the text breaks vivo's rules"},
		{Code: "10104", Outcome: sender.Rejected, Meaning: "the text breaks vivo's rules"},
		{Code: "10096", Outcome: sender.Rejected, Meaning: "bad category"},
		{Code: "10097", Outcome: sender.Rejected, Meaning: "category and classification do not go together"},
		{Code: "HTTP 500", Outcome: sender.Retry, Meaning: "internal error"},
		{Code: "HTTP 502", Outcome: sender.Retry, Meaning: "bad gateway"},
		{Code: "HTTP 503", Outcome: sender.Retry, Meaning: "unavailable"},
		{Code: "HTTP 504", Outcome: sender.Retry, Meaning: "gateway time-out"},
	}
}
