package sender_test

import (
	"context"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/halleypush/halley/pkg/sender"
	"github.com/halleypush/halley/pkg/subject"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	senderv1 "github.com/halleypush/halley/proto/halley/sender/v1"
)

func TestCallsAboutBroadcastChannelsAreMadeWithTheCredentialInUse(t *testing.T) {
	t.Parallel()
	v := &vendor{send: func(_ context.Context, key string, m *sender.Message) []sender.Result {
		switch key {
		case "k1":
			return all(m, sender.Result{Outcome: sender.CredentialBad, Code: "403"})
		case "k2":
			return all(m, sender.Result{Outcome: sender.Retry, Code: "503"})
		default:
			return all(m, sender.Result{Outcome: sender.Accepted, VendorID: "id"})
		}
	}}
	r := newRig(t, v, nil)
	r.core.set(3, `{"key":"k3"}`)
	r.job(t, 3, 1, nil)
	r.results(t, 3, 1) // it listens
	list := &senderv1.Check_ListChannels{ListChannels: &pushv1.ListActivityChannelsRequest{}}
	for app, want := range map[uint32]senderv1.Outcome{
		1: senderv1.Outcome_OUTCOME_CREDENTIAL_BAD, 2: senderv1.Outcome_OUTCOME_GIVEN_UP, 3: senderv1.Outcome_OUTCOME_ACCEPTED,
		9: senderv1.Outcome_OUTCOME_CREDENTIAL_BAD,
	} {
		answer := r.check(t, &senderv1.Check{App: app, Call: list})
		if answer.GetOutcome() != want || want == senderv1.Outcome_OUTCOME_ACCEPTED && answer.GetChannels()[0] != "channel" {
			t.Errorf("app %d: the answer is %v", app, answer)
		}
	}
	answer := r.check(t, &senderv1.Check{App: 3, Call: &senderv1.Check_Broadcast{Broadcast: &pushv1.BroadcastActivityRequest{}}})
	if answer.GetOutcome() != senderv1.Outcome_OUTCOME_REJECTED || answer.GetField() != "content_state" || answer.GetCode() != "too long" {
		t.Errorf("a field that is wrong: the answer is %v", answer)
	}
}

// check asks the sender to check something.
func (r *rig) check(t *testing.T, c *senderv1.Check) *senderv1.Checked {
	t.Helper()
	data, err := proto.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	reply, err := r.conn.RequestWithContext(ctx, subject.Check("fcm"), data)
	if err != nil {
		t.Fatal(err)
	}
	var answer senderv1.Checked
	if err := proto.Unmarshal(reply.Data, &answer); err != nil {
		t.Fatal(err)
	}
	return &answer
}
