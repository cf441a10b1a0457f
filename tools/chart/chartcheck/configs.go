package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"go.yaml.in/yaml/v3"
)

// configMap is what is looked at of a rendered resource.
type configMap struct {
	Kind     string
	Metadata struct{ Labels map[string]string }
	Data     map[string]string
}

// writeConfigs writes the services' configurations of a rendered chart into a folder, each as its component's name and .yaml.
func writeConfigs(rendered, folder string) error {
	file, err := os.Open(rendered)
	if err != nil {
		return err
	}
	defer file.Close()
	found := 0
	for decoder := yaml.NewDecoder(file); ; {
		var resource configMap
		err := decoder.Decode(&resource)
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return fmt.Errorf("%s: %w", rendered, err)
		}
		text := resource.Data["config.yaml"]
		if resource.Kind != "ConfigMap" || text == "" {
			continue
		}
		found++
		name := resource.Metadata.Labels["app.kubernetes.io/component"] + ".yaml"
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	if found == 0 {
		return fmt.Errorf("%s has no configurations", rendered)
	}
	return nil
}
