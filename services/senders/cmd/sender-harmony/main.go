// Command sender-harmony sends what phones with HarmonyOS NEXT get through Push Kit v3.
package main

import (
	"github.com/halleypush/halley/pkg/channel"
	"github.com/halleypush/halley/pkg/sender"
	"github.com/halleypush/halley/services/senders/harmony"
)

func main() {
	var c harmony.Config
	sender.Program(channel.Harmony, &c, func() (sender.Config, sender.Vendor, error) {
		v, err := harmony.New(&c)
		return c.Config, v, err
	})
}
