package registry

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"repmgr/internal/cluster"
	"repmgr/internal/conf"
	"repmgr/internal/fault"
	"repmgr/internal/host"
	"repmgr/internal/ops"
	"repmgr/internal/pg"
)

// barman is Barman on its host, and one backup that it keeps there.
type barman struct {
	ssh    host.SSH
	config string // Barman's configuration file there; empty: its own
	server string // Barman's name of the cluster
	base   string // where it keeps that server's backups
	info   string // how Barman connects to that server, a conninfo
	backup barmanBackup
}

// barmanTimeout bounds one question to Barman. To tell of a server Barman asks
// that server, and one that is not there may take it a while.
const barmanTimeout = 2 * time.Minute

func newBarman(cfg *conf.Config) (*barman, error) {
	options, err := pg.SplitWords(cfg.SSHOptions)
	if err != nil {
		return nil, fault.Wrap(err, fault.BadConfig, "ssh_options cannot be used").WithHint("correct ssh_options in repmgr.conf")
	}
	return &barman{ssh: host.SSH{Host: cfg.BarmanHost, Options: options}, config: cfg.BarmanConfig, server: cfg.BarmanServer}, nil
}

// barmanBackup is a backup as `barman --format json show-backup` tells of it.
type barmanBackup struct {
	ID     string `json:"backup_id"`
	Status string `json:"status"`
	Base   struct {
		BeginWAL string `json:"begin_wal"` // the first segment that the copy needs
		EndLSN   string `json:"end_lsn"`
		Timeline int    `json:"timeline"`
		EndTime  string `json:"end_time"`
		Bytes    int64  `json:"disk_usage_bytes"`
	} `json:"base_backup_information"`
	Tablespaces []struct {
		Name     string `json:"name"`
		Location string `json:"location"`
		OID      uint32 `json:"oid"`
	} `json:"tablespaces"`
	SystemID string `json:"-"` // from the backup's control file
	// Version is PostgreSQL's, as server_version_num has it, of the backup's PG_VERSION: its
	// minor version is zero.
	Version int `json:"-"`
}

// data is where the copy of the data directory is on Barman's host.
func (b *barman) data() string { return path.Join(b.base, b.backup.ID, "data") }

// find asks for the latest backup, and makes sure that it can be copied.
func (b *barman) find(ctx context.Context) error {
	answer, err := b.ask(ctx, "show-backup", b.server, "latest")
	if err != nil {
		return err
	}
	if err := json.Unmarshal(answer, &b.backup); err != nil || b.backup.ID == "" {
		return b.strange("show-backup", answer)
	}
	answer, err = b.ask(ctx, "show-server", b.server)
	if err != nil {
		return err
	}
	var server struct {
		Base     string `json:"basebackups_directory"`
		Conninfo string `json:"conninfo"`
	}
	if err := json.Unmarshal(answer, &server); err != nil || !path.IsAbs(server.Base) {
		return b.strange("show-server", answer)
	}
	b.base, b.info = server.Base, server.Conninfo
	return b.identify(ctx)
}

// ask runs a command of Barman's that answers about its server.
func (b *barman) ask(ctx context.Context, command ...string) (json.RawMessage, error) {
	words := []string{"barman", "--format", "json"}
	if b.config != "" {
		words = append(words, "--config", b.config)
	}
	line := pg.QuoteAll(append(words, command...))
	r, err := b.run(ctx, line)
	if err != nil {
		return nil, err
	}
	text := r.Stdout[max(0, strings.IndexByte(r.Stdout, '{')):] // a login script may have said something first
	var answer map[string]json.RawMessage
	readable := json.Unmarshal([]byte(text), &answer) == nil
	var complaints []string
	if readable && json.Unmarshal(answer["_ERROR"], &complaints) == nil && len(complaints) > 0 {
		return nil, b.complaint(strings.Join(complaints, "; "))
	}
	switch {
	case r.ExitCode == 127:
		return nil, fault.New(fault.Barman, "there is no Barman on %s", b.ssh.Host).
			WithDetail("%s", firstLine(r.Stderr, r.Stdout)).
			WithHint("install it there, let the command \"barman\" be found in the PATH of a session of ssh that is no login, or correct barman_host")
	case !r.OK():
		return nil, fault.New(fault.Barman, "Barman on %s has failed", b.ssh.Host).
			WithDetail("%s: it %s; %s", line, r, firstLine(r.Stderr, r.Stdout)).
			WithHint("run the command there by hand; check barman_config; or copy the server itself with --without-barman")
	case !readable || answer[b.server] == nil:
		return nil, b.strange(command[0], []byte(r.Stdout))
	}
	return answer[b.server], nil
}

