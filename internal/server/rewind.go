package server

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/host"
	"repmgr/internal/pg"
)

// RewindRequest says what a diverged server is rewound to.
type RewindRequest struct {
	Source   pg.Conninfo // the primary; its role needs what pg_rewind needs, or is a superuser
	History  History     // of the primary
	StateDir string      // where the marker and the server's configuration are kept meanwhile
	Keep     []string    // patterns of further files of the data directory that are the server's own
	Recovery pg.Recovery // for afterwards; it names the primary, without whose WAL the server may answer nobody
}

// markerName is the file that says that a rewind was begun and not finished.
const markerName = "rewind.in-progress"

// configName is the directory with the configuration of a server that is rewound.
const configName = "rewind.config"

// RewindInterrupted tells whether a rewind was begun and not finished: then the
// data directory must not be started, only cloned anew (A24).
func RewindInterrupted(stateDir string) (bool, error) {
	_, err := os.Stat(filepath.Join(stateDir, markerName))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fault.Wrap(err, fault.RejoinFail, "marker of a rewind")
	}
	return true, nil
}

// mustBeWhole refuses a directory whose rewind was broken off: it is neither the
// old server nor the new.
func (o Own) mustBeWhole() error {
	broken, err := RewindInterrupted(o.Config.StateDir())
	if err == nil && broken {
		err = fault.New(fault.NoRestart, "a rewind of the server was broken off: its data directory is neither the old one nor the new, and must not be started").
			WithDetail("%s says so.", filepath.Join(o.Config.StateDir(), markerName)).
			WithHint("Clone it: repmgr standby clone --force.")
	}
	return err
}

// closed is the permission that keeps every server from starting in a data
// directory, whoever starts it: PostgreSQL refuses one that others may search
// (checkDataDir in miscinit.c), and pg_rewind does not mind. What lies in there
// stays closed to others by its own permissions.
const closed fs.FileMode = 0o001

// close closes the data directory to servers, and makes sure that none was faster.
func (o Own) close() (open func() error, err error) {
	info, err := os.Stat(o.dir())
	if err != nil {
		return nil, fault.Wrap(err, fault.RejoinFail, "data directory %s", o.dir())
	}
	chmod := func(mode fs.FileMode) error {
		err := os.Chmod(o.dir(), mode)
		if err == nil {
			err = host.SyncDir(o.dir())
		}
		if err != nil {
			return fault.Wrap(err, fault.RejoinFail, "permissions of %s", o.dir())
		}
		return nil
	}
	mode := info.Mode().Perm() &^ closed
	open = func() error { return chmod(mode) }
	if err := chmod(mode | closed); err != nil {
		return nil, errors.Join(err, open())
	}
	if err := o.mustBeDown(fault.RejoinFail, "rewind it"); err != nil {
		return nil, errors.Join(err, open())
	}
	return open, nil
}

