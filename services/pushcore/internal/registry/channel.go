package registry

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/singleflight"
	"google.golang.org/grpc/codes"

	"github.com/halleypush/halley/services/pushcore/internal/fault"
	"github.com/halleypush/halley/services/pushcore/internal/keyring"
)

const (
	// sealedCredential binds sealed credentials to their purpose, and each to its app and channel.
	sealedCredential = "channel credential %d %s"
	receiptBytes     = 16
)

// Channel is an app's credential for a vendor channel, without the credential.
type Channel struct {
	Name          string
	Version       int64
	ReceiptSecret string
	Expires       *time.Time
	Note          string
	Unchecked     bool
	Set           time.Time
}

// Channels keeps the credentials of apps for vendor channels.
type Channels struct {
	pool *pgxpool.Pool
	ring *keyring.Ring

	active *cache[uint32, map[string]bool]
	loads  singleflight.Group
}

// NewChannels returns the credentials of a database.
func NewChannels(pool *pgxpool.Pool, ring *keyring.Ring) *Channels {
	return &Channels{pool: pool, ring: ring, active: newCache[uint32, map[string]bool]()}
}

// Forget empties the cache, after a change.
func (c *Channels) Forget() { c.active.purge() }

// changed forgets one app; a look that began before does not count any more.
func (c *Channels) changed(app uint32) {
	c.loads.Forget(strconv.Itoa(int(app)))
	c.active.remove(app)
}

// Active returns the names of the channels that an app has a credential for.
func (c *Channels) Active(ctx context.Context, app uint32) (map[string]bool, error) {
	if names, ok := c.active.get(app); ok {
		return names, nil
	}
	// Every push asks: those that find nothing remembered share one look. It goes on when the caller who began it gives up.
	names, err, _ := c.loads.Do(strconv.Itoa(int(app)), func() (any, error) {
		return c.load(context.WithoutCancel(ctx), app)
	})
	if err != nil {
		return nil, err
	}
	return names.(map[string]bool), nil
}

func (c *Channels) load(ctx context.Context, app uint32) (map[string]bool, error) {
	rows, err := c.pool.Query(ctx, "SELECT channel FROM channel_credential WHERE app_no = $1 AND NOT candidate", int32(app))
	if err != nil {
		return nil, fmt.Errorf("read the app's channels: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("read the app's channels: %w", err)
	}
	names := make(map[string]bool, len(list))
	for _, name := range list {
		names[name] = true
	}
	c.active.add(app, names)
	return names, nil
}

const channelColumns = "channel, version, receipt_secret, expires_at, note, unchecked, set_at"

// List returns an app's channels by name.
func (c *Channels) List(ctx context.Context, app *App) ([]Channel, error) {
	rows, err := c.pool.Query(ctx, "SELECT "+channelColumns+` FROM channel_credential
		WHERE app_no = $1 AND NOT candidate ORDER BY channel`, int32(app.No))
	if err != nil {
		return nil, fmt.Errorf("list channels: %w", err)
	}
	channels, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Channel])
	if err != nil {
		return nil, fmt.Errorf("list channels: %w", err)
	}
	return channels, nil
}

func errNoChannel(app uint32, name string) error {
	return fault.NotFound("CHANNEL_NOT_SET", "the app %d has no credential for %s", app, name)
}

// Credential returns a channel with its credential; CHANNEL_NOT_SET if the app has none.
func (c *Channels) Credential(ctx context.Context, app uint32, name string, candidate bool) (*Channel, []byte, error) {
	channel := Channel{}
	var sealed []byte
	err := c.pool.QueryRow(ctx, "SELECT sealed, "+channelColumns+` FROM channel_credential
		WHERE app_no = $1 AND channel = $2 AND candidate = $3`, int32(app), name, candidate).
		Scan(&sealed, &channel.Name, &channel.Version, &channel.ReceiptSecret, &channel.Expires, &channel.Note,
			&channel.Unchecked, &channel.Set)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil, errNoChannel(app, name)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read credential: %w", err)
	}
	credential, err := c.ring.Open(fmt.Sprintf(sealedCredential, app, name), sealed)
	if err != nil {
		return nil, nil, fmt.Errorf("read credential: %w", err)
	}
	return &channel, credential, nil
}

