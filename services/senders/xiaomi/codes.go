package xiaomi

import "github.com/halleypush/halley/pkg/sender"

// badDevice is the code for a void registration id; of several, it does not say which.
const badDevice = "10029"

var codes = Codes()

// Codes returns every answer that Xiaomi documents.
func Codes() sender.Codes {
	return sender.Codes{
		{Code: "0", Outcome: sender.Accepted, Meaning: "success"},
		{Code: "target bad_regids", Outcome: sender.TokenGone, Meaning: "listed as invalid in a success"},
		{Code: "target channel_exceed_quota", Outcome: sender.Rejected, Meaning: "the device has had its share of the channel today"},
		{Code: "20301", Outcome: sender.TokenGone, Meaning: "all targets are invalid"},
		{Code: badDevice, Outcome: sender.TokenGone, Meaning: "bad device; rejected if there are several targets"},
		{Code: "-1", Outcome: sender.Retry, Meaning: "unknown error"},
		{Code: "10001", Outcome: sender.Retry, Meaning: "system error"},
		{Code: "10002", Outcome: sender.Retry, Meaning: "service paused"},
		{Code: "10003", Outcome: sender.Retry, Meaning: "remote service failed"},
		{Code: "10009", Outcome: sender.Retry, Meaning: "busy"},
		{Code: "10010", Outcome: sender.Retry, Meaning: "job timed out"},
		{Code: "10011", Outcome: sender.Retry, Meaning: "RPC failed"},
		{Code: "22102", Outcome: sender.Retry, Meaning: "sending failed"},
		{Code: "200002", Outcome: sender.Retry, Meaning: "too many requests a second"},
		{Code: "10022", Outcome: sender.Retry, Meaning: "too many requests of the address"},
		{Code: "10023", Outcome: sender.Retry, Meaning: "too many requests of the user"},
		{Code: "10024", Outcome: sender.Retry, Meaning: "too many requests of a special API"},
		{Code: "10027", Outcome: sender.Retry, Meaning: "too many requests of the app to the API"},
		{Code: "10028", Outcome: sender.Retry, Meaning: "too many requests of the app"},
		{Code: "200001", Outcome: sender.QuotaSpent, Meaning: "daily total reached"},
		{Code: "22101", Outcome: sender.QuotaSpent, Meaning: "too many notifications"},
		{Code: "21301", Outcome: sender.CredentialBad, Meaning: "authentication failed"},
		{Code: "10004", Outcome: sender.CredentialBad, Meaning: "address not allowed"},
		{Code: "10005", Outcome: sender.CredentialBad, Meaning: "appkey lacks a right"},
		{Code: "10006", Outcome: sender.CredentialBad, Meaning: "appkey missing"},
		{Code: "10012", Outcome: sender.CredentialBad, Meaning: "illegal request of the app"},
		{Code: "10013", Outcome: sender.CredentialBad, Meaning: "void user"},
		{Code: "10014", Outcome: sender.CredentialBad, Meaning: "interface lacks a right"},
		{Code: "10026", Outcome: sender.CredentialBad, Meaning: "blacklisted"},
		{Code: "22000", Outcome: sender.CredentialBad, Meaning: "bad application data"},
		{Code: "22001", Outcome: sender.CredentialBad, Meaning: "bad application data"},
		{Code: "22002", Outcome: sender.CredentialBad, Meaning: "bad application data"},
		{Code: "22003", Outcome: sender.CredentialBad, Meaning: "bad application data"},
		{Code: "22004", Outcome: sender.CredentialBad, Meaning: "bad application data"},
		{Code: "22005", Outcome: sender.CredentialBad, Meaning: "bad application data"},
		{Code: "22006", Outcome: sender.CredentialBad, Meaning: "bad application id"},
		{Code: "22007", Outcome: sender.CredentialBad, Meaning: "bad application key"},
		{Code: "22008", Outcome: sender.CredentialBad, Meaning: "bad application secret"},
		{Code: "22021", Outcome: sender.CredentialBad, Meaning: "bad application data"},
		{Code: "22022", Outcome: sender.CredentialBad, Meaning: "bad package name"},
		{Code: "66108", Outcome: sender.CredentialBad, Meaning: "another app's package"},
		{Code: "100", Outcome: sender.Rejected, Meaning: "empty parameter"},
		{Code: "10007", Outcome: sender.Rejected, Meaning: "bad parameter"},
		{Code: "10008", Outcome: sender.Rejected, Meaning: "bad parameter"},
		{Code: "10016", Outcome: sender.Rejected, Meaning: "missing parameter"},
		{Code: "10017", Outcome: sender.Rejected, Meaning: "bad value"},
		{Code: "10018", Outcome: sender.Rejected, Meaning: "too long"},
		{Code: "10020", Outcome: sender.Rejected, Meaning: "no such interface"},
		{Code: "10021", Outcome: sender.Rejected, Meaning: "bad method"},
		{Code: "10025", Outcome: sender.Rejected, Meaning: "bad callback URL"},
		{Code: "22100", Outcome: sender.Rejected, Meaning: "bad notification"},
		{Code: "22103", Outcome: sender.Rejected, Meaning: "bad notify id"},
		{Code: "HTTP 500", Outcome: sender.Retry, Meaning: "internal error"},
		{Code: "HTTP 502", Outcome: sender.Retry, Meaning: "bad gateway"},
		{Code: "HTTP 503", Outcome: sender.Retry, Meaning: "unavailable"},
		{Code: "HTTP 504", Outcome: sender.Retry, Meaning: "gateway time-out"},
	}
}

// ReceiptCodes are the types of Xiaomi's receipts.
func ReceiptCodes() []sender.ReceiptCode {
	return []sender.ReceiptCode{
		{Code: "1", What: sender.ReceiptArrived, Meaning: "delivered"},
		{Code: "2", What: sender.ReceiptClicked, Meaning: "clicked"},
		{Code: "16", What: sender.ReceiptTokenGone, Meaning: "invalid device"},
		{Code: "32", What: sender.ReceiptDropped, Meaning: "the app has disabled push"},
		{Code: "64", What: sender.ReceiptDropped, Meaning: "filtered"},
		{Code: "128", What: sender.ReceiptDropped, Meaning: "daily total reached"},
	}
}
