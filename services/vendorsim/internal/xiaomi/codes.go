package xiaomi

import (
	"net/http"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
)

// The codes that the simulator gives by itself.
const (
	success         = "0"
	emptyParameter  = "100"
	missing         = "10016"
	badValue        = "10017"
	tooLong         = "10018"
	badCallback     = "10025"
	allInvalid      = "20301"
	authFailed      = "21301"
	packageMismatch = "66108"
	badNotifyID     = "22103"
	overQuota       = "200001"
	overRate        = "200002"
	channelQuota    = "channel_exceed_quota"
	noSuchPath      = "404"

	badRegids = "bad_regids"
)

// Codes lists the documented answers. A code whose status is not 200 is an HTTP status without a code of MiPush. The sheet gives
// many codes by their group alone: their meaning here is that of the group.
func Codes() []frame.Code {
	var codes []frame.Code
	add := func(group frame.Group, meaning string, names ...string) {
		for _, name := range names {
			codes = append(codes, frame.Code{Status: http.StatusOK, Code: name, Meaning: meaning, Group: group, Place: frame.InAnswer})
		}
	}
	add(frame.Success, "accepted", success)
	add(frame.TokenInvalid, "all targets are invalid", allInvalid)
	add(frame.TokenInvalid, "bad device", "10029")
	for _, c := range [][2]string{
		{"-1", "unknown error"},
		{"10001", "system error"},
		{"10002", "service paused"},
		{"10003", "remote service error"},
		{"10009", "busy"},
		{"10010", "job timeout"},
		{"10011", "RPC error"},
		{"22102", "send failed"},
	} {
		add(frame.RetryLater, c[1], c[0])
	}
	add(frame.Rate, "over the QPS", overRate)
	add(frame.Rate, "over a rate of the IP, the user, the API, the app's calls or the app", "10022", "10023", "10024", "10027", "10028")
	add(frame.Quota, "daily total reached", overQuota)
	add(frame.Quota, "the channel's daily total is reached; stands in data, beside code 0", channelQuota)
	add(frame.Quota, "too many notifications", "22101")
	add(frame.Configuration, "authentication failed", authFailed)
	add(frame.Configuration, "IP not allowed", "10004")
	add(frame.Configuration, "access refused", "10005", "10006", "10012", "10013", "10014")
	add(frame.Configuration, "blacklisted", "10026")
	add(frame.Configuration, "bad application data", "22000", "22001", "22002", "22003", "22004", "22005")
	add(frame.Configuration, "bad application id", "22006")
	add(frame.Configuration, "bad application key", "22007")
	add(frame.Configuration, "bad application secret", "22008")
	add(frame.Configuration, "bad package name", "22021", "22022")
	add(frame.Configuration, "the package is not the app's", packageMismatch)
	add(frame.Payload, "empty parameter", emptyParameter)
	add(frame.Payload, "missing parameter", missing)
	add(frame.Payload, "bad value", badValue)
	add(frame.Payload, "too long", tooLong)
	add(frame.Payload, "bad request", "10007", "10008", "10020", "10021")
	add(frame.Payload, "bad callback URL", badCallback)
	add(frame.Payload, "bad notification format", "22100")
	add(frame.Payload, "bad notify id", badNotifyID)
	codes = append(codes,
		frame.Code{Status: 404, Code: noSuchPath, Meaning: "no such path", Group: frame.Payload, Place: frame.InAnswer},
		frame.Code{Status: 500, Code: "500", Meaning: "internal error", Group: frame.RetryLater, Place: frame.InAnswer},
		frame.Code{Status: 502, Code: "502", Meaning: "bad gateway", Group: frame.RetryLater, Place: frame.InAnswer},
		frame.Code{Status: 503, Code: "503", Meaning: "unavailable", Group: frame.RetryLater, Place: frame.InAnswer},
		frame.Code{Status: 200, Code: badRegids, Meaning: "listed in data.bad_regids, beside code 0", Group: frame.TokenInvalid, Place: frame.InToken},
	)
	receipt := func(group frame.Group, code, meaning string) {
		codes = append(codes, frame.Code{Code: code, Meaning: meaning, Group: group, Place: frame.InReceipt})
	}
	receipt(frame.Delivered, "1", "delivered")
	receipt(frame.Delivered, "2", "clicked")
	receipt(frame.TokenInvalid, "16", "invalid device")
	receipt(frame.TokenKeep, "32", "the app called disablePush")
	receipt(frame.NotDelivered, "64", "the filters are not met")
	receipt(frame.Quota, "128", "daily total reached")
	return codes
}
