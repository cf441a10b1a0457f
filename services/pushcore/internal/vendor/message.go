package vendor

import (
	"context"
	"fmt"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/halleypush/halley/pkg/channel"
	"github.com/halleypush/halley/pkg/ordinal"
	"github.com/halleypush/halley/pkg/subject"
	senderv1 "github.com/halleypush/halley/proto/halley/sender/v1"
	"github.com/halleypush/halley/services/pushcore/internal/ledger"
	"github.com/halleypush/halley/services/pushcore/internal/message"
)

// messages returns what is to be published for a job: one message, or more where it would be too large. Members whose
// delivery is final by now are left out. For those who have no token any more it is a report that says so: like all results,
// it is applied by whoever reads reports.
func (p *Publisher) messages(ctx context.Context, pool *pgxpool.Pool, j row, push *message.Push) ([]*nats.Msg, error) {
	members := roaring.New()
	if err := members.UnmarshalBinary(j.Members); err != nil {
		return nil, fmt.Errorf("members of job %d: %w", j.Job, err)
	}
	users, over, err := p.waiting(ctx, pool, j, members)
	if err != nil {
		return nil, err
	}
	targets, err := p.targets(ctx, pool, j, members, users)
	if err != nil {
		return nil, err
	}
	var messages []*nats.Msg
	if over = append(over, withoutToken(j.Slice, members, targets)...); len(over) > 0 {
		m, err := overMessage(j, push, over)
		if err != nil {
			return nil, err
		}
		messages = append(messages, m)
	}
	app, err := p.apps.ByNumber(ctx, j.App)
	if err != nil {
		return nil, err
	}
	for i, part := range parts(targets) {
		job := newMessage(j, push, app.ID)
		job.Targets = part
		m, err := jobMessage(j, i, subject.Send(job.GetChannel(), j.App), job)
		if err != nil {
			return nil, err
		}
		messages = append(messages, m)
	}
	return messages, nil
}

// waiting takes the members out whose delivery is not this vendor's any more, and returns them as results, and the users
// that the others are for. These results have no outcome: they only take the members out of the job.
func (p *Publisher) waiting(
	ctx context.Context, pool *pgxpool.Pool, j row, members *roaring.Bitmap,
) (users map[uint64]string, over []*senderv1.Result, err error) {
	left := roaring.New()
	if j.Audience {
		k := ledger.SliceKey{App: j.App, Push: j.Push, Slice: j.Slice}
		if left, err = p.ledger.WaitingSlice(ctx, pool, k); err != nil {
			return nil, nil, err
		}
	} else {
		users, err = ledger.WaitingDirect(ctx, pool, j.Bucket, j.App, j.Push, ordinals(j.Slice, members))
		if err != nil {
			return nil, nil, err
		}
		for number := range users {
			left.Add(ordinal.Low(number))
		}
	}
	done := members.Clone()
	done.AndNot(left)
	members.And(left)
	for _, number := range ordinals(j.Slice, done) {
		over = append(over, &senderv1.Result{Ordinal: proto.Uint64(uint64(number)), Outcome: senderv1.Outcome_OUTCOME_UNSPECIFIED})
	}
	return users, over, nil
}

func ordinals(slice uint32, members *roaring.Bitmap) []int64 {
	numbers := make([]int64, 0, members.GetCardinality())
	for _, low := range members.ToArray() {
		numbers = append(numbers, int64(ordinal.Join(slice, low)))
	}
	return numbers
}

