package device

import (
	"context"
	"maps"
	"time"
)

// Rhythm is what the adaptive heartbeat has learned of a network.
type Rhythm struct {
	// Pause is how long a connection may be silent there.
	Pause time.Duration `json:"pause"`
	// Settled: a longer pause was too long once.
	Settled bool `json:"settled,omitempty"`
}

// RhythmStore is a Store that keeps, too, what the adaptive heartbeat has learned, by the names that NetworkChanged was given;
// with another Store it is learned again after each start. FileStore and MemoryStore keep it.
type RhythmStore interface {
	Store
	// LoadRhythms returns what was saved last, nil if there is nothing.
	LoadRhythms(ctx context.Context) (map[string]Rhythm, error)
	// SaveRhythms replaces it. It is called seldom: when a network bears more, or less, than was known.
	SaveRhythms(ctx context.Context, rhythms map[string]Rhythm) error
}

func (r *rhythm) kept() Rhythm { return Rhythm{r.pause, r.settled} }

// loadRhythms begins with what was learned before. What cannot be read is learned again.
func (d *Device) loadRhythms(ctx context.Context) {
	store, ok := d.store.(RhythmStore)
	if !ok || d.options.Heartbeat == nil {
		return
	}
	known, err := store.LoadRhythms(ctx)
	if err != nil {
		d.log.WarnContext(ctx, "the heartbeat begins anew", "error", err)
	}
	for network, r := range known { // the settings may be others now
		d.heart.rhythms[network] = &rhythm{pause: min(max(r.Pause, d.heart.set.Min), d.heart.set.Max), settled: r.Settled}
	}
}

// keepRhythms stores what the heartbeat has learned.
func (d *Device) keepRhythms(ctx context.Context) {
	store, ok := d.store.(RhythmStore)
	if !ok {
		return
	}
	d.heart.keeping.Lock()
	defer d.heart.keeping.Unlock()
	d.heart.mu.Lock()
	known := map[string]Rhythm{}
	for network, r := range d.heart.rhythms {
		known[network] = r.kept()
	}
	d.heart.mu.Unlock()
	if err := store.SaveRhythms(ctx, known); err != nil {
		d.log.WarnContext(ctx, "what the heartbeat has learned cannot be stored", "error", err)
	}
}

var (
	_ RhythmStore = (*memoryStore)(nil)
	_ RhythmStore = (*fileStore)(nil)
)

func (m *memoryStore) LoadRhythms(context.Context) (map[string]Rhythm, error) {
	return maps.Clone(m.rhythms), nil
}

func (m *memoryStore) SaveRhythms(_ context.Context, rhythms map[string]Rhythm) error {
	m.rhythms = maps.Clone(rhythms)
	return nil
}

// rhythmsFile holds the rhythms of a FileStore, replaced as a whole.
const rhythmsFile = "rhythms.json"
