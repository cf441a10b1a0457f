package dispatch

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"

	"github.com/halleypush/halley/pkg/subject"
	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
	"github.com/halleypush/halley/services/pushcore/internal/ledger"
	"github.com/halleypush/halley/services/pushcore/internal/message"
	"github.com/halleypush/halley/services/pushcore/internal/route"
)

// askAgain is how long a gateway may be silent about a slice before its lease is looked at and it is asked again. A large
// gateway takes seconds for a slice; asking it again meanwhile only makes it answer twice.
const askAgain = 2 * time.Second

// ask publishes a slice to the gateways that may hold devices of the app, once for all, and waits until each has answered
// or lapsed; only silent ones are asked again, one by one. slow is called when the first round is over and some are silent.
func (s *Slices) ask(
	ctx context.Context, k ledger.SliceKey, push *message.Push, targeted *roaring.Bitmap, slow func(),
) error {
	// A new statement, after the commit of the targets: a gateway that opens its first session of the app later reads them.
	live, err := s.leases.Live(ctx, k.App)
	if err != nil || len(live) == 0 {
		return err
	}
	members, err := targeted.ToBytes()
	if err != nil {
		return fmt.Errorf("encode targets: %w", err)
	}
	request, err := proto.Marshal(&gatewayv1.SliceRequest{App: k.App, Slice: k.Slice, Body: push.Body(), Ordinals: members})
	if err != nil {
		return fmt.Errorf("encode slice request: %w", err)
	}
	inbox := s.conn.NewInbox()
	answers, err := s.conn.SubscribeSync(inbox)
	if err != nil {
		return fmt.Errorf("subscribe for answers: %w", err)
	}
	defer answers.Unsubscribe() //nolint:errcheck // fails only when the connection is closed, and then it is gone
	if err := s.conn.PublishRequest(subject.Slice(k.App), inbox, request); err != nil {
		return fmt.Errorf("publish slice: %w", err)
	}
	silent := map[route.Incarnation]bool{}
	for _, i := range live {
		silent[i] = true
	}
	for {
		if err := s.collect(ctx, k, answers, silent); err != nil || len(silent) == 0 {
			return err
		}
		slow()
		if err := s.askSilent(ctx, inbox, request, silent); err != nil {
			return err
		}
	}
}

// collect applies answers as they come and takes those who gave them off the list, until it is empty or askAgain is over.
func (s *Slices) collect(
	ctx context.Context, k ledger.SliceKey, answers *nats.Subscription, silent map[route.Incarnation]bool,
) error {
	wait, cancel := context.WithTimeout(ctx, askAgain)
	defer cancel()
	for len(silent) > 0 {
		msg, err := answers.NextMsgWithContext(wait)
		switch {
		case errors.Is(err, nats.ErrNoResponders):
			continue // a gateway is away from NATS, or gone: its lease tells
		case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
			return nil
		case err != nil:
			return fmt.Errorf("wait for gateways: %w", err)
		}
		var answer gatewayv1.SliceResponse
		if err := proto.Unmarshal(msg.Data, &answer); err != nil {
			return fmt.Errorf("decode slice response: %w", err)
		}
		changes, err := changesOf(k, &answer)
		if err != nil {
			return fmt.Errorf("decode slice response: %w", err)
		}
		ended, err := s.ledger.ApplySlices(ctx, changes)
		if err != nil {
			return err
		}
		if len(ended) > 0 {
			s.ended(ctx, ended)
		}
		delete(silent, route.FromProto(answer.GetIncarnation()))
	}
	return nil
}

func changesOf(k ledger.SliceKey, answer *gatewayv1.SliceResponse) ([]ledger.SliceChange, error) {
	var changes []ledger.SliceChange
	for _, part := range []struct {
		stored []byte
		step   ledgerv1.Step
		reason ledgerv1.Reason
	}{
		{answer.GetSent(), ledgerv1.Step_STEP_SENT, 0},
		{answer.GetSentUnconfirmed(), ledgerv1.Step_STEP_SENT_UNCONFIRMED, 0},
		{answer.GetPermissionOff(), ledgerv1.Step_STEP_FAILED, ledgerv1.Reason_REASON_PERMISSION_OFF},
	} {
		if len(part.stored) == 0 {
			continue
		}
		bits := roaring.New()
		if err := bits.UnmarshalBinary(part.stored); err != nil {
			return nil, err
		}
		changes = append(changes, ledger.SliceChange{SliceKey: k, Step: part.step, Reason: part.reason, Bits: bits})
	}
	return changes, nil
}

// askSilent takes the lapsed gateways off the list and asks the others again.
func (s *Slices) askSilent(ctx context.Context, inbox string, request []byte, silent map[route.Incarnation]bool) error {
	var asked []route.Incarnation
	for i := range silent {
		asked = append(asked, i)
	}
	over, err := s.leases.Judge(ctx, asked)
	if err != nil {
		return err
	}
	for _, i := range over {
		delete(silent, i)
	}
	for i := range silent {
		s.metrics.askedAgain.Inc()
		if err := s.conn.PublishRequest(subject.Gateway(i.Proto(), "slice"), inbox, request); err != nil {
			return fmt.Errorf("ask %s again: %w", i.Gateway, err)
		}
	}
	return nil
}
