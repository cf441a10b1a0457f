package pressure

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// container is the cgroup whose memory limit binds the process: its own, or one above it. The zero value: there is none.
type container struct {
	dir    string
	limit  uint64 // bytes
	legacy bool   // cgroup v1
}

// findContainer looks for the container in the file system below root.
func findContainer(root string) container {
	own, mount, legacy := ownCgroup(root)
	name := "memory.max"
	if legacy {
		name = "memory.limit_in_bytes"
	}
	var least container
	for dir := own; dir != ""; dir = filepath.Dir(dir) {
		// "max", and numbers near the largest, mean none.
		limit, err := strconv.ParseUint(strings.TrimSpace(read(dir, name)), 10, 64)
		if err == nil && limit < 1<<50 && (least.limit == 0 || limit < least.limit) {
			least = container{dir, limit, legacy}
		}
		if dir == mount {
			break
		}
	}
	return least
}

// ownCgroup returns the folder of the process's memory cgroup, and that of the file system in which it stands; empty: there is none.
func ownCgroup(root string) (dir, mount string, legacy bool) {
	var path string
	for line := range strings.Lines(read(root, "proc/self/cgroup")) { // hierarchy:controllers:path
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) < 3 {
			continue
		}
		if slices.Contains(strings.Split(fields[1], ","), "memory") {
			path, legacy = fields[2], true
			break
		}
		if fields[1] == "" {
			path = fields[2]
		}
	}
	for line := range strings.Lines(read(root, "proc/self/mountinfo")) { // … root mount-point … - type source options
		before, after, _ := strings.Cut(line, " - ")
		where, what := strings.Fields(before), strings.Fields(after)
		if path == "" || len(where) < 5 || len(what) < 3 {
			continue
		}
		if legacy && (what[0] != "cgroup" || !slices.Contains(strings.Split(what[2], ","), "memory")) || !legacy && what[0] != "cgroup2" {
			continue
		}
		mount = filepath.Join(root, where[4])
		below, err := filepath.Rel(where[3], path)
		if err != nil || strings.HasPrefix(below, "..") { // a container that sees its own part alone
			below = "."
		}
		return filepath.Join(mount, below), mount, legacy
	}
	return "", "", false
}

// charged returns what the container is charged for, in bytes: also the kernel's structures for sockets, and what waits in them.
// Files that nobody reads now do not count, as the kernel drops them before it kills.
func (c container) charged() uint64 {
	usage, cache := "memory.current", "inactive_file"
	if c.legacy {
		usage, cache = "memory.usage_in_bytes", "total_inactive_file"
	}
	total, _ := strconv.ParseUint(strings.TrimSpace(read(c.dir, usage)), 10, 64)
	for line := range strings.Lines(read(c.dir, "memory.stat")) {
		if name, value, _ := strings.Cut(strings.TrimSpace(line), " "); name == cache {
			files, _ := strconv.ParseUint(value, 10, 64)
			total -= min(files, total)
		}
	}
	return total
}

// read returns a file's text, empty where there is none: not Linux, or not in a container.
func read(dir, name string) string {
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return ""
	}
	return string(text)
}
