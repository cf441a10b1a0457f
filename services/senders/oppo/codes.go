package oppo

import "github.com/halleypush/halley/pkg/sender"

var codes = Codes()

// Codes returns every answer that OPPO documents. One with "target" before it is of a single target of a batch.
func Codes() sender.Codes {
	return sender.Codes{
		{Code: "0", Outcome: sender.Accepted, Meaning: "success"},
		{Code: "10000", Outcome: sender.TokenGone, Meaning: "bad registration id; rejected if there are several targets"},
		{Code: "target 10000", Outcome: sender.TokenGone, Meaning: "bad registration id"},
		// Both mean that somebody does not want pushes, not that the id is void.
		{Code: "10001", Outcome: sender.Rejected, Meaning: "not subscribed, or push switched off"},
		{Code: "target 10001", Outcome: sender.Rejected, Meaning: "not subscribed, or push switched off"},
		{Code: "10002", Outcome: sender.Rejected, Meaning: "bad alias"},
		{Code: "target 10002", Outcome: sender.Rejected, Meaning: "bad alias"},
		{Code: "10003", Outcome: sender.Rejected, Meaning: "alias not subscribed"},
		{Code: "target 10003", Outcome: sender.Rejected, Meaning: "alias not subscribed"},
		{Code: "-2", Outcome: sender.Retry, Meaning: "flow control"},
		{Code: "-1", Outcome: sender.Retry, Meaning: "unavailable"},
		{Code: "13", Outcome: sender.Retry, Meaning: "too many calls"},
		{Code: "55", Outcome: sender.Retry, Meaning: "too many calls of the app"},
		{Code: "33", Outcome: sender.QuotaSpent, Meaning: "daily message limit"},
		{Code: "34", Outcome: sender.QuotaSpent, Meaning: "daily picture limit"},
		{Code: "11", Outcome: sender.CredentialBad, Meaning: "auth_token void"},
		{Code: "29", Outcome: sender.CredentialBad, Meaning: "auth_token missing"},
		{Code: "14", Outcome: sender.CredentialBad, Meaning: "app key missing"},
		{Code: "15", Outcome: sender.CredentialBad, Meaning: "bad app key"},
		{Code: "16", Outcome: sender.CredentialBad, Meaning: "signature missing"},
		{Code: "17", Outcome: sender.CredentialBad, Meaning: "bad signature"},
		{Code: "18", Outcome: sender.CredentialBad, Meaning: "timestamp missing"},
		{Code: "19", Outcome: sender.CredentialBad, Meaning: "bad timestamp"},
		{Code: "26", Outcome: sender.CredentialBad, Meaning: "address not allowed"},
		{Code: "27", Outcome: sender.CredentialBad, Meaning: "denied"},
		{Code: "28", Outcome: sender.CredentialBad, Meaning: "app disabled"},
		{Code: "30", Outcome: sender.CredentialBad, Meaning: "the API is not allowed"},
		{Code: "59", Outcome: sender.CredentialBad, Meaning: "a secondary action is not allowed"},
		{Code: "12", Outcome: sender.Rejected, Meaning: "bad HTTP action"},
		{Code: "20", Outcome: sender.Rejected, Meaning: "bad protocol"},
		{Code: "21", Outcome: sender.Rejected, Meaning: "bad protocol"},
		{Code: "22", Outcome: sender.Rejected, Meaning: "bad version"},
		{Code: "23", Outcome: sender.Rejected, Meaning: "bad version"},
		{Code: "24", Outcome: sender.Rejected, Meaning: "bad encoding"},
		{Code: "25", Outcome: sender.Rejected, Meaning: "bad encoding"},
		{Code: "31", Outcome: sender.Rejected, Meaning: "data absent"},
		{Code: "32", Outcome: sender.Rejected, Meaning: "duplicate"},
		{Code: "40", Outcome: sender.Rejected, Meaning: "missing argument"},
		{Code: "41", Outcome: sender.Rejected, Meaning: "bad argument"},
		{Code: "51", Outcome: sender.Rejected, Meaning: "bad picture"},
		{Code: "67", Outcome: sender.Rejected, Meaning: "category and notify_level do not go together"},
		{Code: "HTTP 500", Outcome: sender.Retry, Meaning: "unavailable"},
		{Code: "HTTP 502", Outcome: sender.Retry, Meaning: "unavailable"},
		{Code: "HTTP 503", Outcome: sender.Retry, Meaning: "unavailable"},
		{Code: "HTTP 504", Outcome: sender.Retry, Meaning: "unavailable"},
	}
}

// ReceiptCodes are the types of OPPO's receipts.
func ReceiptCodes() []sender.ReceiptCode {
	return []sender.ReceiptCode{
		{Code: "push_arrive", What: sender.ReceiptArrived, Meaning: "reached the phone"},
		{Code: "regid_invalid", What: sender.ReceiptTokenGone, Meaning: "uninstalled, reset, or a month offline"},
		{Code: "user_daily_limit", What: sender.ReceiptDropped, Meaning: "the device has had its messages today"},
	}
}
