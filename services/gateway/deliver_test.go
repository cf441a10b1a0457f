package gateway_test

import (
	"testing"

	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
	"github.com/halleypush/halley/services/gateway/gatewaytest"
)

func TestPubackIsTheArrivedReceipt(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	phone := site.Core.NewDevice(t)
	wire := site.Online(t, phone)
	push := gatewaytest.NewPush("Hi")
	if got := site.Core.Deliver(t, gatewaytest.To(phone, push)); got[0] != gatewayv1.DeliverResponse_TAKEN {
		t.Fatalf("the delivery is %s", got[0])
	}
	wire.Ack(t, wire.NextPush(t, push))
	site.Core.AwaitReceipt(t, phone, push, ledgerv1.Step_STEP_ARRIVED)
}
