package pushcore_test

import (
	"testing"

	"github.com/halleypush/halley/services/pushcore/pushcoretest"
)

func TestRule10AppWhoseGatewayIsSilentDoesNotSlowOthers(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	slow, quick := core.NewApp(t, nil), core.NewApp(t, nil)
	silent, awake := core.Gateway(t), core.Gateway(t)
	silent.Open(t, slow.Register(t))
	session := awake.Open(t, quick.Register(t))
	var stuck []string
	for range 12 { // three times as many as there is credit for
		stuck = append(stuck, slow.Push(t, pushcoretest.ToAll()))
	}
	for range 4 {
		silent.NextSlice(t, slow)
	}
	for range 5 {
		id := quick.Push(t, pushcoretest.ToAll())
		request := awake.NextSlice(t, quick)
		request.Answer(t, session)
		waitTargeted(t, quick, id)
		direct := quick.Push(t, pushcoretest.ToDevices(session.Device))
		if got := awake.NextDeliver(t); got.PushIDs()[0] != direct {
			t.Errorf("asked for %v", got.PushIDs())
		} else {
			got.Take(t)
		}
	}
	for _, id := range stuck {
		if got := slow.Get(t, id).GetState().String(); got != "ACCEPTED" {
			t.Errorf("a push of the slow app is %s: nothing was stuck, so nothing was shown", got)
		}
	}
}
