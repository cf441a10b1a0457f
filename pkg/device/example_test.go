package device_test

import (
	"context"
	"fmt"

	"github.com/halleypush/halley/pkg/device"
)

// Two apps of a phone share one connection: the mail app opens it, the shop has been registered and is attached to it.
func ExampleDevice_Attach() {
	ctx := context.Background()
	show := func(app string) func(context.Context, device.Message) error {
		return func(_ context.Context, m device.Message) error {
			_, err := fmt.Println(app, m.Title)
			return err
		}
	}
	mail, err := device.New(ctx, device.Options{
		Server: "mqtts://push.example.com:8883", App: "mail", ClientKey: "ck_…",
		Store: device.FileStore("/var/lib/push/mail"), OnMessage: show("mail"),
	})
	if err != nil {
		return
	}
	go func() { _ = mail.Run(ctx) }()

	shop, err := mail.Attach(ctx, device.Guest{
		App: "shop", Token: "a…", Secret: "AAAA…", Store: device.FileStore("/var/lib/push/shop"), OnMessage: show("shop"),
	})
	if err != nil {
		return // an *device.Error: its Field says what is wrong
	}
	_, _ = shop.Bind(ctx, "alice", "a JWT of the shop")
	<-shop.Done() // taken over, removed, or detached: shop.Err() says why
}
