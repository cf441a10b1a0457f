// Command sender-webpush sends what browsers get through Web Push.
package main

import (
	"github.com/halleypush/halley/pkg/channel"
	"github.com/halleypush/halley/pkg/sender"
	"github.com/halleypush/halley/services/senders/webpush"
)

func main() {
	var c webpush.Config
	sender.Program(channel.WebPush, &c, func() (sender.Config, sender.Vendor, error) {
		v, err := webpush.New(&c)
		return c.Config, v, err
	})
}
