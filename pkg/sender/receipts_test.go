package sender_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/halleypush/halley/pkg/sender"
	senderv1 "github.com/halleypush/halley/proto/halley/sender/v1"
)

// A sender that was started again has had no job of the app yet, and vendors send receipts once.
func TestReceiptsComeBeforeTheFirstJob(t *testing.T) {
	t.Parallel()
	r := newRig(t, &vendor{}, nil)
	address := "http://" + r.ReceiptsAddr() + "/receipts/fcm/app1/" + strings.Repeat("5", 32)
	deadline := time.Now().Add(10 * time.Second)
	for status := 0; status != http.StatusOK; { // until the sender has been told the apps
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, address, strings.NewReader("nonsense t0"))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Signature", "good")
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if status = response.StatusCode; status != http.StatusOK && time.Now().After(deadline) {
			t.Fatalf("answered %d", status)
		}
	}
}

func TestReceiptsArePassedOnIfTheyAreTheVendors(t *testing.T) {
	t.Parallel()
	v := &vendor{send: func(_ context.Context, _ string, m *sender.Message) []sender.Result {
		return all(m, sender.Result{Outcome: sender.Accepted})
	}}
	r := newRig(t, v, nil)
	job := r.job(t, 1, 1, nil)
	r.results(t, 1, 1)
	tag := v.seen()[0].Tag
	post := func(path, signature, body string) int {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+r.ReceiptsAddr()+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Signature", signature)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		_, _ = io.Copy(io.Discard, response.Body)
		return response.StatusCode
	}
	good := "/receipts/fcm/app1/" + strings.Repeat("5", 32)
	for _, c := range []struct {
		path, signature, body string
		want                  int
	}{
		{"/receipts/fcm/app1/" + strings.Repeat("6", 32), "good", tag + " t0", 404},
		{"/receipts/fcm/app9/" + strings.Repeat("5", 32), "good", tag + " t0", 404},
		{"/receipts/apns/app1/" + strings.Repeat("5", 32), "good", tag + " t0", 404},
		{good, "forged", tag + " t0", 403},
		{good, "good", strings.Repeat("x", 2<<20), 413},
		{good, "good", "nonsense t0", 200},
		{good, "good", tag + " t0", 200},
	} {
		if got := post(c.path, c.signature, c.body); got != c.want {
			t.Errorf("%s %s answers %d, not %d", c.path, c.signature, got, c.want)
		}
	}
	select {
	case report := <-r.reports:
		one := report.GetResults()[0]
		if string(report.GetPushId()) != string(job.GetPushId()) || report.GetSlice() != 3 || one.Ordinal != nil || one.GetToken() != "t0" ||
			one.GetOutcome() != senderv1.Outcome_OUTCOME_ARRIVED {
			t.Errorf("the report is %v", report)
		}
	case <-time.After(patience):
		t.Fatal("no report")
	}
}
