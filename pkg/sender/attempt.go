package sender

import (
	"context"
	"errors"
	"math/bits"
	"math/rand/v2"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/types/known/timestamppb"

	senderv1 "github.com/halleypush/halley/proto/halley/sender/v1"
)

// maxRateWait is how long a request waits for its app's rate limit before its job goes back to JetStream.
const maxRateWait = 5 * time.Second

// withoutCredential is how long a job waits when pushcore could not be asked for the credential, or the vendor refuses it.
const withoutCredential = 5 * time.Second

// settled is what an attempt at a job came to.
type settled struct {
	mu      sync.Mutex
	results []*senderv1.Result // guarded by mu
	again   map[class]*again   // guarded by mu
}

// class is what targets have in common that are tried again together: whether an attempt was made, which counts against the
// tries, and how long they wait, by powers of two, so that one that has to wait long does not hold up the others.
type class struct {
	counted bool
	wait    int
}

// again is a part of a job that is tried again.
type again struct {
	class
	targets []*senderv1.Target
	at      time.Time // the latest that one of them asked for
}

func (s *settled) final(targets []*senderv1.Target, outcome senderv1.Outcome, code string) {
	for _, t := range targets {
		s.add(&senderv1.Result{Ordinal: &t.Ordinal, Token: t.GetToken(), Outcome: outcome, Code: code})
	}
}

func (s *settled) add(r *senderv1.Result) {
	s.mu.Lock()
	s.results = append(s.results, r)
	s.mu.Unlock()
}

// later has targets tried again, not before a time.
func (s *settled) later(targets []*senderv1.Target, at time.Time, counted bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := class{counted, bits.Len64(uint64(max(time.Until(at), 0) / time.Second))}
	part := s.again[c]
	if part == nil {
		part = &again{class: c}
		if s.again == nil {
			s.again = map[class]*again{}
		}
		s.again[c] = part
	}
	part.targets = append(part.targets, targets...)
	if at.After(part.at) {
		part.at = at
	}
}

// attempt makes one attempt at each target of a job. It returns when the vendor has answered for all of them; once stop is
// closed it begins no further request, and has the rest tried again, by another sender if there is one.
func (s *Sender) attempt(ctx context.Context, job *senderv1.Job, t *tenant, stop <-chan struct{}) *settled {
	out := &settled{}
	h, all := s.plan(ctx, job, out)
	if len(all) == 0 {
		t.settled(time.Now(), len(job.GetTargets()))
		return out
	}
	ctx = propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": job.GetTrace()})
	var wg sync.WaitGroup
	for _, r := range all {
		wg.Add(1)
		begun := t.workers.do(stop, func() { // one is free again within the time-outs of a request
			defer wg.Done()
			s.send(ctx, job, t, h, r, out)
			t.settled(time.Now(), len(r.targets))
		})
		if !begun {
			wg.Done()
			out.later(r.targets, time.Now(), false)
		}
	}
	wg.Wait()
	return out
}

// plan returns the requests that a job takes, and the credential for them; none if what becomes of it is known already.
func (s *Sender) plan(ctx context.Context, job *senderv1.Job, out *settled) (*held, []request) {
	now := time.Now()
	if !now.Before(job.GetExpiresAt().AsTime()) {
		out.final(job.GetTargets(), senderv1.Outcome_OUTCOME_EXPIRED, "")
		return nil, nil
	}
	h, err := s.credentials.get(ctx, job.GetApp())
	switch {
	case errors.Is(err, errNoCredential):
		out.final(job.GetTargets(), senderv1.Outcome_OUTCOME_CREDENTIAL_BAD, err.Error())
		return nil, nil
	case err != nil:
		s.log.WarnContext(ctx, "no credential for now", "app", job.GetAppId(), "error", err)
		s.metrics.parked.WithLabelValues("credential").Inc()
		out.later(job.GetTargets(), now.Add(jitter(withoutCredential)), false)
		return nil, nil
	}
	url := ""
	if s.config.PublicURL != "" {
		url = s.receiptURL(h)
	}
	all, clamped, err := requests(job, s.limits, h, url, now)
	if err != nil {
		out.final(job.GetTargets(), senderv1.Outcome_OUTCOME_REJECTED, err.Error())
		return nil, nil
	}
	if clamped {
		s.metrics.clamped.Inc()
	}
	return h, all
}

// send makes one request and sorts its targets by what became of them.
func (s *Sender) send(ctx context.Context, job *senderv1.Job, t *tenant, h *held, r request, out *settled) {
	now, expires := time.Now(), job.GetExpiresAt().AsTime()
	h = s.credentials.latest(job.GetApp(), h)
	if !h.account.admit(ctx) {
		s.metrics.parked.WithLabelValues("rate").Inc()
		out.later(r.targets, now.Add(jitter(maxRateWait)), false)
		return
	}
	if now = time.Now(); !now.Before(expires) { // it has waited
		out.final(r.targets, senderv1.Outcome_OUTCOME_EXPIRED, "")
		return
	}
	if h.account.refusal.shut(now, s.config.CredentialWait) {
		s.awaitCredential(r.targets, expires, "the vendor refuses the credential", false, out)
		return
	}
	if until, spent := h.account.quota(now, len(r.targets)); spent {
		s.quotaSpent(r.targets, until, expires, "the quota is spent", out)
		return
	}
	done, err := t.breaker.Allow()
	if err != nil { // open: the vendor fails for this app
		h.account.giveBack(len(r.targets))
		s.metrics.parked.WithLabelValues("breaker").Inc()
		out.later(r.targets, now.Add(jitter(s.config.BreakerFor)), false)
		return
	}
	results, used := s.call(ctx, job, h, r)
	failed, refused := true, 0
	for _, result := range results {
		failed = failed && result.Outcome == Retry && result.After == 0
		if result.Outcome != Accepted {
			refused++
		}
	}
	h.account.giveBack(refused)
	if failed {
		done(errFailed)
	} else {
		done(nil)
	}
	for i, result := range results {
		s.sort(job, used.account, r.targets[i:i+1], result, expires, out)
	}
}

