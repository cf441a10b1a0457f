package sender

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/halleypush/halley/pkg/subject"
	senderv1 "github.com/halleypush/halley/proto/halley/sender/v1"
)

const (
	// maxReceipts bounds the body of one call of the vendor, which may hold many receipts.
	maxReceipts = 1 << 20
	// receiptRate is how many calls a second are read for an app, receiptBurst how many at once; more are asked to come again.
	receiptRate, receiptBurst = 500, 1000
)

// receiptURL returns where the vendor sends an app's receipts.
func (s *Sender) receiptURL(h *held) string {
	return fmt.Sprintf("%s/receipts/%s/%s/%s", strings.TrimSuffix(s.config.PublicURL, "/"), s.vendor.Channel(), h.appID, h.secret)
}

// receiver takes the vendor's receipts. Whoever does not know an app's path learns nothing: every wrong path is answered alike.
func (s *Sender) receiver() http.Handler {
	receiver, receives := s.vendor.(Receiver)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /receipts/"+s.vendor.Channel()+"/{app}/{secret}", func(w http.ResponseWriter, r *http.Request) {
		h, app := s.credentials.ofID(r.Context(), r.PathValue("app"))
		if !receives || h == nil || h.secret == "" || subtle.ConstantTimeCompare([]byte(h.secret), []byte(r.PathValue("secret"))) == 0 {
			http.NotFound(w, r)
			return
		}
		if !s.tenant(app).receipts.Allow() {
			s.metrics.receipts.WithLabelValues("refused").Inc()
			w.Header().Set("Retry-After", "1")
			http.Error(w, "too many calls", http.StatusTooManyRequests)
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxReceipts))
		if err != nil {
			s.metrics.receipts.WithLabelValues("malformed").Inc()
			http.Error(w, "the body is too large, or did not come whole", http.StatusRequestEntityTooLarge)
			return
		}
		receipts, answer, err := receiver.Receipts(h.credential, r, body)
		switch {
		case errors.Is(err, ErrForged):
			s.metrics.receipts.WithLabelValues("forged").Inc()
			http.Error(w, "the signature is wrong", http.StatusForbidden)
			return
		case err != nil:
			s.metrics.receipts.WithLabelValues("malformed").Inc()
			http.Error(w, "the receipts cannot be read", http.StatusBadRequest)
			return
		}
		if err := s.receive(r, app, receipts); err != nil {
			s.log.WarnContext(r.Context(), "receipts are not stored; the vendor may send them again", "error", err)
			http.Error(w, "not now", http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write(answer) // the vendor may be gone
	})
	return mux
}

var receiptKinds = map[ReceiptKind]struct {
	name    string
	outcome senderv1.Outcome
}{
	ReceiptUnknown:   {"unknown", senderv1.Outcome_OUTCOME_UNSPECIFIED},
	ReceiptArrived:   {"arrived", senderv1.Outcome_OUTCOME_ARRIVED},
	ReceiptShown:     {"shown", senderv1.Outcome_OUTCOME_SHOWN},
	ReceiptClicked:   {"clicked", senderv1.Outcome_OUTCOME_CLICKED},
	ReceiptTokenGone: {"token_gone", senderv1.Outcome_OUTCOME_TOKEN_GONE},
	ReceiptDropped:   {"dropped", senderv1.Outcome_OUTCOME_DROPPED},
}

// receive passes receipts on to pushcore, a report for each push and slice.
func (s *Sender) receive(r *http.Request, app uint32, receipts []Receipt) error {
	reports := map[tag]*senderv1.Report{}
	for _, receipt := range receipts {
		t, ok := parseTag(receipt.Tag)
		kind := receiptKinds[receipt.What]
		if !ok || kind.outcome == senderv1.Outcome_OUTCOME_UNSPECIFIED {
			s.metrics.receipts.WithLabelValues("unknown").Inc()
			continue
		}
		s.metrics.receipts.WithLabelValues(kind.name).Inc()
		report := reports[t]
		if report == nil {
			report = &senderv1.Report{App: app, PushId: t.push[:], Slice: t.slice, Audience: t.audience, Channel: s.vendor.Channel()}
			reports[t] = report
		}
		report.Results = append(report.Results, &senderv1.Result{Token: receipt.Token, Outcome: kind.outcome, Code: receipt.Code})
	}
	ctx, cancel := context.WithTimeout(r.Context(), storedWithin)
	defer cancel()
	for _, report := range reports {
		if err := s.publish(ctx, subject.Report(app), report, nil); err != nil {
			return err
		}
	}
	return nil
}
