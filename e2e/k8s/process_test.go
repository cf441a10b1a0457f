//go:build k8s

package k8s_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/halleypush/halley/e2e/rig"
)

// kill kills the first process of a pod's container with SIGKILL, from the node, and waits until the kubelet has started the container
// again. The test runs on the node, or sees its processes.
func (c *cluster) kill(t *testing.T, component string, victim pod) {
	t.Helper()
	container, restarts := victim.container()
	pid, err := firstProcess(container)
	if err != nil {
		t.Fatalf("%s: %v", victim.Metadata.Name, err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatalf("kill %s: %v", victim.Metadata.Name, err)
	}
	begun := time.Now()
	rig.Until(t, 2*time.Minute, victim.Metadata.Name+" is started again", func() error {
		pods, err := c.pods(t.Context(), component)
		if err != nil {
			return err
		}
		for _, p := range pods {
			if _, now := p.container(); p.Metadata.Name == victim.Metadata.Name && now == restarts+1 && p.ready() {
				return nil
			}
		}
		return errors.New("it is not")
	})
	t.Logf("%s killed with SIGKILL, ready again after %v", victim.Metadata.Name, time.Since(begun).Round(100*time.Millisecond))
}

// firstProcess returns the process id, here, of the process that is 1 inside a container.
func firstProcess(container string) (int, error) {
	groups, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		return 0, err
	}
	for _, group := range groups {
		text, err := os.ReadFile(group)
		if err != nil || container == "" || !strings.Contains(string(text), container) {
			continue // it has ended, or belongs elsewhere
		}
		process := filepath.Dir(group)
		status, err := os.ReadFile(filepath.Join(process, "status"))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(status)) {
			if ids := strings.Fields(line); len(ids) > 2 && ids[0] == "NSpid:" && ids[len(ids)-1] == "1" {
				return strconv.Atoi(filepath.Base(process))
			}
		}
	}
	return 0, fmt.Errorf("container %q has no process here: the test has to run on the node", container)
}
