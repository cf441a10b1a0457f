package pushcore_test

import (
	"net/http"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	"github.com/halleypush/halley/services/pushcore/pushcoretest"
)

func TestGracefulStopFinishesWhatHasBegun(t *testing.T) {
	t.Parallel()
	site := pushcoretest.NewSite(t)
	core := site.Start(t)
	app := core.NewApp(t, nil)
	gateway := core.Gateway(t)
	session := gateway.Open(t, app.Register(t))

	release := site.StopAtCommit(t, "inbox")
	accepted := make(chan string, 1)
	go func() {
		id, err := app.TryPush(t, pushcoretest.ToDevices(session.Device))
		if err != nil {
			t.Error(err)
		}
		accepted <- id
	}()
	site.WaitBlocked(t, "direct", 1)
	stream, err := gateway.Client.Sessions(pushcoretest.As(t.Context(), pushcoretest.ServiceToken))
	if err != nil {
		t.Fatal(err)
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		core.Stop()
	}()
	// Streams end first, so that gateways go elsewhere; new calls are refused, and readiness says so.
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the stream ends with %v", err)
	}
	pushcoretest.Eventually(t, "it is not ready any more", func() bool { return !core.Ready() })
	release()
	id := <-accepted
	request := gateway.NextDeliver(t) // the hand-over goes on after the answer
	if request.PushIDs()[0] != id {
		t.Errorf("asked for %v, want %s", request.PushIDs(), id)
	}
	request.Take(t)
	<-stopped

	heir := site.Start(t)
	wantCounts(t, app.On(heir).Get(t, id), &pushv1.Counts{Pending: 1})
}

func TestStopWhilePostgreSQLIsAwayIsNoError(t *testing.T) {
	t.Parallel()
	site := pushcoretest.NewSiteOn(t, "postgres://nobody@127.0.0.1:1/none?connect_timeout=1")
	core := site.StartNotReady(t)
	admin := pushcoretest.Core{HTTP: core.Admin}
	pushcoretest.Eventually(t, "it says what it waits for", func() bool {
		answer := admin.REST(t, "GET", "/readyz", "", nil)
		return answer.Code == http.StatusServiceUnavailable
	})
	core.Stop() // fails the test if Run returns an error
}

func TestCallsAnswerUnavailableWhilePostgreSQLIsAway(t *testing.T) {
	t.Parallel()
	cluster, restart := ownPostgres(t)
	site := pushcoretest.NewSiteOn(t, cluster.DSN())
	site.ExpectErrors = true
	core := site.Start(t)
	app := core.NewApp(t, nil)
	gateway := core.Gateway(t)
	session := gateway.Open(t, app.Register(t))
	if err := cluster.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := app.TryPush(t, pushcoretest.ToDevices(session.Device))
	wantError(t, err, codes.Unavailable, "UNAVAILABLE", "")
	answer := core.REST(t, "POST", "/device/v1/report", `{}`, session.Device.Basic)
	if answer.Code != http.StatusServiceUnavailable || answer.Header.Get("Retry-After") != "1" {
		t.Errorf("a phone's call: %d %s", answer.Code, answer.Body)
	}
	result := gateway.Send(t, &gatewayv1.SessionsRequest{Opens: []*gatewayv1.Open{session.OpenRequest()}}).Wait(t)
	if result.Status != gatewayv1.SessionsResponse_UNAVAILABLE {
		t.Errorf("an open: %s", result.Status)
	}
	restart()
	pushcoretest.Eventually(t, "pushes are accepted again", func() bool {
		_, err := app.TryPush(t, pushcoretest.ToDevices(session.Device))
		return err == nil
	})
	if kept := session.Open(t); len(kept) != 1 {
		t.Errorf("%d kept, want the one that was accepted", len(kept))
	}
}
