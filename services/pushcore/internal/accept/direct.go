package accept

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/halleypush/halley/pkg/ordinal"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	"github.com/halleypush/halley/services/pushcore/internal/message"
	"github.com/halleypush/halley/services/pushcore/internal/registry"
)

// resolve finds the devices of each push. A push to users takes their locks first, so that a bind is seen, or sees it.
func resolve(ctx context.Context, tx pgx.Tx, all []*job) error {
	users := map[appUser]bool{}
	for _, j := range all {
		for _, number := range j.devices {
			j.targets = append(j.targets, target{ordinal: number})
			j.addBucket(number)
		}
		for _, user := range j.request.GetAudience().GetUsers().GetIds() {
			users[appUser{j.app.No, user}] = true
		}
	}
	if len(users) == 0 {
		return nil
	}
	bindings, err := lockedBindings(ctx, tx, users)
	if err != nil {
		return err
	}
	for _, j := range all {
		done := map[string]bool{}
		for _, user := range j.request.GetAudience().GetUsers().GetIds() {
			if !done[user] { // a user named twice counts once
				done[user] = true
				j.addUser(user, bindings[appUser{j.app.No, user}])
			}
		}
	}
	return nil
}

type appUser struct {
	app  uint32
	user string
}

// lockedBindings locks users against binds and returns their devices, bound last first.
func lockedBindings(ctx context.Context, tx pgx.Tx, users map[appUser]bool) (map[appUser][]registry.Binding, error) {
	var locks []int64
	var buckets []int16
	var apps []int32
	var names []string
	for k := range users {
		locks = append(locks, registry.LockKeys(k.app, []string{k.user})...)
		buckets = append(buckets, ordinal.UserBucket(k.app, k.user))
		apps = append(apps, int32(k.app))
		names = append(names, k.user)
	}
	slices.Sort(locks)
	b := &pgx.Batch{}
	b.Queue("SELECT count(pg_advisory_xact_lock_shared(k)) FROM unnest($1::bigint[]) AS k", slices.Compact(locks))
	b.Queue(`
		SELECT u.app_no, u.user_id, u.ordinal, u.epoch FROM unnest($1::smallint[], $2::integer[], $3::text[])
			AS i (bucket, app_no, user_id)
		JOIN user_device u USING (bucket, app_no, user_id)
		ORDER BY u.bound_at DESC, u.epoch DESC`, buckets, apps, names)
	results := tx.SendBatch(ctx, b)
	defer results.Close()
	if _, err := results.Exec(); err != nil {
		return nil, fmt.Errorf("lock users: %w", err)
	}
	rows, err := results.Query()
	if err != nil {
		return nil, fmt.Errorf("resolve users: %w", err)
	}
	bindings := map[appUser][]registry.Binding{}
	var app int32
	var user string
	var number, epoch int64
	_, err = pgx.ForEachRow(rows, []any{&app, &user, &number, &epoch}, func() error {
		k := appUser{uint32(app), user}
		bindings[k] = append(bindings[k], registry.Binding{Ordinal: uint64(number), Epoch: epoch})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("resolve users: %w", err)
	}
	return bindings, results.Close()
}

// addUser adds a user's devices to a push. A device of two of its users gets the push once, for the first.
func (j *job) addUser(user string, bindings []registry.Binding) {
	if len(bindings) == 0 {
		j.without = append(j.without, user)
		return
	}
	if j.request.GetAudience().GetUsers().GetDevices() == pushv1.Audience_Users_LATEST_BOUND {
		bindings = bindings[:1]
	}
	for _, b := range bindings {
		if j.taken[b.Ordinal] {
			continue
		}
		j.taken[b.Ordinal] = true
		j.targets = append(j.targets, target{ordinal: b.Ordinal, user: user, epoch: b.Epoch})
		j.addBucket(b.Ordinal)
	}
}

// insert writes pushes and deliveries and returns the database's time, which they are created at. Devices that do not
// exist any more leave the targets; their deliveries have failed.
func insert(ctx context.Context, tx pgx.Tx, all []*job) (now time.Time, err error) {
	b := &pgx.Batch{}
	b.Queue("SELECT now()")
	if err := queuePushes(b, all); err != nil {
		return now, err
	}
	rows := newInboxRows(all)
	rows.queue(b)
	users := queueUsers(b, all)
	results := tx.SendBatch(ctx, b)
	defer results.Close()
	if err := results.QueryRow().Scan(&now); err != nil {
		return now, fmt.Errorf("read the time: %w", err)
	}
	if _, err := results.Exec(); err != nil {
		return now, fmt.Errorf("insert pushes: %w", err)
	}
	tag, err := results.Exec()
	if err != nil {
		return now, fmt.Errorf("insert deliveries: %w", err)
	}
	if users {
		if _, err := results.Exec(); err != nil {
			return now, fmt.Errorf("insert users' pushes: %w", err)
		}
	}
	if err := results.Close(); err != nil {
		return now, fmt.Errorf("insert: %w", err)
	}
	if int(tag.RowsAffected()) < len(rows.ordinals) {
		return now, failUnknown(ctx, tx, all, rows)
	}
	return now, nil
}

const insertPushes = `
	INSERT INTO push (push_id, app_no, request, notification, qos, collapse_key, created_at, expires_at, online_only, buckets,
		slices, trace, policy, claim_after)
	SELECT push_id, app_no, request, notification, qos, collapse_key, now(), now() + kept, online_only, buckets::smallint[],
		0, trace, policy, claim_after
	FROM unnest($1::uuid[], $2::integer[], $3::bytea[], $4::boolean[], $5::smallint[], $6::text[], $7::interval[],
		$8::boolean[], $9::text[], $10::text[], $11::smallint[], $12::interval[])
		AS i (push_id, app_no, request, notification, qos, collapse_key, kept, online_only, buckets, trace, policy, claim_after)`

func queuePushes(b *pgx.Batch, all []*job) error {
	n := len(all)
	ids, apps, requests := make([]uuid.UUID, n), make([]int32, n), make([][]byte, n)
	shown, qos, keys := make([]bool, n), make([]int16, n), make([]string, n)
	kept, online := make([]time.Duration, n), make([]bool, n)
	buckets, traces := make([]string, n), make([]string, n) // unnest would flatten arrays of arrays
	ways, after := make([]int16, n), make([]*time.Duration, n)
	for i, j := range all {
		encoded, err := message.Encode(j.request)
		if err != nil {
			return fmt.Errorf("encode push: %w", err)
		}
		ids[i], apps[i], requests[i] = j.id, int32(j.app.No), encoded
		shown[i] = j.request.GetNotification() != nil
		qos[i] = int16(message.QoS(j.request))
		keys[i] = j.request.GetPolicy().GetCollapseKey()
		kept[i], online[i] = message.KeptFor(j.request), message.OnlineOnly(j.request)
		buckets[i], traces[i] = arrayLiteral(j.buckets), j.trace
		ways[i], after[i] = int16(message.Way(j.request)), j.claimAfter
	}
	b.Queue(insertPushes, ids, apps, requests, shown, qos, keys, kept, online, buckets, traces, ways, after)
	return nil
}

func arrayLiteral(numbers []int16) string {
	out := []byte{'{'}
	for i, n := range numbers {
		if i > 0 {
			out = append(out, ',')
		}
		out = fmt.Appendf(out, "%d", n)
	}
	return string(append(out, '}'))
}

// inboxRows are deliveries as arrays for unnest, in the order in which every batch locks rows.
type inboxRows struct {
	buckets  []int16
	apps     []int32
	ordinals []int64
	pushes   []uuid.UUID
	kept     []time.Duration
	shown    []bool
	keys     []string
	users    []*string
	epochs   []*int64
	ways     []int16
	after    []*time.Duration
}

func newInboxRows(all []*job) *inboxRows {
	type row struct {
		j *job
		t target
	}
	var rows []row
	for _, j := range all {
		for _, t := range j.targets {
			rows = append(rows, row{j, t})
		}
	}
	slices.SortFunc(rows, func(a, b row) int {
		return cmp.Or(
			cmp.Compare(ordinal.DeviceBucket(a.j.app.No, a.t.ordinal), ordinal.DeviceBucket(b.j.app.No, b.t.ordinal)),
			cmp.Compare(a.j.app.No, b.j.app.No), cmp.Compare(a.t.ordinal, b.t.ordinal),
			slices.Compare(a.j.id[:], b.j.id[:]))
	})
	r := &inboxRows{}
	for _, row := range rows {
		j, t := row.j, row.t
		r.buckets = append(r.buckets, ordinal.DeviceBucket(j.app.No, t.ordinal))
		r.apps = append(r.apps, int32(j.app.No))
		r.ordinals = append(r.ordinals, int64(t.ordinal))
		r.pushes = append(r.pushes, j.id)
		r.kept = append(r.kept, message.KeptFor(j.request))
		r.shown = append(r.shown, j.request.GetNotification() != nil)
		r.keys = append(r.keys, j.request.GetPolicy().GetCollapseKey())
		r.ways, r.after = append(r.ways, int16(message.Way(j.request))), append(r.after, j.claimAfter)
		if t.user == "" {
			r.users, r.epochs = append(r.users, nil), append(r.epochs, nil)
		} else {
			r.users, r.epochs = append(r.users, &t.user), append(r.epochs, &t.epoch)
		}
	}
	return r
}

func (r *inboxRows) queue(b *pgx.Batch) {
	b.Queue(`
		INSERT INTO inbox (bucket, app_no, ordinal, push_id, expires_at, next_try, notification, collapse_key, user_id, bind_epoch,
			policy, claim_at)
		SELECT bucket, app_no, ordinal, push_id, now() + kept, now() + least(kept, $10, after), shown, collapse_key, user_id,
			bind_epoch, policy, now() + after
		FROM unnest($1::smallint[], $2::integer[], $3::bigint[], $4::uuid[], $5::interval[], $6::boolean[], $7::text[],
			$8::text[], $9::bigint[], $11::smallint[], $12::interval[])
			AS i (bucket, app_no, ordinal, push_id, kept, shown, collapse_key, user_id, bind_epoch, policy, after)
		WHERE EXISTS (SELECT FROM device d
			WHERE d.bucket = i.bucket AND d.app_no = i.app_no AND d.ordinal = i.ordinal AND d.state <> 3)`,
		r.buckets, r.apps, r.ordinals, r.pushes, r.kept, r.shown, r.keys, r.users, r.epochs, firstTry,
		r.ways, r.after)
}

// queueUsers queues what is kept per user, and reports whether there is any.
func queueUsers(b *pgx.Batch, all []*job) bool {
	var buckets []int16
	var apps, devices []int32
	var users []string
	var pushes []uuid.UUID
	var kept []time.Duration
	for _, j := range all {
		if message.OnlineOnly(j.request) && len(j.without) == 0 {
			continue // nothing of it outlives the moment
		}
		count := map[string]int32{}
		for _, user := range j.without {
			count[user] = 0
		}
		for _, t := range j.targets {
			if t.user != "" {
				count[t.user]++
			}
		}
		for user, n := range count {
			buckets = append(buckets, ordinal.UserBucket(j.app.No, user))
			apps = append(apps, int32(j.app.No))
			users = append(users, user)
			pushes = append(pushes, j.id)
			devices = append(devices, n)
			kept = append(kept, message.KeptFor(j.request))
		}
	}
	if len(users) == 0 {
		return false
	}
	b.Queue(`
		INSERT INTO user_inbox (bucket, app_no, user_id, push_id, devices, expires_at)
		SELECT bucket, app_no, user_id, push_id, devices, now() + kept
		FROM unnest($1::smallint[], $2::integer[], $3::text[], $4::uuid[], $5::integer[], $6::interval[])
			AS i (bucket, app_no, user_id, push_id, devices, kept)`, buckets, apps, users, pushes, devices, kept)
	return true
}

// failUnknown logs the deliveries to devices that were removed, and takes them out of the targets.
func failUnknown(ctx context.Context, tx pgx.Tx, all []*job, r *inboxRows) error {
	rows, err := tx.Query(ctx, failUnknownRows, r.buckets, r.apps, r.ordinals, r.pushes, r.users)
	if err != nil {
		return fmt.Errorf("fail deliveries to unknown devices: %w", err)
	}
	gone := map[uuid.UUID][]uint64{}
	var push uuid.UUID
	var number int64
	_, err = pgx.ForEachRow(rows, []any{&push, &number}, func() error {
		gone[push] = append(gone[push], uint64(number))
		return nil
	})
	if err != nil {
		return fmt.Errorf("fail deliveries to unknown devices: %w", err)
	}
	for _, j := range all {
		j.targets = slices.DeleteFunc(j.targets, func(t target) bool { return slices.Contains(gone[j.id], t.ordinal) })
	}
	return nil
}

const failUnknownRows = `
	INSERT INTO delivery_log (bucket, push_id, app_no, ordinal, step, reason, user_id)
	SELECT i.bucket, i.push_id, i.app_no, i.ordinal, 7, 2, i.user_id -- STEP_FAILED, REASON_UNKNOWN_DEVICE
	FROM unnest($1::smallint[], $2::integer[], $3::bigint[], $4::uuid[], $5::text[])
		AS i (bucket, app_no, ordinal, push_id, user_id)
	WHERE NOT EXISTS (SELECT FROM inbox b
		WHERE b.bucket = i.bucket AND b.app_no = i.app_no AND b.ordinal = i.ordinal AND b.push_id = i.push_id)
	RETURNING push_id, ordinal`
