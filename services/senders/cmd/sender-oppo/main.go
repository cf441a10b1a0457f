// Command sender-oppo sends what the phones of OPPO, OnePlus and realme get.
package main

import (
	"github.com/halleypush/halley/pkg/channel"
	"github.com/halleypush/halley/pkg/sender"
	"github.com/halleypush/halley/services/senders/oppo"
)

func main() {
	var c oppo.Config
	sender.Program(channel.OPPO, &c, func() (sender.Config, sender.Vendor, error) {
		v, err := oppo.New(&c)
		return c.Config, v, err
	})
}
