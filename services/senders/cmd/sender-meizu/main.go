// Command sender-meizu sends what Meizu's phones get through Flyme push.
package main

import (
	"github.com/halleypush/halley/pkg/channel"
	"github.com/halleypush/halley/pkg/sender"
	"github.com/halleypush/halley/services/senders/meizu"
)

func main() {
	var c meizu.Config
	sender.Program(channel.Meizu, &c, func() (sender.Config, sender.Vendor, error) {
		v, err := meizu.New(&c)
		return c.Config, v, err
	})
}
