package cli

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/halleypush/halley/pkg/channel"
	"github.com/halleypush/halley/pkg/client"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	"github.com/halleypush/halley/services/halley/internal/simulator"
)

// vendorPhone is a phone that holds no connection: only its maker's service reaches it.
type vendorPhone struct {
	token string
	// confirms: the maker says when a message has reached the phone.
	confirms bool
}

// vendors pushes to a phone of every kind at once: one with a connection, and one for each simulated vendor.
func (x *demonstration) vendors(ctx context.Context) error {
	admin, err := client.NewAdmin(x.site.GRPC, x.site.AdminToken, client.WithPlaintext())
	if err != nil {
		return err
	}
	defer admin.Close()
	simulators := simulator.At(x.site.Simulators)
	channels, err := simulators.Channels(ctx)
	if err != nil {
		return err
	}
	own := x.phones[0].device.Token()
	kinds, tokens := map[string]string{own: channel.Own}, []string{own}
	want := &pushv1.Counts{Targeted: 1, Arrived: 1}
	for _, name := range channels {
		phone, err := x.vendorPhone(ctx, admin, simulators, name)
		if err != nil {
			return fmt.Errorf("a phone of %s: %w", name, err)
		}
		kinds[phone.token] = name
		tokens = append(tokens, phone.token)
		if want.Targeted++; phone.confirms {
			want.Arrived++
		} else {
			want.Sent++
		}
	}
	fmt.Fprintf(x.out, "\n%d more phones hold no connection: simulated services of their makers reach them\n", len(channels))
	response, err := x.business.Push(ctx, &pushv1.PushRequest{
		App: x.site.App, Audience: devicesAudience(tokens...), Notification: &pushv1.Notification{Title: "Hello", Body: "to all kinds of phones"},
	})
	if err != nil {
		return fmt.Errorf("push to all kinds of phones: %w", err)
	}
	fmt.Fprintf(x.out, "\npush to %d kinds of phones\n", len(tokens))
	err = x.await(ctx, response.GetPushId(), func(c *pushv1.Counts) bool { return proto.Equal(c, want) })
	if err != nil {
		return err
	}
	return x.showSteps(ctx, response.GetPushId(), kinds)
}

// vendorPhone sets the app up with a vendor and registers a phone of it.
func (x *demonstration) vendorPhone(
	ctx context.Context, admin *client.Admin, simulators *simulator.Simulators, name string,
) (vendorPhone, error) {
	var phone vendorPhone
	credential, err := simulators.Credential(ctx, name, x.site.App)
	if err != nil {
		return phone, err
	}
	set, err := setChannel(ctx, admin, x.site.App, name, credential, false)
	if err != nil {
		return phone, err
	}
	phone.confirms = set.GetReceiptUrl() != ""
	if err := sendReceipts(ctx, simulators, x.site.App, set, x.site.HTTP); err != nil {
		return phone, err
	}
	tokens, err := simulators.Tokens(ctx, name, x.site.App, 1)
	if err != nil {
		return phone, err
	}
	phone.token, err = x.register(ctx, name, tokens[0])
	return phone, err
}

// register registers a phone with its maker's token, as the app on it does, and returns its own.
func (x *demonstration) register(ctx context.Context, name, channelToken string) (string, error) {
	platform := "android"
	if known, ok := map[string]string{channel.APNs: "ios", channel.Harmony: "harmony", channel.WebPush: "web"}[name]; ok {
		platform = known
	}
	body, err := json.Marshal(map[string]any{
		"app": x.site.App, "client_key": x.site.ClientKey, "install_id": rand.Text(), "platform": platform,
		"channel_tokens": []map[string]string{{"channel": name, "token": channelToken}},
	})
	if err != nil {
		return "", err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, x.site.HTTP+"/device/v1/register", bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", fmt.Errorf("register: %w", err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return "", fmt.Errorf("register: %w", err)
	}
	var registered struct{ Token string }
	if json.Unmarshal(text, &registered) != nil || registered.Token == "" {
		return "", errors.New("register: " + response.Status + ": " + string(text))
	}
	return registered.Token, nil
}

// showSteps prints what became of a push on each phone, and when.
func (x *demonstration) showSteps(ctx context.Context, id string, kinds map[string]string) error {
	push, err := x.business.GetPush(ctx, x.site.App, id)
	if err != nil {
		return fmt.Errorf("get push: %w", err)
	}
	accepted := push.GetCreatedAt().AsTime()
	after := func(t *timestamppb.Timestamp) string {
		if t == nil {
			return "-"
		}
		return t.AsTime().Sub(accepted).Round(time.Millisecond).String()
	}
	rows := [][]string{{"  PHONE OF", "REACHED BY", "STATE", "TAKEN AFTER", "ARRIVED AFTER"}}
	for d, err := range x.business.ListDeliveries(ctx, &pushv1.ListDeliveriesRequest{App: x.site.App, PushId: id}) {
		if err != nil {
			return fmt.Errorf("list deliveries: %w", err)
		}
		kind := kinds[d.GetDevice()]
		if d.GetChannel() != kind {
			return fmt.Errorf("the phone of %s was reached by %q", kind, d.GetChannel())
		}
		rows = append(rows, []string{
			"  " + kind, d.GetChannel(), d.GetState().String(), after(d.GetTimes().GetSent()), after(d.GetTimes().GetArrived()),
		})
	}
	return table(x.out, rows)
}
