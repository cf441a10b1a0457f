package xiaomi

import (
	"context"
	"encoding/json"
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
	message string // its id
	param   string
	jobKey  string
	target  string
	time    int64 // ms
}

// receipts queues the receipts of a request, where its messages want them. Nobody clicks by himself.
func (s *Simulator) receipts(q *request, list frame.Sorted, id string) {
	for i, t := range list {
		m := q.message(i)
		if t.Code != "" {
			continue
		}
		code := t.Receipt
		if code == "" {
			code = s.fate(q.app, m, t.Token)
		}
		n, err := strconv.Atoi(code)
		address := m.extra("callback")
		if err != nil || address == "" || !m.wants(n) {
			continue
		}
		to := code + "\n" + address
		if len(q.messages) > 1 {
			to += "\n" + m.extra("callback.param") // messages of one id can stand in one call only if they have one param
		}
		s.courier.Add(frame.Receipt{To: to, Item: receipt{
			message: id, param: m.extra("callback.param"), jobKey: m.extra("jobkey"), target: strings.TrimPrefix(t.Token, q.kind.prefix), time: s.frame.Now().UnixMilli(),
		}})
	}
}

// fate returns the type of a device's receipt on a usual day.
func (s *Simulator) fate(a *app, m message, token string) string {
	if a.PublicDaily > 0 && a.Channels[m.extra("channel_id")] != private && !s.daily.Take(a.Name+" "+token, a.PublicDaily) {
		return "128"
	}
	return "1"
}

// encode makes the call for receipts of one type to one address. It is not signed.
func encode(ctx context.Context, to string, items []any) (*http.Request, error) {
	code, address, _ := strings.Cut(to, "\n")
	address, _, _ = strings.Cut(address, "\n")
	kind, err := strconv.Atoi(code)
	if err != nil {
		return nil, fmt.Errorf("type of receipt: %w", err)
	}
	type body struct {
		Param     string `json:"param"`
		Type      int    `json:"type"`
		Targets   string `json:"targets"`
		JobKey    string `json:"jobkey"`
		BarStatus string `json:"barStatus"` // the sheet names no values
		Timestamp int64  `json:"timestamp"`
	}
	data := make(map[string]*body)
	for _, item := range items {
		r := item.(receipt)
		if b := data[r.message]; b != nil {
			b.Targets += "," + r.target
			continue
		}
		data[r.message] = &body{
			Param: r.param, Type: kind, Targets: r.target, JobKey: r.jobKey, BarStatus: "Enable", Timestamp: r.time,
		}
	}
	text, err := json.Marshal(data)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return frame.PostForm(ctx, address, url.Values{"data": {string(text)}})
}
