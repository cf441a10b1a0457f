package postgres

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// ErrInUse means that another process that lives holds the data folder.
var ErrInUse = errors.New("the data folder is in use by another process")

// resolve makes the folder above dataDir and returns the absolute path of dataDir without symbolic links, as it stands in
// the command line of a postmaster.
func resolve(dataDir string) (string, error) {
	if dataDir == "" {
		return "", errors.New("no data folder given")
	}
	abs, err := filepath.Abs(dataDir)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(abs), 0o755); err != nil {
		return "", fmt.Errorf("make the folder above the data folder: %w", err)
	}
	if target, err := filepath.EvalSymlinks(abs); err == nil {
		return target, nil
	}
	parent, err := filepath.EvalSymlinks(filepath.Dir(abs))
	if err != nil {
		return "", err
	}
	return filepath.Join(parent, filepath.Base(abs)), nil
}

// lock takes dataDir for this process. The kernel gives it up when the process ends, however it ends; PostgreSQL does not
// inherit it. The lock lies beside the data folder, because initdb wants that empty.
func lock(dataDir string) (*os.File, error) {
	f, err := os.OpenFile(dataDir+".lock", os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the data folder: %w", err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = fmt.Errorf("%w: %s", ErrInUse, dataDir)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// majorOfData returns the version that made the data folder, 0 if there is no cluster in it yet.
func majorOfData(dataDir string) (int, error) {
	text, err := os.ReadFile(filepath.Join(dataDir, "PG_VERSION"))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("version of the data folder: %w", err)
	}
	major, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("version of the data folder: %w", err)
	}
	return major, nil
}

// initialize makes a new cluster. It does so in a folder beside, which takes dataDir's place in one step when it is
// complete: a crash in the middle leaves no half cluster.
func initialize(ctx context.Context, binDir, dataDir string, as account) error {
	parent, prefix := filepath.Dir(dataDir), filepath.Base(dataDir)+".initdb-"
	if err := removePrefixed(parent, prefix); err != nil {
		return fmt.Errorf("remove what a killed initdb left: %w", err)
	}
	// The name is new each time: an initdb whose parent was killed may still run, in its own folder.
	fresh, err := os.MkdirTemp(parent, prefix+"*")
	if err != nil {
		return fmt.Errorf("make the data folder: %w", err)
	}
	if err := ownFolder(fresh, as); err != nil {
		return fmt.Errorf("give the data folder to %s: %w", as.name, err)
	}
	// trust is for the socket alone, which lies in a folder that nobody but this user and root can enter.
	cmd := command(ctx, binDir, "initdb", as, "-D", fresh, "-U", superuser, "--encoding=UTF8", "--no-locale",
		"--data-checksums", "--auth-local=trust", "--auth-host=scram-sha-256", "--no-instructions")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return errors.Join(fmt.Errorf("initdb: %w: %s", err, bytes.TrimSpace(out.Bytes())), os.RemoveAll(fresh))
	}
	// Go's Rename refuses an empty folder in the place, rename(2) does not.
	if err := syscall.Rename(fresh, dataDir); err != nil {
		return fmt.Errorf("put the new data folder in place, which must not be a mount point: %w", err)
	}
	return nil
}

func removePrefixed(dir, prefix string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), prefix) {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, entry.Name())))
		}
	}
	return errors.Join(errs...)
}

// command is a program of PostgreSQL that runs as the account. Its environment holds nothing of ours: no PG* variables
// that would change what it does, no secrets.
func command(ctx context.Context, binDir, name string, as account, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(binDir, name), args...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
	if libraries := os.Getenv("LD_LIBRARY_PATH"); libraries != "" {
		cmd.Env = append(cmd.Env, "LD_LIBRARY_PATH="+libraries)
	}
	cmd.SysProcAttr = as.sysProcAttr()
	return cmd
}

func ownFolder(dir string, as account) error {
	f, err := os.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	return errors.Join(as.own(f), f.Close())
}

// longestSocket is the longest path of a unix socket, in bytes.
const longestSocket = 107

// socketFolder returns where the socket lies: in the data folder, which is closed to others, unless that path is too long
// for a socket or holds what unix_socket_directories takes for a separator.
func socketFolder(dataDir string, port int) string {
	if len(socketPath(dataDir, port)) <= longestSocket && !strings.ContainsAny(dataDir, `,"`) {
		return dataDir
	}
	return fmt.Sprintf("/tmp/halley-pg-%x", sha256.Sum256([]byte(dataDir)))[:len("/tmp/halley-pg-")+16]
}

func socketPath(dir string, port int) string {
	return filepath.Join(dir, ".s.PGSQL."+strconv.Itoa(port))
}

// ensureSocketFolder makes a socket folder that only the account (and root) can enter, and refuses one that somebody else
// put there first: whoever may enter it is a superuser of the database.
func ensureSocketFolder(dir string, as account) error {
	err := os.Mkdir(dir, 0o700)
	if err == nil {
		err = ownFolder(dir, as)
	}
	if err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make the socket folder: %w", err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("socket folder: %w", err)
	}
	if !info.IsDir() || ownerOf(info) != as.uid || info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("the socket folder %s is not a folder of %s with mode 0700: remove it", dir, as.name)
	}
	return nil
}
