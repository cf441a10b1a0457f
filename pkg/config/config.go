// Package config reads a service's configuration: defaults from the struct, then a YAML file, then the environment.
//
// A configuration is a struct with tags: yaml:"name" for the file, env:"NAME" for the environment (the variable is
// HALLEY_NAME, and env:"NAME,prefix" on a nested struct puts NAME_ before its fields), default:"value", and doc:"text" for
// the reference. A secret of type Secret is better given as a file: a key that ends in _file holds the path.
package config

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"reflect"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Prefix starts the name of every environment variable.
const Prefix = "HALLEY_"

// Validator is a configuration that can say what is wrong with it.
type Validator interface{ Validate() error }

// Load fills cfg, a pointer to a struct: with its defaults, with the YAML file if path is not empty, with the environment,
// and with secrets from their files. Unknown keys in the file are refused. A Validator is asked at the end.
func Load(path string, cfg any) error {
	if err := Defaults(cfg); err != nil {
		return err
	}
	if path != "" {
		content, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read configuration: %w", err)
		}
		decoder := yaml.NewDecoder(bytes.NewReader(content))
		decoder.KnownFields(true)
		if err := decoder.Decode(cfg); err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("configuration %s: %w", path, err)
		}
		if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
			return fmt.Errorf("configuration %s: there is more behind the first YAML document", path)
		}
	}
	if err := each(cfg, fromEnvironment); err != nil {
		return err
	}
	if err := each(cfg, readSecretFile); err != nil {
		return err
	}
	if v, ok := cfg.(Validator); ok {
		if err := v.Validate(); err != nil {
			return fmt.Errorf("configuration: %w", err)
		}
	}
	return nil
}

// Defaults fills what is zero in cfg, a pointer to a struct, with its defaults.
func Defaults(cfg any) error {
	return each(cfg, func(f field) error {
		text, ok := f.tag.Lookup("default")
		if !ok || !f.value.IsZero() {
			return nil
		}
		if err := set(f.value, text); err != nil {
			return fmt.Errorf("default of %s: %w", f.yaml, err)
		}
		return nil
	})
}

// Describe lists the keys of cfg with their environment variables, defaults and meaning, a line each.
func Describe(w io.Writer, cfg any) error {
	return each(cfg, func(f field) error {
		line := fmt.Sprintf("%-36s %s", f.yaml, f.tag.Get("doc"))
		if text := f.tag.Get("default"); text != "" {
			line += " (default " + text + ")"
		}
		if f.env != "" {
			line += " [" + f.env + "]"
		}
		_, err := fmt.Fprintln(w, line)
		return err
	})
}

// field is one key of a configuration.
type field struct {
	value reflect.Value
	tag   reflect.StructTag
	yaml  string        // the path in the file
	env   string        // the variable, empty if it has none
	owner reflect.Value // the struct that it is a field of
}

// each calls f for every key of the struct that cfg points to, nested ones included.
func each(cfg any, f func(field) error) error {
	v := reflect.ValueOf(cfg)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return fmt.Errorf("configuration must be a pointer to a struct, not %T", cfg)
	}
	return eachOf(v.Elem(), "", Prefix, f)
}

func eachOf(v reflect.Value, path, prefix string, f func(field) error) error {
	for i := range v.NumField() {
		sf := v.Type().Field(i)
		name, option, _ := strings.Cut(sf.Tag.Get("yaml"), ",")
		if !sf.IsExported() || name == "-" {
			continue
		}
		env, _, _ := strings.Cut(sf.Tag.Get("env"), ",")
		if sf.Type.Kind() == reflect.Struct && !isText(sf.Type) {
			inner, innerPrefix := path+name+".", prefix
			if option == "inline" {
				inner = path
			}
			if env != "" {
				innerPrefix += env + "_"
			}
			if err := eachOf(v.Field(i), inner, innerPrefix, f); err != nil {
				return err
			}
			continue
		}
		if env != "" {
			env = prefix + env
		}
		if err := f(field{value: v.Field(i), tag: sf.Tag, yaml: path + name, env: env, owner: v}); err != nil {
			return err
		}
	}
	return nil
}

func isText(t reflect.Type) bool {
	return reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

func fromEnvironment(f field) error {
	text, ok := os.LookupEnv(f.env)
	if f.env == "" || !ok {
		return nil
	}
	if err := set(f.value, text); err != nil {
		return fmt.Errorf("%s: %w", f.env, err)
	}
	return nil
}

// set parses a text into a field.
func set(v reflect.Value, text string) error {
	if t, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return t.UnmarshalText([]byte(text))
	}
	if v.Type() == reflect.TypeFor[time.Duration]() {
		d, err := time.ParseDuration(text)
		if err != nil {
			return errors.New("must be a duration such as 30s")
		}
		v.SetInt(int64(d))
		return nil
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return errors.New("must be true or false")
		}
		v.SetBool(b)
	case reflect.Int, reflect.Int32, reflect.Int64:
		n, err := strconv.ParseInt(text, 10, v.Type().Bits())
		if err != nil {
			return errors.New("must be a whole number")
		}
		v.SetInt(n)
	case reflect.Float64:
		n, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return errors.New("must be a number")
		}
		v.SetFloat(n)
	case reflect.Slice:
		if v.Type().Elem().Kind() != reflect.String {
			return fmt.Errorf("a %s cannot be set by a text", v.Type())
		}
		v.Set(reflect.ValueOf(strings.Split(text, ",")))
	default:
		return fmt.Errorf("a %s cannot be set by a text", v.Type())
	}
	return nil
}

// Secret is a text that is not shown by accident: printing, logging and encoding it give "[secret]".
type Secret string

// Reveal returns the text itself.
func (s Secret) Reveal() string { return string(s) }

// String hides the text.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "[secret]"
}

// GoString hides the text.
func (s Secret) GoString() string { return s.String() }

// MarshalText hides the text.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// LogValue hides the text.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// SecretFileError says that the file which a key names, to hold a secret, cannot be read.
type SecretFileError struct {
	Key, Path string
	Holds     string // what belongs into it, such as "token of the admin API, ak_…"
	Err       error
}

// Error says what belongs into the file.
func (e *SecretFileError) Error() string {
	return fmt.Sprintf("%s: %v; the file holds: %s", e.Key, e.Err, e.Holds)
}

// Unwrap returns why it cannot be read.
func (e *SecretFileError) Unwrap() error { return e.Err }

// readSecretFile fills the Secret X of a struct from the file that its field XFile names.
func readSecretFile(f field) error {
	if f.value.Type() != reflect.TypeFor[Secret]() {
		return nil
	}
	for i := range f.owner.NumField() {
		sf := f.owner.Type().Field(i)
		if name, _, _ := strings.Cut(sf.Tag.Get("yaml"), ","); name != lastName(f.yaml)+"_file" {
			continue
		}
		path := f.owner.Field(i).String()
		if path == "" {
			return nil
		}
		if f.value.Len() > 0 {
			return fmt.Errorf("configuration: set %s or %s_file, not both", f.yaml, f.yaml)
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return &SecretFileError{Key: f.yaml + "_file", Path: path, Holds: f.tag.Get("doc"), Err: err}
		}
		f.value.SetString(strings.TrimSpace(string(content)))
		return nil
	}
	return nil
}

func lastName(path string) string { return path[strings.LastIndexByte(path, '.')+1:] }