// complaint explains what Barman says of its server or its backups.
func (b *barman) complaint(text string) error {
	switch {
	case strings.HasPrefix(text, "Unknown server"):
		return fault.New(fault.Barman, "Barman on %s does not know the server %q", b.ssh.Host, b.server).
			WithDetail("Barman said: %s", text).
			WithHint("correct barman_server in repmgr.conf: \"barman list-servers\" there shows the names; or correct barman_config")
	case strings.HasPrefix(text, "Unknown backup"):
		return fault.New(fault.Barman, "Barman on %s has no backup of the server %q", b.ssh.Host, b.server).
			WithDetail("Barman said: %s", text).
			WithHint("take one there with \"barman backup %s\", or copy the server itself with --without-barman", b.server)
	}
	return fault.New(fault.Barman, "Barman on %s has failed", b.ssh.Host).
		WithDetail("Barman said: %s", text).
		WithHint("see \"barman check %s\" there; or copy the server itself with --without-barman", b.server)
}

func (b *barman) strange(command string, answer []byte) error {
	return fault.New(fault.Barman, "what Barman on %s answers is not understood", b.ssh.Host).
		WithDetail("\"barman --format json %s\" begins with %q", command, answer[:min(len(answer), 100)]).
		WithHint("Barman 2.9 or newer is needed there; or copy the server itself with --without-barman")
}

// run runs a line on Barman's host. Its error says that there was no session.
func (b *barman) run(ctx context.Context, line string) (host.Result, error) {
	c := b.ssh.Command(line)
	c.Timeout = barmanTimeout
	r, err := host.Run(ctx, c)
	if err == nil && r.ExitCode == host.SSHFailed {
		err = errors.New(firstLine(strings.TrimSpace(r.Stderr), "ssh said nothing"))
	}
	if err != nil {
		return r, fault.Wrap(err, fault.Barman, "Barman's host %s cannot be asked by ssh", b.ssh.Host).
			WithHint("check barman_host and ssh_options; \"ssh %s true\" must work for this user without a password", b.ssh.Host)
	}
	return r, nil
}

// identify reads the system identifier from the backup's own control file, of which
// it is the first eight bytes, its PG_VERSION and its label. So it is seen too that the
// files of the backup may be read, and that they are plain files.
func (b *barman) identify(ctx context.Context) error {
	control, label := path.Join(b.data(), "global", "pg_control"), path.Join(b.data(), "backup_label")
	version := path.Join(b.data(), versionFile)
	r, err := b.run(ctx, "od -A n -t x1 -N 8 "+pg.Quote(control)+" && sed 's/^/"+versionFile+" /' "+pg.Quote(version)+" && cat "+pg.Quote(label))
	if err != nil {
		return err
	}
	id, found := systemID(r.Stdout)
	major, told := majorOf(r.Stdout)
	if !r.OK() || !found || !told {
		return fault.New(fault.Barman, "backup %s of %q cannot be copied from %s", b.backup.ID, b.server, b.ssh.Host).
			WithDetail("%s, %s and %s cannot be read: %s", control, version, label, firstLine(r.Stderr, r.Stdout)).
			WithHint("the user that barman_host names must be able to read Barman's files, as Barman's own user can; a compressed backup and a snapshot cannot be copied: take a plain one; or copy the server itself with --without-barman")
	}
	// Manual of PostgreSQL 17, "Making an Incremental Backup": it is no data directory.
	if strings.Contains(r.Stdout, "\nINCREMENTAL FROM ") {
		return fault.New(fault.Barman, "backup %s of %q is an incremental one", b.backup.ID, b.server).
			WithHint("take a full one with \"barman backup %s\", or copy the server itself with --without-barman", b.server)
	}
	b.backup.SystemID, b.backup.Version = id, major*10000
	return nil
}

// majorOf reads the major version from the line that identify makes of PG_VERSION.
func majorOf(text string) (major int, found bool) {
	for line := range strings.Lines(text) {
		if words := strings.Fields(line); len(words) == 2 && words[0] == versionFile {
			n, err := strconv.Atoi(words[1])
			return n, err == nil
		}
	}
	return 0, false
}

// systemID reads the first line of eight bytes in hexadecimal, as od writes them, in the
// byte order of this machine: a control file of another is of no use here.
func systemID(text string) (id string, found bool) {
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		b, err := hex.DecodeString(strings.Join(words, ""))
		if err == nil && len(words) == 8 && len(b) == 8 {
			return fmt.Sprint(binary.NativeEndian.Uint64(b)), true
		}
	}
	return "", false
}

