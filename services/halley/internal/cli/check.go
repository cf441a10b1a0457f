package cli

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/halleypush/halley/pkg/client"
	"github.com/halleypush/halley/pkg/device"
	adminv1 "github.com/halleypush/halley/proto/halley/admin/v1"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
)

// cleanWithin bounds how long a check's keys and device may take to go.
const cleanWithin = 10 * time.Second

func newCheck(g *globals) *cobra.Command {
	var within time.Duration
	c := &cobra.Command{
		Use: "check", Short: "Push to a device of its own and see it arrive", Args: cobra.NoArgs,
		Long: `Makes an app (or takes one) with keys of its own, connects a simulated phone, pushes to it, and waits until the phone has the
message and the platform counts it as arrived. Then the keys are revoked and the device is removed; the app stays. Needs the admin token.`,
		Example: `  halley check --app check --grpc pushcore:9090 --mqtt mqtts://mqtt.example.com:8883`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			admin, err := g.administrator()
			if err != nil {
				return err
			}
			defer admin.Close()
			if g.app == "" {
				g.app = "check"
			}
			ctx, cancel := context.WithTimeoutCause(cmd.Context(), within, errNotReached)
			defer cancel()
			begun := time.Now()
			if err := g.check(ctx, admin); err != nil {
				if cause := context.Cause(ctx); cause != nil {
					return fmt.Errorf("%w: %w", cause, err)
				}
				return err
			}
			_, err = fmt.Fprintf(g.out, "a push went all the way, in %v\n", time.Since(begun).Round(time.Millisecond))
			return err
		},
	}
	c.Flags().DurationVar(&within, "within", time.Minute, "how long it may take")
	return c
}

// check makes what it needs, pushes, and takes the keys away again.
func (g *globals) check(ctx context.Context, admin *client.Admin) (err error) {
	if err := makeApp(ctx, admin, g.app); err != nil {
		return err
	}
	for kind, key := range map[adminv1.Key_Kind]*string{adminv1.Key_SERVER: &g.key, adminv1.Key_CLIENT: &g.clientKey} {
		secret, revoke, keyErr := lend(ctx, admin, g.app, kind)
		if keyErr != nil {
			return keyErr
		}
		*key = secret
		defer func() { err = errors.Join(err, revoke()) }()
	}
	business, err := client.New(g.grpc, g.key, g.options()...)
	if err != nil {
		return err
	}
	defer business.Close()
	return g.pushToPhone(ctx, business)
}

// makeApp makes an app without keys, if there is none of that name.
func makeApp(ctx context.Context, admin *client.Admin, app string) error {
	_, err := admin.CreateApp(ctx, &adminv1.CreateAppRequest{App: app, Name: "halley check"})
	if status.Code(err) == codes.AlreadyExists {
		return nil
	} else if err != nil {
		return fmt.Errorf("make app %s: %w", app, err)
	}
	first, err := admin.ListKeys(ctx, &adminv1.ListKeysRequest{App: app})
	if err != nil {
		return fmt.Errorf("list the first keys: %w", err)
	}
	for _, key := range first.GetKeys() {
		if _, err := admin.RevokeKey(ctx, &adminv1.RevokeKeyRequest{App: app, KeyId: key.GetKeyId()}); err != nil {
			return fmt.Errorf("revoke a first key: %w", err)
		}
	}
	return nil
}

// lend makes a key of an app, and returns what revokes it.
func lend(ctx context.Context, admin *client.Admin, app string, kind adminv1.Key_Kind) (secret string, revoke func() error, err error) {
	created, err := admin.CreateKey(ctx, &adminv1.CreateKeyRequest{App: app, Kind: kind, Note: "halley check"})
	if err != nil {
		return "", nil, fmt.Errorf("make key: %w", err)
	}
	return created.GetSecret(), func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanWithin)
		defer cancel()
		_, err := admin.RevokeKey(ctx, &adminv1.RevokeKeyRequest{App: app, KeyId: created.GetKey().GetKeyId()})
		return err
	}, nil
}

// pushToPhone connects a phone, pushes to it, and waits for both ends to have it.
func (g *globals) pushToPhone(ctx context.Context, business *client.Client) (err error) {
	arrived := make(chan string)
	var kept atomic.Pointer[error] // why it is not online
	d, err := device.New(ctx, device.Options{
		App: g.app, ClientKey: g.clientKey, Server: serverURL(g.mqtt), Store: device.MemoryStore(),
		Report: &device.Report{Platform: "linux", AppVersion: "1.0.0"},
		OnMessage: func(ctx context.Context, m device.Message) error {
			select {
			case arrived <- m.PushID:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		},
		OnState: func(s device.State) {
			if s.Phase == device.Waiting {
				kept.Store(&s.Err)
			}
		},
	})
	if err != nil {
		return err
	}
	running, stop := context.WithCancel(ctx)
	var phone sync.WaitGroup
	phone.Go(func() { _ = d.Run(running) }) // what it ends with is ctx's end, or Wait's error
	defer phone.Wait()
	defer stop()
	if err := d.Wait(ctx); err != nil {
		if why := kept.Load(); why != nil {
			err = fmt.Errorf("%w: %w", *why, err)
		}
		return fmt.Errorf("connect a phone to %s: %w", g.mqtt, err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanWithin)
		defer cancel()
		_, removeErr := business.Devices().DeleteDevice(ctx, &pushv1.DeleteDeviceRequest{App: g.app, Device: d.Token()})
		err = errors.Join(err, removeErr)
	}()
	fmt.Fprintf(g.out, "a phone is online at %s\n", g.mqtt)
	pushed, err := business.Push(ctx, &pushv1.PushRequest{
		App:          g.app,
		Audience:     &pushv1.Audience{Target: &pushv1.Audience_Devices_{Devices: &pushv1.Audience_Devices{Tokens: []string{d.Token()}}}},
		Notification: &pushv1.Notification{Title: "halley check"},
		Policy:       &pushv1.Policy{Ttl: durationpb.New(time.Minute)},
	})
	if err != nil {
		return fmt.Errorf("push: %w", err)
	}
	if err := until(ctx, arrived, pushed.GetPushId()); err != nil {
		return err
	}
	fmt.Fprintf(g.out, "push %s came to the phone\n", pushed.GetPushId())
	return watch(ctx, g, business, pushed.GetPushId(), time.Minute)
}

// until waits for a push among those that arrive.
func until(ctx context.Context, arrived <-chan string, id string) error {
	for {
		select {
		case came := <-arrived:
			if came == id {
				return nil
			}
		case <-ctx.Done():
			return errors.New("the push has not come to the phone")
		}
	}
}
