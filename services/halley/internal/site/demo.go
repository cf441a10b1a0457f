package site

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"
)

// DemoFile is the file, in the data folder, that holds what callers of a demonstration need.
const DemoFile = "demo.env"

// Demo is an app with its keys, and where the service is.
type Demo struct {
	App, ServerKey, ClientKey, AdminToken string
	HTTP, GRPC, MQTT                      string
	// Simulators is the URL of the vendor simulators' control API; empty without them.
	Simulators string
}

// variables gives the file's lines their order and names.
func (d *Demo) variables() []struct {
	name  string
	value *string
} {
	return []struct {
		name  string
		value *string
	}{
		{"HALLEY_APP", &d.App},
		{"HALLEY_KEY", &d.ServerKey},
		{"HALLEY_CLIENT_KEY", &d.ClientKey},
		{"HALLEY_ADMIN_TOKEN", &d.AdminToken},
		{"HALLEY_URL", &d.HTTP},
		{"HALLEY_GRPC", &d.GRPC},
		{"HALLEY_MQTT", &d.MQTT},
		{"HALLEY_SIMULATORS", &d.Simulators},
	}
}

// Write writes the file, for shells to source and for the command line to find.
func (d *Demo) Write(path string) error {
	var b strings.Builder
	for _, v := range d.variables() {
		fmt.Fprintf(&b, "export %s=%s\n", v.name, *v.value)
	}
	if err := WriteFile(path, []byte(b.String())); err != nil {
		return fmt.Errorf("demo file: %w", err)
	}
	return nil
}

// ReadDemo reads the file; os.ErrNotExist if there is none.
func ReadDemo(path string) (Demo, error) {
	f, err := os.Open(path)
	if err != nil {
		return Demo{}, fmt.Errorf("demo file: %w", err)
	}
	defer f.Close()
	values := map[string]string{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		name, value, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(lines.Text()), "export "), "=")
		values[name] = value
	}
	if err := lines.Err(); err != nil {
		return Demo{}, fmt.Errorf("demo file: %w", err)
	}
	var d Demo
	for _, v := range d.variables() {
		*v.value = values[v.name]
	}
	if d.App == "" || d.ServerKey == "" {
		return d, errors.New("demo file: no app or key in it")
	}
	return d, nil
}
