// Command sender-fcm sends what Android phones, and others, get through Firebase Cloud Messaging.
package main

import (
	"github.com/halleypush/halley/pkg/channel"
	"github.com/halleypush/halley/pkg/sender"
	"github.com/halleypush/halley/services/senders/fcm"
)

func main() {
	var c fcm.Config
	sender.Program(channel.FCM, &c, func() (sender.Config, sender.Vendor, error) {
		v, err := fcm.New(&c)
		return c.Config, v, err
	})
}
