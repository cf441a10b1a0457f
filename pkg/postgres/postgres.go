// Package postgres finds PostgreSQL's server binaries and runs a private cluster with them, as a child that outlives a
// killed parent and is adopted by the next one. It needs Linux's /proc.
//
// Who may connect: over the unix socket everybody who can enter its folder is the superuser, without a password. That
// folder has mode 0700 and belongs to the user that PostgreSQL runs as; so it is this user and root, which can read the
// data files anyway. A password would add nothing but a secret to keep. Over TCP, if a port is asked for, PostgreSQL
// listens on 127.0.0.1, which all users of the machine reach: there it wants the password in Cluster.PasswordFile.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
)

const (
	// superuser is the database role that owns the cluster.
	superuser = "postgres"
	// socketPort is in the name of the socket when there is no TCP port.
	socketPort = 5432
	// logFile is PostgreSQL's own log, in the data folder. It is not rotated.
	logFile = "postgres.log"
)

// Options say where a cluster lies and how it runs.
type Options struct {
	// DataDir is PostgreSQL's data folder. It is made if absent or empty; the folders above it must be passable for User.
	// <DataDir>.lock and .password lie beside it.
	DataDir string
	// BinDir holds postgres and initdb. Empty: Find, for the version that made DataDir.
	BinDir string
	// User is whom root becomes. Empty: the owner of DataDir if there is a cluster in it, else "postgres" if there is such
	// a user, else "nobody". Not root: must be empty or ourselves.
	User string
	// Port is where to listen on 127.0.0.1; 0 is the unix socket only.
	Port int
	// Settings are parameters of postgresql.conf that differ from Halley's defaults (see defaults). Those that name places,
	// and those that make a commit durable, are refused.
	Settings map[string]string
	// Log tells of starts, adoptions, ends and restarts. Nil: slog.Default.
	Log *slog.Logger
}

// defaults returns the settings that an Options may change.
func defaults() map[string]string {
	return map[string]string{
		"shared_buffers":  "128MB",
		"max_connections": "200",
		"wal_compression": "on",
		"max_wal_size":    "2GB",
		"log_line_prefix": "%m [%p] %d ",
	}
}

// fixed returns the settings that nobody may change: places that Start must know, and what "durable" rests on.
func fixed(socketDir string, port int) map[string]string {
	return map[string]string{
		"unix_socket_directories": socketDir,
		"port":                    strconv.Itoa(port),
		"listen_addresses":        "",
		"fsync":                   "on",
		"synchronous_commit":      "on",
		"full_page_writes":        "on",
		"logging_collector":       "off",
		"log_destination":         "stderr",
	}
}

// Cluster is a running PostgreSQL server. Its methods may be called from several goroutines.
type Cluster struct {
	// fixed after Start
	dataDir   string
	binDir    string
	socketDir string
	port      int
	account   account
	args      []string
	log       *slog.Logger
	lock      *os.File

	// cancel ends the supervisor, which then closes supervised.
	cancel     context.CancelFunc
	supervised chan struct{}
	stopOnce   sync.Once
	stopErr    error

	// owned by the supervisor: the pause before the last restart
	lastWait time.Duration

	mu      sync.Mutex
	current *postmaster // the server that runs; nil between two
}

// Start runs the cluster in DataDir and returns when it accepts connections. It makes the cluster first if the folder is
// empty. A server that a killed parent left running is adopted, or restarted if its settings differ. ctx bounds Start
// alone; recovery after a crash can take minutes. A server that dies later is started again until Stop.
//
// Errors: ErrNotFound; ErrInUse if another living process holds the folder; others name the folder or what PostgreSQL said.
func Start(ctx context.Context, o Options) (_ *Cluster, err error) {
	c, err := open(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("start PostgreSQL: %w", err)
	}
	if err := c.run(ctx, o.Port != 0); err != nil {
		return nil, errors.Join(fmt.Errorf("start PostgreSQL in %s: %w", c.dataDir, err), c.lock.Close())
	}
	return c, nil
}

// open takes the folder and makes it ready to run.
func open(ctx context.Context, o Options) (_ *Cluster, err error) {
	c := &Cluster{log: o.Log, port: o.Port, supervised: make(chan struct{})}
	if c.log == nil {
		c.log = slog.Default()
	}
	if c.port == 0 {
		c.port = socketPort
	}
	if c.dataDir, err = resolve(o.DataDir); err != nil {
		return nil, err
	}
	if c.account, err = accountFor(o.User, c.dataDir); err != nil {
		return nil, err
	}
	if err := c.account.reaches(filepath.Dir(c.dataDir)); err != nil {
		return nil, err
	}
	c.socketDir = socketFolder(c.dataDir, c.port)
	if c.args, err = arguments(c.dataDir, c.socketDir, c.port, o); err != nil {
		return nil, err
	}
	if c.lock, err = lock(c.dataDir); err != nil {
		return nil, err
	}
	if err := c.prepare(ctx, o.BinDir); err != nil {
		return nil, errors.Join(err, c.lock.Close())
	}
	return c, nil
}

