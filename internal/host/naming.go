package host

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// namingTimeout bounds the end of the processes that EndNaming kills.
const namingTimeout = 5 * time.Second

// EndNaming ends by SIGKILL every other process of this user that has a path in its
// command line, as a copy has that another host sends here, and waits until they are gone.
// Where programs are named, it ends only those. The path must be an absolute one.
func EndNaming(path string, programs ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), namingTimeout)
	defer cancel()
	return killUntilNone(ctx, "what works on "+path, func() ([]Process, error) { return naming(path, programs) })
}

func naming(path string, programs []string) ([]Process, error) {
	all, err := pids()
	if err != nil {
		return nil, err
	}
	var out []Process
	for _, pid := range all {
		if pid == os.Getpid() || !ofThisUser(pid) {
			continue
		}
		wanted := len(programs) == 0 || slices.ContainsFunc(programs, func(name string) bool { return Runs(pid, name) })
		if title := titleOf(pid); wanted && names(title, path) {
			if p, state, err := readStat(pid); err == nil && state != 'Z' && state != 'X' {
				p.Title = title
				out = append(out, p)
			}
		}
	}
	return out, nil
}

// names tells whether a command line has a path, or one below it.
func names(title, path string) bool {
	for {
		_, rest, found := strings.Cut(title, path)
		if !found || rest == "" || strings.ContainsRune("/ '\"\x00", rune(rest[0])) {
			return found
		}
		title = rest // of another, whose name begins alike
	}
}

// ofThisUser tells whether a process is this user's: root could end everybody's.
func ofThisUser(pid int) bool {
	info, err := os.Stat(filepath.Join("/proc", strconv.Itoa(pid)))
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}
