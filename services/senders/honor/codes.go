package honor

import (
	"slices"

	"github.com/halleypush/halley/pkg/sender"
	"github.com/halleypush/halley/services/senders/internal/hms"
)

// partial is the code of an answer that is good for some of the tokens.
const partial = "80100000"

var codes = Codes()

// Codes returns every answer that Honor is known for. All but 200 and the HTTP statuses are uncertain: they are Huawei's, seen in
// clients of Honor. None of them voids a token; the list expireTokens of an answer does ("target expireTokens").
func Codes() sender.Codes {
	return sender.Codes{
		{Code: "200", Outcome: sender.Accepted, Meaning: "success"},
		{Code: "80000000", Outcome: sender.Accepted, Meaning: "success"},
		{Code: partial, Outcome: sender.Accepted, Meaning: "some tokens failed, and are listed"},
		{Code: "target expireTokens", Outcome: sender.TokenGone, Meaning: "expired"},
		{Code: "target failTokens", Outcome: sender.Retry, Meaning: "failed in this request"},
		{Code: "80300007", Outcome: sender.Rejected, Meaning: "all tokens are void"},
		{Code: "80200001", Outcome: sender.CredentialBad, Meaning: "authentication failed"},
		{Code: "80200003", Outcome: sender.CredentialBad, Meaning: "access token expired"},
		{Code: "80300002", Outcome: sender.CredentialBad, Meaning: "the app may not send"},
		{Code: "80100001", Outcome: sender.Rejected, Meaning: "bad parameter"},
		{Code: "80100003", Outcome: sender.Rejected, Meaning: "bad structure"},
		{Code: "80100004", Outcome: sender.Rejected, Meaning: "ttl in the past"},
		{Code: "80300008", Outcome: sender.Rejected, Meaning: "too long"},
		{Code: "80300010", Outcome: sender.Rejected, Meaning: "too few or too many tokens"},
		{Code: "81000001", Outcome: sender.Retry, Meaning: "internal error"},
		{Code: "HTTP 400", Outcome: sender.Rejected, Meaning: "bad parameter"},
		{Code: "HTTP 401", Outcome: sender.CredentialBad, Meaning: "access token void"},
		{Code: "HTTP 403", Outcome: sender.CredentialBad, Meaning: "access token void"},
		{Code: "HTTP 404", Outcome: sender.CredentialBad, Meaning: "no such app"},
		{Code: "HTTP 429", Outcome: sender.Retry, Meaning: "too many requests"},
		{Code: "HTTP 500", Outcome: sender.Retry, Meaning: "internal error"},
		{Code: "HTTP 502", Outcome: sender.Retry, Meaning: "bad gateway"},
		{Code: "HTTP 503", Outcome: sender.Retry, Meaning: "traffic control"},
		{Code: "HTTP 504", Outcome: sender.Retry, Meaning: "gateway time-out"},
	}
}

// ReceiptCodes are the states of Honor's receipts, as far as they are Huawei's; that is uncertain, so none voids a token.
func ReceiptCodes() []sender.ReceiptCode {
	all := slices.Clone(hms.ReceiptCodes())
	for i, known := range all {
		if known.What == sender.ReceiptTokenGone {
			all[i].What = sender.ReceiptDropped
		}
	}
	return all
}
