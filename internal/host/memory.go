package host

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// A server that is killed leaves shared memory behind, which the next one of the
// same data directory frees. One that is killed for good leaves it for ever, and
// there are no more than 4096 System V segments on a machine by default (PostgreSQL
// manual, "Managing Kernel Resources"): so who removes a data directory frees what its servers left.

// header is the beginning of a server's System V segment (PGShmemHeader in
// PostgreSQL's pg_shmem.h), on a 64-bit machine.
const (
	headerMagic   = 679834894
	headerControl = 24 // the handle of the segment that lists the POSIX ones
	headerDevice  = 40
	headerInode   = 48
	headerSize    = 56
)

// control is the beginning of that list (dsm_control_header in PostgreSQL's dsm.c),
// and of one of its items, whose size differs by major.
const (
	controlMagic = 0x9a503d32
	controlUsed  = 4 // how many items are in use, or were
	controlRoom  = 8 // how many there is room for, to the end of the segment
	controlFirst = 16
	itemUsers    = 4 // zero: the item is free
)

// posixMemory is where the C library keeps shared memory that has a name.
const posixMemory = "/dev/shm"

// FreeMemory frees the shared memory of every server that ran on a data directory
// below dir. None may run there any more. Its error names a segment that is there still.
func FreeMemory(dir string) error {
	ours, err := dataDirs(dir)
	if err != nil || len(ours) == 0 {
		return err
	}
	ids, err := unusedSegments()
	if err != nil {
		return err
	}
	var errs []error
	for _, id := range ids {
		errs = append(errs, freeSegment(id, ours))
	}
	return errors.Join(errs...)
}

// fileID is what tells a directory from all others of this machine.
type fileID struct{ device, inode uint64 }

// dataDirs are the directories below dir, each of which may be or have been a data
// directory; not those inside one.
func dataDirs(dir string) (map[fileID]bool, error) {
	found := map[fileID]bool{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return nil // it is gone
		}
		stat := info.Sys().(*syscall.Stat_t)
		found[fileID{uint64(stat.Dev), stat.Ino}] = true
		if _, err := os.Lstat(filepath.Join(path, "PG_VERSION")); err == nil {
			return fs.SkipDir
		}
		return nil
	})
	return found, err
}

// unusedSegments are the System V segments of a header's size, or larger, that no
// process has attached.
func unusedSegments() ([]int, error) {
	f, err := os.Open("/proc/sysvipc/shm")
	if err != nil {
		return nil, fmt.Errorf("list shared memory: %w", err)
	}
	defer f.Close()
	var ids []int
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var key, id, mode, size, creator, last, attached int
		// The first line, the columns' names, is none of them.
		if n, _ := fmt.Sscan(lines.Text(), &key, &id, &mode, &size, &creator, &last, &attached); n == 7 && attached == 0 && size >= headerSize {
			ids = append(ids, id)
		}
	}
	return ids, lines.Err()
}

// freeSegment removes a System V segment, and the POSIX ones that hang on it, if it is
// of a server on one of the directories.
func freeSegment(id int, ours map[fileID]bool) error {
	memory, err := unix.SysvShmAttach(id, 0, unix.SHM_RDONLY)
	if err != nil {
		return nil // another user's, or gone
	}
	b := bytes.Clone(memory[:headerSize])
	if err := unix.SysvShmDetach(memory); err != nil {
		return fmt.Errorf("detach shared memory: %w", err)
	}
	of := fileID{binary.NativeEndian.Uint64(b[headerDevice:]), binary.NativeEndian.Uint64(b[headerInode:])}
	if binary.NativeEndian.Uint32(b) != headerMagic || !ours[of] {
		return nil
	}
	freePosix(binary.NativeEndian.Uint32(b[headerControl:]))
	if _, err := unix.SysvShmCtl(id, unix.IPC_RMID, nil); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("remove shared memory %d: %w", id, err)
	}
	return nil
}

// freePosix removes the segment that lists a server's POSIX ones, and those. What is
// not there needs no removing: a new server may have freed it.
func freePosix(control uint32) {
	list := posixSegment(control)
	b, err := os.ReadFile(list)
	if err != nil || len(b) < controlFirst || binary.NativeEndian.Uint32(b) != controlMagic {
		return
	}
	used, room := binary.NativeEndian.Uint32(b[controlUsed:]), binary.NativeEndian.Uint32(b[controlRoom:])
	items := b[controlFirst:]
	for step := len(items) / max(1, int(room)); used > 0 && len(items) >= max(step, 2*itemUsers); used-- {
		if binary.NativeEndian.Uint32(items[itemUsers:]) > 0 {
			os.Remove(posixSegment(binary.NativeEndian.Uint32(items)))
		}
		items = items[step:]
	}
	os.Remove(list)
}

func posixSegment(handle uint32) string {
	return filepath.Join(posixMemory, fmt.Sprintf("PostgreSQL.%d", handle))
}
