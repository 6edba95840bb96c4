package host

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Alive reports whether a process exists and is more than a zombie, which
// kill(pid, 0) cannot tell.
func Alive(pid int) bool {
	if pid <= 0 {
		return false
	}
	_, state, err := readStat(pid)
	return err == nil && state != 'Z' && state != 'X'
}

// Deleted ends the name of a program in /proc/PID/exe whose file was replaced while
// it runs (man 5 proc).
const Deleted = " (deleted)"

// Runs tells whether a process lives and runs a program of that name, without its
// folder. One that this user may not look at does not count.
func Runs(pid int, program string) bool {
	if !Alive(pid) {
		return false
	}
	exe, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "exe"))
	return err == nil && filepath.Base(strings.TrimSuffix(exe, Deleted)) == program
}

// KillOrphans ends the backends of a data directory whose postmaster is gone:
// one that does not sleep would go on committing for as long as its client
// sends. A server that was started anew meanwhile, and its children, are left
// alone; then, as when nobody is left in two scans in a row, the result is nil.
// One scan is not enough: a child that was forked a moment ago still bears the
// postmaster's title.
func KillOrphans(ctx context.Context, dataDir string) error {
	return killUntilNone(ctx, "the orphaned processes of "+dataDir, func() ([]Process, error) { return orphansOf(dataDir) })
}

// orphansOf lists the processes of a data directory that are no postmaster and
// have none as their parent. A postmaster's title is its command line; its
// children have titles of PostgreSQL's own.
func orphansOf(dataDir string) ([]Process, error) {
	all, err := Processes(dataDir)
	if err != nil {
		return nil, err
	}
	postmasters := map[int]bool{}
	for _, p := range all {
		if !strings.HasPrefix(p.Title, "postgres:") {
			postmasters[p.PID] = true
		}
	}
	var out []Process
	for _, p := range all {
		if !postmasters[p.PID] && !postmasters[p.Parent] && !runsPostgres(p.Parent) {
			out = append(out, p)
		}
	}
	return out, nil
}

// runsPostgres reports whether a process runs the server program, wherever it
// works: a postmaster that was looked at before it had gone to its data directory,
// and had a child when that was looked at, is not among those that work there. An
// orphan's parent is init, or what stands for it.
func runsPostgres(pid int) bool {
	exe, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "exe"))
	return err == nil && filepath.Base(strings.TrimSuffix(exe, " (deleted)")) == "postgres"
}
