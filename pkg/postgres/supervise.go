package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

const (
	// firstWait and longestWait bound the pause before a server that died is started again; it doubles each time.
	firstWait   = 100 * time.Millisecond
	longestWait = 10 * time.Second
	// healthyAfter is how long a server must have run for the pause to begin at firstWait again.
	healthyAfter = time.Minute
	// pollReady is how often a starting server is asked whether it accepts connections.
	pollReady = 50 * time.Millisecond
	// logTail is how much of PostgreSQL's log goes into an error, in bytes.
	logTail = 2048
)

// run adopts or launches the server, waits until it is ready, and leaves it to the supervisor.
func (c *Cluster) run(ctx context.Context, tcp bool) error {
	adopted, err := c.adopt(ctx)
	if err != nil {
		return err
	}
	server := adopted
	if server == nil {
		if server, err = c.launch(ctx); err != nil {
			return err
		}
	} else if err := c.ready(ctx, server, 0); err != nil {
		return fmt.Errorf("adopted pid %d: %w", server.process.Pid, err)
	}
	if tcp {
		if err := c.setPassword(ctx); err != nil {
			return errors.Join(err, server.kill())
		}
	}
	c.current = server
	supervised, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c.cancel = cancel
	go c.supervise(supervised, server)
	return nil
}

// adopt returns the server that a killed parent left, if it runs as we want it to. One with other settings is stopped, and
// so is one whose socket is gone: a clean-up of /tmp removes it.
func (c *Cluster) adopt(ctx context.Context) (*postmaster, error) {
	left, args, err := adopt(c.dataDir, c.account.uid)
	if err != nil || left == nil {
		return nil, err
	}
	_, noSocket := os.Stat(socketPath(c.socketDir, c.port))
	if slices.Equal(args, c.args) && noSocket == nil {
		c.log.Info("adopted a running PostgreSQL", "pid", left.process.Pid, "folder", c.dataDir)
		return left, nil
	}
	c.log.Info("restarting a running PostgreSQL, because its settings differ or its socket is gone", "pid", left.process.Pid, "folder", c.dataDir)
	return nil, left.stop(ctx)
}

// launch starts a server and returns when it accepts connections. If it does not, none is left running.
func (c *Cluster) launch(ctx context.Context) (*postmaster, error) {
	if c.socketDir != c.dataDir {
		if err := ensureSocketFolder(c.socketDir, c.account); err != nil {
			return nil, err
		}
	}
	if err := disownPIDFile(c.dataDir); err != nil {
		return nil, err
	}
	// The socket's lock names the same pid. The data folder's is the one that counts.
	if err := os.RemoveAll(socketPath(c.socketDir, c.port) + ".lock"); err != nil {
		return nil, fmt.Errorf("remove a leftover lock: %w", err)
	}
	out, err := c.openLog()
	if err != nil {
		return nil, err
	}
	defer out.Close() // the child has its own copy
	said, err := out.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, fmt.Errorf("end of PostgreSQL's log: %w", err)
	}
	cmd := command(context.WithoutCancel(ctx), c.binDir, "postgres", c.account, c.args...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("run %s as %s: %w", cmd.Path, c.account.name, err)
	}
	server := launched(cmd)
	if err := c.ready(ctx, server, said); err != nil {
		return nil, errors.Join(err, server.kill())
	}
	c.log.Info("PostgreSQL accepts connections", "pid", server.process.Pid, "folder", c.dataDir)
	return server, nil
}

// ready waits until the server accepts connections, has ended, or ctx ends. said is how long the log was before it.
func (c *Cluster) ready(ctx context.Context, server *postmaster, said int64) error {
	tick := time.NewTicker(pollReady)
	defer tick.Stop()
	for {
		err := c.ping(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-server.exited:
			return fmt.Errorf("PostgreSQL ended (%w); its log says: %s", server.reason, c.logSince(said))
		case <-ctx.Done():
			return fmt.Errorf("PostgreSQL does not accept connections: %w: %w", ctx.Err(), err)
		}
	}
}

// logSince returns the end of what PostgreSQL logged after its log had the given length.
func (c *Cluster) logSince(length int64) string {
	f, err := os.Open(c.LogFile())
	if err != nil {
		return err.Error()
	}
	defer f.Close() // only read
	info, err := f.Stat()
	if err != nil {
		return err.Error()
	}
	start := max(length, info.Size()-logTail)
	text, err := io.ReadAll(io.NewSectionReader(f, start, logTail))
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(text))
}

// supervise starts the server again whenever it dies, until ctx ends.
func (c *Cluster) supervise(ctx context.Context, server *postmaster) {
	defer close(c.supervised)
	for {
		since := time.Now()
		select {
		case <-ctx.Done():
			return
		case <-server.exited:
		}
		c.setCurrent(nil)
		c.log.Error("PostgreSQL died", "pid", server.process.Pid, "reason", server.reason, "log", c.LogFile())
		wait := firstWait
		if time.Since(since) < healthyAfter {
			wait = min(2*c.lastWait, longestWait)
		}
		if server = c.relaunch(ctx, max(wait, firstWait)); server == nil {
			return
		}
		c.setCurrent(server)
	}
}

// relaunch tries until a server runs, with longer and longer pauses that begin at wait. It returns nil when ctx ends.
func (c *Cluster) relaunch(ctx context.Context, wait time.Duration) *postmaster {
	for ; ; wait = min(2*wait, longestWait) {
		c.lastWait = wait
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		server, err := c.launch(ctx)
		if err == nil {
			return server
		}
		if ctx.Err() == nil {
			c.log.Error("PostgreSQL does not start again", "error", err, "next_try_in", min(2*wait, longestWait))
		}
	}
}

func (c *Cluster) setCurrent(server *postmaster) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.current = server
}

// Stop shuts PostgreSQL down: open transactions are rolled back, connections closed, all is saved. It returns when the
// server is gone. When ctx ends first, the server stops at once, unsaved, which the next Start recovers from; Stop then
// returns the context's error. A second Stop waits for the first and returns the same.
func (c *Cluster) Stop(ctx context.Context) error {
	c.stopOnce.Do(func() {
		c.cancel()
		<-c.supervised // soon: whatever the supervisor waits for ends with its context
		errs := []error{}
		if c.current != nil {
			errs = append(errs, c.current.stop(ctx))
		}
		c.setCurrent(nil)
		if c.socketDir != c.dataDir {
			errs = append(errs, os.RemoveAll(c.socketDir))
		}
		if err := errors.Join(append(errs, c.lock.Close())...); err != nil {
			c.stopErr = fmt.Errorf("stop PostgreSQL in %s: %w", c.dataDir, err)
		}
	})
	return c.stopErr
}
