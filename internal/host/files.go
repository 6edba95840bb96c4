package host

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"repmgr/internal/fault"
)

// WriteFileDurable replaces a file in one step: after a power cut the old or the
// new one is there, whole. An existing file keeps its owner and mode; mode is
// that of a new one.
func WriteFileDurable(path string, data []byte, mode fs.FileMode) (err error) {
	owner, err := os.Stat(path)
	if err == nil {
		mode = owner.Mode().Perm()
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fault.Wrap(err, fault.SysFailure, "write of %s", path)
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return fault.Wrap(err, fault.SysFailure, "write of %s", path)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
			err = fault.Wrap(err, fault.SysFailure, "write of %s", path)
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil && owner != nil {
		if st, ok := owner.Sys().(*syscall.Stat_t); ok && (int(st.Uid) != os.Geteuid() || int(st.Gid) != os.Getegid()) {
			err = f.Chown(int(st.Uid), int(st.Gid))
		}
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// SyncDir makes the names in a directory last over a power cut.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Content is what a directory holds.
type Content string

// What a directory may hold.
const (
	Missing       Content = "missing"
	Empty         Content = "empty"
	DataDirectory Content = "a PostgreSQL data directory"
	Other         Content = "other files"
)

// Directory is what DirectoryState found.
type Directory struct {
	Content Content
	Mode    fs.FileMode
	// Running are the postgres processes that work there, orphans of a dead
	// postmaster included.
	Running []Process
	// PID is the postmaster that postmaster.pid names and that lives; zero if
	// none. Where this user may not look at another's processes it is the only sign.
	PID int
}

// InUse tells whether a server works in the directory.
func (d Directory) InUse() bool { return d.PID != 0 || len(d.Running) > 0 }

// DirectoryState looks at a directory that a server is to be cloned into, or
// that one is in. A path that is no directory, or cannot be read, is an error.
func DirectoryState(path string) (Directory, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Directory{Content: Missing}, nil
	}
	if err != nil {
		return Directory{}, directoryFault(err, path)
	}
	if !info.IsDir() {
		return Directory{}, fault.New(fault.BadConfig, "%s is not a directory", path).WithHint("Check data_directory in repmgr.conf.")
	}
	d := Directory{Mode: info.Mode().Perm()}
	if d.Content, err = content(path); err != nil {
		return Directory{}, directoryFault(err, path)
	}
	if d.Running, err = Processes(path); err != nil {
		return Directory{}, err
	}
	d.PID = Postmaster(path)
	return d, nil
}

func content(path string) (Content, error) {
	d, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer d.Close()
	switch _, err := d.Readdirnames(1); {
	case errors.Is(err, io.EOF):
		return Empty, nil
	case err != nil:
		return "", err
	}
	for _, name := range []string{"PG_VERSION", "global/pg_control"} {
		if _, err := os.Stat(filepath.Join(path, name)); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return Other, nil
			}
			return "", err
		}
	}
	return DataDirectory, nil
}

// Postmaster is the process that postmaster.pid names, if it lives, is no
// zombie and may be a postmaster; zero if there is none. A later process that was
// given its number is told by where it works, where this user may look at it.
func Postmaster(dataDir string) int {
	pid := readPostmasterPID(dataDir)
	if pid == 0 {
		return 0
	}
	_, state, err := readStat(pid)
	if err != nil || state == 'Z' || state == 'X' {
		return 0
	}
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	cwd, err := os.Stat(filepath.Join(proc, "cwd"))
	if errors.Is(err, fs.ErrPermission) {
		name, err := os.ReadFile(filepath.Join(proc, "comm"))
		if err == nil && string(name) == "postgres\n" {
			return pid
		}
		return 0
	}
	dir, dirErr := os.Stat(dataDir)
	if err != nil || dirErr != nil || !os.SameFile(cwd, dir) {
		return 0
	}
	return pid
}

// PostmasterStopped tells whether the postmaster is there and was stopped by a
// signal (state T, man 5 proc). A slow one is never in that state.
func PostmasterStopped(dataDir string) bool {
	pid := Postmaster(dataDir)
	if pid == 0 {
		return false
	}
	_, state, err := readStat(pid)
	return err == nil && state == 'T'
}

// PrepareDirectory makes a directory ready for a data directory: it makes a
// missing one with its parents (0700), and sets an empty one's mode to 0700
// unless that is 0700 or 0750 already. One that holds anything is emptied only
// if force says so, and never while a server works in it.
func PrepareDirectory(path string, force bool) error {
	d, err := DirectoryState(path)
	if err != nil {
		return err
	}
	switch {
	case d.InUse():
		return fault.New(fault.BadConfig, "a PostgreSQL server works in %s", path).
			WithDetail("Its postmaster is process %d; %d processes were found.", d.PID, len(d.Running)).
			WithHint("Stop that server first. --force does not change this.")
	case d.Content == Missing:
		if err := os.MkdirAll(path, 0o700); err != nil {
			return directoryFault(err, path)
		}
		return nil
	case d.Content != Empty && !force:
		return fault.New(fault.BadConfig, "directory %s is not empty", path).
			WithDetail("It holds %s.", d.Content).
			WithHint("Choose another directory, or use --force to have everything in it deleted.")
	case d.Content != Empty:
		if err := EmptyDirectory(path); err != nil {
			return err
		}
	}
	if d.Mode != 0o700 && d.Mode != 0o750 {
		if err := os.Chmod(path, 0o700); err != nil {
			return directoryFault(err, path)
		}
	}
	return nil
}

// EmptyDirectory deletes what is in a directory and keeps the directory, which
// may be a mount point. It does not follow symbolic links: WAL and tablespaces
// outside it stay where they are.
func EmptyDirectory(path string) error {
	entries, err := os.ReadDir(path)
	if err != nil {
		return directoryFault(err, path)
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(path, e.Name())); err != nil {
			return directoryFault(err, path)
		}
	}
	return nil
}

func directoryFault(err error, path string) error {
	return fault.Wrap(err, fault.BadConfig, "directory %s", path).
		WithHint("Check that it may be read and written by the operating system user that PostgreSQL runs as.")
}
