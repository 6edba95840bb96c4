package pg

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
)

// Control is what the control file of a data directory says. It is the state at
// the last checkpoint or restart point: of a running server it lags.
type Control struct {
	State               string // as pg_controldata words it: "in production", "shut down", "shut down in recovery", "in archive recovery" ...
	SystemID            string
	Timeline            cluster.Timeline // of the last checkpoint
	PreviousTimeline    cluster.Timeline
	Checkpoint          cluster.LSN
	Redo                cluster.LSN
	MinRecovery         cluster.LSN // a standby must replay to here before it is consistent; zero on a primary
	MinRecoveryTimeline cluster.Timeline
	Checksums           bool
	WALLogHints         bool
	SegmentSize         int64 // of a WAL segment, in bytes
	CheckpointAt        string
	FormatVersion       int // pg_control version number
	BackupEndRequired   bool
	BackupStart         cluster.LSN
	MaxConnections      int
	MaxWALSenders       int
	MaxPreparedXacts    int
	MaxWorkerProcesses  int
	MaxLocksPerXact     int
	WALLevel            string
}

// ShutDownCleanly tells whether the server has been stopped in order.
func (c Control) ShutDownCleanly() bool {
	return c.State == "shut down" || c.State == "shut down in recovery"
}

// controlTimeout bounds pg_controldata, which reads 8 KiB: longer is a dead disk.
const controlTimeout = 10 * time.Second

// ReadControl runs pg_controldata: that of bindir, else one in PATH, else
// Debian's for the directory's major version. The program must be of the
// directory's major version.
func ReadControl(ctx context.Context, bindir, dataDir string) (Control, error) {
	program, err := FindTool(bindir, dataDir, "pg_controldata")
	if err != nil {
		return Control{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, controlTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "-D", dataDir)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "LANGUAGE=C")
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		f := fault.Wrap(err, fault.BadConfig, "control file of %s", dataDir).
			WithHint("Check that it is a data directory, and that this is run as the user that owns it.")
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			f.WithDetail("pg_controldata said: %s", strings.TrimSpace(string(exit.Stderr)))
		}
		return Control{}, f
	}
	c, err := parseControl(string(out))
	if err != nil {
		return Control{}, fault.Wrap(err, fault.BadConfig, "control file of %s", dataDir).
			WithHint("pg_controldata must be of the major version of the data directory: set pg_bindir.")
	}
	return c, nil
}

// controlFields says how each line of pg_controldata is read, by its label.
func controlFields(c *Control) map[string]func(string) error {
	text := func(to *string) func(string) error {
		return func(s string) error { *to = s; return nil }
	}
	lsn := func(to *cluster.LSN) func(string) error {
		return func(s string) (err error) { *to, err = cluster.ParseLSN(s); return err }
	}
	number := func(to *int) func(string) error {
		return func(s string) (err error) { *to, err = strconv.Atoi(s); return err }
	}
	timeline := func(to *cluster.Timeline) func(string) error {
		return func(s string) error {
			n, err := strconv.ParseUint(s, 10, 32)
			*to = cluster.Timeline(n)
			return err
		}
	}
	return map[string]func(string) error{
		"Database cluster state":             text(&c.State),
		"Database system identifier":         text(&c.SystemID),
		"Latest checkpoint location":         lsn(&c.Checkpoint),
		"Latest checkpoint's REDO location":  lsn(&c.Redo),
		"Latest checkpoint's TimeLineID":     timeline(&c.Timeline),
		"Latest checkpoint's PrevTimeLineID": timeline(&c.PreviousTimeline),
		"Time of latest checkpoint":          text(&c.CheckpointAt),
		"Minimum recovery ending location":   lsn(&c.MinRecovery),
		"Min recovery ending loc's timeline": timeline(&c.MinRecoveryTimeline),
		"Backup start location":              lsn(&c.BackupStart),
		"End-of-backup record required":      func(s string) error { c.BackupEndRequired = s == "yes"; return nil },
		"wal_log_hints setting":              func(s string) error { c.WALLogHints = s == "on"; return nil },
		"Data page checksum version":         func(s string) error { c.Checksums = s != "0"; return nil },
		"Bytes per WAL segment":              func(s string) (err error) { c.SegmentSize, err = strconv.ParseInt(s, 10, 64); return err },
		"pg_control version number":          number(&c.FormatVersion),
		"max_connections setting":            number(&c.MaxConnections),
		"max_wal_senders setting":            number(&c.MaxWALSenders),
		"max_prepared_xacts setting":         number(&c.MaxPreparedXacts),
		"max_worker_processes setting":       number(&c.MaxWorkerProcesses),
		"max_locks_per_xact setting":         number(&c.MaxLocksPerXact),
		"wal_level setting":                  text(&c.WALLevel),
	}
}

