package registry

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/halleypush/halley/pkg/channel"
	"github.com/halleypush/halley/pkg/ordinal"
)

// guardMinutes is the window in which an unusual share of void tokens is looked for.
const guardMinutes = 10

// VoidToken is a channel token of a device that its vendor calls void.
type VoidToken struct {
	Ordinal uint64
	Token   string
	// GoneAt is since when it is void, where the vendor says so; a token that was reported later stays. Nil: now.
	GoneAt *time.Time
}

// HeldToken is a void token that waits for somebody's decision.
type HeldToken struct {
	Ordinal        uint64
	Channel, Token string
	Held           time.Time
}

// VoidTokens deletes the channel tokens that vendors call void, and holds them when too many are at once: then it is more
// likely that the credential is another app's, or the vendor is wrong, than that so many people removed the app.
type VoidTokens struct {
	pool    *pgxpool.Pool
	held    *prometheus.GaugeVec
	deleted *prometheus.CounterVec
}

// NewVoidTokens returns the void tokens of a database and registers their metrics.
func NewVoidTokens(pool *pgxpool.Pool, metrics prometheus.Registerer) *VoidTokens {
	v := &VoidTokens{
		pool: pool,
		held: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "halley_pushcore_token_deletions_held",
			Help: "Channel tokens that vendors call void and that are held, because too many were at once: somebody must decide.",
		}, []string{"channel"}),
		deleted: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "halley_pushcore_tokens_deleted_total", Help: "Channel tokens deleted because their vendor called them void.",
		}, []string{"channel"}),
	}
	metrics.MustRegister(v.held, v.deleted)
	for _, name := range channel.Vendors() {
		v.held.WithLabelValues(name)
		v.deleted.WithLabelValues(name)
	}
	return v
}

// Note counts the results of a vendor for an app, and deletes or holds the tokens among them that are void. It reports
// whether it held them. Noting the same again counts it again, and deletes nothing more.
func (v *VoidTokens) Note(
	ctx context.Context, app *App, name string, results int, void []VoidToken,
) (held bool, err error) {
	all, gone, err := v.count(ctx, app, name, results, len(void))
	if err != nil || len(void) == 0 {
		return false, err
	}
	s := app.Settings
	if gone >= int64(s.GetTokenGuardMin()) && gone*100 > all*int64(s.GetTokenGuardPercent()) {
		return true, v.hold(ctx, app, name, void)
	}
	c := voidColumns(app, void)
	tag, err := v.pool.Exec(ctx, `
		UPDATE channel_token t SET token = '', gone_at = now()
		FROM unnest($1::smallint[], $2::bigint[], $3::text[], $4::timestamptz[]) AS i (bucket, ordinal, token, gone_at)
		WHERE t.bucket = i.bucket AND t.app_no = $5 AND t.ordinal = i.ordinal AND t.channel = $6 AND t.token = i.token
			AND t.gone_at IS NULL AND (i.gone_at IS NULL OR t.updated_at < i.gone_at)`,
		c.buckets, c.ordinals, c.tokens, c.goneAt, int32(app.No), name)
	if err != nil {
		return false, fmt.Errorf("delete void tokens: %w", err)
	}
	v.deleted.WithLabelValues(name).Add(float64(tag.RowsAffected()))
	return false, nil
}

