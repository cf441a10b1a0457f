package oppo

import (
	"net/http"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
)

// The codes that the simulator gives by itself.
const (
	success       = "0"
	badToken      = "11"
	wrongMethod   = "12"
	badAppKey     = "14"
	noAppKey      = "15"
	badSign       = "16"
	noSign        = "17"
	noTimestamp   = "18"
	badTimestamp  = "19"
	badEncoding   = "25"
	disabled      = "28"
	noToken       = "29"
	noRight       = "30"
	absent        = "31"
	overQuota     = "33"
	missing       = "40"
	badValue      = "41"
	overRate      = "55"
	badLevel      = "67"
	invalidRegID  = "10000"
	invalidAlias  = "10002"
	notSubscribed = "10001"
	noSuchPath    = "404"

	arrived    = "push_arrive"
	uninstall  = "regid_invalid"
	dailyLimit = "user_daily_limit"
)

// Codes lists the documented answers. A code whose status is not 200 is an HTTP status without a code of OPPO's. The sheet names
// what 14 to 19 and 20 to 25 are about together: which is which is from memory.
func Codes() []frame.Code {
	var codes []frame.Code
	add := func(place frame.Place, group frame.Group, list ...[2]string) {
		for _, c := range list {
			codes = append(codes, frame.Code{Status: http.StatusOK, Code: c[0], Meaning: c[1], Group: group, Place: place})
		}
	}
	add(frame.InAnswer, frame.Success, [2]string{success, "Success"})
	add(frame.InAnswer, frame.RetryLater, [2]string{"-2", "server flow control"}, [2]string{"-1", "service unavailable"})
	add(frame.InAnswer, frame.Rate, [2]string{"13", "too many calls"}, [2]string{overRate, "over the app's rate"})
	add(frame.InAnswer, frame.Quota, [2]string{overQuota, "daily message limit"}, [2]string{"34", "daily picture uploads"})
	add(frame.InAnswer, frame.Refresh, [2]string{badToken, "bad auth_token"}, [2]string{noToken, "auth_token is missing"})
	configuration := [][2]string{
		{badAppKey, "bad app_key"},
		{noAppKey, "app_key is missing"},
		{badSign, "bad signature"},
		{noSign, "signature is missing"},
		{noTimestamp, "timestamp is missing"},
		{badTimestamp, "bad timestamp"},
		{"26", "IP blacklist"},
		{"27", "access denied"},
		{disabled, "the app is disabled"},
		{noRight, "no right to the API"},
		{"59", "no right to the secondary action"},
	}
	add(frame.InAnswer, frame.Configuration, configuration...)
	add(frame.InAuth, frame.Configuration, configuration...)
	invalid := [][2]string{
		{invalidRegID, "bad registration id"},
		{notSubscribed, "not subscribed or push switched off"},
		{invalidAlias, "bad alias"},
		{"10003", "the alias is not subscribed"},
	}
	add(frame.InAnswer, frame.TokenInvalid, invalid...)
	add(frame.InToken, frame.TokenInvalid, invalid...)
	arguments := [][2]string{
		{missing, "missing argument"}, {badValue, "bad argument"}, {badLevel, "category and notify_level do not fit"},
	}
	add(frame.InAnswer, frame.Payload, arguments...)
	add(frame.InToken, frame.Payload, arguments...)
	add(frame.InAnswer, frame.Payload,
		[2]string{wrongMethod, "wrong HTTP method"}, [2]string{"20", "bad method"}, [2]string{"21", "method is missing"},
		[2]string{"22", "version is missing"}, [2]string{"23", "bad version"}, [2]string{"24", "version not supported"},
		[2]string{badEncoding, "bad encoding"}, [2]string{absent, "data absent"}, [2]string{"32", "duplicate data"},
		[2]string{"51", "bad picture"})
	codes = append(codes,
		frame.Code{Status: 404, Code: noSuchPath, Meaning: "no such path", Group: frame.Payload, Place: frame.InAnswer},
		frame.Code{Status: 500, Code: "500", Meaning: "internal error", Group: frame.RetryLater, Place: frame.InAnswer},
		frame.Code{Status: 502, Code: "502", Meaning: "bad gateway", Group: frame.RetryLater, Place: frame.InAnswer},
		frame.Code{Status: 503, Code: "503", Meaning: "unavailable", Group: frame.RetryLater, Place: frame.InAnswer},
		frame.Code{Code: arrived, Meaning: "reached the push client", Group: frame.Delivered, Place: frame.InReceipt},
		frame.Code{Code: uninstall, Meaning: "uninstalled, flashed, or 30 days offline", Group: frame.TokenInvalid, Place: frame.InReceipt},
		frame.Code{Code: dailyLimit, Meaning: "the device has had its messages of today", Group: frame.Quota, Place: frame.InReceipt},
	)
	return codes
}
