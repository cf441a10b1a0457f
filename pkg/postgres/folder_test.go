package postgres

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFolderThatPostgreSQLCannotPassIsNamed(t *testing.T) {
	t.Parallel()
	closed := filepath.Join(folder(t), "closed")
	if err := os.MkdirAll(filepath.Join(closed, "in"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	stranger := account{name: "stranger", uid: 65533, groups: []int{65533}}
	errs := map[string]error{"reaches": stranger.reaches(filepath.Join(closed, "in"))}
	if os.Geteuid() == 0 { // else PostgreSQL runs as ourselves, who can pass
		_, errs["Start"] = Start(t.Context(), Options{DataDir: filepath.Join(closed, "in", "data")})
	}
	for name, err := range errs {
		if err == nil || !strings.Contains(err.Error(), "cannot pass through the folder "+closed+" (mode 0700)") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFolderWithOtherFilesIsRefused(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	if err := os.WriteFile(filepath.Join(dir, "letter.txt"), []byte("dear"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Start(t.Context(), Options{DataDir: dir})
	if err == nil || !strings.Contains(err.Error(), "neither empty nor a PostgreSQL data folder") {
		t.Errorf("Start: %v", err)
	}
}

func TestEmptyFolderAndRestsOfAKilledInitdbAreNoObstacle(t *testing.T) {
	t.Parallel()
	parent := folder(t)
	rest := filepath.Join(parent, "data.initdb-123")
	for _, dir := range []string{rest, filepath.Join(parent, "data")} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(rest, "PG_VERSION"), []byte("15\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := start(t, Options{DataDir: filepath.Join(parent, "data"), Log: slog.New(slog.DiscardHandler)})
	query(t, c.DSN(), "SELECT 'ok'")
	if _, err := os.Stat(rest); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the rest of the killed initdb: %v", err)
	}
}

func TestSocketFolderOfSomebodyElseIsRefused(t *testing.T) {
	t.Parallel()
	open := filepath.Join(folder(t), "socket")
	if err := os.Mkdir(open, 0o755); err != nil {
		t.Fatal(err)
	}
	link := open + "-link"
	if err := os.Symlink(open, link); err != nil {
		t.Fatal(err)
	}
	self := account{name: "self", uid: os.Geteuid()}
	for _, dir := range []string{open, link} {
		if err := ensureSocketFolder(dir, self); err == nil {
			t.Errorf("%s is accepted", dir)
		}
	}
}

func TestSettingsThatMustNotChangeAreRefused(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"fsync", "synchronous_commit", "full_page_writes", "port", "listen_addresses",
		"unix_socket_directories", "data_directory", "config_file", "FSYNC", "a b", "",
	} {
		_, err := arguments("/d", "/d", socketPort, Options{Settings: map[string]string{name: "off"}})
		if err == nil {
			t.Errorf("setting %q is accepted", name)
		}
	}
	if _, err := arguments("/d", "/d", socketPort, Options{Settings: map[string]string{"pg_stat_statements.max": "1"}}); err != nil {
		t.Error(err)
	}
}