// count adds to this minute's results and returns the sums of the window. The statement's snapshot is older than what it
// adds.
func (v *VoidTokens) count(
	ctx context.Context, app *App, name string, results, gone int,
) (allResults, allGone int64, err error) {
	if results == 0 && gone == 0 {
		return 0, 0, nil
	}
	err = v.pool.QueryRow(ctx, `
		WITH minutes AS (SELECT floor(extract(epoch FROM now()) / 60)::integer AS minute), added AS (
			INSERT INTO vendor_result AS r (app_no, channel, minute, results, gone)
			SELECT $1::integer, $2::text, minute, $3::bigint, $4::bigint FROM minutes
			ON CONFLICT (app_no, channel, minute) DO UPDATE SET results = r.results + excluded.results, gone = r.gone + excluded.gone)
		SELECT coalesce(sum(r.results), 0)::bigint + $3, coalesce(sum(r.gone), 0)::bigint + $4 FROM vendor_result r, minutes m
		WHERE r.app_no = $1 AND r.channel = $2 AND r.minute > m.minute - $5::integer`,
		int32(app.No), name, int64(results), int64(gone), guardMinutes).Scan(&allResults, &allGone)
	if err != nil {
		return 0, 0, fmt.Errorf("count results: %w", err)
	}
	return allResults, allGone, nil
}

func (v *VoidTokens) hold(ctx context.Context, app *App, name string, void []VoidToken) error {
	c := voidColumns(app, void)
	_, err := v.pool.Exec(ctx, `
		INSERT INTO held_token AS h (bucket, app_no, ordinal, channel, token, gone_at)
		SELECT DISTINCT ON (i.ordinal) i.bucket, $5, i.ordinal, $6, i.token, i.gone_at
		FROM unnest($1::smallint[], $2::bigint[], $3::text[], $4::timestamptz[]) AS i (bucket, ordinal, token, gone_at)
		JOIN channel_token t ON t.bucket = i.bucket AND t.app_no = $5 AND t.ordinal = i.ordinal AND t.channel = $6
			AND t.token = i.token AND t.gone_at IS NULL AND (i.gone_at IS NULL OR t.updated_at < i.gone_at)
		ON CONFLICT (bucket, app_no, ordinal, channel) DO UPDATE
		SET token = excluded.token, gone_at = excluded.gone_at, held_at = now() WHERE h.token <> excluded.token`,
		c.buckets, c.ordinals, c.tokens, c.goneAt, int32(app.No), name)
	if err != nil {
		return fmt.Errorf("hold void tokens: %w", err)
	}
	return v.Show(ctx)
}

// Show sets the alarm's metric to what is held now.
func (v *VoidTokens) Show(ctx context.Context) error {
	rows, err := v.pool.Query(ctx, "SELECT channel, count(*) FROM held_token GROUP BY channel")
	if err != nil {
		return fmt.Errorf("count held tokens: %w", err)
	}
	counts := map[string]int64{}
	var name string
	var n int64
	_, err = pgx.ForEachRow(rows, []any{&name, &n}, func() error {
		counts[name] = n
		return nil
	})
	if err != nil {
		return fmt.Errorf("count held tokens: %w", err)
	}
	for _, name := range channel.Vendors() {
		v.held.WithLabelValues(name).Set(float64(counts[name]))
	}
	return nil
}

// Held returns up to limit held tokens of an app, by channel and registration, those after the given one.
func (v *VoidTokens) Held(
	ctx context.Context, app *App, afterChannel string, afterOrdinal int64, limit int,
) ([]HeldToken, error) {
	rows, err := v.pool.Query(ctx, `
		SELECT ordinal, channel, token, held_at FROM held_token
		WHERE app_no = $1 AND (channel, ordinal) > ($2, $3) ORDER BY channel, ordinal LIMIT $4`,
		int32(app.No), afterChannel, afterOrdinal, limit)
	if err != nil {
		return nil, fmt.Errorf("list held tokens: %w", err)
	}
	held, err := pgx.CollectRows(rows, pgx.RowToStructByPos[HeldToken])
	if err != nil {
		return nil, fmt.Errorf("list held tokens: %w", err)
	}
	return held, nil
}

