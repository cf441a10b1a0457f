// Command sender-vivo sends what the phones of vivo and iQOO get.
package main

import (
	"github.com/halleypush/halley/pkg/channel"
	"github.com/halleypush/halley/pkg/sender"
	"github.com/halleypush/halley/services/senders/vivo"
)

func main() {
	var c vivo.Config
	sender.Program(channel.Vivo, &c, func() (sender.Config, sender.Vendor, error) {
		v, err := vivo.New(&c)
		return c.Config, v, err
	})
}