// IDs returns the ids of the apps that have a credential for a channel in use, by their numbers: of those named, or of all.
func (c *Channels) IDs(ctx context.Context, name string, apps []uint32) (map[uint32]string, error) {
	numbers := make([]int32, len(apps))
	for i, app := range apps {
		numbers[i] = int32(app)
	}
	rows, err := c.pool.Query(ctx, `
		SELECT a.app_no, a.app_id FROM channel_credential c JOIN app a ON a.app_no = c.app_no
		WHERE c.channel = $1 AND NOT c.candidate AND (cardinality($2::integer[]) = 0 OR c.app_no = ANY ($2))`, name, numbers)
	if err != nil {
		return nil, fmt.Errorf("read the apps of a channel: %w", err)
	}
	ids := map[uint32]string{}
	var number int32
	var id string
	_, err = pgx.ForEachRow(rows, []any{&number, &id}, func() error {
		ids[uint32(number)] = id
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the apps of a channel: %w", err)
	}
	return ids, nil
}

// Propose stores a credential that is to be checked, in place of an earlier one, and returns its version. The receipt secret
// is the one that the channel has already: the vendor's console knows it.
func (c *Channels) Propose(ctx context.Context, app *App, name string, credential []byte) (version int64, err error) {
	var secret [receiptBytes]byte
	_, _ = rand.Read(secret[:]) // never fails
	err = c.pool.QueryRow(ctx, `
		INSERT INTO channel_credential (app_no, channel, candidate, version, sealed, key_id, receipt_secret)
		VALUES ($1, $2, true, nextval('credential_version'), $3, $4, coalesce((
			SELECT receipt_secret FROM channel_credential WHERE app_no = $1 AND channel = $2 AND NOT candidate), $5))
		ON CONFLICT (app_no, channel, candidate) DO UPDATE SET version = excluded.version, sealed = excluded.sealed,
			key_id = excluded.key_id, receipt_secret = excluded.receipt_secret, set_at = now()
		RETURNING version`,
		int32(app.No), name, c.ring.Seal(fmt.Sprintf(sealedCredential, app.No, name), credential), int64(c.ring.SealKey()),
		hex.EncodeToString(secret[:])).Scan(&version)
	if err != nil {
		return 0, fmt.Errorf("store credential: %w", err)
	}
	return version, nil
}

// Activate puts a proposed credential in use; CHANGED_MEANWHILE if another one was proposed since.
func (c *Channels) Activate(
	ctx context.Context, app *App, name string, version int64, expires *time.Time, note string, unchecked bool,
) error {
	err := pgx.BeginFunc(ctx, c.pool, func(tx pgx.Tx) error {
		var found bool
		err := tx.QueryRow(ctx, `
			SELECT EXISTS (SELECT FROM channel_credential
				WHERE app_no = $1 AND channel = $2 AND candidate AND version = $3 FOR UPDATE)`,
			int32(app.No), name, version).Scan(&found)
		if err != nil {
			return err
		}
		if !found {
			return &fault.Error{
				Code: codes.Aborted, Reason: "CHANGED_MEANWHILE", Message: "another credential was set meanwhile; look, and set yours again",
			}
		}
		b := &pgx.Batch{}
		b.Queue("DELETE FROM channel_credential WHERE app_no = $1 AND channel = $2 AND NOT candidate", int32(app.No), name)
		b.Queue(`
			UPDATE channel_credential SET candidate = false, expires_at = $3, note = $4, unchecked = $5, set_at = now()
			WHERE app_no = $1 AND channel = $2`, int32(app.No), name, expires, note, unchecked)
		return tx.SendBatch(ctx, b).Close()
	})
	if err != nil {
		return fmt.Errorf("use credential: %w", err)
	}
	c.changed(app.No)
	return nil
}

// Discard forgets a proposed credential that failed its check.
func (c *Channels) Discard(ctx context.Context, app *App, name string, version int64) error {
	_, err := c.pool.Exec(ctx,
		"DELETE FROM channel_credential WHERE app_no = $1 AND channel = $2 AND candidate AND version = $3",
		int32(app.No), name, version)
	if err != nil {
		return fmt.Errorf("discard credential: %w", err)
	}
	return nil
}

// Delete takes an app's credential away; CHANNEL_NOT_SET if it has none.
func (c *Channels) Delete(ctx context.Context, app *App, name string) error {
	tag, err := c.pool.Exec(ctx, "DELETE FROM channel_credential WHERE app_no = $1 AND channel = $2 AND NOT candidate",
		int32(app.No), name)
	if err != nil {
		return fmt.Errorf("delete credential: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return errNoChannel(app.No, name)
	}
	c.changed(app.No)
	return nil
}

// Reseal seals up to limit credentials again that an older key of the ring holds, and returns how many.
func (c *Channels) Reseal(ctx context.Context, limit int) (int, error) {
	n := 0
	err := pgx.BeginFunc(ctx, c.pool, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			SELECT app_no, channel, candidate, sealed FROM channel_credential WHERE key_id <> $1
			LIMIT $2 FOR UPDATE SKIP LOCKED`, int64(c.ring.SealKey()), limit)
		if err != nil {
			return err
		}
		b := &pgx.Batch{}
		var app int32
		var name string
		var candidate bool
		var sealed []byte
		_, err = pgx.ForEachRow(rows, []any{&app, &name, &candidate, &sealed}, func() error {
			purpose := fmt.Sprintf(sealedCredential, app, name)
			credential, err := c.ring.Open(purpose, sealed)
			if err != nil {
				return err
			}
			b.Queue(`UPDATE channel_credential SET sealed = $4, key_id = $5 WHERE app_no = $1 AND channel = $2 AND candidate = $3`,
				app, name, candidate, c.ring.Seal(purpose, credential), int64(c.ring.SealKey()))
			return nil
		})
		if n = b.Len(); err != nil || n == 0 {
			return err
		}
		return tx.SendBatch(ctx, b).Close()
	})
	if err != nil {
		return 0, fmt.Errorf("seal credentials again: %w", err)
	}
	return n, nil
}
