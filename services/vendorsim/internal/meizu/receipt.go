package meizu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
)

// maxReceipts is how many receipts a call carries; the sheet has no number.
const maxReceipts = 500

// receipt is what becomes of a message on one device.
type receipt struct {
	message, param, target string
	kind                   int
}

// receiptTypes returns which receipts a message wants: 1 delivered, 2 clicked, 3 both; both if it does not say.
func (m *message) receiptTypes() int {
	if m.Extra.Type == nil {
		return maxTypes
	}
	n, err := strconv.Atoi(frame.Text(m.Extra.Type))
	if err != nil {
		return 0
	}
	return n
}

// receipts queues the receipts of a message, if it has an address. Nobody clicks by himself.
func (s *Simulator) receipts(n *sending) {
	if n.Extra.Callback == "" {
		return
	}
	for _, t := range n.list {
		code := t.Receipt
		if code == "" {
			code = arrived
		}
		kind, err := strconv.Atoi(code)
		if t.Code != "" || err != nil || n.receiptTypes()&kind == 0 {
			continue
		}
		s.courier.Add(frame.Receipt{To: n.app.ID + "\n" + n.Extra.Callback, Item: receipt{
			message: n.id, param: n.Extra.Param, target: strings.TrimPrefix(t.Token, aliases.prefix), kind: kind,
		}})
	}
}

// encode makes the call for receipts of an app to one address, with the access token of the console.
func (s *Simulator) encode(ctx context.Context, to string, items []any) (*http.Request, error) {
	id, address, _ := strings.Cut(to, "\n")
	s.mu.Lock()
	a := s.apps[id]
	s.mu.Unlock()
	if a == nil {
		return nil, errors.New("the app is not registered any more")
	}
	type status struct {
		Param   string   `json:"param"`
		Type    int      `json:"type"`
		Targets []string `json:"targets"`
	}
	list := make(map[string]*status)
	for _, item := range items {
		r := item.(receipt)
		key := fmt.Sprintf("%s-%d", r.message, r.kind)
		if list[key] == nil {
			list[key] = &status{Param: r.param, Type: r.kind}
		}
		list[key].Targets = append(list[key].Targets, r.target)
	}
	text, err := json.Marshal(list)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return frame.PostForm(ctx, address, url.Values{"cb": {string(text)}, "access_token": {a.AccessToken}})
}
