// Package keep reads what is kept for devices: the one read behind Open, Pull and the phone's pending call. It decides per
// device which pushes are handed over, and which end because of the cap, a newer push with the same collapse key, a
// binding that ended, or notifications that are off.
package keep

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/halleypush/halley/pkg/ordinal"
	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
	"github.com/halleypush/halley/services/pushcore/internal/ledger"
	"github.com/halleypush/halley/services/pushcore/internal/message"
	"github.com/halleypush/halley/services/pushcore/internal/registry"
	"github.com/halleypush/halley/services/pushcore/internal/route"
)

// maxRead bounds how many kept direct pushes of a device one read looks at, newest first. What lies beyond is older than
// any cap lets through, and ends at its ttl.
const maxRead = 2_000

// Want asks what is kept for one device.
type Want struct {
	route.Device
	// After is the push that the answer begins after; the zero id: from the oldest.
	After uuid.UUID
	Limit int
	// PermissionOff is true where the system does not show the app's notifications.
	PermissionOff bool
}

// Kept is one push kept for a device.
type Kept struct {
	Push *message.Push
	// User is who it is for, empty if it is not for a user.
	User string
}

// Answer is what is kept for one device, oldest first.
type Answer struct {
	Kept []Kept
	// More is true where the limit held something back.
	More bool
}

// Endings takes what a read found to be over. It must not block for long; what it loses is found again by the next read.
type Endings interface {
	EndDirect(entries []ledger.Entry)
	EndSlices(changes []ledger.SliceChange)
}

// Keeper reads what is kept.
type Keeper struct {
	apps    *registry.Apps
	pushes  *message.Store
	live    *live
	endings Endings
}

// New returns a keeper.
func New(apps *registry.Apps, pushes *message.Store, l *ledger.Ledger, endings Endings) (*Keeper, error) {
	live, err := newLive(pushes, l)
	if err != nil {
		return nil, err
	}
	return &Keeper{apps: apps, pushes: pushes, live: live, endings: endings}, nil
}

// candidate is one push that may be handed over to a device.
type candidate struct {
	id          uuid.UUID
	push        *message.Push // nil until it is loaded, for direct pushes
	audience    bool
	collapseKey string
	show        bool // kind notification
	user        string
	unbound     bool
}

// Read returns what is kept for devices, in their order. All reads are new statements on the given pool, the primary.
func (k *Keeper) Read(ctx context.Context, pool *pgxpool.Pool, wants []Want) ([]Answer, error) {
	candidates, err := k.direct(ctx, pool, wants)
	if err != nil {
		return nil, err
	}
	if err := k.audience(ctx, pool, wants, candidates); err != nil {
		return nil, err
	}
	over := &endingsOf{slices: map[ledger.SliceKey]map[ledgerv1.Step]*ledger.SliceChange{}}
	chosen := make([][]candidate, len(wants))
	answers := make([]Answer, len(wants))
	var load []uuid.UUID
	for i, w := range wants {
		app, err := k.apps.ByNumber(ctx, w.App)
		if err != nil {
			return nil, err
		}
		left := choose(w, candidates[i], int(app.Settings.GetDeviceCap()), over)
		if len(left) > w.Limit {
			left, answers[i].More = left[:w.Limit], true
		}
		chosen[i] = left
		for _, c := range left {
			if c.push == nil {
				load = append(load, c.id)
			}
		}
	}
	over.report(k.endings)
	loaded, err := k.pushes.Get(ctx, pool, load)
	if err != nil {
		return nil, err
	}
	for i := range wants {
		for _, c := range chosen[i] {
			if c.push == nil {
				c.push = loaded[c.id]
			}
			if c.push != nil { // dropped with its day, by retention
				answers[i].Kept = append(answers[i].Kept, Kept{Push: c.push, User: c.user})
			}
		}
	}
	return answers, nil
}