// ClearRewind removes the marker, after a clone. What was kept of the server's
// configuration stays, in ConfigAside.
func ClearRewind(stateDir string) error {
	err := os.Remove(filepath.Join(stateDir, markerName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = host.SyncDir(stateDir)
	}
	if err != nil {
		return fault.Wrap(err, fault.RejoinFail, "the marker of the rewind could not be removed")
	}
	return nil
}

// ConfigAside is the directory that keeps the configuration of a server while it is
// rewound, and after that was broken off.
func ConfigAside(stateDir string) string { return filepath.Join(stateDir, configName) }

// end removes the marker and what was kept, when all is done.
func (r RewindRequest) end() error {
	if err := ClearRewind(r.StateDir); err != nil {
		return err
	}
	if err := os.RemoveAll(ConfigAside(r.StateDir)); err != nil {
		return fault.Wrap(err, fault.RejoinFail, "what was kept of the server's configuration could not be removed")
	}
	return nil
}

// CanRewind tells why pg_rewind cannot work on a directory, nil if it can.
func CanRewind(control pg.Control) error {
	if control.Checksums || control.WALLogHints {
		return nil
	}
	return fault.New(fault.RejoinFail, "the server cannot be rewound, and has to be cloned").
		WithDetail("Neither data checksums nor wal_log_hints were on when it ran, so that the WAL does not name all pages that changed.").
		WithHint("For the next time: wal_log_hints = on in postgresql.conf, or pg_checksums --enable; full_page_writes must be on.")
}

// Rewind takes a stopped server back to where its history left the primary's and
// brings it up to the primary by pg_rewind; what it threw away is returned. Its own
// configuration stays. The server is armed afterwards, and not started. When
// pg_rewind has begun to change it an error means that the directory must be cloned,
// and nothing starts in it before; what can be refused is refused before. A server that can follow as it is only gets its settings.
func (o Own) Rewind(ctx context.Context, r RewindRequest) (Discarded, error) {
	relation, err := o.prepareRewind(ctx, r)
	if err != nil {
		return Discarded{}, err
	}
	if relation.Follows {
		return Discarded{}, o.settle(r)
	}
	d, err := o.CountDiscarded(ctx, relation.Own.Timeline, relation.Fork.LSN, relation.Own.LSN)
	if err != nil { // what cannot be counted is thrown away all the same
		o.log("the discarded commits cannot be counted: " + err.Error())
		d.Bytes = relation.Beyond
	}
	if _, err := o.pgRewind(ctx, r, rehearsal); err != nil {
		return Discarded{}, err
	}
	if err := o.saveConfig(r); err != nil {
		return Discarded{}, err
	}
	open, err := o.close()
	if err != nil {
		return Discarded{}, err
	}
	text := fmt.Sprintf("rewind to timeline %d of %q was begun\n", r.History.Timeline, r.Source.Redacted())
	if err := host.WriteFileDurable(filepath.Join(r.StateDir, markerName), []byte(text), 0o600); err != nil {
		return Discarded{}, errors.Join(err, open(), r.end())
	}
	switch touched, err := o.pgRewind(ctx, r, ""); {
	case err != nil && !touched:
		return Discarded{}, errors.Join(err, open(), r.end())
	case err != nil:
		return d, fault.Wrap(err, fault.RejoinFail, "the rewind was broken off: the data directory must not be started").
			WithHint("Clone it from the primary.")
	}
	if err := o.restoreConfig(r); err != nil {
		return d, err
	}
	if err := o.settle(r); err != nil {
		return d, err
	}
	flushSource(ctx, r, o.log)
	if err := open(); err != nil {
		return d, err
	}
	return d, r.end()
}

// flushSource makes the source flush its WAL. A server that was rewound takes no
// connections before it has replayed up to where the source was inserting then,
// and on an idle source that stays in memory for up to 15 seconds.
func flushSource(ctx context.Context, r RewindRequest, log func(string)) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c, err := pg.Connect(ctx, r.Source)
	if err == nil {
		defer hangUp(c)
		_, err = c.Exec(ctx, "SELECT pg_catalog.pg_logical_emit_message(true, 'repmgr', 'a standby was rewound')")
	}
	if err != nil {
		log("the primary was not made to flush its WAL, the standby may wait for it: " + err.Error())
	}
}

// prepareRewind checks what can be checked, brings the server to a clean stop, and
// the source to a checkpoint on its timeline.
func (o Own) prepareRewind(ctx context.Context, r RewindRequest) (Relation, error) {
	if r.Recovery.PrimaryConninfo == "" {
		return Relation{}, fault.New(fault.RejoinFail, "a rewind needs to know whom the server follows then").
			WithDetail("It takes no connections before it has replayed up to where the primary was when pg_rewind ended.")
	}
	if err := o.mustBeDown(fault.RejoinFail, "rewind it"); err != nil {
		return Relation{}, err
	}
	broken, err := RewindInterrupted(r.StateDir)
	if err != nil {
		return Relation{}, err
	}
	if broken {
		return Relation{}, fault.New(fault.RejoinFail, "an earlier rewind was broken off: the server has to be cloned").
			WithDetail("%s says so.", filepath.Join(r.StateDir, markerName))
	}
	relation, err := o.Compare(ctx, r.History)
	if err != nil || relation.Follows {
		return relation, err
	}
	if relation.Own.Timeline == r.History.Timeline {
		return relation, fault.New(fault.RejoinFail, "the server cannot be rewound, and has to be cloned").
			WithDetail("It has %d bytes of timeline %d that the primary of that timeline has not.", relation.Beyond, relation.Own.Timeline)
	}
	control, err := o.control(ctx)
	if err == nil {
		err = CanRewind(control)
	}
	if err == nil {
		err = sourceIs(ctx, r)
	}
	if err == nil && !control.ShutDownCleanly() {
		err = o.recoverCleanly(ctx, relation.Own)
	}
	if err == nil {
		err = o.checkpointOwn(ctx, relation.Own.Timeline)
	}
	if err == nil {
		err = o.checkpointSource(ctx, r)
	}
	return relation, err
}

// recoveryBound is how long a crashed server may replay its WAL before a rewind.
const recoveryBound = 30 * time.Minute