// excluded is what a backup's data directory may hold and a new server's must not: what
// belongs to a running server, what would make it another kind of standby, and what
// is made anew.
var excluded = []string{"/postmaster.pid", "/postmaster.opts", "/standby.signal", "/recovery.signal", "/recovery.conf",
	"/tablespace_map", "/pg_wal", "/pg_replslot", "/pg_tblspc", "/pg_dynshmem/*", "/pg_notify/*", "/pg_serial/*",
	"/pg_snapshots/*", "/pg_stat_tmp/*", "/pg_subtrans/*"}

// directories are those that a server expects in its data directory, and that a
// backup may not have since they are empty.
var directories = []string{"pg_wal/archive_status", "pg_replslot", "pg_tblspc", "pg_dynshmem", "pg_notify", "pg_serial",
	"pg_snapshots", "pg_stat", "pg_stat_tmp", "pg_subtrans", "pg_twophase", "pg_commit_ts", "pg_logical/snapshots", "pg_logical/mappings"}

// askBarman finds Barman's backup, once.
func (w *World) askBarman(ctx context.Context) error {
	if w.barman != nil {
		return nil
	}
	b, err := newBarman(w.cfg)
	if err == nil {
		err = b.find(ctx)
	}
	if err == nil {
		w.barman = b
	}
	return err
}

// surveyBarman asks Barman for its backup, in place of surveyBackup.
func (w *World) surveyBarman(ctx context.Context, v *CloneSurvey, r CloneRequest) error {
	if err := w.askBarman(ctx); err != nil {
		return err
	}
	b := w.barman
	options, err := pg.ParseBackupOptions(w.cfg.PgBasebackupOptions)
	if err != nil {
		return err
	}
	w.backup.Options = options
	v.Options.Barman = &ops.BarmanBackup{Host: b.ssh.Host, Server: b.server, ID: b.backup.ID, Ended: b.backup.Base.EndTime,
		Done:    b.backup.Status == "DONE" || b.backup.Status == "WAITING_FOR_WALS",
		Version: b.backup.Version, SystemID: b.backup.SystemID, BeginWAL: b.backup.Base.BeginWAL, Timeline: cluster.Timeline(b.backup.Base.Timeline)}
	if !v.Source.Unseen {
		v.Options.Barman.Diverged, v.Options.Barman.Gone = w.divergedBackup(ctx, v.Source.SystemID, b.backup.SystemID, v.Options.Barman.Timeline, b.backup.Base.EndLSN), w.segmentGone(ctx, v.Options.Upstream)
	}
	v.Options.ToolMajor = w.serverMajor(ctx)
	v.Options.Backup = ops.Backup{Path: r.DataDirectory,
		Command: pg.QuoteAll(b.ssh.Rsync(b.data(), filepath.Join(r.DataDirectory, partial), excluded...))}
	v.Source.Size, v.Source.Tablespaces = b.backup.Base.Bytes, nil
	for _, m := range w.cfg.TablespaceMapping {
		v.Options.Backup.Tablespaces = append(v.Options.Backup.Tablespaces, [2]string{m.Old, m.New})
	}
	for _, t := range b.backup.Tablespaces {
		one := ops.Tablespace{Location: t.Location, Target: w.tablespaceTarget(t.Location)}
		if one.State, err = w.DirectoryIs(ctx, one.Target); err != nil {
			return err
		}
		v.Source.Tablespaces = append(v.Source.Tablespaces, one)
		w.fills = append(w.fills, one.Target)
	}
	if v.Options.WALDirectory = options.WALDir; options.WALDir != "" {
		w.fills = append(w.fills, options.WALDir)
		v.Options.WALDirState, err = w.DirectoryIs(ctx, options.WALDir)
	}
	return err
}

