package pushcore_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	"github.com/halleypush/halley/services/pushcore/pushcoretest"
)

// waitMetric waits until a metric has a value.
func waitMetric(t *testing.T, core *pushcoretest.Core, value float64, name string, labels ...string) {
	t.Helper()
	pushcoretest.Eventually(t, fmt.Sprint(name, labels, " is ", value), func() bool {
		return core.Metric(t, name, labels...) == value
	})
}

func TestRule9WhatIsDroppedIsCountedFromZero(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	for _, metric := range [][]string{
		{"refused_total", "queue", "accept"},
		{"refused_total", "queue", "register"},
		{"refused_total", "queue", "events"},
		{"direct_spilled_total"},
		{"replaced_untold_total"},
		{"hints_forgotten_total"},
		{"slice_asked_again_total"},
		{"receipts_dropped_total", "plane", "direct"},
		{"receipts_dropped_total", "plane", "audience"},
		{"receipts_failed_batches_total", "plane", "direct"},
		{"receipts_failed_batches_total", "plane", "audience"},
		{"receipts_malformed_total"},
		{"direct_deliveries_total", "result", "silent"},
		{"sweeps_total", "result", "error", "sweep", "due"},
		{"sweeps_total", "result", "error", "sweep", "jobs"},
		{"vendor_claimed_total", "channel", "meizu"},
		{"vendor_jobs_total", "channel", "apns"},
		{"vendor_jobs_again_total", "channel", "webpush"},
		{"vendor_jobs_spilled_total"},
		{"vendor_jobs_failed_total"},
		{"vendor_streams_lost_total"},
		{"vendor_results_total", "channel", "harmony", "outcome", "given_up"},
		{"vendor_reports_malformed_total"},
		{"vendor_reports_failed_batches_total"},
		{"vendor_receipts_unknown_total"},
		{"token_deletions_held", "channel", "xiaomi"},
		{"tokens_deleted_total", "channel", "honor"},
	} {
		if value := core.Metric(t, "halley_pushcore_"+metric[0], metric[1:]...); value != 0 {
			t.Errorf("%v is %v at the start", metric, value)
		}
	}
}

func TestRule9FullAcceptQueueRefusesAndLosesNothing(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	release := core.Hold(t, "LOCK TABLE push IN ACCESS EXCLUSIVE MODE")
	const batches = 46 // of 500, more than 20,000 that may wait and 3 commits of 256
	var mu sync.Mutex
	var accepted []string
	refused := 0
	var wg sync.WaitGroup
	for range batches {
		r := &pushv1.PushBatchRequest{App: app.ID}
		for range 500 {
			r.Pushes = append(r.Pushes, &pushv1.PushRequest{
				Audience: app.Request(pushcoretest.ToTokens("x")).GetAudience(), Payload: "p",
			})
		}
		wg.Go(func() {
			response, err := core.Pushes.PushBatch(app.Key(t.Context()), r)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for _, result := range response.GetResults() {
				if id := result.GetAccepted().GetPushId(); id != "" {
					accepted = append(accepted, id)
					continue
				}
				refused++
				wantOverloaded(t, status.FromProto(result.GetError()))
			}
		})
	}
	pushcoretest.Eventually(t, "the queue is full", func() bool {
		return core.Metric(t, "halley_pushcore_refused_total", "queue", "accept") > 0
	})
	release()
	wg.Wait()
	if len(accepted)+refused != batches*500 || len(accepted) < 20_000 || refused == 0 {
		t.Errorf("%d accepted, %d refused of %d", len(accepted), refused, batches*500)
	}
	waitMetric(t, core, float64(refused), "halley_pushcore_refused_total", "queue", "accept")
	var stored int
	if err := core.SQL(t).QueryRow(t.Context(), "SELECT count(*) FROM push").Scan(&stored); err != nil || stored != len(accepted) {
		t.Errorf("%d of %d accepted pushes are stored, %v", stored, len(accepted), err)
	}
}

func wantOverloaded(t *testing.T, s *status.Status) {
	t.Helper()
	for _, detail := range s.Details() {
		if info, ok := detail.(*errdetails.RetryInfo); ok && s.Code() == codes.ResourceExhausted &&
			info.GetRetryDelay().AsDuration() == time.Second {
			return
		}
	}
	t.Errorf("refused with %s %s %v", s.Code(), s.Message(), s.Details())
}

func TestRule9MalformedReceiptsAreThrownAwayAndCounted(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	core.ExpectErrors = true
	app := core.NewApp(t, nil)
	gateway := core.Gateway(t)
	session := gateway.Open(t, app.Register(t))
	id := app.Push(t, pushcoretest.ToDevices(session.Device))
	gateway.Receipts(t, &ledgerv1.DirectReceipt{App: app.Number, Ordinal: session.Ordinal, PushId: []byte("short")})
	waitMetric(t, core, 1, "halley_pushcore_receipts_malformed_total")
	gateway.Receipt(t, session, id, ledgerv1.Step_STEP_ARRIVED) // the next ones are applied
	app.WaitState(t, id, session.Device, pushv1.Delivery_ARRIVED)
}
