package ledger

import (
	"slices"

	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
)

// precedence lists the steps that make a state, strongest first: a delivery is in the state of the strongest step it took.
// Receipts may come in any order and twice; the state is the same.
var precedence = []struct {
	step  ledgerv1.Step
	state pushv1.Delivery_State
}{
	{ledgerv1.Step_STEP_CLICKED, pushv1.Delivery_CLICKED},
	{ledgerv1.Step_STEP_DISMISSED, pushv1.Delivery_DISMISSED},
	{ledgerv1.Step_STEP_SHOWN, pushv1.Delivery_SHOWN},
	{ledgerv1.Step_STEP_ARRIVED, pushv1.Delivery_ARRIVED},
	{ledgerv1.Step_STEP_REVOKED, pushv1.Delivery_REVOKED},
	{ledgerv1.Step_STEP_FAILED, pushv1.Delivery_FAILED},
	{ledgerv1.Step_STEP_EVICTED, pushv1.Delivery_EVICTED},
	{ledgerv1.Step_STEP_COLLAPSED, pushv1.Delivery_COLLAPSED},
	{ledgerv1.Step_STEP_EXPIRED, pushv1.Delivery_EXPIRED},
	{ledgerv1.Step_STEP_SENT_UNCONFIRMED, pushv1.Delivery_SENT},
	{ledgerv1.Step_STEP_SENT, pushv1.Delivery_SENT},
}

// strength returns a step's place in precedence, 0 for the strongest; unknown steps come last.
func strength(step ledgerv1.Step) int {
	for i, p := range precedence {
		if p.step == step {
			return i
		}
	}
	return len(precedence)
}

// Final reports whether a step ends a delivery, so that nothing is handed over for it any more. STEP_SENT does not: the
// device may confirm it, or come back for it. Nor do claims: a vendor may fail.
func Final(step ledgerv1.Step) bool {
	switch step {
	case ledgerv1.Step_STEP_UNSPECIFIED, ledgerv1.Step_STEP_SENT, ledgerv1.Step_STEP_CLAIMED, ledgerv1.Step_STEP_RELEASED:
		return false
	}
	return true
}

// makesState reports whether a step shows in a delivery's state.
func makesState(step ledgerv1.Step) bool { return strength(step) < len(precedence) }

// reached reports whether a step proves that the device has the push.
func reached(step ledgerv1.Step) bool {
	return slices.Contains([]ledgerv1.Step{
		ledgerv1.Step_STEP_ARRIVED, ledgerv1.Step_STEP_SHOWN, ledgerv1.Step_STEP_CLICKED, ledgerv1.Step_STEP_DISMISSED,
	}, step)
}

// Counts are deliveries by state, indexed by halley.push.v1.Delivery.State.
type Counts [pushv1.Delivery_REVOKED + 1]uint32

// Targeted returns how many deliveries there are.
func (c *Counts) Targeted() uint32 {
	var sum uint32
	for _, n := range c {
		sum += n
	}
	return sum
}

func (c *Counts) add(o Counts) {
	for i := range c {
		c[i] += o[i]
	}
}

// Proto returns the counts as the API shows them.
func (c *Counts) Proto() *pushv1.Counts {
	return &pushv1.Counts{
		Targeted:  c.Targeted(),
		Pending:   c[pushv1.Delivery_PENDING],
		Sent:      c[pushv1.Delivery_SENT],
		Arrived:   c[pushv1.Delivery_ARRIVED],
		Shown:     c[pushv1.Delivery_SHOWN],
		Clicked:   c[pushv1.Delivery_CLICKED],
		Dismissed: c[pushv1.Delivery_DISMISSED],
		Failed:    c[pushv1.Delivery_FAILED],
		Expired:   c[pushv1.Delivery_EXPIRED],
		Evicted:   c[pushv1.Delivery_EVICTED],
		Collapsed: c[pushv1.Delivery_COLLAPSED],
		Revoked:   c[pushv1.Delivery_REVOKED],
	}
}
