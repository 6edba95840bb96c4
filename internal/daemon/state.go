package daemon

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"repmgr/internal/api"
	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/host"
	"repmgr/internal/registry"
)

// stateDir is the daemon's own directory. Its lock says that one daemon at most
// watches a data directory; it keeps what must be known before the server
// answers: the members, their addresses and the certificates' authority.
type stateDir struct {
	path string
	lock *os.File
}

// remembered is what stands in cluster.json; it holds a private key.
type remembered struct {
	Format      int                                  `json:"format"`
	Nodes       []cluster.Node                       `json:"nodes"`
	Endpoints   map[cluster.NodeID]registry.Endpoint `json:"endpoints"`
	Certificate string                               `json:"certificate"`
	Key         string                               `json:"private_key"`
	Paused      bool                                 `json:"paused"`
	PauseReason string                               `json:"pause_reason"`
	PausedUntil time.Time                            `json:"paused_until,omitzero"` // zero: until an order ends it
	FencedBy    cluster.NodeID                       `json:"fenced_by"`             // zero: not fenced
	Ended       bool                                 `json:"ended"`                 // this daemon ended its server, and it has not run since
	Rejoins     int                                  `json:"rejoins,omitempty"`     // tries to bring it back that came to nothing
	Quorum      bool                                 `json:"quorum"`                // the quorum rule was in force
	Disowned    string                               `json:"disowned,omitempty"`    // a group that an operator gave up for lost
	PeerKeys    api.Keys                             `json:"peer_keys,omitempty"`   // of the other daemons
	Withheld    withheld                             `json:"withheld"`
	Underway    underway                             `json:"promotion_under_way,omitzero"`
	Operators   operatorsSync                        `json:"synchronous_standby_names"`
}

func openStateDir(path string) (*stateDir, error) {
	if path == "" {
		return nil, fault.New(fault.BadConfig, "there is no place for repmgrd's own files").WithHint("Set state_directory, or data_directory.")
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fault.Wrap(err, fault.BadConfig, "the state directory cannot be made").
			WithHint("Let repmgrd's user write there, or set state_directory to a directory of its own outside the data directory.")
	}
	lock, err := os.OpenFile(filepath.Join(path, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fault.Wrap(err, fault.BadConfig, "the state directory cannot be used")
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		return nil, fault.Wrap(err, fault.BadPidfile, "another repmgrd watches this node").
			WithDetail("It holds the lock in %s.", path).WithHint("Stop it first, or see `repmgr service status`.")
	}
	return &stateDir{path: path, lock: lock}, nil
}

func (s *stateDir) close() error { return s.lock.Close() }

// lockData takes the data directory itself, so that no second repmgrd with another
// state directory acts on the same server. One that is not there yet is nobody's.
func (d *Daemon) lockData() error {
	dir, err := os.Open(d.cfg.DataDirectory)
	if err != nil {
		return nil // what is wrong with it is told by who needs it
	}
	if err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		dir.Close()
		return fault.Wrap(err, fault.BadPidfile, "another repmgrd watches the server of this data directory").
			WithDetail("It holds a lock on %s, and has another state_directory than %s.", d.cfg.DataDirectory, d.state.path).
			WithHint("Stop it first: one repmgrd runs for each server.")
	}
	d.onStop("data directory", dir.Close)
	return nil
}

func (s *stateDir) load() (remembered, error) {
	var r remembered
	text, err := registry.ReadState(s.path)
	if text == nil {
		return r, err
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return remembered{}, fault.Wrap(err, fault.BadConfig, "%s is damaged", filepath.Join(s.path, registry.StateFile)).
			WithHint("Remove the file: it is written again from the database.")
	}
	return r, nil
}

func (s *stateDir) save(r remembered) error {
	r.Format = registry.StateFormat
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return host.WriteFileDurable(filepath.Join(s.path, registry.StateFile), text, 0o600)
}

// isDaemon tells whether a process lives and runs this program: after a reboot the
// number of a former daemon is soon another's.
func isDaemon(pid int) bool {
	own, err := os.Readlink("/proc/self/exe")
	return err == nil && host.Runs(pid, filepath.Base(strings.TrimSuffix(own, host.Deleted)))
}

// takePidFile writes the PID file, unless none is asked for. One that names a
// living process is another daemon's.
func (d *Daemon) takePidFile() error {
	path := d.opt.PidFile
	if path == "" {
		path = d.cfg.RepmgrdPidFile
	}
	if path == "-" || path == "" {
		return nil
	}
	if old, err := os.ReadFile(path); err == nil {
		pid, _ := strconv.Atoi(strings.TrimSpace(string(old)))
		if pid != os.Getpid() && isDaemon(pid) {
			return fault.New(fault.BadPidfile, "PID file %q exists and its process %d lives", path, pid).
				WithHint("Stop that repmgrd, or name another file with --pid-file; if the process is no repmgrd, remove the file.")
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return fault.Wrap(err, fault.BadPidfile, "PID file cannot be read")
	}
	if err := os.WriteFile(path, []byte(strconv.Itoa(os.Getpid())), 0o644); err != nil {
		return fault.Wrap(err, fault.BadConfig, "PID file cannot be written").WithHint("Name another one with --pid-file or repmgrd_pid_file.")
	}
	d.pidFile = path
	d.onStop("PID file", func() error { return os.Remove(path) })
	return nil
}
