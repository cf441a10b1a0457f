package postgres

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// pingTimeout bounds one attempt to connect.
	pingTimeout = 2 * time.Second
	// SQLSTATEs of CREATE DATABASE when the name is taken; the second when two make it at the same time.
	duplicateDatabase = "42P04"
	uniqueViolation   = "23505"
)

// DSN is the address, for pgx, of the database "postgres", as the superuser over the unix socket. It holds no secret.
func (c *Cluster) DSN() string { return c.DatabaseDSN("postgres") }

// DatabaseDSN is DSN for another database.
func (c *Cluster) DatabaseDSN(name string) string {
	query := url.Values{"host": {c.socketDir}, "port": {strconv.Itoa(c.port)}}
	dsn := url.URL{Scheme: "postgres", User: url.User(superuser), Path: "/" + name, RawQuery: query.Encode()}
	return dsn.String()
}

// CreateDatabase makes a database, unless there is one of that name.
func (c *Cluster) CreateDatabase(ctx context.Context, name string) error {
	err := c.exec(ctx, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize())
	var failed *pgconn.PgError
	if errors.As(err, &failed) && (failed.Code == duplicateDatabase || failed.Code == uniqueViolation) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("make database %s: %w", name, err)
	}
	return nil
}

// ping tells whether the server accepts connections.
func (c *Cluster) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	return c.exec(ctx, "SELECT 1")
}

// exec runs one statement over a connection of its own.
func (c *Cluster) exec(ctx context.Context, statement string) (err error) {
	conn, err := pgx.Connect(ctx, c.DSN())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	_, err = conn.Exec(ctx, statement)
	return err
}

// setPassword gives the superuser the password of the password file, for TCP, and makes that file if there is none.
func (c *Cluster) setPassword(ctx context.Context) error {
	password, err := os.ReadFile(c.PasswordFile())
	if errors.Is(err, os.ErrNotExist) {
		password = []byte(rand.Text())
		err = writeSecret(c.PasswordFile(), password)
	}
	if err != nil {
		return fmt.Errorf("password file: %w", err)
	}
	literal := strings.ReplaceAll(string(bytes.TrimSpace(password)), "'", "''")
	if err := c.exec(ctx, "ALTER ROLE "+superuser+" PASSWORD '"+literal+"'"); err != nil {
		return fmt.Errorf("set the superuser's password: %w", err)
	}
	return nil
}

// writeSecret makes a file that only its owner reads, whole or not at all.
func writeSecret(path string, secret []byte) error {
	fresh := path + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	f, err := os.OpenFile(fresh, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(secret, '\n'))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(fresh, path)
}
