package honor

import (
	"context"
	"errors"
	"net/http"
	"strconv"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
)

// maxStatuses is how many receipts a call carries; the sheet has no number.
const maxStatuses = 100

// receiver is where the console sends receipts.
type receiver struct {
	URL string `json:"url"`
	// Shape is how the list stands in the body, which is not documented: statuses (as with Huawei; the default), data, or list
	// for a body that is the list.
	Shape string `json:"shape,omitempty"`
}

func (r *receiver) validate() error {
	switch r.Shape {
	case "", "statuses", "data", "list":
		return nil
	}
	return errors.New("receipt.shape must be statuses, data or list")
}

// status is a receipt as it is expected from Huawei's (M).
type status struct {
	Token     string `json:"token"`
	Status    int    `json:"status"`
	Timestamp int64  `json:"timestamp"` // ms
	AppID     string `json:"appId"`
	Tag       string `json:"biTag"`
	RequestID string `json:"requestId"`
}

// receipts queues the receipts of a request, if the app has a receiver.
func (s *Simulator) receipts(a *app, m message, list frame.Sorted, id string) {
	if a.Receipt.URL == "" {
		return
	}
	for _, t := range list {
		n, err := strconv.Atoi(t.Receipt)
		if t.Code != "" || t.Receipt != "" && err != nil {
			continue
		}
		s.courier.Add(frame.Receipt{To: a.ID, Item: status{
			Token: t.Token, Status: n, Timestamp: s.frame.Now().UnixMilli(), AppID: a.ID, Tag: m.Android.Tag, RequestID: id,
		}})
	}
}

// encode makes the call for receipts of an app. Nothing is known about a signature, so there is none.
func (s *Simulator) encode(ctx context.Context, to string, items []any) (*http.Request, error) {
	a := s.byID(to)
	if a == nil {
		return nil, errors.New("the app is not registered any more")
	}
	var body any
	switch a.Receipt.Shape {
	case "list":
		body = items
	case "data":
		body = map[string]any{"data": items}
	default:
		body = map[string]any{"statuses": items}
	}
	return frame.PostJSON(ctx, a.Receipt.URL, body)
}
