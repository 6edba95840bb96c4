package host

import (
	"golang.org/x/sys/unix"

	"repmgr/internal/fault"
)

// Room is how many bytes this process may still write to the fullest of the file
// systems that the paths are on.
func Room(paths ...string) (int64, error) {
	least := int64(-1)
	for _, path := range paths {
		var fs unix.Statfs_t
		if err := unix.Statfs(path, &fs); err != nil {
			return 0, fault.Wrap(err, fault.SysFailure, "cannot ask for the room at %s", path)
		}
		if room := int64(fs.Bavail) * int64(fs.Bsize); least < 0 || room < least {
			least = room
		}
	}
	return max(0, least), nil
}