// recoverCleanly starts a crashed server as a standby that follows nobody, lets it
// replay what it has, and stops it: pg_rewind, which would do that by itself, fails
// on an armed directory (A24). It replays its own timeline only: what an archive
// has may be the new primary's.
func (o Own) recoverCleanly(ctx context.Context, end Position) error {
	if err := o.Arm(); err != nil {
		return err
	}
	if err := errors.Join(o.DropPlaceholders(), o.clearZombie(), o.awaitEnding(ctx)); err != nil {
		return err
	}
	ctl, err := o.ctl()
	if err != nil {
		return err
	}
	options := []string{"primary_conninfo=", "restore_command=", fmt.Sprintf("recovery_target_timeline=%d", end.Timeline),
		"recovery_min_apply_delay=0", "archive_mode=off"}
	if file := o.configFile(); file != "" && o.Config.ConfigDirectory == "" {
		options = append(options, pg.Quote("config_file="+file))
	}
	ctl.Options = strings.TrimSpace(ctl.Options + " -o " + pg.Quote("-c "+strings.Join(options, " -c ")))
	o.log("the server was not stopped in order: it is started to recover, read-only, and stopped")
	outer := context.WithoutCancel(ctx)
	ctx, cancel := context.WithTimeout(ctx, recoveryBound)
	defer cancel()
	replayed := false
	if err = o.service(ctx, "", ctl.Start("", remaining(ctx)), "recover the server"); err == nil {
		replayed, err = o.awaitReplay(ctx, end.LSN)
	} else {
		err = o.whyNotStarted(err)
	}
	last, cancel := context.WithTimeout(outer, startBound)
	defer cancel()
	if err != nil {
		return errors.Join(err, o.Kill(last)) // it may have started all the same
	}
	ctl.Options = o.Config.PgCtlOptions
	if err := o.service(last, "", ctl.Stop(pg.Fast, startBound), "stop the server after its recovery"); err != nil {
		return err
	}
	if err := o.awaitGone(last); err != nil {
		return err
	}
	if !replayed {
		return fault.Wrap(ctx.Err(), fault.RejoinFail, "the server has not recovered up to %s", end.LSN)
	}
	return nil
}

// checkpointOwn gives a stopped server a checkpoint on its timeline. A primary that
// died soon after its promotion has none, its recovery as a standby makes none, and
// pg_rewind of 13 to 15 takes the timeline of the last one for its. Recovery in
// single-user mode, where nobody can connect, ends with one; it refuses an armed
// directory (A24), which therefore is none for that long.
func (o Own) checkpointOwn(ctx context.Context, timeline cluster.Timeline) error {
	control, err := o.control(ctx)
	if err != nil || control.Timeline >= timeline {
		return err
	}
	if major, err := pg.MajorVersion(o.dir()); err != nil || major >= 16 {
		return err
	}
	program, err := o.tool("postgres")
	if err != nil {
		return err
	}
	args := []string{"--single", "-D", o.dir(), "-c", "archive_mode=off"}
	if file := o.configFile(); file != "" {
		args = append(args, "-c", "config_file="+file)
	}
	o.log(fmt.Sprintf("the server has no checkpoint on timeline %d: it makes one in single-user mode", timeline))
	cmd := exec.CommandContext(ctx, program, append(args, "template1")...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "LANGUAGE=C")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = time.Second
	if err := o.Disarm(); err != nil {
		return err
	}
	said, err := cmd.CombinedOutput()
	if err != nil {
		err = fault.Wrap(err, fault.RejoinFail, "a checkpoint in single-user mode has failed").WithDetail("It said: %s", bytes.TrimSpace(said))
	}
	return errors.Join(err, o.Arm())
}

func (o Own) awaitReplay(ctx context.Context, to cluster.LSN) (bool, error) {
	if err := o.awaitConnections(ctx); err != nil {
		return false, err
	}
	c, err := o.connect(ctx)
	if err != nil {
		return false, err
	}
	defer hangUp(c)
	return eachWhile(ctx, func() (bool, error) {
		p, err := c.Progress(ctx)
		return p.Replayed >= to, err
	})
}

// sourceIs makes sure that the source is the primary whose history is known. By an older one
// a server would be taken for diverged that has what the primary has written since, and its
// recovery would end with a checkpoint of its own on the primary's timeline: what follows from
// that no comparison of positions can see.
func sourceIs(ctx context.Context, r RewindRequest) error {
	c, err := pg.Connect(ctx, r.Source)
	if err != nil {
		return err
	}
	defer hangUp(c)
	p, err := c.Progress(ctx)
	switch {
	case err != nil:
		return err
	case p.InRecovery:
		return fault.New(fault.RejoinFail, "the server that is to be followed takes no writes").WithHint("It may not be promoted yet: try again.")
	case p.Timeline != r.History.Timeline:
		return fault.New(fault.RejoinFail, "the primary is on timeline %d, and its history is only known up to timeline %d", p.Timeline, r.History.Timeline).
			WithHint("It was promoted meanwhile: try again.")
	}
	return nil
}