// Release decides about the held tokens of an app's channel: they stay in use, or are deleted where the device has not
// reported them again since. It returns how many they were.
func (v *VoidTokens) Release(ctx context.Context, app *App, name string, keep bool) (int64, error) {
	tag, err := v.pool.Exec(ctx, `
		WITH held AS (DELETE FROM held_token WHERE app_no = $1 AND channel = $2 RETURNING *), gone AS (
			UPDATE channel_token t SET token = '', gone_at = now() FROM held h
			WHERE NOT $3 AND t.bucket = h.bucket AND t.app_no = h.app_no AND t.ordinal = h.ordinal AND t.channel = h.channel
				AND t.token = h.token AND t.gone_at IS NULL AND t.updated_at < coalesce(h.gone_at, h.held_at))
		SELECT FROM held`, int32(app.No), name, keep)
	if err != nil {
		return 0, fmt.Errorf("release held tokens: %w", err)
	}
	return tag.RowsAffected(), v.Show(ctx)
}

// ForgetResults deletes the counts of past windows.
func (v *VoidTokens) ForgetResults(ctx context.Context) error {
	_, err := v.pool.Exec(ctx,
		"DELETE FROM vendor_result WHERE minute < floor(extract(epoch FROM now()) / 60)::integer - $1", 2*guardMinutes)
	if err != nil {
		return fmt.Errorf("forget results: %w", err)
	}
	return nil
}

// TokenOf names the device that a vendor's receipt is about, by its token.
type TokenOf struct {
	App     uint32
	Slice   uint32
	Channel string
	Token   string
}

// FindTokens returns the ordinals of the devices that have these tokens now.
func (v *VoidTokens) FindTokens(ctx context.Context, asked []TokenOf) (map[TokenOf]uint64, error) {
	var buckets []int16
	var apps []int32
	var low, high []int64
	var channels, tokens []string
	for _, t := range asked {
		buckets, apps = append(buckets, ordinal.Bucket(t.App, t.Slice)), append(apps, int32(t.App))
		low, high = append(low, int64(ordinal.Join(t.Slice, 0))), append(high, int64(ordinal.Join(t.Slice+1, 0)))
		channels, tokens = append(channels, t.Channel), append(tokens, t.Token)
	}
	// OFFSET has each token looked up by its hash. Without it PostgreSQL, which knows nothing of how hashes are spread, also walks
	// through all tokens of the slice, for each of those that are asked for.
	rows, err := v.pool.Query(ctx, `
		SELECT i.n, t.ordinal
		FROM unnest($1::smallint[], $2::integer[], $3::bigint[], $4::bigint[], $5::text[], $6::text[]) WITH ORDINALITY
			AS i (bucket, app_no, low, high, channel, token, n)
		CROSS JOIN LATERAL (
			SELECT bucket, app_no, ordinal, channel, token FROM channel_token
			WHERE hashtextextended(token, 0) = hashtextextended(i.token, 0) AND gone_at IS NULL OFFSET 0
		) t
		WHERE t.bucket = i.bucket AND t.app_no = i.app_no AND t.token = i.token AND t.channel = i.channel AND t.ordinal >= i.low AND t.ordinal < i.high`,
		buckets, apps, low, high, channels, tokens)
	if err != nil {
		return nil, fmt.Errorf("find tokens: %w", err)
	}
	found := make(map[TokenOf]uint64, len(asked))
	var n, number int64
	_, err = pgx.ForEachRow(rows, []any{&n, &number}, func() error {
		found[asked[n-1]] = uint64(number)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("find tokens: %w", err)
	}
	return found, nil
}

// voidArrays are void tokens as arrays for unnest.
type voidArrays struct {
	buckets  []int16
	ordinals []int64
	tokens   []string
	goneAt   []*time.Time
}

func voidColumns(app *App, void []VoidToken) voidArrays {
	var c voidArrays
	for _, t := range void {
		c.buckets = append(c.buckets, ordinal.DeviceBucket(app.No, t.Ordinal))
		c.ordinals = append(c.ordinals, int64(t.Ordinal))
		c.tokens = append(c.tokens, t.Token)
		c.goneAt = append(c.goneAt, t.GoneAt)
	}
	return c
}
