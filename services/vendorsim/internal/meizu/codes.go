package meizu

import (
	"net/http"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
)

// The codes that the simulator gives by itself.
const (
	success       = "200"
	redirect      = "300"
	badParameter  = "1005"
	badSign       = "1006"
	badAppID      = "110000"
	notRegistered = "110002"
	illegal       = "110003"
	empty         = "110004"
	overRate      = "110010"
	publicQuota   = "110011"
	overQuota     = "110019"
	badTask       = "110032"
	passThrough   = "110053"
	noSuchPath    = "404"

	arrived = "1"
)

// Codes lists the documented answers. All have status 200. 110010 is a rate at the top and a muted device in a list.
func Codes() []frame.Code {
	var codes []frame.Code
	add := func(place frame.Place, group frame.Group, list ...[2]string) {
		for _, c := range list {
			codes = append(codes, frame.Code{Status: http.StatusOK, Code: c[0], Meaning: c[1], Group: group, Place: place})
		}
	}
	answer := func(group frame.Group, list ...[2]string) { add(frame.InAnswer, group, list...) }
	answer(frame.Success, [2]string{success, "success"})
	answer(frame.RetryLater, [2]string{"500", "error"}, [2]string{"1001", "system error"}, [2]string{"1003", "busy"})
	answer(frame.Rate, [2]string{overRate, "over the request rate"})
	answer(frame.Quota, [2]string{overQuota, "daily push count"}, [2]string{"110051", "count limit"}, [2]string{passThrough, "pass-through limit"})
	answer(frame.Configuration, [2]string{badSign, "bad signature"}, [2]string{badAppID, "bad appId"}, [2]string{"110001", "bad appKey"},
		[2]string{"110033", "bad appSecret"}, [2]string{"110031", "bad package"}, [2]string{"110009", "blacklisted"})
	answer(frame.Payload, [2]string{badParameter, "bad parameter"}, [2]string{empty, "empty parameter"}, [2]string{badTask, "bad taskId"},
		[2]string{redirect, "see redirect"}) // a failure unless the host is known
	answer(frame.TokenInvalid, [2]string{notRegistered, "not registered"}, [2]string{illegal, "illegal"})
	codes = append(codes, frame.Code{Status: 404, Code: noSuchPath, Meaning: "no such path", Group: frame.Payload, Place: frame.InAnswer})

	add(frame.InToken, frame.TokenInvalid, [2]string{notRegistered, "unsubscribed"}, [2]string{illegal, "illegal"},
		[2]string{"110005", "alias gone or muted"})
	add(frame.InToken, frame.TokenKeep, [2]string{overRate, "push is switched off"},
		[2]string{"520", "folded: the device has got many in a minute"})
	add(frame.InToken, frame.Quota, [2]string{publicQuota, "public messages of this target"})
	add(frame.InToken, frame.RetryLater, [2]string{"501", "failed"}, [2]string{"513", "failed"}, [2]string{"518", "speed"}, [2]string{"519", "overload"})
	add(frame.InToken, frame.Configuration, [2]string{"201", "no right"})

	codes = append(codes,
		frame.Code{Code: arrived, Meaning: "delivered", Group: frame.Delivered, Place: frame.InReceipt},
		frame.Code{Code: "2", Meaning: "clicked", Group: frame.Delivered, Place: frame.InReceipt},
	)
	return codes
}