// direct reads the inbox of each device, newest first. A row whose binding is over is marked.
func (k *Keeper) direct(ctx context.Context, pool *pgxpool.Pool, wants []Want) ([][]candidate, error) {
	buckets, apps, ordinals := make([]int16, len(wants)), make([]int32, len(wants)), make([]int64, len(wants))
	for i, w := range wants {
		buckets[i], apps[i], ordinals[i] = ordinal.DeviceBucket(w.App, w.Ordinal), int32(w.App), int64(w.Ordinal)
	}
	rows, err := pool.Query(ctx, `
		SELECT i.n, x.push_id, x.collapse_key, x.notification, coalesce(x.user_id, ''),
			x.user_id IS NOT NULL AND u.epoch IS NULL
		FROM unnest($1::smallint[], $2::integer[], $3::bigint[]) WITH ORDINALITY AS i (bucket, app_no, ordinal, n)
		CROSS JOIN LATERAL (
			SELECT * FROM inbox b
			WHERE b.bucket = i.bucket AND b.app_no = i.app_no AND b.ordinal = i.ordinal AND b.expires_at > now()
				AND (b.claimed IS NULL OR b.released) AND b.policy <> 4 -- a vendor has it, or VENDOR_ONLY
			ORDER BY push_id DESC LIMIT $4) x
		LEFT JOIN device_user u ON u.bucket = x.bucket AND u.app_no = x.app_no AND u.ordinal = x.ordinal
			AND u.user_id = x.user_id AND u.epoch = x.bind_epoch
		ORDER BY i.n, x.push_id DESC`, buckets, apps, ordinals, maxRead)
	if err != nil {
		return nil, fmt.Errorf("read inboxes: %w", err)
	}
	candidates := make([][]candidate, len(wants))
	var n int64
	var c candidate
	_, err = pgx.ForEachRow(rows, []any{&n, &c.id, &c.collapseKey, &c.show, &c.user, &c.unbound}, func() error {
		candidates[n-1] = append(candidates[n-1], c)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read inboxes: %w", err)
	}
	return candidates, nil
}

// audience adds the live audience pushes that target each device and that it still needs.
func (k *Keeper) audience(ctx context.Context, pool *pgxpool.Pool, wants []Want, candidates [][]candidate) error {
	var asked []appSlice
	for _, w := range wants {
		asked = append(asked, appSlice{w.App, ordinal.Slice(w.Ordinal)})
	}
	slices.SortFunc(asked, func(a, b appSlice) int {
		return cmp.Or(cmp.Compare(a.app, b.app), cmp.Compare(a.slice, b.slice))
	})
	live, now, err := k.live.get(ctx, pool, slices.Compact(asked))
	if err != nil {
		return err
	}
	for i, w := range wants {
		entry := live[appSlice{w.App, ordinal.Slice(w.Ordinal)}]
		if entry == nil {
			continue
		}
		for _, p := range entry.pushes {
			if !p.wants(ordinal.Low(w.Ordinal)) || !p.push.Expires.After(now) {
				continue
			}
			candidates[i] = append(candidates[i], candidate{
				id: p.push.ID, push: p.push, audience: true, collapseKey: p.push.CollapseKey(), show: p.push.Notification(),
			})
		}
	}
	return nil
}

// choose returns the candidates that are handed over, oldest first, and notes those that end. Of one collapse key only the
// newest stays; of what stays, the newest up to the cap.
func choose(w Want, all []candidate, limit int, over *endingsOf) []candidate {
	slices.SortFunc(all, func(a, b candidate) int { return bytes.Compare(b.id[:], a.id[:]) })
	keys := map[string]bool{}
	var left []candidate
	for _, c := range all {
		switch {
		case c.unbound:
			over.add(w.Device, c, ledgerv1.Step_STEP_FAILED, ledgerv1.Reason_REASON_UNBOUND)
		case c.show && w.PermissionOff:
			over.add(w.Device, c, ledgerv1.Step_STEP_FAILED, ledgerv1.Reason_REASON_PERMISSION_OFF)
		case c.collapseKey != "" && keys[c.collapseKey]:
			over.add(w.Device, c, ledgerv1.Step_STEP_COLLAPSED, ledgerv1.Reason_REASON_NEWER_PUSH)
		case len(left) >= limit:
			over.add(w.Device, c, ledgerv1.Step_STEP_EVICTED, ledgerv1.Reason_REASON_OVER_CAP)
		default:
			keys[c.collapseKey] = c.collapseKey != ""
			left = append(left, c)
		}
	}
	slices.Reverse(left)
	for len(left) > 0 && bytes.Compare(left[0].id[:], w.After[:]) <= 0 {
		left = left[1:]
	}
	return left
}

// endingsOf are the deliveries that one read found to be over; those of audience pushes merged into bitmaps.
type endingsOf struct {
	direct []ledger.Entry
	slices map[ledger.SliceKey]map[ledgerv1.Step]*ledger.SliceChange
}

func (o *endingsOf) add(d route.Device, c candidate, step ledgerv1.Step, reason ledgerv1.Reason) {
	if !c.audience {
		o.direct = append(o.direct, ledger.Entry{
			Key: message.Key{App: d.App, Ordinal: d.Ordinal, Push: c.id}, Step: step, Reason: reason,
		})
		return
	}
	key := ledger.SliceKey{App: d.App, Push: c.id, Slice: ordinal.Slice(d.Ordinal)}
	if o.slices[key] == nil {
		o.slices[key] = map[ledgerv1.Step]*ledger.SliceChange{}
	}
	change := o.slices[key][step] // a step has one reason here
	if change == nil {
		change = &ledger.SliceChange{
			SliceKey: key, Step: step, Reason: reason, Bits: roaring.New(), Among: ledger.NotFinal,
		}
		o.slices[key][step] = change
	}
	change.Bits.Add(ordinal.Low(d.Ordinal))
}

func (o *endingsOf) report(to Endings) {
	if len(o.direct) > 0 {
		to.EndDirect(o.direct)
	}
	var changes []ledger.SliceChange
	for _, steps := range o.slices {
		for _, c := range steps {
			changes = append(changes, *c)
		}
	}
	if len(changes) > 0 {
		to.EndSlices(changes)
	}
}
