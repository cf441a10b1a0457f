package huawei

import (
	"github.com/halleypush/halley/pkg/sender"
	"github.com/halleypush/halley/services/senders/internal/hms"
)

// partial is the code of an answer that is good for some of the tokens.
const partial = "80100000"

var codes = Codes()

// Codes returns every answer that Huawei documents for v1 and v2.
func Codes() sender.Codes {
	return append(sender.Codes{
		{Code: "80000000", Outcome: sender.Accepted, Meaning: "success"},
		{Code: partial, Outcome: sender.Accepted, Meaning: "some tokens are void, and listed: token gone"},
		{Code: "80300007", Outcome: sender.TokenGone, Meaning: "all tokens are void"},
		{Code: "80200001", Outcome: sender.CredentialBad, Meaning: "authentication failed"},
		{Code: "80200003", Outcome: sender.CredentialBad, Meaning: "access token expired"},
		{Code: "80600003", Outcome: sender.CredentialBad, Meaning: "Huawei could not check the access token"},
		{Code: "80100001", Outcome: sender.Rejected, Meaning: "bad parameter"},
		{Code: "80100002", Outcome: sender.Rejected, Meaning: "a synchronous message needs one token"},
		{Code: "80100003", Outcome: sender.Rejected, Meaning: "bad structure"},
		{Code: "80100004", Outcome: sender.Rejected, Meaning: "ttl in the past"},
		{Code: "80100013", Outcome: sender.Rejected, Meaning: "bad collapse_key"},
		{Code: "80100016", Outcome: sender.Rejected, Meaning: "sensitive content"},
		{Code: "80100017", Outcome: sender.Retry, Meaning: "more than 100 topic tasks at a time"},
		{Code: "80100018", Outcome: sender.Rejected, Meaning: "review check failed"},
		{Code: "80300002", Outcome: sender.CredentialBad, Meaning: "the app may not send"},
		{Code: "80300008", Outcome: sender.Rejected, Meaning: "too long"},
		{Code: "80300010", Outcome: sender.Rejected, Meaning: "not 1 to 1000 tokens"},
		{Code: "80300011", Outcome: sender.Rejected, Meaning: "no right to high priority"},
		{Code: "80300013", Outcome: sender.Rejected, Meaning: "bad receipt address or certificate"},
		{Code: "81000001", Outcome: sender.Retry, Meaning: "internal error"},
	}, hms.Statuses()...)
}
