package vivo

import (
	"context"
	"net/http"
	"strconv"
	"strings"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
)

// maxReceipts is how many receipts a call carries; the sheet has no number.
const maxReceipts = 500

// receipt is what becomes of a message on one device.
type receipt struct {
	task, param, target string
	newer               bool
	kind                int   // why it did not arrive, or 0
	time                int64 // ms
}

// receipts queues the receipts of a message. In the old scheme only formal single sends have them, at the address in the message; in
// the newer one all have, at the registered address.
func (s *Simulator) receipts(n *sending) {
	address, newer := n.app.Receipts[n.Extra.CallbackID]
	if !newer && n.single && n.PushMode == 0 {
		address = n.Extra.Callback
	}
	if address == "" {
		return
	}
	for _, t := range n.list {
		code := t.Receipt
		if code == "" {
			code = arrived
		}
		kind, err := strconv.Atoi(code)
		if t.Code != "" || err != nil {
			continue
		}
		s.courier.Add(frame.Receipt{To: code + "\n" + address, Item: receipt{
			task: n.task, param: n.Extra.Param, target: strings.TrimPrefix(t.Token, aliasPrefix), newer: newer, kind: kind, time: s.frame.Now().UnixMilli(),
		}})
	}
}

// encode makes the call for receipts of one kind to one address. It is not signed.
func encode(ctx context.Context, to string, items []any) (*http.Request, error) {
	type status struct {
		Param   string `json:"param"`
		Targets string `json:"targets"`
		// Reported of the newer scheme, but not confirmed (M).
		AckType *int  `json:"ackType,omitempty"`
		AckTime int64 `json:"ackTime,omitempty"`
	}
	body := make(map[string]*status)
	for _, item := range items {
		r := item.(receipt)
		if b := body[r.task]; b != nil {
			b.Targets += "," + r.target
			continue
		}
		b := &status{Param: r.param, Targets: r.target}
		if r.newer {
			b.AckType, b.AckTime = &r.kind, r.time
		}
		body[r.task] = b
	}
	_, address, _ := strings.Cut(to, "\n")
	return frame.PostJSON(ctx, address, body)
}
