// Command sender-apns sends what Apple's devices get through the Apple Push Notification service.
package main

import (
	"github.com/halleypush/halley/pkg/channel"
	"github.com/halleypush/halley/pkg/sender"
	"github.com/halleypush/halley/services/senders/apns"
)

func main() {
	var c apns.Config
	sender.Program(channel.APNs, &c, func() (sender.Config, sender.Vendor, error) {
		v, err := apns.New(&c)
		return c.Config, v, err
	})
}
