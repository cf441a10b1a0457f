package harmony

import (
	"github.com/halleypush/halley/pkg/sender"
	"github.com/halleypush/halley/services/senders/internal/hms"
)

const (
	// partial is the code of an answer that is good for some of the tokens, allRefused of one that is good for none.
	partial, allRefused = "80100000", "80300007"
)

var codes = Codes()

// Codes returns every answer that Huawei documents for v3. "target" stands before the reasons for which a token is refused.
func Codes() sender.Codes {
	return append(sender.Codes{
		{Code: "80000000", Outcome: sender.Accepted, Meaning: "success"},
		{Code: partial, Outcome: sender.Accepted, Meaning: "some tokens are refused, and listed by reason"},
		{Code: allRefused, Outcome: sender.Rejected, Meaning: "all tokens are refused, and listed by reason"},
		{Code: "target tokenFormatError", Outcome: sender.TokenGone, Meaning: "no token"},
		{Code: "target tokenPlatformNotSupport", Outcome: sender.TokenGone, Meaning: "token of another platform"},
		{Code: "target noPushTypeRight", Outcome: sender.Rejected, Meaning: "no right to this push type"},
		{Code: "target noRight", Outcome: sender.Rejected, Meaning: "token of another project, or from before the system was upgraded"},
		{Code: "target appinfoError", Outcome: sender.Rejected, Meaning: "the app's data do not fit"},
		{Code: "target countryNotSupport", Outcome: sender.Rejected, Meaning: "not in this country"},
		{Code: "target disableSendHuaweiMsgBecauseOfPenalty", Outcome: sender.Rejected, Meaning: "penalty"},
		{Code: "target atomicUnableSendUnsubscribedMsg", Outcome: sender.Rejected, Meaning: "not subscribed to the atomic service"},
		{Code: "target differentImgVerifyPolicy", Outcome: sender.Rejected, Meaning: "images are judged differently"},
		{Code: "target notSupportPlayVoice", Outcome: sender.Rejected, Meaning: "no voice broadcast"},
		{Code: "target noRightToSendThisLiveNotificationEvent", Outcome: sender.Rejected, Meaning: "no right to this live view"},
		{Code: "80200001", Outcome: sender.CredentialBad, Meaning: "authentication failed: another project, key or version"},
		{Code: "80200005", Outcome: sender.CredentialBad, Meaning: "JWT expired"},
		{Code: "80300036", Outcome: sender.CredentialBad, Meaning: "JWT holds longer than a day"},
		{Code: "80100001", Outcome: sender.Rejected, Meaning: "bad parameter"},
		{Code: "80100003", Outcome: sender.Rejected, Meaning: "bad structure"},
		{Code: "80100004", Outcome: sender.Rejected, Meaning: "ttl is over"},
		{Code: "80100022", Outcome: sender.Rejected, Meaning: "image not verified"},
		{Code: "80300008", Outcome: sender.Rejected, Meaning: "too long"},
		{Code: "80300010", Outcome: sender.Rejected, Meaning: "too few or too many tokens"},
		{Code: "80300030", Outcome: sender.Rejected, Meaning: "more than 10 tokens of a test message"},
		{Code: "80300002", Outcome: sender.CredentialBad, Meaning: "push is not enabled, or another project"},
		{Code: "80300037", Outcome: sender.CredentialBad, Meaning: "the app is under a penalty"},
		{Code: "80300029", Outcome: sender.Retry, Meaning: "test messages too frequent"},
		{Code: "81000001", Outcome: sender.Retry, Meaning: "internal error"},
	}, hms.Statuses()...)
}
