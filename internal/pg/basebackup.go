package pg

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"repmgr/internal/fault"
)

// BackupSpec says what pg_basebackup is to do.
type BackupSpec struct {
	Bindir         string
	Source         Conninfo // its password goes by the environment, never into the command line
	User           string   // replication user; empty: the source's own. Another user does not get the source's password.
	DataDir        string
	Label          string // empty: "repmgr base backup"
	FastCheckpoint bool
	Tablespaces    [][2]string // old and new location
	Slot           string      // empty: none
	Options        BackupOptions

	// Credential runs the program as another user; nil: as this process.
	Credential *syscall.Credential
}

// BackupOptions is pg_basebackup_options taken apart: what repmgr must know of
// it, and all of its words.
type BackupOptions struct {
	Words     []string
	Slot      string
	NoSlot    bool
	WALMethod string // none, fetch or stream; empty: not given, which means stream
	WALDir    string
}

// ParseBackupOptions takes pg_basebackup_options apart and refuses what would
// contradict itself.
func ParseBackupOptions(s string) (BackupOptions, error) {
	words, err := SplitWords(s)
	if err != nil {
		return BackupOptions{}, backupOptionFault(err.Error())
	}
	o := BackupOptions{Words: words}
	for i := 0; i < len(words); i++ {
		name, value, given := splitOption(words[i])
		take := func() string {
			if !given && i+1 < len(words) {
				i++
				return words[i]
			}
			return value
		}
		switch name {
		case "-S", "--slot":
			o.Slot = take()
		case "--no-slot":
			o.NoSlot = true
		case "-X", "--wal-method", "--xlog-method":
			o.WALMethod = take()
		case "--waldir", "--xlogdir":
			o.WALDir = take()
		}
	}
	if full, ok := map[string]string{"n": "none", "f": "fetch", "s": "stream"}[o.WALMethod]; ok {
		o.WALMethod = full
	}
	switch {
	case o.NoSlot && o.Slot != "":
		return o, backupOptionFault("--no-slot and --slot contradict each other")
	case o.WALDir != "" && !filepath.IsAbs(o.WALDir):
		return o, backupOptionFault("--waldir must be an absolute path")
	case o.WALMethod != "" && o.WALMethod != "none" && o.WALMethod != "fetch" && o.WALMethod != "stream":
		return o, backupOptionFault("--wal-method is none, fetch or stream, not " + strconv.Quote(o.WALMethod))
	}
	return o, nil
}

func backupOptionFault(detail string) error {
	return fault.New(fault.BadConfig, "pg_basebackup_options cannot be used").WithDetail("%s", detail).
		WithHint("Correct pg_basebackup_options in repmgr.conf.")
}

// splitOption takes an option and the value that is attached to it apart:
// --slot=x and -Sx, as getopt does.
func splitOption(word string) (name, value string, given bool) {
	switch {
	case strings.HasPrefix(word, "--"):
		return strings.Cut(word, "=")
	case len(word) > 2 && word[0] == '-':
		return word[:2], word[2:], true
	default:
		return word, "", false
	}
}

// Streams tells whether WAL is streamed beside the backup, for which the source
// needs a second WAL sender.
func (o BackupOptions) Streams() bool { return o.WALMethod == "" || o.WALMethod == "stream" }

// Command is the program and its arguments. It holds no secret and may be shown.
func (s BackupSpec) Command() ([]string, error) {
	program, err := FindTool(s.Bindir, "", "pg_basebackup")
	if err != nil {
		return nil, err
	}
	source := s.Source.Without("dbname", "replication")
	for key := range secrets {
		source = source.Without(key)
	}
	if s.User != "" {
		source = source.With("user", s.User)
	}
	if !source.Has("fallback_application_name") {
		source = source.With("fallback_application_name", "repmgr")
	}
	label := first(s.Label, "repmgr base backup")
	args := []string{program, "-D", s.DataDir, "-l", label, "-P", "-w", "-d", source.String()}
	if s.FastCheckpoint {
		args = append(args, "-c", "fast")
	}
	for _, t := range s.Tablespaces {
		args = append(args, "-T", escapeMapping(t[0])+"="+escapeMapping(t[1]))
	}
	if s.Options.WALMethod == "" {
		args = append(args, "-X", "stream")
	}
	if s.Slot != "" && s.Options.Slot == "" && !s.Options.NoSlot && s.Options.Streams() {
		args = append(args, "-S", s.Slot)
	}
	return append(args, s.Options.Words...), nil
}

// escapeMapping keeps a = in a path from separating the two of a mapping.
func escapeMapping(path string) string { return strings.ReplaceAll(path, "=", `\=`) }

// environment is what the program gets: the password, and messages in English,
// since its progress is read.
func (s BackupSpec) environment() []string {
	env := append(os.Environ(), "LC_ALL=C", "LANGUAGE=C")
	if p := s.Source.Get("password"); p != "" && (s.User == "" || s.User == s.Source.Get("user")) {
		env = append(env, "PGPASSWORD="+p)
	}
	return env
}

