package registry

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/halleypush/halley/pkg/ordinal"
	devicev1 "github.com/halleypush/halley/proto/halley/device/v1"
	"github.com/halleypush/halley/services/pushcore/internal/batch"
	"github.com/halleypush/halley/services/pushcore/internal/fault"
	"github.com/halleypush/halley/services/pushcore/internal/keyring"
	"github.com/halleypush/halley/services/pushcore/internal/storage"
)

// States of a device, as stored.
const (
	stateProvisional int16 = 1
	stateActive      int16 = 2
	stateRemoved     int16 = 3
)

// Devices registers, shows and removes devices.
type Devices struct {
	pool    *pgxpool.Pool
	ring    *keyring.Ring
	limits  *limits
	refused prometheus.Counter
	newOnes *batch.Batcher[*registration]
}

// NewDevices returns the devices of a database. Concurrent registrations share commits, 200 at a time; refused counts those
// that found too many others waiting.
func NewDevices(pool *pgxpool.Pool, ring *keyring.Ring, refused prometheus.Counter) *Devices {
	d := &Devices{pool: pool, ring: ring, limits: newLimits(), refused: refused}
	d.newOnes = batch.New(2, 200, 10_000, d.registerBatch)
	return d
}

// Credentials are what a device proves itself with.
type Credentials struct {
	Token, Secret string
	Ordinal       uint64
	Generation    uint32
}

type registration struct {
	app     *App
	install []byte // SHA-256 of the install_id; nil: provisional
	report  *devicev1.Report

	ordinal    uint64
	letter     byte
	generation uint32
	found      bool // the install_id had a device
	err        error
}

// Register makes a device, or finds the one with this installID and makes a fresh secret for it. Without an installID the
// device is provisional. remoteIP counts against the registration limits; past them the fault is TOO_MANY_REGISTRATIONS.
func (d *Devices) Register(
	ctx context.Context, app *App, installID, remoteIP string, report *devicev1.Report,
) (Credentials, error) {
	if err := d.limits.allow(app, remoteIP); err != nil {
		return Credentials{}, err
	}
	r := &registration{app: app, report: report, letter: d.ring.Letter(), generation: 1}
	if installID != "" {
		hash := sha256.Sum256([]byte(installID))
		r.install = hash[:]
	}
	if err := d.newOnes.Do(ctx, r); err != nil {
		if errors.Is(err, batch.ErrFull) {
			d.refused.Inc()
		}
		return Credentials{}, fmt.Errorf("register: %w", err)
	}
	if r.err != nil {
		return Credentials{}, r.err
	}
	return credentials(app, r.letter, r.ordinal, r.generation)
}

func credentials(app *App, letter byte, number uint64, generation uint32) (Credentials, error) {
	tok, err := app.Codec.Token(letter, number)
	if err != nil {
		return Credentials{}, fmt.Errorf("make token: %w", err)
	}
	secret, err := app.Codec.Secret(tok, generation)
	if err != nil {
		return Credentials{}, fmt.Errorf("make secret: %w", err)
	}
	return Credentials{Token: tok, Secret: secret, Ordinal: number, Generation: generation}, nil
}

// registerBatch runs registrations in transactions in which no install_id stands twice: twins wait for the next one.
func (d *Devices) registerBatch(ctx context.Context, all []*registration) {
	for len(all) > 0 {
		var now, later []*registration
		seen := map[string]bool{}
		for _, r := range all {
			key := fmt.Sprintf("%d %x", r.app.No, r.install)
			if r.install != nil && seen[key] {
				later = append(later, r)
				continue
			}
			seen[key] = true
			now = append(now, r)
		}
		err := storage.InTx(ctx, d.pool, func(tx pgx.Tx) error { return d.registerTx(ctx, tx, now) })
		if err != nil {
			for _, r := range now {
				r.err = fmt.Errorf("register: %w", err)
			}
		}
		all = later
	}
}

