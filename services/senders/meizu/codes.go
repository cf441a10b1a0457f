package meizu

import "github.com/halleypush/halley/pkg/sender"

var codes = Codes()

// Codes returns every answer that Meizu documents. Those of single targets stand behind "target": some mean something else there.
func Codes() sender.Codes {
	return sender.Codes{
		{Code: "200", Outcome: sender.Accepted, Meaning: "success"},
		{Code: "target 110002", Outcome: sender.TokenGone, Meaning: "unsubscribed"},
		{Code: "target 110003", Outcome: sender.TokenGone, Meaning: "illegal push id"},
		{Code: "target 110005", Outcome: sender.TokenGone, Meaning: "alias gone or muted"},
		{Code: "target 110010", Outcome: sender.Rejected, Meaning: "push switched off"},
		{Code: "target 110011", Outcome: sender.Rejected, Meaning: "the device has had its public messages today"},
		{Code: "target 520", Outcome: sender.Rejected, Meaning: "folded: too many in a minute"},
		{Code: "target 501", Outcome: sender.Retry, Meaning: "failed"},
		{Code: "target 513", Outcome: sender.Retry, Meaning: "failed"},
		{Code: "target 518", Outcome: sender.Retry, Meaning: "too fast"},
		{Code: "target 519", Outcome: sender.Retry, Meaning: "overload"},
		{Code: "target 201", Outcome: sender.Rejected, Meaning: "no right"},
		{Code: "110002", Outcome: sender.TokenGone, Meaning: "not registered; rejected if there are several targets"},
		{Code: "110003", Outcome: sender.TokenGone, Meaning: "illegal push id; rejected if there are several targets"},
		{Code: "500", Outcome: sender.Retry, Meaning: "failed"},
		{Code: "1001", Outcome: sender.Retry, Meaning: "system error"},
		{Code: "1003", Outcome: sender.Retry, Meaning: "busy"},
		{Code: "110010", Outcome: sender.Retry, Meaning: "too many requests a second"},
		{Code: "300", Outcome: sender.Retry, Meaning: "redirected"},
		{Code: "110019", Outcome: sender.QuotaSpent, Meaning: "daily push count"},
		{Code: "110051", Outcome: sender.QuotaSpent, Meaning: "count limit"},
		{Code: "110053", Outcome: sender.QuotaSpent, Meaning: "pass-through limit"},
		{Code: "1006", Outcome: sender.CredentialBad, Meaning: "wrong signature"},
		{Code: "110000", Outcome: sender.CredentialBad, Meaning: "wrong app id"},
		{Code: "110001", Outcome: sender.CredentialBad, Meaning: "wrong app key"},
		{Code: "110033", Outcome: sender.CredentialBad, Meaning: "wrong app secret"},
		{Code: "110031", Outcome: sender.CredentialBad, Meaning: "wrong package"},
		{Code: "110009", Outcome: sender.CredentialBad, Meaning: "blacklisted"},
		{Code: "1005", Outcome: sender.Rejected, Meaning: "bad parameter"},
		{Code: "110004", Outcome: sender.Rejected, Meaning: "empty parameter"},
		{Code: "110032", Outcome: sender.Rejected, Meaning: "bad task id"},
		{Code: "HTTP 500", Outcome: sender.Retry, Meaning: "internal error"},
		{Code: "HTTP 502", Outcome: sender.Retry, Meaning: "bad gateway"},
		{Code: "HTTP 503", Outcome: sender.Retry, Meaning: "unavailable"},
		{Code: "HTTP 504", Outcome: sender.Retry, Meaning: "gateway time-out"},
	}
}

// ReceiptCodes are the types of Meizu's receipts.
func ReceiptCodes() []sender.ReceiptCode {
	return []sender.ReceiptCode{
		{Code: "1", What: sender.ReceiptArrived, Meaning: "delivered"},
		{Code: "2", What: sender.ReceiptClicked, Meaning: "clicked"},
	}
}
