package pushcore_test

import (
	"testing"

	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	"github.com/halleypush/halley/services/pushcore/pushcoretest"
)

func TestAGatewayThatDrainsHearsHowManyItsRolloutHasYetToReplace(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	gateways := map[string]*pushcoretest.Gateway{}
	for _, name := range []string{"old 1", "old 2", "old 3", "new 1"} {
		gateways[name] = core.Gateway(t)
		gateways[name].Lapse() // renewed here alone, with a revision
	}
	renew := func(name, revision string, draining bool) uint32 {
		t.Helper()
		return gateways[name].RenewWith(t, func(r *gatewayv1.RenewLeaseRequest) { r.Revision, r.Draining = revision, draining }).GetBehind()
	}
	renew("old 2", "a", false)
	renew("old 3", "a", false)
	gateways["new 1"].RenewWith(t, func(r *gatewayv1.RenewLeaseRequest) { r.Ending = true })
	if behind := renew("old 1", "a", true); behind != 0 {
		t.Errorf("%d are behind it, though there is no rollout", behind)
	}
	gateways["new 1"] = core.Gateway(t)
	gateways["new 1"].Lapse()
	renew("new 1", "b", false)
	for _, step := range []struct {
		gateway, revision string
		draining          bool
		behind            uint32
	}{
		{"old 1", "a", true, 2},
		{"old 1", "a", false, 0},
		{"old 1", "a", true, 2},
		{"old 1", "", true, 0},
		{"old 2", "a", true, 1},
		{"old 1", "a", true, 1},
		{"old 3", "a", true, 0},
		{"old 1", "a", true, 0},
		{"new 1", "b", true, 0},
		{"old 1", "a", true, 0},
	} {
		if behind := renew(step.gateway, step.revision, step.draining); behind != step.behind {
			t.Errorf("%+v: %d are behind it", step, behind)
		}
	}
}
