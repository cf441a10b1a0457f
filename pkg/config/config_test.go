package config_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/halleypush/halley/pkg/config"
)

type pool struct {
	Size int `yaml:"size" env:"SIZE" default:"4" doc:"connections"`
}

type service struct {
	Listen       string        `yaml:"listen" env:"LISTEN" default:":8080" doc:"address to listen on"`
	Wait         time.Duration `yaml:"wait" env:"WAIT" default:"30s" doc:"how long"`
	On           bool          `yaml:"on" env:"ON" doc:"whether"`
	Names        []string      `yaml:"names" env:"NAMES" doc:"which"`
	Password     config.Secret `yaml:"password" env:"PASSWORD" doc:"the password"`
	PasswordFile string        `yaml:"password_file" env:"PASSWORD_FILE" doc:"a file with the password"`
	Pool         pool          `yaml:"pool" env:"POOL"`
	Code         func()        `yaml:"-"`
}

func (s *service) Validate() error {
	if s.Pool.Size < 1 {
		return errors.New("pool.size must be at least 1")
	}
	return nil
}

func write(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTheEnvironmentBeatsTheFileBeatsTheDefault(t *testing.T) {
	t.Setenv("HALLEY_POOL_SIZE", "9")
	t.Setenv("HALLEY_NAMES", "a,b")
	var s service
	if err := config.Load(write(t, "listen: :1\npool: {size: 5}\non: true\n"), &s); err != nil {
		t.Fatal(err)
	}
	if s.Listen != ":1" || s.Wait != 30*time.Second || s.Pool.Size != 9 || !s.On || len(s.Names) != 2 {
		t.Errorf("got %+v", s)
	}
}

func TestMistakesAreNamed(t *testing.T) {
	for name, c := range map[string]struct{ file, env, want string }{
		"unknown key":        {"listne: :1\n", "", "line 1: field listne not found"},
		"unknown nested key": {"pool: {sise: 1}\n", "", "field sise not found"},
		"second document":    {"on: true\n---\non: false\n", "", "more behind the first YAML document"},
		"wrong type":         {"wait: soon\n", "", "soon"},
		"wrong environment":  {"", "soon", "HALLEY_WAIT: must be a duration such as 30s"},
		"invalid":            {"pool: {size: -1}\n", "", "pool.size must be at least 1"},
		"secret twice":       {"password: a\npassword_file: b\n", "", "set password or password_file, not both"},
		"no secret file":     {"password_file: /does/not/exist\n", "", "password_file: open /does/not/exist: no such file or directory; the file holds: the password"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.env != "" {
				t.Setenv("HALLEY_WAIT", c.env)
			}
			err := config.Load(write(t, c.file), &service{})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestSecretsComeFromFilesAndAreNotShown(t *testing.T) {
	t.Parallel()
	var s service
	if err := config.Load(write(t, "password_file: "+write(t, "hunter2\n")), &s); err != nil {
		t.Fatal(err)
	}
	if s.Password.Reveal() != "hunter2" {
		t.Errorf("Reveal() = %q", s.Password.Reveal())
	}
	encoded, err := json.Marshal(struct{ P config.Secret }{s.Password})
	if err != nil {
		t.Fatal(err)
	}
	if shown := fmt.Sprintf("%v %+v %#v %s %s", s, s, s.Password, s.Password, encoded); strings.Contains(shown, "hunter2") {
		t.Errorf("shown in %s", shown)
	}
}

func TestDescribeListsEveryKey(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := config.Describe(&out, &service{}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "pool.size                            connections (default 4) [HALLEY_POOL_SIZE]\n") {
		t.Errorf("got\n%s", out.String())
	}
}
