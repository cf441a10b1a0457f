package postgrestest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/halleypush/halley/pkg/postgres"
)

// folderPrefix begins the name of a test process's folder; its pid and something random follow.
const folderPrefix = "halley-pgtest-"

// cluster is the private cluster of this process, in a temporary folder.
type cluster struct {
	folder   string
	postgres *postgres.Cluster
}

func dataDir(folder string) string { return filepath.Join(folder, "data") }

func startCluster(ctx context.Context) (*cluster, error) {
	if err := removeDead(ctx, os.TempDir()); err != nil {
		return nil, fmt.Errorf("remove the clusters of killed test runs: %w", err)
	}
	folder, err := os.MkdirTemp("", fmt.Sprintf("%s%d-*", folderPrefix, os.Getpid()))
	if err != nil {
		return nil, fmt.Errorf("folder for the cluster: %w", err)
	}
	// PostgreSQL runs as another user if we are root, and must get to its data folder, which is closed to all others.
	if err := os.Chmod(folder, 0o711); err != nil {
		return nil, errors.Join(fmt.Errorf("folder for the cluster: %w", err), os.RemoveAll(folder))
	}
	running, err := postgres.Start(ctx, postgres.Options{DataDir: dataDir(folder), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(folder))
	}
	return &cluster{folder: folder, postgres: running}, nil
}

func (c *cluster) close(ctx context.Context) error {
	return errors.Join(c.postgres.Stop(ctx), os.RemoveAll(c.folder))
}

// removeDead stops and removes the clusters in dir whose test process was killed. One is dead if its pid is gone and
// nobody holds its data folder: the pid alone says little where containers share /tmp, and the lock alone is not yet taken
// while a cluster is being made. Clusters of other users are left to them. One process at a time does it, those that come
// meanwhile go on without.
func removeDead(ctx context.Context, dir string) error {
	sweeper, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer sweeper.Close() // only releases the lock
	err = syscall.Flock(int(sweeper.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", dir, err)
	}
	entries, err := sweeper.ReadDir(-1)
	if err != nil {
		return err
	}
	var errs []error
	for _, entry := range entries {
		rest, found := strings.CutPrefix(entry.Name(), folderPrefix)
		number, _, _ := strings.Cut(rest, "-")
		pid, err := strconv.Atoi(number)
		if !found || err != nil || pid == os.Getpid() || lives(pid) || !mine(entry) {
			continue
		}
		folder := filepath.Join(dir, entry.Name())
		err = postgres.StopAbandoned(ctx, dataDir(folder))
		if errors.Is(err, postgres.ErrInUse) {
			continue
		}
		if err == nil {
			err = os.RemoveAll(folder)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func lives(pid int) bool { return !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }

func mine(entry os.DirEntry) bool {
	info, err := entry.Info()
	return err == nil && int(info.Sys().(*syscall.Stat_t).Uid) == os.Geteuid()
}
