package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/halleypush/halley/pkg/client"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
)

// watchEvery is how often --wait looks.
const watchEvery = 200 * time.Millisecond

// pushFlags are what a push is made of.
type pushFlags struct {
	devices, users                                           []string
	all, latest                                              bool
	title, body, subtitle, image, url, sound, group, payload string
	data                                                     map[string]string
	ttl                                                      time.Duration
	collapseKey, idempotencyKey, priority                    string
	qos                                                      uint32
	wait                                                     time.Duration
}

func newPush(g *globals) *cobra.Command {
	p := &pushFlags{}
	c := &cobra.Command{
		Use:   "push",
		Short: "Push to devices, users or everyone",
		Example: `  halley push --user alice --title "Your order" --body "It has shipped."
  halley push --device aKF1qrcx0cVH_Gvt5tFkEPA --data order=7 --wait 10s
  halley push --all --title "News" --ttl 1h`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			business, err := g.business()
			if err != nil {
				return err
			}
			defer business.Close()
			request, err := p.request(cmd, g.app)
			if err != nil {
				return err
			}
			response, err := business.Push(cmd.Context(), request)
			if err != nil {
				return err
			}
			if p.wait > 0 {
				return watch(cmd.Context(), g, business, response.GetPushId(), p.wait)
			}
			return g.print(response, func() { fmt.Fprintln(g.out, response.GetPushId()) })
		},
	}
	p.register(c)
	return c
}

func (p *pushFlags) register(c *cobra.Command) {
	f := c.Flags()
	f.StringSliceVar(&p.devices, "device", nil, "device token; may be repeated")
	f.StringSliceVar(&p.users, "user", nil, "user; may be repeated")
	f.BoolVar(&p.all, "all", false, "every device of the app")
	f.BoolVar(&p.latest, "latest", false, "with --user: only the device bound last")
	f.StringVar(&p.title, "title", "", "title of the notification")
	f.StringVar(&p.body, "body", "", "text of the notification")
	f.StringVar(&p.subtitle, "subtitle", "", "subtitle of the notification")
	f.StringVar(&p.image, "image", "", "address of a picture")
	f.StringVar(&p.url, "url", "", "address that a tap opens")
	f.StringVar(&p.sound, "sound", "", "sound of the notification")
	f.StringVar(&p.group, "group", "", "group of the notification")
	f.StringToStringVar(&p.data, "data", nil, "key=value for the app; may be repeated. Without title and body: a data push")
	f.StringVar(&p.payload, "payload", "", "a text for the app, instead of --data")
	f.DurationVar(&p.ttl, "ttl", 24*time.Hour, "how long it is kept for a device that is away; 0: only who is online")
	f.StringVar(&p.collapseKey, "collapse-key", "", "of one key a device that is away gets only the newest push")
	f.StringVar(&p.idempotencyKey, "idempotency-key", "", "a repeat with the same key is the same push (default: random)")
	f.StringVar(&p.priority, "priority", "normal", "low, normal or high")
	f.Uint32Var(&p.qos, "qos", 1, "1: repeated until the device confirms it; 0: sent once")
	f.DurationVar(&p.wait, "wait", 0, "watch what becomes of it for so long; exit code 4 if not every device is reached")
}

func (p *pushFlags) request(cmd *cobra.Command, app string) (*pushv1.PushRequest, error) {
	audience, err := p.audience()
	if err != nil {
		return nil, usageError{err}
	}
	priority, ok := pushv1.Policy_Priority_value[strings.ToUpper(p.priority)]
	if !ok || priority == 0 {
		return nil, usageError{fmt.Errorf("--priority must be low, normal or high, not %q", p.priority)}
	}
	r := &pushv1.PushRequest{
		App: app, Audience: audience, Data: p.data, Payload: p.payload,
		Policy: &pushv1.Policy{
			Ttl: durationpb.New(p.ttl), CollapseKey: p.collapseKey, IdempotencyKey: p.idempotencyKey,
			Priority: pushv1.Policy_Priority(priority), Qos: &p.qos,
		},
	}
	for _, name := range []string{"title", "body", "subtitle", "image", "url", "sound", "group"} {
		if cmd.Flags().Changed(name) {
			r.Notification = &pushv1.Notification{
				Title: p.title, Body: p.body, Subtitle: p.subtitle, Image: p.image, Sound: p.sound, Group: p.group,
			}
		}
	}
	if p.url != "" {
		r.Notification.Click = &pushv1.Click{Type: pushv1.Click_URL, Value: p.url}
	}
	if r.Notification == nil && len(r.Data) == 0 && r.Payload == "" {
		return nil, usageError{errors.New("what to push? --title, --body, --data or --payload")}
	}
	return r, nil
}

