package lab

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// account is the unprivileged user that everything in a lab runs as.
type account struct {
	name     string
	uid, gid int
	drop     bool // we are root and have to become this user
}

// unprivileged is the user for the servers: ourselves, or, since PostgreSQL
// refuses root, postgres or else nobody.
func unprivileged() (account, error) {
	if os.Geteuid() != 0 {
		u, err := user.Current()
		if err != nil {
			return account{}, fmt.Errorf("look up the current user: %w", err)
		}
		return accountOf(u, false)
	}
	for _, name := range []string{"postgres", "nobody"} {
		if u, err := user.Lookup(name); err == nil {
			return accountOf(u, true)
		}
	}
	return account{}, fmt.Errorf("find an unprivileged user: neither postgres nor nobody exists, and PostgreSQL refuses root")
}

func accountOf(u *user.User, drop bool) (account, error) {
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return account{}, fmt.Errorf("user id of %s: %w", u.Username, err)
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return account{}, fmt.Errorf("group id of %s: %w", u.Username, err)
	}
	return account{name: u.Username, uid: uid, gid: gid, drop: drop}, nil
}

// attributes start a process as this user, in a session of its own, so that an
// interrupt typed at the terminal reaches only us.
func (a account) attributes() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setsid: true}
	if a.drop {
		attr.Credential = &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}
	}
	return attr
}

// own hands a file or folder to this user.
func (a account) own(path string) error {
	if !a.drop {
		return nil
	}
	return os.Chown(path, a.uid, a.gid)
}

// mkdir makes a folder that only this user can enter.
func (a account) mkdir(path string) error {
	if err := os.Mkdir(path, 0o700); err != nil {
		return err
	}
	return a.own(path)
}

// write makes a file that only this user can read.
func (a account) write(path, content string) error {
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		return err
	}
	return a.own(path)
}