var errFailed = errors.New("the request failed")

// call asks the vendor; again, once, with a fresh credential if it says that this one is bad. It returns the one that was used, too.
func (s *Sender) call(ctx context.Context, job *senderv1.Job, h *held, r request) ([]Result, *held) {
	ctx, span := s.span(ctx, job, len(r.targets))
	defer span.End()
	results := s.callOnce(ctx, h, r)
	if results[0].Outcome != CredentialBad {
		return results, h
	}
	fresh := s.credentials.renew(ctx, job.GetApp(), h)
	if fresh == nil {
		return results, h
	}
	return s.callOnce(ctx, fresh, r), fresh
}

func (s *Sender) callOnce(ctx context.Context, h *held, r request) []Result {
	ctx, cancel := context.WithTimeout(ctx, s.config.Timeout)
	defer cancel()
	begin := time.Now()
	results := s.vendor.Send(ctx, h.credential, r.message)
	s.metrics.seconds.Observe(time.Since(begin).Seconds())
	for len(results) < len(r.targets) { // a vendor's package that forgets a target: the runtime does not
		results = append(results, Result{Outcome: Retry, Code: "no result"})
	}
	for _, result := range results[:len(r.targets)] {
		s.metrics.results[result.Outcome].Inc()
	}
	return results[:len(r.targets)]
}

var outcomes = map[Outcome]senderv1.Outcome{
	Accepted: senderv1.Outcome_OUTCOME_ACCEPTED, TokenGone: senderv1.Outcome_OUTCOME_TOKEN_GONE,
	Rejected: senderv1.Outcome_OUTCOME_REJECTED, CredentialBad: senderv1.Outcome_OUTCOME_CREDENTIAL_BAD,
}

// sort notes what became of one target.
func (s *Sender) sort(job *senderv1.Job, a *account, one []*senderv1.Target, r Result, expires time.Time, out *settled) {
	switch r.Outcome {
	case Retry:
		if int(job.GetAttempts())+1 >= s.config.Tries {
			out.final(one, senderv1.Outcome_OUTCOME_GIVEN_UP, r.Code)
			return
		}
		after := r.After + jitter(r.After/10) // those who were told the same do not come back together
		if after <= 0 {
			after = jitter(min(s.config.FirstRetry<<min(job.GetAttempts(), 20), s.config.LongestRetry))
		}
		if at := time.Now().Add(after); at.Before(expires) {
			out.later(one, at, true)
		} else {
			out.final(one, senderv1.Outcome_OUTCOME_EXPIRED, r.Code)
		}
	case QuotaSpent:
		until := r.Until
		if until.IsZero() {
			until = midnight(time.Now())
		}
		a.spend(until)
		s.quotaSpent(one, until, expires, r.Code, out)
	case CredentialBad:
		waits, counted, tells := a.refusal.note(time.Now(), s.config.CredentialWait, int(job.GetAttempts()))
		if tells {
			s.log.Warn("the vendor refuses the app's credential", "app", job.GetAppId(), "code", r.Code)
		}
		if !waits {
			out.final(one, senderv1.Outcome_OUTCOME_CREDENTIAL_BAD, r.Code)
			return
		}
		s.awaitCredential(one, expires, r.Code, counted, out)
	default:
		a.refusal.over()
		result := &senderv1.Result{
			Ordinal: &one[0].Ordinal, Token: one[0].GetToken(), Outcome: outcomes[r.Outcome], Code: r.Code, VendorId: r.VendorID,
		}
		if !r.GoneAt.IsZero() {
			result.GoneAt = timestamppb.New(r.GoneAt)
		}
		out.add(result)
	}
}

// awaitCredential has targets wait for a credential that the vendor takes, if they live that long.
func (s *Sender) awaitCredential(targets []*senderv1.Target, expires time.Time, code string, counted bool, out *settled) {
	at := time.Now().Add(jitter(withoutCredential))
	if !at.Before(expires) {
		out.final(targets, senderv1.Outcome_OUTCOME_CREDENTIAL_BAD, code)
		return
	}
	s.metrics.parked.WithLabelValues("credential").Inc()
	out.later(targets, at, counted)
}

func (s *Sender) quotaSpent(targets []*senderv1.Target, until, expires time.Time, code string, out *settled) {
	if !until.Before(expires) {
		out.final(targets, senderv1.Outcome_OUTCOME_QUOTA_SPENT, code)
		return
	}
	s.metrics.parked.WithLabelValues("quota").Inc()
	out.later(targets, until.Add(jitter(min(time.Minute, max(time.Until(until), 0)/10))), false) // not all at once
}

// jitter returns between a half and all of a time.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }

// span begins the span of one request, within the trace of the call that the push came with.
func (s *Sender) span(ctx context.Context, job *senderv1.Job, targets int) (context.Context, trace.Span) {
	return s.tracer.Start(ctx, "send "+s.vendor.Channel(), //nolint:spancheck // the caller ends it
		trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(attribute.String("halley.app", job.GetAppId()), attribute.Int("halley.targets", targets)))
}
