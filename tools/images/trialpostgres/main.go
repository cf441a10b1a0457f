// Command trialpostgres starts the PostgreSQL of a trial: it makes the database if there is none, and becomes the server. It takes the
// server's arguments, and these variables of Docker's postgres image: PGDATA, POSTGRES_USER, POSTGRES_DB, POSTGRES_PASSWORD_FILE.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

// programs is where Debian has PostgreSQL.
const programs = "/usr/lib/postgresql/15/bin"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Getenv("PGDATA"), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "trialpostgres:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, data string, args []string) error {
	if data == "" {
		return errors.New("PGDATA is not set")
	}
	switch _, err := os.Stat(filepath.Join(data, "PG_VERSION")); {
	case errors.Is(err, fs.ErrNotExist):
		if err := create(ctx, data); err != nil {
			return fmt.Errorf("make the database: %w", err)
		}
	case err != nil:
		return fmt.Errorf("PGDATA: %w", err)
	}
	server := filepath.Join(programs, "postgres")
	if err := syscall.Exec(server, append([]string{server, "-D", data}, args...), os.Environ()); err != nil {
		return fmt.Errorf("become the server: %w", err)
	}
	return nil
}

// create makes the database beside its place and puts it there when it is whole, so that a pod that is killed meanwhile begins anew.
func create(ctx context.Context, data string) error {
	user := cmp.Or(os.Getenv("POSTGRES_USER"), "postgres")
	database := cmp.Or(os.Getenv("POSTGRES_DB"), user)
	password := os.Getenv("POSTGRES_PASSWORD_FILE")
	if password == "" {
		return errors.New("POSTGRES_PASSWORD_FILE is not set")
	}
	unfinished := data + ".new"
	if err := os.RemoveAll(unfinished); err != nil {
		return err
	}
	if err := command(ctx, "", "initdb", "-D", unfinished, "--username", user, "--pwfile", password, "--encoding", "UTF8", "--locale", "C.UTF-8",
		"--auth-local", "trust", "--auth-host", "scram-sha-256"); err != nil {
		return err
	}
	if database != "postgres" {
		create := fmt.Sprintf("CREATE DATABASE %q;\n", database) // %q: no name of ours has a character that SQL quotes in another way
		if err := command(ctx, create, "postgres", "--single", "-D", unfinished, "-c", "exit_on_error=on", "postgres"); err != nil {
			return err
		}
	}
	access, err := os.OpenFile(filepath.Join(unfinished, "pg_hba.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = access.WriteString("host all all all scram-sha-256\n")
	if err := errors.Join(err, access.Sync(), access.Close()); err != nil {
		return err
	}
	return os.Rename(unfinished, data)
}

// command runs a program of PostgreSQL with this on its standard input.
func command(ctx context.Context, input, name string, args ...string) error {
	c := exec.CommandContext(ctx, filepath.Join(programs, name), args...)
	c.Stdin, c.Stdout, c.Stderr = strings.NewReader(input), os.Stderr, os.Stderr
	if err := c.Run(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
