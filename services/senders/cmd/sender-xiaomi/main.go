// Command sender-xiaomi sends what Xiaomi's phones get through MiPush.
package main

import (
	"github.com/halleypush/halley/pkg/channel"
	"github.com/halleypush/halley/pkg/sender"
	"github.com/halleypush/halley/services/senders/xiaomi"
)

func main() {
	var c xiaomi.Config
	sender.Program(channel.Xiaomi, &c, func() (sender.Config, sender.Vendor, error) {
		v, err := xiaomi.New(&c)
		return c.Config, v, err
	})
}
