package oppo

import (
	"context"
	"net/http"
	"strconv"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
)

// maxReceipts is how many receipts a call carries; the sheet has no number.
const maxReceipts = 500

// receipt is one element of a call with receipts.
type receipt struct {
	MessageID       string `json:"messageId"`
	AppID           string `json:"appId"`
	TaskID          string `json:"taskId"` // the message id, if there was no broadcast
	RegistrationIDs string `json:"registrationIds"`
	EventTime       string `json:"eventTime"` // ms; the sheet has no unit
	Param           string `json:"param"`
	EventType       string `json:"eventType"`
}

// receipts queues the receipts of a notification to registration ids, if it wants them.
func (s *Simulator) receipts(a *app, n sending, list frame.Sorted) {
	address := n.notification["call_back_url"]
	if address == "" || n.kind != targetRegID {
		return
	}
	task := n.task
	if task == "" {
		task = n.id
	}
	for _, t := range list {
		if t.Code != "" {
			continue
		}
		event := t.Receipt
		if event == "" {
			event = s.fate(a, n.notification, t.Token)
		}
		s.courier.Add(frame.Receipt{To: address, Item: receipt{
			MessageID: n.id, AppID: a.ID, TaskID: task, RegistrationIDs: t.Token,
			EventTime: strconv.FormatInt(s.frame.Now().UnixMilli(), 10), Param: n.notification["call_back_parameter"], EventType: event,
		}})
	}
}

// fate returns the event of a device on a usual day.
func (s *Simulator) fate(a *app, n notification, token string) string {
	if a.PublicDaily > 0 && !n.private(a) && !s.daily.Take("public\n"+a.Name+"\n"+token, a.PublicDaily) {
		return dailyLimit
	}
	return arrived
}

// encode makes the call for receipts to one address: those of one event of a message are one element. It is not signed.
func encode(ctx context.Context, to string, items []any) (*http.Request, error) {
	type event struct{ message, task, kind string }
	places := make(map[event]int)
	var body []receipt
	for _, item := range items {
		r := item.(receipt)
		e := event{message: r.MessageID, task: r.TaskID, kind: r.EventType}
		if i, ok := places[e]; ok {
			body[i].RegistrationIDs += "," + r.RegistrationIDs
			continue
		}
		places[e] = len(body)
		body = append(body, r)
	}
	return frame.PostJSON(ctx, to, body)
}
