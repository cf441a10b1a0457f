package vendorsim

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
)

// load registers the apps of the run before, so that their credentials stay good.
func (c *channel) load() error {
	content, err := os.ReadFile(c.file)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the registered apps: %w", err)
	}
	var apps map[string]json.RawMessage
	if err := json.Unmarshal(content, &apps); err != nil {
		return fmt.Errorf("%s: %w", c.file, err)
	}
	for name, app := range apps {
		if _, err := c.vendor.Register(app); err != nil {
			return fmt.Errorf("register %s again: %w", name, err)
		}
		c.apps[name] = app
	}
	return nil
}

// register makes an app known and remembers it.
func (c *channel) register(app json.RawMessage) (json.RawMessage, error) {
	credentials, err := c.vendor.Register(app)
	if err != nil {
		return nil, err
	}
	document, err := json.Marshal(credentials)
	if err != nil {
		return nil, fmt.Errorf("encode credentials: %w", err)
	}
	var id struct{ App string }
	if err := json.Unmarshal(document, &id); err != nil || id.App == "" {
		return nil, fmt.Errorf("the simulator gave out credentials without app: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.apps[id.App] = document
	return document, c.saveLocked()
}

func (c *channel) saveLocked() error {
	content, err := json.MarshalIndent(c.apps, "", "\t")
	if err != nil {
		return fmt.Errorf("encode the registered apps: %w", err)
	}
	if err := os.WriteFile(c.file+".new", content, 0o600); err != nil {
		return fmt.Errorf("write the registered apps: %w", err)
	}
	if err := os.Rename(c.file+".new", c.file); err != nil { // never half a file
		return fmt.Errorf("write the registered apps: %w", err)
	}
	return nil
}

// registered returns what register returned, by app.
func (c *channel) registered() map[string]json.RawMessage {
	c.mu.Lock()
	defer c.mu.Unlock()
	apps := make(map[string]json.RawMessage, len(c.apps))
	for name, document := range c.apps {
		apps[name] = document
	}
	return apps
}
