// Command sender-huawei sends what Huawei's phones get through Push Kit v1 and v2.
package main

import (
	"github.com/halleypush/halley/pkg/channel"
	"github.com/halleypush/halley/pkg/sender"
	"github.com/halleypush/halley/services/senders/huawei"
)

func main() {
	var c huawei.Config
	sender.Program(channel.Huawei, &c, func() (sender.Config, sender.Vendor, error) {
		v, err := huawei.New(&c)
		return c.Config, v, err
	})
}