func (d *Devices) registerTx(ctx context.Context, tx pgx.Tx, all []*registration) error {
	for _, r := range all {
		r.found, r.generation, r.err = false, 1, nil
	}
	if err := findInstalls(ctx, tx, all); err != nil {
		return err
	}
	if err := takeOrdinals(ctx, tx, all); err != nil {
		return err
	}
	// An install_id that another process registered since findInstalls: its ordinal counts, ours stays unused.
	if err := claimInstalls(ctx, tx, all); err != nil {
		return err
	}
	active := members{}
	var fresh []*registration
	for _, r := range all {
		if !r.found {
			fresh = append(fresh, r)
			if r.install != nil {
				active.add(r.app.No, r.ordinal)
			}
		}
	}
	if err := insertDevices(ctx, tx, fresh); err != nil {
		return err
	}
	if err := refreshSecrets(ctx, tx, all); err != nil {
		return err
	}
	var reports []deviceReport
	for _, r := range all {
		if r.report != nil {
			reports = append(reports, deviceReport{app: r.app.No, ordinal: r.ordinal, report: r.report})
		}
	}
	if err := applyReports(ctx, tx, reports); err != nil {
		return err
	}
	return changeMembers(ctx, tx, active, true)
}

func findInstalls(ctx context.Context, tx pgx.Tx, all []*registration) error {
	byKey := map[string]*registration{}
	var buckets []int16
	var apps []int32
	var hashes [][]byte
	for _, r := range all {
		if r.install == nil || r.found {
			continue
		}
		byKey[fmt.Sprintf("%d %x", r.app.No, r.install)] = r
		buckets = append(buckets, installBucket(r.install))
		apps = append(apps, int32(r.app.No))
		hashes = append(hashes, r.install)
	}
	if len(hashes) == 0 {
		return nil
	}
	rows, err := tx.Query(ctx, `
		SELECT i.app_no, i.install_hash, n.ordinal
		FROM unnest($1::smallint[], $2::integer[], $3::bytea[]) AS i (bucket, app_no, install_hash)
		JOIN install n USING (bucket, app_no, install_hash)`, buckets, apps, hashes)
	if err != nil {
		return fmt.Errorf("find install ids: %w", err)
	}
	var app int32
	var hash []byte
	var number int64
	_, err = pgx.ForEachRow(rows, []any{&app, &hash, &number}, func() error {
		r := byKey[fmt.Sprintf("%d %x", app, hash)]
		r.found, r.ordinal = true, uint64(number)
		return nil
	})
	if err != nil {
		return fmt.Errorf("find install ids: %w", err)
	}
	return nil
}

// takeOrdinals numbers the devices that are new. The row it locks serialises the app's registrations until the commit.
func takeOrdinals(ctx context.Context, tx pgx.Tx, all []*registration) error {
	fresh := map[uint32][]*registration{}
	for _, r := range all {
		if !r.found {
			fresh[r.app.No] = append(fresh[r.app.No], r)
		}
	}
	for _, app := range sortedKeys(fresh) {
		var next int64
		err := tx.QueryRow(ctx, "UPDATE app_ordinal SET next = next + $2 WHERE app_no = $1 RETURNING next",
			int32(app), len(fresh[app])).Scan(&next)
		if err != nil {
			return fmt.Errorf("take ordinals: %w", err)
		}
		first := uint64(next) - uint64(len(fresh[app]))
		for i, r := range fresh[app] {
			r.ordinal = first + uint64(i)
		}
	}
	return nil
}

