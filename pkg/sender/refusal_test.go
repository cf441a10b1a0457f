package sender_test

import (
	"context"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/halleypush/halley/pkg/sender"
	senderv1 "github.com/halleypush/halley/proto/halley/sender/v1"
)

func TestARefusedCredentialIsWaitedForAndTheVendorLeftAlone(t *testing.T) {
	t.Parallel()
	v := &vendor{limits: sender.Limits{Batch: 1, Concurrency: 1}, send: func(_ context.Context, key string, m *sender.Message) []sender.Result {
		if key == "k1" {
			return all(m, sender.Result{Outcome: sender.CredentialBad, Code: "403"})
		}
		return all(m, sender.Result{Outcome: sender.Accepted})
	}}
	r := newRig(t, v, nil)
	r.job(t, 1, 50, nil)
	r.job(t, 2, 50, nil)
	wantOutcomes(t, r.results(t, 2, 50), senderv1.Outcome_OUTCOME_ACCEPTED, 50)
	r.core.set(1, `{"key":"new"}`)
	r.core.changes <- []uint32{1}
	wantOutcomes(t, r.results(t, 1, 50), senderv1.Outcome_OUTCOME_ACCEPTED, 50)
	if refused := len(v.seen()) - 100; refused > 10 {
		t.Errorf("the vendor was asked %d times with the credential that it refuses", refused)
	}
}

func TestAJobTakesTheCredentialThatIsSetWhileItRuns(t *testing.T) {
	t.Parallel()
	v := &vendor{limits: sender.Limits{Batch: 1, Concurrency: 1}}
	r := newRig(t, v, nil)
	v.send = func(_ context.Context, key string, m *sender.Message) []sender.Result {
		if key == "k1" {
			r.core.set(1, `{"key":"new"}`)
			return all(m, sender.Result{Outcome: sender.CredentialBad, Code: "403"})
		}
		return all(m, sender.Result{Outcome: sender.Accepted})
	}
	r.job(t, 1, 50, nil)
	wantOutcomes(t, r.results(t, 1, 50), senderv1.Outcome_OUTCOME_ACCEPTED, 50)
	if asked := len(v.seen()); asked > 52 {
		t.Errorf("the vendor was asked %d times for 50 targets", asked)
	}
}

func TestWhatIsRefusedForSomeTargetsAloneIsReported(t *testing.T) {
	t.Parallel()
	v := &vendor{limits: sender.Limits{Batch: 1, Concurrency: 1}, send: func(_ context.Context, _ string, m *sender.Message) []sender.Result {
		if m.Targets[0].Token == "t7" {
			return all(m, sender.Result{Outcome: sender.CredentialBad, Code: "403"})
		}
		return all(m, sender.Result{Outcome: sender.Accepted})
	}}
	r := newRig(t, v, nil)
	r.job(t, 1, 20, nil)
	got := r.results(t, 1, 19)
	r.job(t, 1, 5, nil) // the vendor takes the credential
	for outcome, n := range r.results(t, 1, 6) {
		got[outcome] += n
	}
	if got[senderv1.Outcome_OUTCOME_ACCEPTED] != 24 {
		t.Errorf("the results are %v", got)
	}
	if got[senderv1.Outcome_OUTCOME_CREDENTIAL_BAD] != 1 {
		t.Errorf("the results are %v", got)
	}
}

func TestADaysQuotaCountsWhatTheVendorTookAndComesBack(t *testing.T) {
	t.Parallel()
	until := time.Now().Add(2 * time.Second)
	v := &vendor{send: func(_ context.Context, _ string, m *sender.Message) []sender.Result {
		if time.Now().Before(until) {
			return all(m, sender.Result{Outcome: sender.QuotaSpent, Until: until})
		}
		return all(m, sender.Result{Outcome: sender.Accepted})
	}}
	r := newRig(t, v, nil)
	r.job(t, 1, 30, nil)
	wantOutcomes(t, r.results(t, 1, 30), senderv1.Outcome_OUTCOME_ACCEPTED, 30)

	failing := &vendor{limits: sender.Limits{Batch: 10, Concurrency: 1, PerDay: 30}}
	failing.send = func(_ context.Context, _ string, m *sender.Message) []sender.Result {
		if len(failing.seen()) <= 3 {
			return all(m, sender.Result{Outcome: sender.Retry, Code: "503"})
		}
		return all(m, sender.Result{Outcome: sender.Accepted})
	}
	r = newRig(t, failing, nil)
	r.job(t, 1, 30, nil)
	wantOutcomes(t, r.results(t, 1, 30), senderv1.Outcome_OUTCOME_ACCEPTED, 30)
	r.job(t, 1, 1, func(j *senderv1.Job) { j.ExpiresAt = timestamppb.New(time.Now().Add(2 * time.Second)) })
	wantOutcomes(t, r.results(t, 1, 1), senderv1.Outcome_OUTCOME_QUOTA_SPENT, 1)
}
