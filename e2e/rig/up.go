package rig

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Up is Halley in one process, with its data folder.
type Up struct {
	*Process
	Site
	// Data is the data folder.
	Data string
}

// StartUp starts `halley up` in a folder of its own and waits until it is ready. It ends with the test.
func StartUp(t testing.TB, env ...string) *Up {
	t.Helper()
	dir := folder(t)
	u := &Up{Data: filepath.Join(dir, "data")}
	http, grpc, internal, mqtt, admin := Addr(t), Addr(t), Addr(t), Addr(t), Addr(t)
	u.Site = Site{URL: "http://" + http, WebSocket: "ws://" + http + "/mqtt", GRPC: grpc, Internal: internal, MQTT: mqtt}
	u.Process = &Process{Name: "halley", Admin: admin, path: Bin(t, "halley"), args: []string{"up"}, dir: dir}
	u.env = append(env, "HALLEY_DATA="+u.Data, "HALLEY_HTTP="+http, "HALLEY_GRPC="+grpc, "HALLEY_MQTT="+mqtt, "HALLEY_MQTTS=",
		"HALLEY_INTERNAL="+internal, "HALLEY_TELEMETRY_LISTEN="+admin)
	t.Cleanup(u.end)
	// PostgreSQL outlives a halley that is killed: the next one takes it over, and stops it.
	t.Cleanup(func() { u.stopPostgres(t) })
	u.Start(t)
	return u
}

// stopPostgres stops halley gracefully, so that it takes its PostgreSQL with it.
func (u *Up) stopPostgres(t testing.TB) {
	t.Helper()
	select {
	case <-u.ended:
	default:
		u.Stop(t, startWithin)
	}
}

// Demo returns the app that halley made at its first start, from the data folder's demo.env.
func (u *Up) Demo(t testing.TB) *App {
	t.Helper()
	var text []byte
	// The first start makes the app a moment after all is ready.
	Until(t, startWithin, "demo.env", func() (err error) {
		text, err = os.ReadFile(filepath.Join(u.Data, "demo.env"))
		return err
	})
	values := map[string]string{}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "export "), "=")
		values[name] = value
	}
	u.AdminToken = values["HALLEY_ADMIN_TOKEN"]
	return u.Open(t, values["HALLEY_APP"], values["HALLEY_KEY"], values["HALLEY_CLIENT_KEY"])
}