// prepare finds the binaries and makes the cluster if there is none.
func (c *Cluster) prepare(ctx context.Context, binDir string) error {
	major, err := majorOfData(c.dataDir)
	if err != nil {
		return err
	}
	if binDir == "" {
		binDir, err = findMajor(major)
	} else {
		err = usable(binDir, major)
	}
	if err != nil {
		return err
	}
	if c.binDir, err = filepath.EvalSymlinks(binDir); err != nil {
		return fmt.Errorf("folder of the binaries: %w", err)
	}
	if c.binDir, err = filepath.Abs(c.binDir); err != nil {
		return fmt.Errorf("folder of the binaries: %w", err)
	}
	if err := c.account.reaches(c.binDir); err != nil {
		return err
	}
	if major != 0 {
		return nil
	}
	c.log.Info("making a PostgreSQL cluster", "folder", c.dataDir, "user", c.account.name, "binaries", c.binDir)
	return initialize(ctx, c.binDir, c.dataDir, c.account)
}

// settingName is what may stand in Options.Settings.
var settingName = regexp.MustCompile(`^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)?$`)

// arguments are the postmaster's. Settings go there, not into a file, because there they win over postgresql.conf and
// ALTER SYSTEM, and because /proc shows what an adopted server runs with.
func arguments(dataDir, socketDir string, port int, o Options) ([]string, error) {
	settings, kept := defaults(), fixed(socketDir, port)
	if o.Port != 0 {
		kept["listen_addresses"] = "127.0.0.1"
	}
	for name, value := range o.Settings {
		_, refused := kept[name]
		switch {
		case !settingName.MatchString(name):
			return nil, fmt.Errorf("setting %q: not a name in small letters", name)
		case refused, name == "data_directory", name == "config_file", name == "hba_file", name == "ident_file", name == "external_pid_file":
			return nil, fmt.Errorf("setting %s: is not for you to change", name)
		}
		settings[name] = value
	}
	maps.Copy(settings, kept)
	args := []string{"-D", dataDir}
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		args = append(args, "-c", name+"="+settings[name])
	}
	return args, nil
}

// PID returns the process id of the postmaster, 0 while there is none.
func (c *Cluster) PID() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current == nil {
		return 0
	}
	return c.current.process.Pid
}

// PasswordFile names the file with the superuser's password for TCP, mode 0600. It exists only if a Port was asked for. A
// Start without the file makes a new password.
func (c *Cluster) PasswordFile() string { return c.dataDir + ".password" }

// LogFile names PostgreSQL's own log.
func (c *Cluster) LogFile() string { return filepath.Join(c.dataDir, logFile) }

// Kill ends PostgreSQL and all its processes at once with SIGKILL, as a crash would: for tests of faults. It returns when
// the postmaster is gone; the cluster starts it again by itself, as after any other death.
func (c *Cluster) Kill() error {
	c.mu.Lock()
	current := c.current
	c.mu.Unlock()
	if current == nil {
		return errors.New("kill PostgreSQL: it does not run")
	}
	if err := current.kill(); err != nil {
		return fmt.Errorf("kill PostgreSQL: %w", err)
	}
	return nil
}

// StopAbandoned stops the server that a killed parent left running in dataDir, if there is one, and returns when it is
// gone. It needs no binaries. Errors: ErrInUse if the parent lives; the context's, as Cluster.Stop.
func StopAbandoned(ctx context.Context, dataDir string) error {
	info, err := os.Stat(dataDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("stop an abandoned PostgreSQL: %w", err)
	}
	if dataDir, err = resolve(dataDir); err != nil {
		return err
	}
	held, err := lock(dataDir)
	if err != nil {
		return err
	}
	defer held.Close() // only releases the lock
	left, _, err := adopt(dataDir, ownerOf(info))
	if err != nil || left == nil {
		return err
	}
	return left.stop(ctx)
}

// openLog opens PostgreSQL's log for appending. The folder is PostgreSQL's, so a link in it must not lead root elsewhere.
func (c *Cluster) openLog() (*os.File, error) {
	f, err := os.OpenFile(c.LogFile(), os.O_WRONLY|os.O_APPEND|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open PostgreSQL's log: %w", err)
	}
	if err := c.account.own(f); err != nil {
		return nil, errors.Join(fmt.Errorf("give PostgreSQL its log: %w", err), f.Close())
	}
	return f, nil
}
