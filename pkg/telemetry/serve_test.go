package telemetry

import (
	"context"
	"errors"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

func TestARunningRequestIsCutAfterTheGrace(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	running, cut, served := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	handler := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(running)
		<-r.Context().Done()
		close(cut)
	})
	go func() { served <- serveHTTP(ctx, listener, handler, time.Millisecond) }()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+listener.Addr().String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() {
		response, err := http.DefaultClient.Do(request)
		if err == nil {
			err = response.Body.Close()
		}
		answered <- err
	}()
	<-running
	cancel()
	if err := <-served; err != nil {
		t.Errorf("serve: %v", err)
	}
	<-cut
	if err := <-answered; err == nil {
		t.Error("the request that was cut has an answer")
	}
}

func TestASlowCheckFailsAndHidesNoOther(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h, forever := NewHealth(), make(chan struct{})
		defer close(forever)
		h.Register("stuck", func(context.Context) error { <-forever; return nil })
		h.Register("broken", func(context.Context) error { return errors.New("away") })
		h.Register("good", func(context.Context) error { return nil })
		failing := h.Failing(t.Context())
		if len(failing) != 2 || failing["broken"] != "away" || failing["stuck"] != "the check has not ended: context deadline exceeded" {
			t.Errorf("failing: %v", failing)
		}
	})
}