// checkpointSource asks the source for a checkpoint: until one has come after its
// promotion, pg_rewind of 13 to 15 takes the old timeline for its (A20).
func (o Own) checkpointSource(ctx context.Context, r RewindRequest) error {
	c, err := pg.Connect(ctx, r.Source)
	if err != nil {
		return err
	}
	defer hangUp(c)
	settings, err := c.Settings(ctx, "full_page_writes")
	if err != nil {
		return err
	}
	if settings["full_page_writes"] == "off" {
		return fault.New(fault.RejoinFail, "the server cannot be rewound: full_page_writes is off on the primary").
			WithHint("Set it to on, or clone the server.")
	}
	timeline := func() (cluster.Timeline, error) {
		s, err := c.Server(ctx)
		return s.Timeline, err
	}
	if now, err := timeline(); err != nil || now == r.History.Timeline {
		return err
	}
	if err := c.Checkpoint(ctx); err != nil {
		if pg.Code(err) != "42501" {
			return err
		}
		if err := checkpointAsReplica(ctx, r); err != nil {
			o.log("the role may not make a checkpoint on the primary, which would save time: as a superuser, GRANT pg_checkpoint (15 and later) TO it; waiting for the primary's own: " + err.Error())
		}
	}
	done, err := eachWhile(ctx, func() (bool, error) {
		now, err := timeline()
		return now == r.History.Timeline, err
	})
	if err == nil && !done {
		err = fault.Wrap(ctx.Err(), fault.RejoinFail, "the primary has made no checkpoint on timeline %d", r.History.Timeline)
	}
	return err
}

// checkpointAsReplica has the source make one by the right to replicate, which the role
// has that this server will stream with. The source's own after its promotion is spread
// over minutes where much was changed.
func checkpointAsReplica(ctx context.Context, r RewindRequest) error {
	stream, err := pg.ParseConninfo(r.Recovery.PrimaryConninfo)
	if err != nil {
		return err
	}
	return pg.CheckpointAsReplica(ctx, r.Source, stream.Get("user"))
}

// noticing lets libpq notice within half a minute that a server has gone without a
// word: by itself it waits for two hours. What is set already stays.
func noticing(c pg.Conninfo) pg.Conninfo {
	for _, p := range [][2]string{{"keepalives_idle", "10"}, {"keepalives_interval", "5"}, {"keepalives_count", "4"}, {"tcp_user_timeout", "30000"}} {
		if c.Get(p[0]) == "" {
			c = c.With(p[0], p[1])
		}
	}
	return c
}

// What pg_rewind says of its progress (pg_rewind.c).
const (
	// beforeChanges it says when it has asked the source for all that it needs to know, and
	// before it changes anything ("need to copy 5 MB").
	beforeChanges = "need to copy"
	// copied follows what it has received, and what it will have ("8260/620243 kB (1%) copied").
	copied = " copied"
)

// rehearsal is the option with which pg_rewind changes nothing. It would receive everything
// all the same, WAL that the source keeps included: it is ended with the first that came,
// when nothing is left that the source could refuse.
const rehearsal = "--dry-run"

