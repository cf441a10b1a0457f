// Command paho5 is a phone with Eclipse Paho's Go client for MQTT 5: it registers over MQTT, then stays connected.
package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/eclipse/paho.golang/paho"
)

// identity is what the phone keeps.
type identity struct {
	Token  string `json:"token"`
	Secret string `json:"secret"`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	file := cmp.Or(os.Getenv("HALLEY_PHONE"), "phone.json")
	var phone identity
	text, err := os.ReadFile(file)
	switch {
	case err == nil:
		if err := json.Unmarshal(text, &phone); err != nil {
			return err
		}
	case errors.Is(err, os.ErrNotExist):
		if phone, err = register(ctx); err != nil {
			return fmt.Errorf("register: %w", err)
		}
		log.Print("registered")
		if text, err = json.Marshal(phone); err != nil {
			return err
		}
		if err := os.WriteFile(file, text, 0o600); err != nil {
			return err
		}
	default:
		return err
	}
	return receive(ctx, phone)
}

// register connects without a client id and with the app's client key. The server assigns the token as client id, and
// tells the secret, this once.
func register(ctx context.Context) (identity, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", os.Getenv("HALLEY_MQTT"))
	if err != nil {
		return identity{}, err
	}
	client := paho.NewClient(paho.ClientConfig{Conn: conn})
	connack, err := client.Connect(ctx, &paho.Connect{
		CleanStart: true, KeepAlive: 60,
		Username: os.Getenv("HALLEY_APP"), UsernameFlag: true,
		Password: []byte(os.Getenv("HALLEY_CLIENT_KEY")), PasswordFlag: true,
		Properties: &paho.ConnectProperties{User: paho.UserProperties{
			// An app makes its install_id once, and keeps it: registering again with it gives the same token.
			{Key: "install_id", Value: rand.Text()},
			{Key: "platform", Value: "linux"},
		}},
	})
	if err != nil {
		return identity{}, err
	}
	phone := identity{Token: connack.Properties.AssignedClientID, Secret: connack.Properties.User.Get("secret")}
	return phone, client.Disconnect(&paho.Disconnect{})
}

// errFinal means that connecting again would be wrong.
var errFinal = errors.New("the server sent this device away for good")

// receive stays connected and prints each message, until ctx ends or the server says that the device shall not come back.
func receive(ctx context.Context, phone identity) error {
	keepAlive, err := strconv.ParseUint(cmp.Or(os.Getenv("HALLEY_KEEP_ALIVE"), "60"), 10, 16)
	if err != nil {
		return fmt.Errorf("HALLEY_KEEP_ALIVE: %w", err)
	}
	for ctx.Err() == nil {
		err := connection(ctx, phone, uint16(keepAlive))
		if errors.Is(err, errFinal) {
			return err
		}
		log.Printf("connection: %v", err)
		select {
		case <-ctx.Done():
		case <-time.After(time.Second): // an app pauses longer each time, with jitter
		}
	}
	return nil
}

// connection is one connection: it returns why it ended.
func connection(ctx context.Context, phone identity, keepAlive uint16) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", os.Getenv("HALLEY_MQTT"))
	if err != nil {
		return err
	}
	ended := make(chan error, 2)
	client := paho.NewClient(paho.ClientConfig{
		Conn: conn,
		OnPublishReceived: []func(paho.PublishReceived) (bool, error){func(p paho.PublishReceived) (bool, error) {
			fmt.Fprintf(os.Stdout, "%s\n", p.Packet.Payload) // the acknowledgement follows when this returns
			return true, nil
		}},
		OnServerDisconnect: func(d *paho.Disconnect) {
			err := fmt.Errorf("sent away: 0x%x", d.ReasonCode)
			if d.ReasonCode == 0x8E || d.ReasonCode == 0x98 { // taken over, or removed
				err = fmt.Errorf("%w: %w", errFinal, err)
			}
			ended <- err
		},
		OnClientError: func(err error) {
			select {
			case ended <- err:
			default: // the first one counts
			}
		},
	})
	_, err = client.Connect(ctx, &paho.Connect{
		ClientID: phone.Token, CleanStart: true, KeepAlive: keepAlive,
		Username: os.Getenv("HALLEY_APP"), UsernameFlag: true, Password: []byte(phone.Secret), PasswordFlag: true,
	})
	if err != nil {
		return err
	}
	// Delivery begins with the subscription: first what was kept, then what comes.
	_, err = client.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: "push/" + os.Getenv("HALLEY_APP"), QoS: 1}}})
	if err != nil {
		return errors.Join(err, client.Disconnect(&paho.Disconnect{}))
	}
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return client.Disconnect(&paho.Disconnect{})
	}
}
