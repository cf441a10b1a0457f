// Package channel names the ways to reach a device.
package channel

import "slices"

// Channels by name, as the API, subjects and configuration spell them.
const (
	Own     = "halley" // the own connection
	APNs    = "apns"
	FCM     = "fcm"
	Huawei  = "huawei"
	Harmony = "harmony"
	Honor   = "honor"
	Xiaomi  = "xiaomi"
	OPPO    = "oppo"
	Vivo    = "vivo"
	Meizu   = "meizu"
	WebPush = "webpush"
)

// numbers holds the channels in the order of their numbers, which are stored: names are only added, at the end.
var numbers = []string{Own, APNs, FCM, Huawei, Harmony, Honor, Xiaomi, OPPO, Vivo, Meizu, WebPush}

// Vendors returns the channels of vendors, the preferred ones first: on a phone with several tokens the maker's own channel
// reaches it where the others may not.
func Vendors() []string {
	return []string{Harmony, Huawei, Honor, Xiaomi, OPPO, Vivo, Meizu, APNs, FCM, WebPush}
}

// Number returns a channel's stored number, from 0 on, and whether there is such a channel.
func Number(name string) (int16, bool) {
	i := slices.Index(numbers, name)
	return int16(i), i >= 0
}

// Name returns the channel with a stored number, empty if there is none.
func Name(number int16) string {
	if number < 0 || int(number) >= len(numbers) {
		return ""
	}
	return numbers[number]
}
