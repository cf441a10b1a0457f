package api

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/halleypush/halley/pkg/channel"
	"github.com/halleypush/halley/pkg/subject"
	adminv1 "github.com/halleypush/halley/proto/halley/admin/v1"
	senderv1 "github.com/halleypush/halley/proto/halley/sender/v1"
	"github.com/halleypush/halley/services/pushcore/internal/fault"
	"github.com/halleypush/halley/services/pushcore/internal/registry"
)

// checkWithin is how long a sender may take to try a credential out: it asks the vendor.
const checkWithin = 8 * time.Second

// withReceipts are the channels whose vendors call back.
var withReceipts = []string{
	channel.Huawei, channel.Harmony, channel.Honor, channel.Xiaomi, channel.OPPO, channel.Vivo, channel.Meizu,
}

// Asker asks another process over NATS; *nats.Conn is one.
type Asker interface {
	RequestWithContext(ctx context.Context, subject string, data []byte) (*nats.Msg, error)
}

// SetChannel gives an app a credential for a channel: it is stored as a candidate, tried out by a sender, and then used.
func (a *Admin) SetChannel(ctx context.Context, r *adminv1.SetChannelRequest) (*adminv1.SetChannelResponse, error) {
	app, err := a.apps.Get(ctx, r.GetApp())
	if err != nil {
		return nil, err
	}
	credential, err := protojson.Marshal(r.GetCredential())
	if err != nil {
		return nil, fault.Invalid("credential", "cannot be encoded: %v", err)
	}
	if len(r.GetCredential().GetFields()) == 0 {
		return nil, fault.Invalid("credential", "is empty; docs/channels names its fields")
	}
	name := r.GetChannel()
	version, err := a.channels.Propose(ctx, app, name, credential)
	if err != nil {
		return nil, err
	}
	checked, err := a.check(ctx, app, name)
	unchecked := errors.Is(err, nats.ErrNoResponders) || errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil
	switch {
	case unchecked && r.GetUnchecked():
		checked = &senderv1.Checked{}
	case unchecked:
		err = &fault.Error{
			Code: codes.FailedPrecondition, Reason: "NO_SENDER",
			Message: fmt.Sprintf("no sender of %s answers: start one, or set unchecked to use the credential as it is", name),
		}
		return nil, errors.Join(err, a.channels.Discard(ctx, app, name, version))
	case err != nil:
		return nil, err
	case checked.GetError() != "":
		return nil, errors.Join(refused(checked), a.channels.Discard(ctx, app, name, version))
	}
	var expires *time.Time
	if checked.GetExpiresAt() != nil {
		at := checked.GetExpiresAt().AsTime()
		expires = &at
	}
	if err := a.channels.Activate(ctx, app, name, version, expires, checked.GetNote(), unchecked); err != nil {
		return nil, err
	}
	a.changed(ctx, app.ID)
	stored, err := a.findChannel(ctx, app, name)
	return &adminv1.SetChannelResponse{Channel: stored}, err
}

// refused returns the fault of a credential that does not work.
func refused(checked *senderv1.Checked) error {
	field := "credential"
	if checked.GetField() != "" {
		field += "." + checked.GetField()
	}
	return fault.Invalid(field, "%s", checked.GetError())
}

