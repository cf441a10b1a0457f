package frame_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
	"github.com/halleypush/halley/services/vendorsim/internal/frametest"
)

// courier starts a courier whose calls hold the items in a line.
func courier(t *testing.T, to *frametest.Receiver) (*frame.Courier, *frametest.Rig) {
	t.Helper()
	var c *frame.Courier
	r := frametest.Start(t, func(f *frame.Frame) frame.Vendor {
		c = f.NewCourier(10, func(ctx context.Context, name string, items []any) (*http.Request, error) {
			body := name + fmt.Sprint(items)
			return http.NewRequestWithContext(ctx, http.MethodPost, to.URL, strings.NewReader(body))
		})
		return vendor{}
	})
	return c, r
}

func TestReceiptsOfOneReceiverShareCalls(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := frame.New(frame.Options{
			Log: slog.New(slog.DiscardHandler), Record: frame.RecorderConfig{Bytes: 1 << 20, Pairs: 100},
			Receipts: &http.Client{Transport: roundTrip(func(*http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
			})},
		})
		calls := make(chan string, 10)
		c := f.NewCourier(10, func(ctx context.Context, to string, items []any) (*http.Request, error) {
			calls <- fmt.Sprint(to, " ", len(items))
			return http.NewRequestWithContext(ctx, http.MethodPost, "http://receiver", nil)
		})
		for range 12 { // all are due when the courier begins
			c.Add(frame.Receipt{To: "a"})
		}
		c.Add(frame.Receipt{To: "b"})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			f.Run(ctx)
			close(ended)
		}()
		synctest.Wait()
		cancel()
		<-ended
		close(calls)
		var got []string
		for call := range calls {
			got = append(got, call)
		}
		slices.Sort(got)
		if !slices.Equal(got, []string{"a 10", "a 2", "b 1"}) {
			t.Errorf("called with %q", got)
		}
	})
}

func TestShuffledReceiptsComeInAnotherOrder(t *testing.T) {
	t.Parallel()
	to := frametest.NewReceiver(t)
	c, r := courier(t, to)
	r.Patch(`{"receipts":{"delay":"50ms","shuffle":true}}`)
	var items []string
	for i := range 40 {
		c.Add(frame.Receipt{To: "", Item: i})
	}
	for len(items) < 40 {
		items = append(items, strings.Fields(strings.Trim(to.Next(t).Body, "[]"))...)
	}
	order := make([]string, 40)
	for i := range order {
		order[i] = fmt.Sprint(i)
	}
	if slices.Equal(items, order) {
		t.Error("they come in order")
	}
	slices.Sort(items)
	slices.Sort(order)
	if !slices.Equal(items, order) {
		t.Errorf("they came: %v", items)
	}
}

func TestAReceiptThatIsRefusedIsCountedAndNotRepeated(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		client := &http.Client{Transport: roundTrip(func(*http.Request) (*http.Response, error) {
			calls++
			return &http.Response{StatusCode: http.StatusInternalServerError, Body: http.NoBody}, nil
		})}
		f := frame.New(frame.Options{
			Log: slog.New(slog.DiscardHandler), Receipts: client, Record: frame.RecorderConfig{Bytes: 1 << 20, Pairs: 100},
		})
		c := f.NewCourier(10, func(ctx context.Context, _ string, _ []any) (*http.Request, error) {
			return http.NewRequestWithContext(ctx, http.MethodPost, "http://receiver", nil)
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			f.Run(ctx)
			close(ended)
		}()
		c.Add(frame.Receipt{})
		synctest.Wait()
		if counts := c.Counts(); calls != 1 || counts.Failed != 1 || counts.Sent != 0 || counts.Waiting != 0 {
			t.Errorf("%d calls, counted %+v", calls, counts)
		}
		cancel()
		<-ended
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

// RoundTrip calls the function.
func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
