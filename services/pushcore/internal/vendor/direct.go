package vendor

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/halleypush/halley/pkg/channel"
	"github.com/halleypush/halley/pkg/ordinal"
	"github.com/halleypush/halley/services/pushcore/internal/ledger"
	"github.com/halleypush/halley/services/pushcore/internal/message"
	"github.com/halleypush/halley/services/pushcore/internal/storage"
)

// Wanted is a direct delivery that may go by a vendor's channel.
type Wanted struct {
	message.Key
	Push *message.Push
}

// Left is why a delivery does not go by a vendor's channel.
type Left int

const (
	// NoChannel: the device has no token of a channel that the push may go by.
	NoChannel Left = iota + 1
	// PermissionOff: the system does not show the app's notifications.
	PermissionOff
)

// ClaimDirect claims direct deliveries for vendors' channels and has their jobs published. It returns those for which there
// is no way; all others are with a vendor, or over.
func (v *Vendors) ClaimDirect(ctx context.Context, wanted []Wanted) (map[message.Key]Left, error) {
	left := map[message.Key]Left{}
	ways := map[uuid.UUID][]string{}
	var asked []Wanted
	for _, w := range wanted {
		allowed, known := ways[w.Push.ID]
		if !known {
			var err error
			if allowed, err = v.Ways(ctx, w.App, w.Push.Request); err != nil {
				return nil, err
			}
			ways[w.Push.ID] = allowed
		}
		if len(allowed) == 0 {
			left[w.Key] = NoChannel
		} else {
			asked = append(asked, w)
		}
	}
	if len(asked) == 0 {
		return left, nil
	}
	claims, err := v.choose(ctx, asked, ways, left)
	if err != nil || len(claims) == 0 {
		return left, err
	}
	expires := map[uuid.UUID]*message.Push{}
	for _, w := range asked {
		expires[w.Push.ID] = w.Push
	}
	ledger.SortClaims(claims)
	var jobs []Ref
	err = storage.InTx(ctx, v.direct, func(tx pgx.Tx) error {
		got, err := ledger.ClaimDirect(ctx, tx, claims)
		if err != nil || len(got) == 0 {
			return err
		}
		jobs, err = insertJobs(ctx, tx, v.directJobs(claims, got, expires))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("claim for vendors: %w", err)
	}
	v.publisher.AddDirect(jobs)
	return left, nil
}

// choose picks a channel for each delivery: the first that the push may go by and the device has a token of.
func (v *Vendors) choose(
	ctx context.Context, asked []Wanted, ways map[uuid.UUID][]string, left map[message.Key]Left,
) ([]ledger.Claim, error) {
	buckets, apps, ordinals := make([]int16, len(asked)), make([]int32, len(asked)), make([]int64, len(asked))
	for i, w := range asked {
		buckets[i], apps[i], ordinals[i] = w.Bucket(), int32(w.App), int64(w.Ordinal)
	}
	rows, err := v.direct.Query(ctx, `
		SELECT i.n, NOT d.notifications, t.channel
		FROM unnest($1::smallint[], $2::integer[], $3::bigint[]) WITH ORDINALITY AS i (bucket, app_no, ordinal, n)
		JOIN device d USING (bucket, app_no, ordinal)
		JOIN channel_token t USING (bucket, app_no, ordinal)
		WHERE t.gone_at IS NULL`, buckets, apps, ordinals)
	if err != nil {
		return nil, fmt.Errorf("read channel tokens: %w", err)
	}
	best := make([]int, len(asked)) // index into the push's ways, plus one
	var n int64
	var off bool
	var name string
	_, err = pgx.ForEachRow(rows, []any{&n, &off, &name}, func() error {
		w := asked[n-1]
		i := slices.Index(ways[w.Push.ID], name) + 1
		switch {
		case i > 0 && off && w.Push.Notification():
			left[w.Key] = PermissionOff
		case i > 0 && (best[n-1] == 0 || i < best[n-1]):
			best[n-1] = i
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read channel tokens: %w", err)
	}
	var claims []ledger.Claim
	for i, w := range asked {
		switch {
		case left[w.Key] != 0:
		case best[i] == 0:
			left[w.Key] = NoChannel
		default:
			number, _ := channel.Number(ways[w.Push.ID][best[i]-1])
			claims = append(claims, ledger.Claim{Key: w.Key, Channel: number})
		}
	}
	return claims, nil
}

// directJobs groups claimed deliveries into jobs: one push, one slice, one channel each. The order of claims makes those of
// one device's pushes neighbours, so they are grouped by a map, and put into an order again.
func (v *Vendors) directJobs(
	claims []ledger.Claim, got map[message.Key]bool, pushes map[uuid.UUID]*message.Push,
) []newJob {
	type group struct {
		key     ledger.SliceKey
		channel int16
	}
	members := map[group]*roaring.Bitmap{}
	for _, c := range claims {
		if !got[c.Key] {
			continue
		}
		g := group{ledger.SliceKey{App: c.App, Push: c.Push, Slice: ordinal.Slice(c.Ordinal)}, c.Channel}
		if members[g] == nil {
			members[g] = roaring.New()
		}
		members[g].Add(ordinal.Low(c.Ordinal))
	}
	var jobs []newJob
	for g, bits := range members {
		jobs = append(jobs, v.split(g.key, g.channel, false, pushes[g.key.Push].Expires, bits)...)
	}
	slices.SortFunc(jobs, func(a, b newJob) int {
		return cmp.Or(cmp.Compare(a.Bucket(), b.Bucket()), slices.Compare(a.Push[:], b.Push[:]), cmp.Compare(a.Slice, b.Slice))
	})
	return jobs
}