func claimInstalls(ctx context.Context, tx pgx.Tx, all []*registration) error {
	var claims []*registration
	for _, r := range all {
		if r.install != nil && !r.found {
			claims = append(claims, r)
		}
	}
	if len(claims) == 0 {
		return nil
	}
	slices.SortFunc(claims, func(a, b *registration) int { return slices.Compare(a.install, b.install) })
	var buckets []int16
	var apps []int32
	var hashes [][]byte
	var ordinals []int64
	for _, r := range claims {
		buckets = append(buckets, installBucket(r.install))
		apps = append(apps, int32(r.app.No))
		hashes = append(hashes, r.install)
		ordinals = append(ordinals, int64(r.ordinal))
	}
	tag, err := tx.Exec(ctx, `
		INSERT INTO install (bucket, app_no, install_hash, ordinal)
		SELECT * FROM unnest($1::smallint[], $2::integer[], $3::bytea[], $4::bigint[])
		ON CONFLICT DO NOTHING`, buckets, apps, hashes, ordinals)
	if err != nil {
		return fmt.Errorf("claim install ids: %w", err)
	}
	if int(tag.RowsAffected()) == len(claims) {
		return nil
	}
	// The rows that were ours already carry our ordinals, so looking all of them up again tells who lost.
	mine := map[*registration]uint64{}
	for _, r := range claims {
		mine[r] = r.ordinal
	}
	if err := findInstalls(ctx, tx, claims); err != nil {
		return err
	}
	for r, number := range mine {
		r.found = r.ordinal != number
	}
	return nil
}

func insertDevices(ctx context.Context, tx pgx.Tx, fresh []*registration) error {
	if len(fresh) == 0 {
		return nil
	}
	_, err := tx.CopyFrom(ctx, pgx.Identifier{"device"},
		[]string{"bucket", "app_no", "ordinal", "letter", "state", "install_hash"},
		pgx.CopyFromSlice(len(fresh), func(i int) ([]any, error) {
			r := fresh[i]
			state := stateActive
			if r.install == nil {
				state = stateProvisional
			}
			return []any{
				ordinal.DeviceBucket(r.app.No, r.ordinal), int32(r.app.No), int64(r.ordinal), rune(r.letter), state, r.install,
			}, nil
		}))
	if err != nil {
		return fmt.Errorf("insert devices: %w", err)
	}
	return nil
}

// refreshSecrets gives the devices that were found a new generation, which makes their old secrets void.
func refreshSecrets(ctx context.Context, tx pgx.Tx, all []*registration) error {
	type key struct {
		app     uint32
		ordinal uint64
	}
	found := map[key]*registration{}
	for _, r := range all {
		if r.found {
			found[key{r.app.No, r.ordinal}] = r
		}
	}
	if len(found) == 0 {
		return nil
	}
	var k deviceKeys
	for id := range found {
		k.add(id.app, id.ordinal)
	}
	k.sort()
	rows, err := tx.Query(ctx, `
		UPDATE device d SET generation = d.generation + 1
		FROM unnest($1::smallint[], $2::integer[], $3::bigint[]) AS i (bucket, app_no, ordinal)
		WHERE d.bucket = i.bucket AND d.app_no = i.app_no AND d.ordinal = i.ordinal AND d.state <> 3
		RETURNING d.app_no, d.ordinal, d.generation, d.letter`, k.buckets, k.apps, k.ordinals)
	if err != nil {
		return fmt.Errorf("refresh secrets: %w", err)
	}
	var app, generation int32
	var number int64
	var letter rune
	_, err = pgx.ForEachRow(rows, []any{&app, &number, &generation, &letter}, func() error {
		r := found[key{uint32(app), uint64(number)}]
		r.generation, r.letter = uint32(generation), byte(letter)
		delete(found, key{uint32(app), uint64(number)})
		return nil
	})
	if err != nil {
		return fmt.Errorf("refresh secrets: %w", err)
	}
	for _, r := range found { // removed between our two statements: its install_id is free again
		r.err = fault.Exhausted("REMOVED_MEANWHILE", time.Second, "the device was removed at this moment; register again")
	}
	return nil
}

func installBucket(hash []byte) int16 { return int16(binary.BigEndian.Uint16(hash) % ordinal.Buckets) }

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
