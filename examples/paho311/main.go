// Command paho311 is a phone with Eclipse Paho's Go client for MQTT 3.1.1. It has registered over HTTPS (curl/register.sh), as
// MQTT 3.1.1 cannot.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	text, err := os.ReadFile(cmp.Or(os.Getenv("HALLEY_PHONE"), "phone.json"))
	if err != nil {
		return err
	}
	var phone struct{ Token, Secret string }
	if err := json.Unmarshal(text, &phone); err != nil {
		return err
	}
	keepAlive, err := strconv.Atoi(cmp.Or(os.Getenv("HALLEY_KEEP_ALIVE"), "60"))
	if err != nil {
		return fmt.Errorf("HALLEY_KEEP_ALIVE: %w", err)
	}
	app := os.Getenv("HALLEY_APP")
	options := mqtt.NewClientOptions().
		AddBroker("tcp://" + os.Getenv("HALLEY_MQTT")).
		SetProtocolVersion(4). // 3.1.1
		SetClientID(phone.Token).SetUsername(app).SetPassword(phone.Secret).
		SetKeepAlive(time.Duration(keepAlive) * time.Second).
		SetConnectRetry(true).SetMaxReconnectInterval(time.Minute)
	options.OnConnect = func(c mqtt.Client) {
		// Delivery begins with the subscription: first what was kept, then what comes.
		c.Subscribe("push/"+app, 1, func(_ mqtt.Client, m mqtt.Message) {
			fmt.Fprintf(os.Stdout, "%s\n", m.Payload()) // the acknowledgement follows when this returns
		})
	}
	options.OnConnectionLost = func(_ mqtt.Client, err error) { log.Printf("connection lost: %v", err) }
	client := mqtt.NewClient(options)
	client.Connect() // tries until it succeeds
	<-ctx.Done()
	client.Disconnect(250)
	return nil
}