func (p *pushFlags) audience() (*pushv1.Audience, error) {
	given := 0
	for _, some := range []bool{len(p.devices) > 0, len(p.users) > 0, p.all} {
		if some {
			given++
		}
	}
	if given != 1 {
		return nil, errors.New("to whom? one of --device, --user and --all")
	}
	switch {
	case p.all:
		return &pushv1.Audience{Target: &pushv1.Audience_All_{All: &pushv1.Audience_All{}}}, nil
	case len(p.devices) > 0:
		return &pushv1.Audience{Target: &pushv1.Audience_Devices_{Devices: &pushv1.Audience_Devices{Tokens: p.devices}}}, nil
	}
	users := &pushv1.Audience_Users{Ids: p.users, Devices: pushv1.Audience_Users_ALL}
	if p.latest {
		users.Devices = pushv1.Audience_Users_LATEST_BOUND
	}
	return &pushv1.Audience{Target: &pushv1.Audience_Users_{Users: users}}, nil
}

// watch shows how a push proceeds, until it has ended, every device has it, or the time is over.
func watch(ctx context.Context, g *globals, business *client.Client, id string, within time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, within, errNotReached)
	defer cancel()
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	last := ""
	var push *pushv1.Push
	for {
		now, err := business.GetPush(ctx, g.app, id)
		// A call that the end of the wait cuts off can say so a moment before ctx does.
		if err != nil && ctx.Err() == nil && status.Code(err) != codes.DeadlineExceeded {
			return err
		}
		if err == nil {
			push = now
			if line := funnel(push.GetCounts()); line != last && g.output == "text" {
				fmt.Fprintf(g.out, "%s  %s  %s\n", time.Now().Format("15:04:05.000"), push.GetPushId(), line)
				last = line
			}
			if settled(push) {
				break
			}
		}
		select {
		case <-ctx.Done():
		case <-ticker.C:
			continue
		}
		break
	}
	if push == nil {
		return context.Cause(ctx)
	}
	if g.output == "json" {
		if err := g.print(push, nil); err != nil {
			return err
		}
	}
	if c := push.GetCounts(); c.GetPending()+c.GetSent()+c.GetFailed()+c.GetExpired()+c.GetEvicted() > 0 && !sentIsAll(push) {
		return errNotReached
	}
	return nil
}

// settled reports whether nothing is to be expected soon any more.
func settled(p *pushv1.Push) bool {
	c := p.GetCounts()
	return p.GetState() == pushv1.Push_ENDED ||
		p.GetState() == pushv1.Push_ACTIVE && c.GetPending() == 0 && (c.GetSent() == 0 || sentIsAll(p))
}

// sentIsAll reports whether SENT is as far as the push can get: it was at QoS 0.
func sentIsAll(p *pushv1.Push) bool {
	return p.GetPolicy().GetQos() == 0 && p.GetPolicy().Qos != nil && p.GetCounts().GetPending() == 0
}

// funnel returns counts as a line: how many got how far, each step with those who went further.
func funnel(c *pushv1.Counts) string {
	clicked := c.GetClicked()
	shown := c.GetShown() + c.GetDismissed() + clicked
	arrived := c.GetArrived() + shown
	sent := c.GetSent() + arrived
	line := fmt.Sprintf("targeted %d  sent %d  arrived %d  shown %d  clicked %d", c.GetTargeted(), sent, arrived, shown, clicked)
	for _, left := range []struct {
		name string
		n    uint32
	}{
		{"dismissed", c.GetDismissed()},
		{"pending", c.GetPending()},
		{"failed", c.GetFailed()},
		{"expired", c.GetExpired()},
		{"evicted", c.GetEvicted()},
		{"collapsed", c.GetCollapsed()},
		{"revoked", c.GetRevoked()},
	} {
		if left.n > 0 {
			line += fmt.Sprintf("  %s %d", left.name, left.n)
		}
	}
	return line
}
