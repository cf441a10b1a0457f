package registry

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/grpc/codes"

	adminv1 "github.com/halleypush/halley/proto/halley/admin/v1"
	"github.com/halleypush/halley/services/pushcore/internal/fault"
	"github.com/halleypush/halley/services/pushcore/internal/keyring"
)

const (
	// ServerPrefix starts the keys of business servers.
	ServerPrefix = "sk_"
	// ClientPrefix starts the keys that ship inside apps.
	ClientPrefix = "ck_"

	keyBytes     = 32
	keyIDBytes   = 9
	shownPrefix  = 11 // "sk_" and 8 characters: enough to tell keys apart, useless for guessing the other 210 bits
	sealedAPIKey = "api key"
)

// Key is an app's key without the key itself.
type Key struct {
	ID      string
	AppNo   uint32
	Kind    adminv1.Key_Kind
	Prefix  string
	Note    string
	Created time.Time
	Revoked *time.Time
}

// Keys makes and checks the keys of apps.
type Keys struct {
	pool *pgxpool.Pool
	ring *keyring.Ring

	valid  *cache[[sha256.Size]byte, *Key]
	proofs *cache[uint32, [][]byte]
}

// NewKeys returns the keys of a database.
func NewKeys(pool *pgxpool.Pool, ring *keyring.Ring) *Keys {
	return &Keys{
		pool:   pool,
		ring:   ring,
		valid:  newCache[[sha256.Size]byte, *Key](),
		proofs: newCache[uint32, [][]byte](),
	}
}

// Forget empties the cache, after a change.
func (k *Keys) Forget() {
	k.valid.purge()
	k.proofs.purge()
}

const keyColumns = "key_id, app_no, kind, prefix, note, created_at, revoked_at"

func scanKey(row pgx.CollectableRow) (*Key, error) {
	var no int32
	var kind int16
	key := &Key{}
	err := row.Scan(&key.ID, &no, &kind, &key.Prefix, &key.Note, &key.Created, &key.Revoked)
	key.AppNo, key.Kind = uint32(no), adminv1.Key_Kind(kind)
	return key, err
}

// Create makes a key of an app and returns it; the key itself cannot be had again.
func (k *Keys) Create(ctx context.Context, app *App, kind adminv1.Key_Kind, note string) (*Key, string, error) {
	prefix := ServerPrefix
	if kind == adminv1.Key_CLIENT {
		prefix = ClientPrefix
	}
	secret := prefix + randomText(keyBytes)
	hash := sha256.Sum256([]byte(secret))
	rows, err := k.pool.Query(ctx, `
		INSERT INTO api_key (key_id, app_no, kind, prefix, hash, sealed, note)
		VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING `+keyColumns,
		randomText(keyIDBytes), int32(app.No), int16(kind), secret[:shownPrefix], hash[:],
		k.ring.Seal(sealedAPIKey, []byte(secret)), note)
	if err != nil {
		return nil, "", fmt.Errorf("create key: %w", err)
	}
	key, err := pgx.CollectExactlyOneRow(rows, scanKey)
	if err != nil {
		return nil, "", fmt.Errorf("create key: %w", err)
	}
	k.proofs.remove(app.No)
	return key, secret, nil
}

// List returns an app's keys, oldest first, revoked ones too.
func (k *Keys) List(ctx context.Context, app *App) ([]*Key, error) {
	rows, err := k.pool.Query(ctx,
		"SELECT "+keyColumns+" FROM api_key WHERE app_no = $1 ORDER BY created_at, key_id", int32(app.No))
	if err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	keys, err := pgx.CollectRows(rows, scanKey)
	if err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	return keys, nil
}

// Revoke makes a key void; KEY_NOT_FOUND if the app has no such key. Revoking again changes nothing.
func (k *Keys) Revoke(ctx context.Context, app *App, keyID string) error {
	tag, err := k.pool.Exec(ctx,
		"UPDATE api_key SET revoked_at = coalesce(revoked_at, now()) WHERE app_no = $1 AND key_id = $2", int32(app.No), keyID)
	if err != nil {
		return fmt.Errorf("revoke key: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return fault.NotFound("KEY_NOT_FOUND", "the app %s has no key %s", app.ID, keyID)
	}
	k.Forget()
	return nil
}

// errKey is the same for every way in which a key can be wrong, so that it tells a guesser nothing.
func errKey() error {
	return &fault.Error{Code: codes.Unauthenticated, Reason: "WRONG_KEY", Message: "the key is unknown or revoked"}
}

// Check returns the live key that a caller presented, WRONG_KEY if it is none.
func (k *Keys) Check(ctx context.Context, secret string) (*Key, error) {
	if !strings.HasPrefix(secret, ServerPrefix) && !strings.HasPrefix(secret, ClientPrefix) {
		return nil, errKey()
	}
	hash := sha256.Sum256([]byte(secret))
	if key, ok := k.valid.get(hash); ok {
		return key, nil
	}
	rows, err := k.pool.Query(ctx, "SELECT "+keyColumns+" FROM api_key WHERE hash = $1 AND revoked_at IS NULL", hash[:])
	if err != nil {
		return nil, fmt.Errorf("check key: %w", err)
	}
	key, err := pgx.CollectExactlyOneRow(rows, scanKey)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, errKey()
	}
	if err != nil {
		return nil, fmt.Errorf("check key: %w", err)
	}
	k.valid.add(hash, key)
	return key, nil
}

// proofKeys returns the app's live server keys, with which bind proofs are signed.
func (k *Keys) proofKeys(ctx context.Context, app *App) ([][]byte, error) {
	if keys, ok := k.proofs.get(app.No); ok {
		return keys, nil
	}
	rows, err := k.pool.Query(ctx, "SELECT sealed FROM api_key WHERE app_no = $1 AND kind = $2 AND revoked_at IS NULL",
		int32(app.No), int16(adminv1.Key_SERVER))
	if err != nil {
		return nil, fmt.Errorf("load proof keys: %w", err)
	}
	sealed, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err != nil {
		return nil, fmt.Errorf("load proof keys: %w", err)
	}
	keys := make([][]byte, len(sealed))
	for i, s := range sealed {
		if keys[i], err = k.ring.Open(sealedAPIKey, s); err != nil {
			return nil, fmt.Errorf("load proof keys: %w", err)
		}
	}
	k.proofs.add(app.No, keys)
	return keys, nil
}

func randomText(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return base64.RawURLEncoding.EncodeToString(b)
}