// targets reads the members' tokens, as they are now.
func (p *Publisher) targets(
	ctx context.Context, pool *pgxpool.Pool, j row, members *roaring.Bitmap, users map[uint64]string,
) ([]*senderv1.Target, error) {
	if members.IsEmpty() {
		return nil, nil
	}
	app, err := p.apps.ByNumber(ctx, j.App)
	if err != nil {
		return nil, err
	}
	// LIMIT makes it a look-up for each ordinal. Without statistics the planner would rather read all of the channel's tokens.
	rows, err := pool.Query(ctx, `
		SELECT i.ordinal, t.token, t.app_package, t.environment, t.updated_at FROM unnest($3::bigint[]) AS i (ordinal)
		CROSS JOIN LATERAL (
			SELECT token, app_package, environment, updated_at FROM channel_token c
			WHERE c.bucket = $1 AND c.app_no = $2 AND c.ordinal = i.ordinal AND c.channel = $4 AND c.gone_at IS NULL LIMIT 1) t
		ORDER BY i.ordinal`,
		j.Bucket, int32(j.App), ordinals(j.Slice, members), channel.Name(j.Channel))
	if err != nil {
		return nil, fmt.Errorf("read tokens: %w", err)
	}
	targets, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (*senderv1.Target, error) {
		t := &senderv1.Target{}
		var number int64
		var reported time.Time
		if err := r.Scan(&number, &t.Token, &t.AppPackage, &t.Environment, &reported); err != nil {
			return nil, err
		}
		t.Ordinal, t.ReportedAt = uint64(number), timestamppb.New(reported)
		if user := users[t.Ordinal]; user != "" {
			t.User = p.users.OpaqueID(app, user)
		}
		return t, nil
	})
	if err != nil {
		return nil, fmt.Errorf("read tokens: %w", err)
	}
	return targets, nil
}

// withoutToken returns results for members that are no targets: their token went after the claim. They name no token, so
// none is deleted for it.
func withoutToken(slice uint32, members *roaring.Bitmap, targets []*senderv1.Target) []*senderv1.Result {
	left := members.Clone()
	for _, t := range targets {
		left.Remove(ordinal.Low(t.GetOrdinal()))
	}
	var over []*senderv1.Result
	for _, number := range ordinals(slice, left) {
		over = append(over, &senderv1.Result{
			Ordinal: proto.Uint64(uint64(number)), Outcome: senderv1.Outcome_OUTCOME_TOKEN_GONE, Code: "no token",
		})
	}
	return over
}

// overMessage reports members of a job that no sender is asked for.
func overMessage(j row, push *message.Push, over []*senderv1.Result) (*nats.Msg, error) {
	data, err := proto.Marshal(&senderv1.Report{
		App: j.App, PushId: push.ID[:], Slice: j.Slice, Audience: j.Audience, Channel: channel.Name(j.Channel), Results: over,
		Job: uint64(j.Job),
	})
	if err != nil {
		return nil, fmt.Errorf("encode report: %w", err)
	}
	m := nats.NewMsg(subject.Report(j.App))
	m.Data = data
	return m, nil
}

func newMessage(j row, push *message.Push, app string) *senderv1.Job {
	name := channel.Name(j.Channel)
	r := push.Request
	return &senderv1.Job{
		App: j.App, AppId: app, PushId: push.ID[:], Slice: j.Slice, Audience: j.Audience, Channel: name,
		Content: &senderv1.Content{
			Notification: r.GetNotification(), Data: r.GetData(), Payload: r.GetPayload(), Override: r.GetOverrides()[name],
			Priority: r.GetPolicy().GetPriority(), CollapseKey: push.CollapseKey(), SentAt: timestamppb.New(push.Created),
		},
		ExpiresAt: timestamppb.New(push.Expires), Trace: push.Trace, Job: uint64(j.Job),
	}
}

// parts cuts targets into messages that NATS lets through.
func parts(targets []*senderv1.Target) [][]*senderv1.Target {
	var all [][]*senderv1.Target
	var size, begin int
	for i, t := range targets {
		n := proto.Size(t) + 8
		if size+n > maxJobBytes && i > begin {
			all = append(all, targets[begin:i])
			size, begin = 0, i
		}
		size += n
	}
	if begin < len(targets) {
		all = append(all, targets[begin:])
	}
	return all
}
