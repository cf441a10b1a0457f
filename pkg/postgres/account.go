package postgres

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
)

// account is the operating system's user that PostgreSQL runs as. PostgreSQL refuses to run as root.
type account struct {
	name   string
	uid    int
	groups []int // the primary group is the first
	drop   bool  // we are root and must become this user
}

// accountFor chooses the user: ourselves, unless we are root. Then it is the one asked for, else the owner of the data
// folder if there is a cluster in it, else "postgres", else "nobody".
func accountFor(asked, dataDir string) (account, error) {
	if os.Geteuid() != 0 {
		return ownAccount(asked, dataDir)
	}
	owner, exists, err := clusterOwner(dataDir)
	if err != nil {
		return account{}, err
	}
	var found *user.User
	switch {
	case asked != "":
		found, err = user.Lookup(asked)
	case exists:
		found, err = user.LookupId(strconv.Itoa(owner))
	default:
		found, err = user.Lookup("postgres")
		if errors.As(err, new(user.UnknownUserError)) {
			found, err = user.Lookup("nobody")
		}
	}
	if err != nil {
		return account{}, fmt.Errorf("user to run PostgreSQL as: %w", err)
	}
	a, err := newAccount(found)
	if err != nil {
		return account{}, err
	}
	if a.uid == 0 {
		return account{}, fmt.Errorf("PostgreSQL does not run as root: name another user, or `chown -R` %s to one", dataDir)
	}
	if exists && owner != a.uid {
		return account{}, fmt.Errorf("%s belongs to uid %d, not to %s: `chown -R %s %s`", dataDir, owner, a.name, a.name, dataDir)
	}
	a.drop = true
	return a, nil
}

func ownAccount(asked, dataDir string) (account, error) {
	self, err := user.Current()
	if err != nil {
		return account{}, fmt.Errorf("user to run PostgreSQL as: %w", err)
	}
	if asked != "" && asked != self.Username {
		return account{}, fmt.Errorf("only root can run PostgreSQL as user %s; this is %s", asked, self.Username)
	}
	owner, exists, err := clusterOwner(dataDir)
	if err != nil {
		return account{}, err
	}
	if exists && owner != os.Geteuid() {
		return account{}, fmt.Errorf("%s belongs to uid %d, not to %s", dataDir, owner, self.Username)
	}
	return newAccount(self)
}

func newAccount(u *user.User) (account, error) {
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return account{}, fmt.Errorf("uid of %s: %w", u.Username, err)
	}
	ids, err := u.GroupIds()
	if err != nil {
		return account{}, fmt.Errorf("groups of %s: %w", u.Username, err)
	}
	a := account{name: u.Username, uid: uid}
	for _, id := range append([]string{u.Gid}, ids...) {
		gid, err := strconv.Atoi(id)
		if err != nil {
			return account{}, fmt.Errorf("group of %s: %w", u.Username, err)
		}
		if !slices.Contains(a.groups, gid) {
			a.groups = append(a.groups, gid)
		}
	}
	return a, nil
}

// clusterOwner returns the owner of a data folder that holds a cluster; exists is false if it is absent or empty.
func clusterOwner(dataDir string) (uid int, exists bool, err error) {
	entries, err := os.ReadDir(dataDir)
	if errors.Is(err, os.ErrNotExist) || err == nil && len(entries) == 0 {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("read the data folder: %w", err)
	}
	if _, err := os.Stat(filepath.Join(dataDir, "PG_VERSION")); err != nil {
		return 0, false, fmt.Errorf("%s is neither empty nor a PostgreSQL data folder", dataDir)
	}
	info, err := os.Stat(dataDir)
	if err != nil {
		return 0, false, err
	}
	return ownerOf(info), true, nil
}

func ownerOf(info os.FileInfo) int { return int(info.Sys().(*syscall.Stat_t).Uid) }

// sysProcAttr makes a child that runs as the account, in a session of its own so that a Ctrl-C in our terminal does not
// reach it.
func (a account) sysProcAttr() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setsid: true}
	if a.drop {
		cred := &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.groups[0])}
		for _, gid := range a.groups[1:] {
			cred.Groups = append(cred.Groups, uint32(gid))
		}
		attr.Credential = cred
	}
	return attr
}

// own gives an open file or folder to the account.
func (a account) own(f *os.File) error {
	if !a.drop {
		return nil
	}
	return f.Chown(a.uid, a.groups[0])
}

// reaches checks that the account may pass through dir and all folders above it. dir has no symbolic links in it.
func (a account) reaches(dir string) error {
	for ; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if !a.passes(info) {
			return fmt.Errorf("user %s, as whom PostgreSQL runs, cannot pass through the folder %s (mode %04o): `chmod o+x %s`,"+
				" or choose another place", a.name, dir, info.Mode().Perm(), dir)
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

func (a account) passes(info os.FileInfo) bool {
	stat := info.Sys().(*syscall.Stat_t)
	switch {
	case int(stat.Uid) == a.uid:
		return stat.Mode&0o100 != 0
	case slices.Contains(a.groups, int(stat.Gid)):
		return stat.Mode&0o010 != 0
	default:
		return stat.Mode&0o001 != 0
	}
}
