package peer

import (
	"io"
	"log/slog"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"

	"github.com/halleypush/halley/bench/internal/crew"
	"github.com/halleypush/halley/bench/internal/process"
)

// RoleMochi is the role of a process with mochi-mqtt.
const RoleMochi = "mochi"

// Mochi is what that process does.
type Mochi struct{ server *mochi.Server }

// ServeMochi answers for the role until the input ends.
func ServeMochi() error { return crew.Serve(&Mochi{}) }

// Listen starts the broker.
func (m *Mochi) Listen(_ struct{}, address *string) (err error) {
	m.server = mochi.New(&mochi.Options{Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err := m.server.AddHook(new(auth.AllowHook), nil); err != nil {
		return err
	}
	if *address, err = process.Address(); err != nil {
		return err
	}
	if err := m.server.AddListener(listeners.NewTCP(listeners.Config{ID: "tcp", Address: *address})); err != nil {
		return err
	}
	return m.server.Serve()
}