// pgRewind runs pg_rewind, or rehearses it, and hands its words to Log. Unless it may have
// changed the directory, touched is false: then it can be tried again.
func (o Own) pgRewind(ctx context.Context, r RewindRequest, option string) (touched bool, err error) {
	program, err := o.tool("pg_rewind")
	if err != nil {
		return false, err
	}
	args := []string{"-D", o.dir(), "--source-server", noticing(r.Source).Without("password").String(), "--no-ensure-shutdown", "--progress"}
	if option != "" {
		args = append(args, option)
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "LANGUAGE=C")
	if p := r.Source.Get("password"); p != "" {
		cmd.Env = append(cmd.Env, "PGPASSWORD="+p)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = time.Second
	out, in, err := os.Pipe()
	if err != nil {
		return false, fault.Wrap(err, fault.RejoinFail, "start of pg_rewind")
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = in, in
	err = cmd.Start()
	_ = in.Close()
	if err != nil {
		return false, fault.Wrap(err, fault.RejoinFail, "start of pg_rewind")
	}
	words := rewinding{own: o}
	if option == rehearsal {
		words.enough = func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // it is not waited for yet: the number is its own
	}
	words.read(out)
	touched = words.begun && option != rehearsal
	err = cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return touched, fault.Wrap(ctx.Err(), fault.RejoinFail, "pg_rewind was stopped")
	case err != nil && !words.ended:
		return touched, fault.Wrap(err, fault.RejoinFail, "pg_rewind has failed").WithDetail("It said: %s", strings.Join(words.last, "; "))
	case words.unneeded:
		return touched, fault.New(fault.RejoinFail, "pg_rewind sees no need for a rewind, though the histories have parted").
			WithHint("Clone the server.")
	}
	return true, nil
}

// rewinding is what pg_rewind has said.
type rewinding struct {
	own      Own
	enough   func()   // ends a rehearsal; nil: it is none, and the log is told all
	ended    bool     // enough was called
	begun    bool     // it is about to change the directory, or has
	unneeded bool     // it saw no need to
	last     []string // its last words
}

// read reads its words until it ends. Progress comes with carriage returns.
func (w *rewinding) read(out io.Reader) {
	lines := bufio.NewScanner(out)
	lines.Split(func(data []byte, atEOF bool) (int, []byte, error) {
		if at := bytes.IndexAny(data, "\r\n"); at >= 0 {
			return at + 1, data[:at], nil
		}
		if atEOF && len(data) > 0 {
			return len(data), data, nil
		}
		return 0, nil, nil
	})
	for lines.Scan() {
		if line := strings.TrimSpace(lines.Text()); line != "" {
			w.hear(line)
		}
	}
	_, _ = io.Copy(io.Discard, out)
}

func (w *rewinding) hear(line string) {
	w.begun = w.begun || strings.Contains(line, beforeChanges)
	w.unneeded = w.unneeded || strings.Contains(line, "no rewind required")
	if w.last = append(w.last, line); len(w.last) > 10 {
		w.last = w.last[1:]
	}
	switch {
	case w.enough == nil:
		w.own.log(line)
	case !w.ended && strings.HasSuffix(line, copied) && !strings.HasPrefix(line, "0/"):
		w.ended = true
		w.enough()
	}
}

// settle writes what the server follows, after a rewind or instead of one, and
// arms it.
func (o Own) settle(r RewindRequest) error {
	if err := pg.WriteStandbySignal(o.dir()); err != nil {
		return err
	}
	if err := pg.WriteRecovery(o.dir(), r.Recovery); err != nil {
		return err
	}
	return o.sync()
}

// ownFiles are the files of the data directory that say what this server is, and
// that pg_rewind would replace by the source's or remove.
func (o Own) ownFiles(keep []string) ([]string, error) {
	var out []string
	for _, pattern := range append([]string{"*.conf", "conf.d/*", "*.crt", "*.key", "*.pem", "*.crl"}, keep...) {
		found, err := filepath.Glob(filepath.Join(o.dir(), pattern))
		if err != nil {
			return nil, err
		}
		for _, path := range found {
			if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() {
				name, _ := filepath.Rel(o.dir(), path)
				out = append(out, name)
			}
		}
	}
	return out, nil
}

// saveConfig copies the server's own files aside.
func (o Own) saveConfig(r RewindRequest) error {
	names, err := o.ownFiles(r.Keep)
	aside := ConfigAside(r.StateDir)
	if err == nil {
		err = os.RemoveAll(aside)
	}
	made := map[string]bool{r.StateDir: true}
	for _, name := range names {
		to := filepath.Join(aside, name)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(to), 0o700)
		}
		if err == nil {
			_, err = copyFile(context.Background(), filepath.Join(o.dir(), name), to)
		}
		for dir := filepath.Dir(to); !made[dir] && len(dir) >= len(aside); dir = filepath.Dir(dir) {
			made[dir] = true
		}
	}
	for dir := range made { // else a power cut may take the names of what was synced
		if err == nil {
			err = host.SyncDir(dir)
		}
	}
	if err != nil {
		return fault.Wrap(err, fault.RejoinFail, "the server's configuration could not be kept in %s", aside)
	}
	return nil
}

// restoreConfig puts them back.
func (o Own) restoreConfig(r RewindRequest) error {
	aside := ConfigAside(r.StateDir)
	err := filepath.WalkDir(aside, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		name, err := filepath.Rel(aside, path)
		if err != nil {
			return err
		}
		to := filepath.Join(o.dir(), name)
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		return host.WriteFileDurable(to, text, info.Mode().Perm())
	})
	if err != nil {
		return fault.Wrap(err, fault.RejoinFail, "the server's configuration could not be put back").
			WithHint("It is in %s. Do not start the server with another's.", aside)
	}
	return nil
}
