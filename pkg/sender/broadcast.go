package sender

import (
	"context"
	"errors"

	senderv1 "github.com/halleypush/halley/proto/halley/sender/v1"
)

// maxCalls bounds the calls about broadcast channels that are under way; more are asked to come again.
const maxCalls = 64

// Broadcaster is a vendor with channels that phones subscribe to: what is sent to one reaches all of them with one request.
type Broadcaster interface {
	// Broadcast makes one of the calls about channels that a Check can hold, and returns the channels that the vendor answers. A call
	// that the vendor would refuse for one of its fields is not made: the error is a FieldError.
	Broadcast(ctx context.Context, credential Credential, call *senderv1.Check) (channels []string, r Result, err error)
}

// broadcast makes a call about broadcast channels; again, once, with a fresh credential if the vendor refuses the one at hand.
func (s *Sender) broadcast(ctx context.Context, call *senderv1.Check) *senderv1.Checked {
	vendor, ok := s.vendor.(Broadcaster)
	if !ok {
		return &senderv1.Checked{Outcome: senderv1.Outcome_OUTCOME_REJECTED, Code: "the vendor has no broadcast channels"}
	}
	select {
	case s.calls <- struct{}{}:
		defer func() { <-s.calls }()
	default:
		return &senderv1.Checked{Outcome: senderv1.Outcome_OUTCOME_GIVEN_UP, Code: "too many calls at once"}
	}
	h, err := s.credentials.get(ctx, call.GetApp())
	switch {
	case errors.Is(err, errNoCredential):
		return &senderv1.Checked{Outcome: senderv1.Outcome_OUTCOME_CREDENTIAL_BAD, Code: err.Error()}
	case err != nil:
		s.log.WarnContext(ctx, "no credential for now", "app", call.GetApp(), "error", err)
		return &senderv1.Checked{Outcome: senderv1.Outcome_OUTCOME_GIVEN_UP, Code: "no credential for now"}
	}
	channels, r, err := vendor.Broadcast(ctx, h.credential, call)
	var field *FieldError
	if errors.As(err, &field) {
		return &senderv1.Checked{Outcome: senderv1.Outcome_OUTCOME_REJECTED, Field: field.Field, Code: field.Problem}
	}
	s.metrics.results[r.Outcome].Inc()
	if r.Outcome == CredentialBad {
		if fresh := s.credentials.renew(ctx, call.GetApp(), h); fresh != nil {
			channels, r, _ = vendor.Broadcast(ctx, fresh.credential, call) // its fields are good
			s.metrics.results[r.Outcome].Inc()
		}
	}
	outcome, final := outcomes[r.Outcome]
	if !final {
		outcome = senderv1.Outcome_OUTCOME_GIVEN_UP
	}
	return &senderv1.Checked{Outcome: outcome, Code: r.Code, Channels: channels, VendorId: r.VendorID}
}