const (
	// backupGrace is how long pg_basebackup may take to go after SIGTERM.
	backupGrace = 3 * time.Second
	// backupTail bounds what is kept of its messages.
	backupTail = 16 << 10
)

// BaseBackup copies a server's data directory by pg_basebackup. progress, which
// may be nil, is called about every second with the bytes copied and the bytes
// expected. When ctx ends the program and its children are ended. What was
// written is left to the caller to remove.
func BaseBackup(ctx context.Context, s BackupSpec, progress func(done, total int64)) error {
	args, err := s.Command()
	if err != nil {
		return err
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = s.environment()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM, Credential: s.Credential}
	cmd.Stdout = io.Discard
	stderr, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return fault.Wrap(err, fault.BadBasebackup, "start of pg_basebackup")
	}
	group := -cmd.Process.Pid
	if watch, err := watchDeath(cmd.Process.Pid); err == nil {
		defer watch.end()
	}
	over := make(chan struct{})
	stopped := make(chan struct{})
	go func() { // ends with the program
		defer close(stopped)
		endGroup(ctx, group, over)
	}()
	messages := readProgress(stderr, progress)
	err = cmd.Wait()
	close(over)
	<-stopped
	switch {
	case ctx.Err() != nil:
		return fault.Wrap(ctx.Err(), fault.BadBasebackup, "base backup was stopped").WithDetail("%s", messages)
	case err != nil:
		return backupFault(err, messages)
	}
	return nil
}

// endGroup ends a process group when ctx does: first with SIGTERM, then harder.
func endGroup(ctx context.Context, group int, over <-chan struct{}) {
	select {
	case <-over:
		return
	case <-ctx.Done():
	}
	_ = syscall.Kill(group, syscall.SIGTERM)
	select {
	case <-over:
	case <-time.After(backupGrace):
		_ = syscall.Kill(group, syscall.SIGKILL)
	}
}

// readProgress reports the progress lines and returns the end of all others.
func readProgress(r io.Reader, progress func(done, total int64)) string {
	var rest []byte
	lines := bufio.NewScanner(r)
	lines.Split(splitProgress)
	for lines.Scan() {
		line := lines.Text()
		if done, total, ok := parseProgress(line); ok {
			if progress != nil {
				progress(done, total)
			}
			continue
		}
		rest = append(append(rest, line...), '\n')
		if len(rest) > backupTail {
			rest = rest[len(rest)-backupTail:]
		}
	}
	// A line that is too long ends the scanner; the program must not block on it.
	_, _ = io.Copy(io.Discard, r)
	return strings.TrimSpace(string(rest))
}

// splitProgress ends a line at \n or \r.
func splitProgress(data []byte, atEOF bool) (int, []byte, error) {
	if i := bytes.IndexAny(data, "\r\n"); i >= 0 {
		return i + 1, data[:i], nil
	}
	if atEOF && len(data) > 0 {
		return len(data), data, nil
	}
	return 0, nil, nil
}

// parseProgress reads a line such as " 22850/22850 kB (100%), 1/1 tablespace",
// in bytes.
func parseProgress(line string) (done, total int64, ok bool) {
	counts, rest, ok := strings.Cut(strings.TrimSpace(line), " kB ")
	a, b, both := strings.Cut(counts, "/")
	if !ok || !both || !strings.Contains(rest, "tablespace") {
		return 0, 0, false
	}
	done, errDone := strconv.ParseInt(a, 10, 64)
	total, errTotal := strconv.ParseInt(b, 10, 64)
	return done << 10, total << 10, errDone == nil && errTotal == nil
}

// backupHints says what to do about the commonest refusals, by a part of the
// message in English.
var backupHints = []struct{ part, hint string }{
	{"No space left on device", "Make room on the disk of the data directory, or of the WAL directory, and clone again."},
	{"all replication slots are in use", "Raise max_replication_slots on the source, or drop slots that nobody needs."},
	{"number of requested standby connections exceeds", "Raise max_wal_senders on the source, or wait until another backup is done."},
	{"no pg_hba.conf entry for replication", "Add a line for the database \"replication\", the replication user and this host to pg_hba.conf of the source, and reload it."},
	{"password authentication failed", "Check the password in ~/.pgpass: it needs a line for the database \"replication\"."},
	{"no password supplied", "Put the password into ~/.pgpass (mode 0600): it needs a line for the database \"replication\"."},
	{"exists but is not empty", "Choose an empty data directory, or use --force."},
	{"must be superuser or replication role", "Give the role the REPLICATION attribute, or name another by --replication-user."},
	{"incompatible server version", "Use the pg_basebackup of the source's major version: set pg_bindir."},
}

func backupFault(err error, messages string) error {
	f := fault.Wrap(err, fault.BadBasebackup, "base backup").WithDetail("pg_basebackup said: %s", messages)
	for _, h := range backupHints {
		if strings.Contains(messages, h.part) {
			return f.WithHint("%s", h.hint)
		}
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			return f.WithHint("It was ended by signal %d (%s); clone again.", int(status.Signal()), status.Signal())
		}
	}
	return f
}
