package pushcore_test

import (
	"testing"

	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	"github.com/halleypush/halley/services/pushcore/pushcoretest"
)

func TestMain(m *testing.M) { pushcoretest.Main(m) }

func TestPushToADeviceThatIsOnlineIsHandedOverAndArrives(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	phone := app.Register(t)
	gateway := core.Gateway(t)
	session := gateway.Open(t, phone)
	id := app.Push(t, pushcoretest.ToDevices(phone))
	request := gateway.NextDeliver(t)
	if got := request.PushIDs(); len(got) != 1 || got[0] != id {
		t.Fatalf("asked for %v, want %s", got, id)
	}
	request.Take(t)
	if d := app.Delivery(t, id, phone); d.GetState() != pushv1.Delivery_PENDING {
		t.Errorf("without a receipt the delivery is %s", d.GetState())
	}
	gateway.Receipt(t, session, id, ledgerv1.Step_STEP_ARRIVED)
	app.WaitState(t, id, phone, pushv1.Delivery_ARRIVED)
}
