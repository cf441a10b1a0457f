package device

import (
	"context"
	"maps"
	"slices"
)

// Store keeps what a device must not forget. The Device calls it from one goroutine at a time for each method.
type Store interface {
	// Load returns the identity, empty if there is none yet, and the push ids that were added, oldest first; it may leave
	// out all but the last 1,000.
	Load(ctx context.Context) (Identity, []string, error)
	// SaveIdentity replaces the identity. It is durable when SaveIdentity returns nil.
	SaveIdentity(ctx context.Context, i Identity) error
	// AddSeen adds a push id. It survives the end of the process when AddSeen returns nil.
	AddSeen(ctx context.Context, pushID string) error
}

// Identity is what makes a device the same one after a restart. Whoever has it is that device: it is kept like a password.
type Identity struct {
	App string `json:"app"`
	// InstallID makes registration repeatable.
	InstallID string `json:"install_id"`
	Token     string `json:"token,omitempty"`
	Secret    string `json:"secret,omitempty"`
	// Users are the users this device has bound itself to, with their opaque ids.
	Users map[string]string `json:"users,omitempty"`
	// Doubtful are users that a Bind without an answer was for.
	Doubtful []string `json:"doubtful,omitempty"`
	// Gone are the last users that this device has unbound itself from.
	Gone []Binding `json:"gone,omitempty"`
	// Reported is a digest of the report that the server has.
	Reported string `json:"reported,omitempty"`
}

// Binding is a user with the opaque id that messages for the user carry.
type Binding struct {
	User string `json:"user"`
	ID   string `json:"id"`
}

// become makes the identity that of a device with a token and a secret. It reports whether that is another device than before:
// then nobody is bound to it, and nothing of it is known.
func (i *Identity) become(token, secret string) (another bool) {
	if another = i.Token != token; another {
		i.Users, i.Doubtful, i.Gone, i.Reported = nil, nil, nil, ""
	}
	i.Token, i.Secret = token, secret
	return another
}

func (i Identity) clone() Identity {
	i.Users = maps.Clone(i.Users)
	i.Doubtful = slices.Clone(i.Doubtful)
	i.Gone = slices.Clone(i.Gone)
	return i
}

// keepSeen is how many push ids are remembered.
const keepSeen = 1000

// seen is the last push ids.
type seen struct {
	order []string // a ring once it is full
	next  int
	known map[string]bool
}

func newSeen(ids []string) *seen {
	s := &seen{known: map[string]bool{}}
	for _, id := range ids {
		s.add(id)
	}
	return s
}

func (s *seen) has(id string) bool { return s.known[id] }

func (s *seen) add(id string) {
	if s.known[id] {
		return
	}
	s.known[id] = true
	if len(s.order) < keepSeen {
		s.order = append(s.order, id)
		return
	}
	delete(s.known, s.order[s.next])
	s.order[s.next] = id
	s.next = (s.next + 1) % keepSeen
}

// memoryStore forgets with the process.
type memoryStore struct {
	identity Identity
	ids      []string
	rhythms  map[string]Rhythm
}

// MemoryStore returns a store that forgets with the process: for tests and simulated devices.
func MemoryStore() Store { return &memoryStore{} }

var _ Store = (*memoryStore)(nil)

func (m *memoryStore) Load(context.Context) (Identity, []string, error) {
	return m.identity.clone(), slices.Clone(m.ids), nil
}

func (m *memoryStore) SaveIdentity(_ context.Context, i Identity) error {
	m.identity = i.clone()
	return nil
}

func (m *memoryStore) AddSeen(_ context.Context, pushID string) error {
	if len(m.ids) >= 2*keepSeen {
		m.ids = slices.Clone(m.ids[keepSeen:])
	}
	m.ids = append(m.ids, pushID)
	return nil
}