// divergedBackup says why the history of a backup, which reaches to a place on a timeline, is not
// the primary's; empty: it is, or the primary does not tell. Backups of a former primary may
// be from after its fork. Source is the cluster's system identifier, or empty.
func (w *World) divergedBackup(ctx context.Context, source, backup string, timeline cluster.Timeline, endLSN string) string {
	end, err := cluster.ParseLSN(endLSN)
	if err != nil || source != "" && backup != source {
		return ""
	}
	info, err := pg.ParseConninfo(w.primary.info)
	if err != nil {
		return ""
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	user := ""
	for _, n := range w.nodes {
		if n.Conninfo == w.primary.info {
			user = n.ReplUser
		}
	}
	r, err := pg.ConnectReplication(ctx, info, user)
	if err != nil {
		return ""
	}
	defer closeRepl(r)
	ok, reason, err := r.CanFollow(ctx, pg.Local{SystemID: backup, Timeline: timeline, Position: end})
	if err != nil || ok {
		return ""
	}
	return strings.ReplaceAll(reason, "this server", "the backup")
}

// segmentGone tells whether the upstream no longer has the first segment of WAL
// that the backup needs. Where it does not say, it is taken to have it.
func (w *World) segmentGone(ctx context.Context, upstream cluster.NodeID) bool {
	c, err := w.to(ctx, upstream)
	if err != nil {
		return false
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	var found bool
	err = c.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_catalog.pg_ls_waldir() WHERE name = $1)", w.barman.backup.Base.BeginWAL).Scan(&found)
	return err == nil && !found
}

// CopyBackup copies Barman's backup by rsync.
func (w *World) CopyBackup(ctx context.Context, c ops.CopyBackup) error {
	err := w.copyBackup(ctx, filepath.Join(c.Path, partial))
	if err != nil && ctx.Err() != nil {
		err = fault.Wrap(ctx.Err(), fault.BadBasebackup, "the clone was broken off").
			WithHint("what it had made is removed; clone again")
	}
	if waldir := w.backup.Options.WALDir; err != nil && waldir != "" {
		w.warn(w.DiscardDirectory(ctx, waldir, true))
	}
	return err
}

func (w *World) copyBackup(ctx context.Context, to string) error {
	b := w.barman
	var before int64 // bytes of the directories that are copied already
	if err := w.rsync(ctx, b.ssh.Rsync(b.data(), to, excluded...), &before); err != nil {
		return err
	}
	if err := makeDirectories(to, w.backup.Options.WALDir); err != nil {
		return err
	}
	filled := []string{to}
	for _, t := range b.backup.Tablespaces {
		target, oid := w.tablespaceTarget(t.Location), strconv.FormatUint(uint64(t.OID), 10)
		if err := host.PrepareDirectory(target, false); err != nil {
			return err
		}
		if err := w.rsync(ctx, b.ssh.Rsync(path.Join(b.base, b.backup.ID, oid), target), &before); err != nil {
			return err
		}
		if err := os.Symlink(target, filepath.Join(to, "pg_tblspc", oid)); err != nil {
			return fault.Wrap(err, fault.BadConfig, "tablespace %q cannot be put in place", t.Name)
		}
		filled = append(filled, target)
	}
	if _, err := os.Stat(filepath.Join(to, "backup_label")); err != nil {
		return fault.New(fault.Barman, "backup %s of %q has no backup_label", b.backup.ID, b.server).
			WithDetail("without it a server would start from the wrong place, and its data would be corrupt").
			WithHint("take another backup with \"barman backup %s\"", b.server)
	}
	for _, dir := range filled {
		if err := flush(dir); err != nil {
			return fault.Wrap(err, fault.BadBasebackup, "%s could not be written to disk", dir)
		}
	}
	if w.opt.Progress != nil {
		total := max(before, b.backup.Base.Bytes)
		w.opt.Progress(total, total)
	}
	return nil
}

// rsync runs one copy; before counts the bytes of all.
func (w *World) rsync(ctx context.Context, words []string, before *int64) error {
	begin := *before
	r, err := host.Copy(ctx, words, func(done int64) {
		*before = begin + done
		if w.opt.Progress != nil {
			w.opt.Progress(*before, max(*before, w.barman.backup.Base.Bytes))
		}
	})
	if err == nil && r.OK() {
		return nil
	}
	if err == nil {
		err = errors.New(r.String())
	}
	f := fault.Wrap(err, fault.BadRsync, "the backup could not be copied from %s", w.barman.ssh.Host).
		WithDetail("rsync said: %s", strings.TrimSpace(r.Stderr)).
		WithHint("rsync is needed here and there; look at what it said, and clone again")
	if strings.Contains(r.Stderr, "No space left on device") {
		f.WithHint("make room on the disk of the data directory, and clone again")
	}
	return f
}

// makeDirectories makes those that the copy lacks, that of the WAL elsewhere if it
// is to be so.
func makeDirectories(dir, waldir string) error {
	if waldir != "" {
		err := host.PrepareDirectory(waldir, false)
		if err == nil {
			err = os.Symlink(waldir, filepath.Join(dir, "pg_wal"))
		}
		if err != nil {
			return fault.Wrap(err, fault.BadConfig, "directory %s for the WAL", waldir)
		}
	}
	for _, name := range directories {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			return fault.Wrap(err, fault.BadConfig, "directory %s of the copy", name)
		}
	}
	// A server starts in a directory that others may not enter, and in no other.
	info, err := os.Stat(dir)
	if err == nil && info.Mode().Perm() != 0o700 && info.Mode().Perm() != 0o750 {
		err = os.Chmod(dir, 0o700)
	}
	return err
}

// flush waits until the file system of dir is on disk: rsync does not.
func flush(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return unix.Syncfs(int(d.Fd()))
}
