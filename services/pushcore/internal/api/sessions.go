package api

import (
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/durationpb"

	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	"github.com/halleypush/halley/services/pushcore/internal/keep"
	"github.com/halleypush/halley/services/pushcore/internal/route"
)

// sessionsAnswer builds the answer to one batch in parts of bounded size; each part carries the bodies that it points to.
type sessionsAnswer struct {
	batch  uint64
	parts  []*gatewayv1.SessionsResponse
	bodies map[uuid.UUID]uint32 // of the last part
	bytes  int                  // of the last part
}

func (a *sessionsAnswer) begin() {
	a.parts = append(a.parts, &gatewayv1.SessionsResponse{Batch: a.batch, Status: gatewayv1.SessionsResponse_OK})
	clear(a.bodies)
	a.bytes = 0
}

// part returns the part that the next result goes into.
func (a *sessionsAnswer) part() *gatewayv1.SessionsResponse {
	if a.bytes >= answerBytes {
		a.begin()
	}
	return a.parts[len(a.parts)-1]
}

func (a *sessionsAnswer) kept(part *gatewayv1.SessionsResponse, answer keep.Answer, opaque func(string) string) []*gatewayv1.Kept {
	kept := make([]*gatewayv1.Kept, len(answer.Kept))
	for i, k := range answer.Kept {
		body, ok := a.bodies[k.Push.ID]
		if !ok {
			body = uint32(len(part.Bodies))
			a.bodies[k.Push.ID] = body
			part.Bodies = append(part.Bodies, k.Push.Body())
			a.bytes += len(k.Push.Body().GetJson()) + 64
		}
		kept[i] = &gatewayv1.Kept{Body: body, User: opaque(k.User)}
	}
	a.bytes += 16 + 32*len(kept)
	return kept
}

var openStatus = map[route.Outcome]gatewayv1.Opened_Status{
	route.Opened:     gatewayv1.Opened_OPEN,
	route.Superseded: gatewayv1.Opened_SUPERSEDED,
	route.Gone:       gatewayv1.Opened_GONE,
}

func (a *sessionsAnswer) opened(o route.Open, result route.Opening, answer keep.Answer, opaque func(string) string) {
	part := a.part()
	part.Opened = append(part.Opened, &gatewayv1.Opened{
		Session: o.Session, Status: openStatus[result.Outcome], PermissionOff: !result.Notifications,
		Kept: a.kept(part, answer, opaque), More: answer.More,
	})
}

func (a *sessionsAnswer) pulled(session uint64, open bool, answer keep.Answer, opaque func(string) string) {
	part := a.part()
	part.Pulled = append(part.Pulled, &gatewayv1.Pulled{
		Session: session, Open: open, Kept: a.kept(part, answer, opaque), More: answer.More,
	})
}

// end returns the whole answer.
func (a *sessionsAnswer) end() []*gatewayv1.SessionsResponse {
	a.parts[len(a.parts)-1].Last = true
	return a.parts
}

// failed returns the answer to a batch of which nothing counts.
func (a *sessionsAnswer) failed(status gatewayv1.SessionsResponse_Status, after time.Duration) []*gatewayv1.SessionsResponse {
	return []*gatewayv1.SessionsResponse{{
		Batch: a.batch, Status: status, RetryAfter: durationpb.New(after), Last: true,
	}}
}