// parseControl reads the output of pg_controldata in the C locale. A line that
// is not known is left alone; those that everything depends on must be there.
func parseControl(text string) (Control, error) {
	var c Control
	fields := controlFields(&c)
	for _, line := range strings.Split(text, "\n") {
		label, value, ok := strings.Cut(line, ":")
		read := fields[label]
		if !ok || read == nil {
			continue
		}
		if err := read(strings.TrimSpace(value)); err != nil {
			return Control{}, fmt.Errorf("%s: %w", label, err)
		}
	}
	if c.State == "" || c.SystemID == "" || c.Timeline == 0 {
		return Control{}, errors.New("pg_controldata names no state, system identifier or timeline")
	}
	return c, nil
}

// ReadEnd tells how a server that does not run has ended: whose system it is, and
// whether it was stopped in order. Both stand at the same places of pg_control in
// all majors (catalog/pg_control.h), so that no process has to be started, which
// a failover would wait for. A file that does not look like that is left to
// pg_controldata.
func ReadEnd(ctx context.Context, bindir, dataDir string) (systemID string, inOrder bool, err error) {
	text, err := os.ReadFile(filepath.Join(dataDir, "global", "pg_control"))
	if err == nil && soundControl(text) {
		state := binary.NativeEndian.Uint32(text[16:])
		return strconv.FormatUint(binary.NativeEndian.Uint64(text), 10), state == 1 || state == 2, nil
	}
	c, err := ReadControl(ctx, bindir, dataDir)
	return c.SystemID, c.ShutDownCleanly(), err
}

// ReadShutdown tells where the shutdown checkpoint of a primary lies that was stopped
// in order, and on which timeline; found is false if it was not. It is read as by ReadEnd.
func ReadShutdown(ctx context.Context, bindir, dataDir string) (checkpoint cluster.LSN, timeline cluster.Timeline, found bool, err error) {
	text, err := os.ReadFile(filepath.Join(dataDir, "global", "pg_control"))
	if err == nil && soundControl(text) {
		order := binary.NativeEndian
		return cluster.LSN(order.Uint64(text[32:])), cluster.Timeline(order.Uint32(text[48:])), order.Uint32(text[16:]) == 1, nil
	}
	c, err := ReadControl(ctx, bindir, dataDir)
	return c.Checkpoint, c.Timeline, c.State == "shut down", err
}

// soundControl tells whether that is pg_control of 13 to 18. Its checksum is of all
// that stands before it; where that is differs by major.
func soundControl(text []byte) bool {
	if len(text) < 512 {
		return false
	}
	if format := binary.NativeEndian.Uint32(text[8:]); format < 1300 || format > 1899 {
		return false
	}
	sum := uint32(0)
	for at := 0; at+4 <= 512; at += 4 { // in one sector
		if at > 100 && binary.NativeEndian.Uint32(text[at:]) == sum {
			return true
		}
		sum = crc32.Update(sum, castagnoli, text[at:at+4])
	}
	return false
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// MajorVersion reads the major version from a data directory's PG_VERSION.
func MajorVersion(dataDir string) (int, error) {
	text, err := os.ReadFile(filepath.Join(dataDir, "PG_VERSION"))
	if err != nil {
		return 0, fault.Wrap(err, fault.BadConfig, "version of the data directory %s", dataDir).
			WithHint("Check data_directory in repmgr.conf.")
	}
	major, _, _ := strings.Cut(strings.TrimSpace(string(text)), ".")
	n, err := strconv.Atoi(major)
	if err != nil || n <= 0 {
		return 0, fault.New(fault.BadConfig, "version of the data directory %s", dataDir).
			WithDetail("PG_VERSION holds %q, a major version is expected.", strings.TrimSpace(string(text)))
	}
	return n, nil
}

// FindTool returns the path of one of PostgreSQL's programs: in bindir if that
// is given, else in PATH, else where Debian and Red Hat keep the programs of
// the data directory's major version. An empty dataDir means any version.
func FindTool(bindir, dataDir, name string) (string, error) {
	if bindir != "" {
		path := filepath.Join(bindir, name)
		if info, err := os.Stat(path); err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
			return "", fault.New(fault.BadConfig, "%s is not to be found in %s", name, bindir).
				WithHint("Check pg_bindir in repmgr.conf, or option --pg_bindir.")
		}
		return path, nil
	}
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	version := "*"
	if major, err := MajorVersion(dataDir); err == nil {
		version = strconv.Itoa(major)
	}
	for _, pattern := range []string{"/usr/lib/postgresql/%s/bin/%s", "/usr/pgsql-%s/bin/%s"} {
		if found, err := filepath.Glob(fmt.Sprintf(pattern, version, name)); err == nil && len(found) > 0 {
			return newest(found), nil
		}
	}
	return "", fault.New(fault.BadConfig, "%s is not to be found", name).
		WithDetail("It is neither in PATH nor where packages put it.").
		WithHint("Set pg_bindir in repmgr.conf to the folder of PostgreSQL's programs, and install the server's package.")
}

// newest returns the path with the greatest version in it, which is the first
// number of the path.
func newest(paths []string) string {
	version := func(path string) int { return parseVersion(path[strings.IndexAny(path+"0", "0123456789"):]) }
	best := paths[0]
	for _, p := range paths[1:] {
		if version(p) > version(best) {
			best = p
		}
	}
	return best
}
