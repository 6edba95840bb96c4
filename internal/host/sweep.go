package host

import (
	"errors"
	"io/fs"
	"os"
	"time"

	"repmgr/internal/fault"
)

// TimeToSweep is how long it took just now to find the postgres processes of a
// directory as Sweep does: longer the more processes this machine has. Nothing is killed.
func TimeToSweep(dataDir string) (time.Duration, error) {
	dir, err := os.Stat(dataDir)
	if err != nil {
		return 0, fault.Wrap(err, fault.SysFailure, "processes of %s", dataDir)
	}
	began := BootTime()
	_, err = scan(dir, false)
	return BootTime() - began, err
}

// Sweep ends by SIGKILL every postgres process that one scan finds at work in a
// directory, the postmaster first, and returns whom it found: also those who
// were killed before and take a moment to go. One that cannot be killed does not
// keep it from the others. Unlike KillAll it reads nothing but /proc, and there
// nothing that waits for a lock of the process (as cmdline does for its memory
// map): it works while the disk hangs.
func Sweep(dir fs.FileInfo) ([]Process, error) {
	found, err := scan(dir, false)
	if err != nil {
		return nil, err
	}
	var failed []error
	for _, p := range parentsFirst(0, found) {
		failed = append(failed, killThese([]Process{p}))
	}
	return found, errors.Join(failed...)
}
