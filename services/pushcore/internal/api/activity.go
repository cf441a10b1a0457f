package api

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/halleypush/halley/pkg/channel"
	"github.com/halleypush/halley/pkg/subject"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	senderv1 "github.com/halleypush/halley/proto/halley/sender/v1"
	"github.com/halleypush/halley/services/pushcore/internal/fault"
)

var _ pushv1.ActivityServiceServer = (*Activities)(nil)

// vendorAgain is when a call that the vendor could not take is worth another try.
const vendorAgain = 5 * time.Second

// Activities serves halley.push.v1.ActivityService: a sender of APNs makes the calls, because only senders reach vendors.
type Activities struct {
	pushv1.UnimplementedActivityServiceServer

	asker Asker
}

// NewActivities returns the service of Live Activities' broadcasts.
func NewActivities(asker Asker) *Activities { return &Activities{asker: asker} }

// CreateActivityChannel makes a channel.
func (a *Activities) CreateActivityChannel(
	ctx context.Context, r *pushv1.CreateActivityChannelRequest,
) (*pushv1.CreateActivityChannelResponse, error) {
	made, err := a.ask(ctx, &senderv1.Check{Call: &senderv1.Check_CreateChannel{CreateChannel: r}})
	if err != nil {
		return nil, err
	}
	if len(made.GetChannels()) != 1 {
		return nil, errors.New("the sender of apns names no channel")
	}
	return &pushv1.CreateActivityChannelResponse{Channel: made.GetChannels()[0]}, nil
}

// ListActivityChannels lists all channels.
func (a *Activities) ListActivityChannels(
	ctx context.Context, r *pushv1.ListActivityChannelsRequest,
) (*pushv1.ListActivityChannelsResponse, error) {
	found, err := a.ask(ctx, &senderv1.Check{Call: &senderv1.Check_ListChannels{ListChannels: r}})
	if err != nil {
		return nil, err
	}
	return &pushv1.ListActivityChannelsResponse{Channels: found.GetChannels()}, nil
}

// DeleteActivityChannel removes a channel.
func (a *Activities) DeleteActivityChannel(
	ctx context.Context, r *pushv1.DeleteActivityChannelRequest,
) (*pushv1.DeleteActivityChannelResponse, error) {
	if _, err := a.ask(ctx, &senderv1.Check{Call: &senderv1.Check_DeleteChannel{DeleteChannel: r}}); err != nil {
		return nil, err
	}
	return &pushv1.DeleteActivityChannelResponse{}, nil
}

// BroadcastActivity changes, or ends, activities.
func (a *Activities) BroadcastActivity(
	ctx context.Context, r *pushv1.BroadcastActivityRequest,
) (*pushv1.BroadcastActivityResponse, error) {
	sent, err := a.ask(ctx, &senderv1.Check{Call: &senderv1.Check_Broadcast{Broadcast: r}})
	if err != nil {
		return nil, err
	}
	return &pushv1.BroadcastActivityResponse{RequestId: sent.GetVendorId()}, nil
}

// ask has a sender make a call for the calling app.
func (a *Activities) ask(ctx context.Context, call *senderv1.Check) (*senderv1.Checked, error) {
	call.App = appOf(ctx).No
	data, err := proto.Marshal(call)
	if err != nil {
		return nil, fmt.Errorf("encode call: %w", err)
	}
	asking, cancel := context.WithTimeout(ctx, checkWithin)
	defer cancel()
	reply, err := a.asker.RequestWithContext(asking, subject.Check(channel.APNs), data)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return nil, &fault.Error{Code: codes.FailedPrecondition, Reason: "NO_SENDER", Message: "no sender of apns answers: start one"}
	case ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded):
		return nil, unreached("no answer")
	case err != nil:
		return nil, fmt.Errorf("ask a sender of apns: %w", err)
	}
	var answer senderv1.Checked
	if err := proto.Unmarshal(reply.Data, &answer); err != nil {
		return nil, fmt.Errorf("decode answer: %w", err)
	}
	return &answer, vendorFault(&answer)
}

func unreached(code string) error {
	return &fault.Error{
		Code: codes.Unavailable, Reason: "VENDOR_UNAVAILABLE", RetryAfter: vendorAgain,
		Message: fmt.Sprintf("Apple did not take it (%s); try again", code),
	}
}

// vendorFault returns what a call's outcome is for the caller; nil: it worked.
func vendorFault(answer *senderv1.Checked) error {
	switch answer.GetOutcome() {
	case senderv1.Outcome_OUTCOME_ACCEPTED:
		return nil
	case senderv1.Outcome_OUTCOME_UNSPECIFIED: // it knows no calls, and has looked for a candidate
		return &fault.Error{Code: codes.FailedPrecondition, Reason: "NO_SENDER", Message: "the sender of apns is of an older version"}
	case senderv1.Outcome_OUTCOME_GIVEN_UP:
		return unreached(answer.GetCode())
	case senderv1.Outcome_OUTCOME_CREDENTIAL_BAD:
		return &fault.Error{
			Code: codes.FailedPrecondition, Reason: "CREDENTIAL_REFUSED",
			Message: "the app's credential for apns is missing or refused: " + answer.GetCode(),
		}
	default:
		if answer.GetField() != "" {
			return fault.Invalid(answer.GetField(), "%s", answer.GetCode())
		}
		return &fault.Error{Code: codes.FailedPrecondition, Reason: "VENDOR_REFUSED", Message: "it is refused: " + answer.GetCode()}
	}
}
