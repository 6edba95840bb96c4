package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"repmgr/internal/fault"
)

// Locked tells whether a process holds a lock of flock(2) on a file, without asking for one:
// a daemon asks once when it starts, and would take whoever holds it then for another daemon. A
// file that does not exist is locked by nobody. It goes by /proc/locks (man 5 proc_locks), where
// device and inode name the file. Where the device's major number is zero, as of btrfs and
// overlayfs, files may show another there, and the inode decides alone.
func Locked(path string) (bool, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	var locks []byte
	if err == nil {
		locks, err = os.ReadFile("/proc/locks")
	}
	if err != nil {
		return false, fault.Wrap(err, fault.SysFailure, "whether %s is locked cannot be seen", path)
	}
	st := info.Sys().(*syscall.Stat_t)
	for line := range strings.Lines(string(locks)) {
		if !strings.Contains(line, " FLOCK ") {
			continue
		}
		for _, field := range strings.Fields(line) {
			var major, minor uint32
			var inode uint64
			if n, err := fmt.Sscanf(field, "%x:%x:%d", &major, &minor, &inode); err != nil || n != 3 || inode != st.Ino {
				continue
			}
			if own := unix.Major(st.Dev); own == 0 || major == 0 || own == major && unix.Minor(st.Dev) == minor {
				return true, nil
			}
		}
	}
	return false, nil
}