// check asks a sender of a channel to try out an app's candidate.
func (a *Admin) check(ctx context.Context, app *registry.App, name string) (*senderv1.Checked, error) {
	data, err := proto.Marshal(&senderv1.Check{App: app.No})
	if err != nil {
		return nil, fmt.Errorf("encode check: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, checkWithin)
	defer cancel()
	reply, err := a.asker.RequestWithContext(ctx, subject.Check(name), data)
	if err != nil {
		return nil, fmt.Errorf("ask a sender of %s: %w", name, err)
	}
	var checked senderv1.Checked
	if err := proto.Unmarshal(reply.Data, &checked); err != nil {
		return nil, fmt.Errorf("decode check: %w", err)
	}
	return &checked, nil
}

// GetChannel tells about one channel of an app.
func (a *Admin) GetChannel(ctx context.Context, r *adminv1.GetChannelRequest) (*adminv1.GetChannelResponse, error) {
	app, err := a.apps.Get(ctx, r.GetApp())
	if err != nil {
		return nil, err
	}
	found, err := a.findChannel(ctx, app, r.GetChannel())
	if err != nil {
		return nil, err
	}
	return &adminv1.GetChannelResponse{Channel: found}, nil
}

func (a *Admin) findChannel(ctx context.Context, app *registry.App, name string) (*adminv1.Channel, error) {
	all, err := a.channels.List(ctx, app)
	if err != nil {
		return nil, err
	}
	for _, c := range all {
		if c.Name == name {
			return a.showChannel(app, c), nil
		}
	}
	return nil, fault.NotFound("CHANNEL_NOT_SET", "the app %s has no credential for %s", app.ID, name)
}

func (a *Admin) showChannel(app *registry.App, c registry.Channel) *adminv1.Channel {
	shown := &adminv1.Channel{
		Channel: c.Name, SetAt: timestamppb.New(c.Set), Note: c.Note, Unchecked: c.Unchecked,
	}
	if c.Expires != nil {
		shown.ExpiresAt = timestamppb.New(*c.Expires)
	}
	if slices.Contains(withReceipts, c.Name) {
		shown.ReceiptUrl = fmt.Sprintf("%s/receipts/%s/%s/%s", a.publicURL, c.Name, app.ID, c.ReceiptSecret)
	}
	return shown
}

// ListChannels lists an app's channels.
func (a *Admin) ListChannels(
	ctx context.Context, r *adminv1.ListChannelsRequest,
) (*adminv1.ListChannelsResponse, error) {
	app, err := a.apps.Get(ctx, r.GetApp())
	if err != nil {
		return nil, err
	}
	all, err := a.channels.List(ctx, app)
	response := &adminv1.ListChannelsResponse{}
	for _, c := range all {
		response.Channels = append(response.Channels, a.showChannel(app, c))
	}
	return response, err
}

// DeleteChannel takes an app's credential for a channel away.
func (a *Admin) DeleteChannel(
	ctx context.Context, r *adminv1.DeleteChannelRequest,
) (*adminv1.DeleteChannelResponse, error) {
	app, err := a.apps.Get(ctx, r.GetApp())
	if err != nil {
		return nil, err
	}
	if err := a.channels.Delete(ctx, app, r.GetChannel()); err != nil {
		return nil, err
	}
	a.changed(ctx, app.ID)
	return &adminv1.DeleteChannelResponse{}, nil
}

// heldPage is where a page of held tokens begins: after this one.
type heldPage struct {
	Channel string `json:"c"`
	Ordinal int64  `json:"o"`
}

// ListHeldTokens lists the channel tokens that are called void and not deleted yet.
func (a *Admin) ListHeldTokens(
	ctx context.Context, r *adminv1.ListHeldTokensRequest,
) (*adminv1.ListHeldTokensResponse, error) {
	app, err := a.apps.Get(ctx, r.GetApp())
	if err != nil {
		return nil, err
	}
	var after heldPage
	if err := a.cursors.open("held tokens", app.ID, r.GetPageToken(), &after); err != nil {
		return nil, err
	}
	size := pageSize(r.GetPageSize(), 100)
	held, err := a.tokens.Held(ctx, app, after.Channel, after.Ordinal, size)
	if err != nil {
		return nil, err
	}
	numbers := make([]uint64, len(held))
	for i, h := range held {
		numbers[i] = h.Ordinal
	}
	devices, err := a.devices.Tokens(ctx, app, numbers)
	if err != nil {
		return nil, err
	}
	response := &adminv1.ListHeldTokensResponse{}
	for _, h := range held {
		response.Tokens = append(response.Tokens, &adminv1.HeldToken{
			Device: devices[h.Ordinal], Channel: h.Channel, TokenSuffix: suffix(h.Token), HeldAt: timestamppb.New(h.Held),
		})
	}
	if len(held) == size {
		last := held[size-1]
		response.NextPageToken, err = a.cursors.seal("held tokens", app.ID, heldPage{last.Channel, int64(last.Ordinal)})
	}
	return response, err
}

// ReleaseHeldTokens decides about the held tokens of a channel.
func (a *Admin) ReleaseHeldTokens(
	ctx context.Context, r *adminv1.ReleaseHeldTokensRequest,
) (*adminv1.ReleaseHeldTokensResponse, error) {
	app, err := a.apps.Get(ctx, r.GetApp())
	if err != nil {
		return nil, err
	}
	n, err := a.tokens.Release(ctx, app, r.GetChannel(), r.GetKeep())
	if err != nil {
		return nil, err
	}
	return &adminv1.ReleaseHeldTokensResponse{Tokens: n}, nil
}
