package host

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"repmgr/internal/fault"
)

// MachineID is what tells this machine from every other one, by machine-id(5). It
// is empty where there is none, and in a container: there it belongs to the image
// or to one run, and a container that is made anew over the same volume is the
// same machine to its users.
func MachineID() string {
	if _, inPod := os.LookupEnv("KUBERNETES_SERVICE_HOST"); inPod {
		return ""
	}
	return machineID("/")
}

func machineID(root string) string {
	for _, mark := range []string{".dockerenv", "run/.containerenv", "run/systemd/container"} {
		if _, err := os.Lstat(filepath.Join(root, mark)); err == nil {
			return ""
		}
	}
	for _, path := range []string{"etc/machine-id", "var/lib/dbus/machine-id"} {
		text, err := os.ReadFile(filepath.Join(root, path))
		if id := strings.TrimSpace(string(text)); err == nil && id != "" && id != "uninitialized" {
			return id
		}
	}
	return ""
}

// Birth tells a file from every copy of it: the moment at which it was made, which
// no program sets, or, where the file system keeps none, its inode. Both stay when
// the file is written, renamed, or its file system mounted elsewhere.
func Birth(path string) (string, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_BTIME|unix.STATX_INO, &st); err != nil {
		return "", fault.Wrap(err, fault.SysFailure, "cannot look at %s", path)
	}
	if st.Mask&unix.STATX_BTIME != 0 && (st.Btime.Sec != 0 || st.Btime.Nsec != 0) {
		return fmt.Sprintf("born %d.%09d", st.Btime.Sec, st.Btime.Nsec), nil
	}
	return fmt.Sprintf("inode %d", st.Ino), nil
}
