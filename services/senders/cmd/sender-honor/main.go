// Command sender-honor sends what Honor's phones get through Honor Push.
package main

import (
	"github.com/halleypush/halley/pkg/channel"
	"github.com/halleypush/halley/pkg/sender"
	"github.com/halleypush/halley/services/senders/honor"
)

func main() {
	var c honor.Config
	sender.Program(channel.Honor, &c, func() (sender.Config, sender.Vendor, error) {
		v, err := honor.New(&c)
		return c.Config, v, err
	})
}
