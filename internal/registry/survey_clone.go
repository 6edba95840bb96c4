package registry

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/ops"
	"repmgr/internal/pg"
)

// CloneRequest is what `standby clone` was asked for.
type CloneRequest struct {
	Source           pg.Conninfo
	DataDirectory    string
	Force            bool
	Upstream         cluster.NodeID // zero: the primary
	UpstreamConninfo string
	ReplicationUser  string
	FastCheckpoint   bool
	VerifyBackup     bool
	CopyFiles        ops.Place
	ApplyDelay       string // before recovery_min_apply_delay of the configuration
	Barman           bool   // copy Barman's backup, not the server
	BackupAPI        bool   // let pg-backup-api restore one
	NoUpstream       bool   // connect neither to the source nor to any other server; with Barman only
}

// CloneSurvey is what was found out for a clone.
type CloneSurvey struct {
	Survey    ops.Survey
	Source    ops.CloneSource
	Directory ops.DirectoryState
	Options   ops.CloneOptions
}

// SurveyClone looks at the source, the primary, the upstream and the directory.
func (w *World) SurveyClone(ctx context.Context, r CloneRequest) (CloneSurvey, error) {
	var v CloneSurvey
	var err error
	if v.Directory, err = w.DirectoryIs(ctx, r.DataDirectory); err != nil {
		return v, err
	}
	w.source = r.Source
	look := w.surveySource
	if r.NoUpstream {
		look = w.surveyUnseen
	}
	if err := look(ctx, &v, r); err != nil {
		return v, err
	}
	v.Options = ops.CloneOptions{DataDirectory: r.DataDirectory, Force: r.Force, Upstream: r.Upstream,
		UpstreamGiven: r.Upstream != 0, CopyFiles: r.CopyFiles, VerifyBackup: r.VerifyBackup, RestoreCommand: w.cfg.RestoreCommand}
	if r.Upstream == 0 {
		v.Options.Upstream = recordedPrimary(v.Survey)
	}
	if err := w.surveyUpstreamOfClone(ctx, &v, r); err != nil {
		return v, err
	}
	if r.Barman {
		err = w.surveyBarman(ctx, &v, r)
		markLeftovers(&v)
		return v, err
	}
	if r.BackupAPI {
		err = w.surveyBackupAPI(ctx, &v, r)
		markLeftovers(&v)
		return v, err
	}
	if err := w.surveyBackup(ctx, &v, r); err != nil {
		return v, err
	}
	markLeftovers(&v)
	return v, w.tryReplication(ctx, v)
}

// surveySource looks at the source and the cluster that it belongs to.
func (w *World) surveySource(ctx context.Context, v *CloneSurvey, r CloneRequest) error {
	c, err := w.to(ctx, ops.Source)
	if err != nil {
		return sourceFault(err, r.Barman)
	}
	if err := w.records(ctx, c); err != nil {
		return err
	}
	v.Survey = w.survey(ops.Server{})
	v.Survey.Self.Role = cluster.Standby
	if v.Source, err = w.lookAtSource(ctx, c); err != nil {
		return err
	}
	return w.surveyClusterOf(ctx, c, v)
}

// markLeftovers finds what a broken clone has left outside its data directory.
func markLeftovers(v *CloneSurvey) {
	if !v.Directory.Partial || !v.Options.Force {
		return
	}
	for _, dir := range leftovers(v.Options.DataDirectory) {
		for i, t := range v.Source.Tablespaces {
			v.Source.Tablespaces[i].State.Leftover = t.State.Leftover || t.Target == dir
		}
		v.Options.WALDirState.Leftover = v.Options.WALDirState.Leftover || v.Options.WALDirectory == dir
	}
}

func sourceFault(err error, barman bool) error {
	hint := "check -h, -p, -U and -d, and pg_hba.conf of that server"
	if barman {
		hint += "; --no-upstream-connection copies Barman's backup without a connection to it"
	}
	return fault.Wrap(err, fault.DBConn, "the source cannot be reached").WithHint("%s", hint)
}

// recordedPrimary is the node that is registered as the active primary, or else
// the one that was seen to be it.
func recordedPrimary(s ops.Survey) cluster.NodeID {
	if s.Primary != 0 {
		return s.Primary
	}
	for _, n := range s.Nodes {
		if n.Role == cluster.Primary && n.Active {
			return n.ID
		}
	}
	return 0
}

// sourceSettings are the settings of the source that are judged.
var sourceSettings = []string{"wal_level", "hot_standby", "max_wal_senders", "max_replication_slots", "archive_mode",
	"archive_command", "archive_library", "wal_keep_size", "wal_log_hints", "data_checksums",
	"data_directory", "config_file", "hba_file", "ident_file"}

func (w *World) lookAtSource(ctx context.Context, c *pg.Conn) (ops.CloneSource, error) {
	var src ops.CloneSource
	var err error
	if src.Server, err = look(ctx, c, w.cfg.NodeName); err != nil {
		return src, err
	}
	src.Metadata, _, err = Installed(ctx, c)
	if err != nil {
		return src, err
	}
	if src.Settings, err = c.Settings(ctx, sourceSettings...); err != nil {
		return src, err
	}
	src.Settings["database"] = c.Config().Database
	src.Checksums = src.Settings["data_checksums"] == "on"
	src.DataDir = src.Settings["data_directory"]
	src.Name = fmt.Sprintf("server %s:%d", c.Config().Host, c.Config().Port)
	src.Address = fmt.Sprintf("host %q, port %d", c.Config().Host, c.Config().Port)
	if size, err := c.DatabaseSize(ctx); err == nil {
		src.Size = size
	}
	spaces, err := c.Tablespaces(ctx)
	if err != nil {
		return src, err
	}
	for _, t := range spaces {
		one := ops.Tablespace{Location: t.Location, Target: w.tablespaceTarget(t.Location)}
		if one.State, err = w.DirectoryIs(ctx, one.Target); err != nil {
			return src, err
		}
		src.Tablespaces = append(src.Tablespaces, one)
	}
	return src, w.lookForFiles(ctx, c, &src)
}

// tablespaceTarget is where a tablespace of the source is put here.
func (w *World) tablespaceTarget(location string) string {
	for _, m := range w.cfg.TablespaceMapping {
		if m.Old == location {
			return m.New
		}
	}
	return location
}

// lookForFiles finds the configuration files that live outside the source's data
// directory, as far as the role may know of them.
func (w *World) lookForFiles(ctx context.Context, c *pg.Conn, src *ops.CloneSource) error {
	if src.DataDir == "" && w.opt.Superuser == "" {
		return nil
	}
	if w.opt.Superuser != "" {
		super, err := w.asSuperuser(ctx, w.source.String())
		if err != nil {
			return err
		}
		w.super, c = super, super
		set, err := c.Settings(ctx, sourceSettings...)
		if err != nil {
			return err
		}
		for name, value := range set {
			src.Settings[name] = value
		}
		src.DataDir = set["data_directory"]
	}
	settings := map[string]string{}
	for _, name := range []string{"config_file", "hba_file", "ident_file"} {
		if path := src.Settings[name]; path != "" {
			settings[path] = name
		}
	}
	rows, err := c.Query(ctx, "SELECT DISTINCT sourcefile FROM pg_catalog.pg_settings WHERE sourcefile IS NOT NULL")
	if err != nil {
		return explain(err, "find the source's configuration files")
	}
	for rows.Next() {
		var path string
		if err := rows.Scan(&path); err != nil {
			return explain(err, "find the source's configuration files")
		}
		if _, known := settings[path]; !known {
			settings[path] = ""
		}
	}
	if rows.Err() != nil {
		return explain(rows.Err(), "find the source's configuration files")
	}
	for path, name := range settings {
		if rel, err := filepath.Rel(src.DataDir, path); err == nil && filepath.IsLocal(rel) {
			continue
		}
		_, err := os.Stat(path)
		src.Files = append(src.Files, ops.ExternalFile{Setting: name, Path: path, Here: err == nil})
	}
	sort.Slice(src.Files, func(i, j int) bool { return src.Files[i].Path < src.Files[j].Path })
	err = c.QueryRow(ctx, `SELECT pg_catalog.pg_has_role('pg_read_server_files', 'USAGE')
		AND pg_catalog.has_function_privilege('pg_catalog.pg_read_binary_file(text)', 'EXECUTE')`).Scan(&src.MayReadFile)
	return explain(err, "ask for the right to read files")
}

// surveyClusterOf finds the primary, compares system identifiers and looks at
// the nodes.
func (w *World) surveyClusterOf(ctx context.Context, c *pg.Conn, v *CloneSurvey) error {
	var data []cluster.Node
	for _, n := range w.nodes {
		if n.Role != cluster.Witness && n.ID != w.cfg.NodeID {
			data = append(data, n)
		}
	}
	v.Survey.Servers = w.lookAtAll(ctx, data)
	for _, n := range data {
		s := v.Survey.Servers[n.ID]
		if s.Reachable && v.Source.ClusterID == "" {
			v.Source.ClusterID, v.Source.ClusterName = s.SystemID, n.Name
		}
		if n.Active && s.Role() == cluster.Primary && (v.Survey.Primary == 0 || s.Timeline > v.Survey.Servers[v.Survey.Primary].Timeline) {
			v.Survey.Primary = n.ID
		}
	}
	for _, n := range data {
		if s := v.Survey.Servers[n.ID]; s.Reachable && s.SystemID == v.Source.SystemID && sameServer(n.Conninfo, w.source) {
			v.Source.Name = fmt.Sprintf("node %q (ID: %d)", n.Name, n.ID)
		}
	}
	switch p, found := cluster.Find(w.nodes, v.Survey.Primary); {
	case found:
		w.primary.info = p.Conninfo
	case !v.Source.InRecovery:
		w.primary.info = w.source.String()
	}
	v.Survey.Servers[ops.Source] = v.Source.Server
	if v.Survey.Primary == 0 {
		return nil
	}
	// The primary's records are the newest.
	k, err := w.primary.open(ctx)
	if err != nil {
		return err
	}
	if w.nodes, err = Nodes(ctx, k); err != nil {
		return err
	}
	v.Survey.Nodes = w.nodes
	return nil
}

// sameServer tells whether a conninfo names the server of another.
func sameServer(conninfo string, other pg.Conninfo) bool {
	info, err := pg.ParseConninfo(conninfo)
	port := func(c pg.Conninfo) string {
		if p := c.Get("port"); p != "" {
			return p
		}
		return "5432"
	}
	return err == nil && info.Get("host") != "" && info.Get("host") == other.Get("host") && port(info) == port(other)
}

// surveyUpstreamOfClone makes the standby's settings.
func (w *World) surveyUpstreamOfClone(_ context.Context, v *CloneSurvey, r CloneRequest) error {
	up, found := cluster.Find(w.nodes, v.Options.Upstream)
	if !found {
		up = cluster.Node{Name: "source", Conninfo: w.source.String(), ReplUser: r.ReplicationUser}
	}
	if r.UpstreamConninfo != "" {
		up.Conninfo = r.UpstreamConninfo
	}
	if r.ReplicationUser != "" {
		up.ReplUser = r.ReplicationUser
	}
	rec, err := w.recoveryFor(up)
	if err != nil {
		return err
	}
	if r.ApplyDelay != "" {
		rec.RecoveryMinApplyDelay = r.ApplyDelay
	}
	v.Options.Recovery, v.Options.Slot = rec, rec.PrimarySlotName
	return nil
}

// surveyBackup prepares pg_basebackup.
func (w *World) surveyBackup(ctx context.Context, v *CloneSurvey, r CloneRequest) error {
	options, err := pg.ParseBackupOptions(w.cfg.PgBasebackupOptions)
	if err != nil {
		return err
	}
	up, _ := cluster.Find(w.nodes, v.Options.Upstream)
	user := r.ReplicationUser
	for _, next := range []string{up.ReplUser, w.cfg.ReplicationUser} {
		if user == "" {
			user = next
		}
	}
	w.backup = pg.BackupSpec{Bindir: w.cfg.PgBindir, Source: w.source, User: user,
		DataDir: filepath.Join(r.DataDirectory, partial), FastCheckpoint: r.FastCheckpoint, Options: options}
	for _, m := range w.cfg.TablespaceMapping {
		w.backup.Tablespaces = append(w.backup.Tablespaces, [2]string{m.Old, m.New})
	}
	words, err := w.backup.Command()
	if err != nil {
		return err
	}
	v.Options.Streams, v.Options.WALDirectory = options.Streams(), options.WALDir
	if options.WALDir != "" {
		if v.Options.WALDirState, err = w.DirectoryIs(ctx, options.WALDir); err != nil {
			return err
		}
	}
	for _, t := range v.Source.Tablespaces {
		w.fills = append(w.fills, t.Target)
	}
	if options.WALDir != "" {
		w.fills = append(w.fills, options.WALDir)
	}
	v.Options.ToolMajor = toolMajor(ctx, words[0])
	// While WAL streams, pg_basebackup has a temporary slot of its own, unless
	// the server has none to spare.
	noSlot := options.Streams() && options.Slot == "" && v.Source.SlotsFree == 0
	v.Options.Backup = ops.Backup{Path: r.DataDirectory, FastCheckpoint: r.FastCheckpoint, Tablespaces: w.backup.Tablespaces,
		NoSlot: noSlot, Command: pg.QuoteAll(words)}
	return nil
}

var versionNumber = regexp.MustCompile(`\) (\d+)`)

// toolMajor is the major version of one of PostgreSQL's programs; zero if it does not tell.
func toolMajor(ctx context.Context, program string) int {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, "--version").Output()
	if err != nil {
		return 0
	}
	m := versionNumber.FindStringSubmatch(strings.TrimSpace(string(out)))
	if m == nil {
		return 0
	}
	n, _ := strconv.Atoi(m[1])
	return n
}

// tryReplication opens the replication connection that the backup needs, so that
// a refusal is told before anything is made.
func (w *World) tryReplication(ctx context.Context, v CloneSurvey) error {
	if v.Source.Senders < 1 {
		return nil // the plan says so
	}
	r, err := pg.ConnectReplication(ctx, w.source, w.backup.User)
	if err != nil {
		f := fault.Wrap(err, fault.BadConfig, "the source refuses a replication connection")
		if pg.Code(err) == noPrivilege {
			return f.WithHint("the user lacks the attribute REPLICATION: as a superuser there: ALTER ROLE ... REPLICATION; or name a user that has it with --replication-user")
		}
		return f.WithHint("pg_hba.conf there needs a line for the database \"replication\", this user and this host; a password is taken from ~/.pgpass, from a line for the database \"replication\"")
	}
	defer closeRepl(r)
	id, err := r.IdentifySystem(ctx)
	if err == nil && id.SystemID != v.Source.SystemID {
		return fault.New(fault.BadConfig, "two servers answer for the source").
			WithDetail("the session shows system identifier %s, the replication connection %s", v.Source.SystemID, id.SystemID).
			WithHint("connect to the server itself, not to a pool or a load balancer")
	}
	return err
}

// SurveyReplicationConf looks at what `standby clone --replication-conf-only`
// needs.
func (w *World) SurveyReplicationConf(ctx context.Context, r CloneRequest) (CloneSurvey, error) {
	var v CloneSurvey
	var err error
	if v.Directory, err = w.DirectoryIs(ctx, r.DataDirectory); err != nil {
		return v, err
	}
	w.source = r.Source
	c, err := w.to(ctx, ops.Source)
	if err != nil {
		return v, sourceFault(err, false)
	}
	if err := w.records(ctx, c); err != nil {
		return v, err
	}
	v.Survey = w.survey(ops.Server{})
	if v.Source.Server, err = look(ctx, c, w.cfg.NodeName); err != nil {
		return v, err
	}
	if err := w.surveyClusterOf(ctx, c, &v); err != nil {
		return v, err
	}
	v.Options = ops.CloneOptions{DataDirectory: r.DataDirectory, Force: r.Force, Upstream: r.Upstream}
	if r.Upstream == 0 {
		v.Options.Upstream = recordedPrimary(v.Survey)
	}
	if err := w.surveyUpstreamOfClone(ctx, &v, r); err != nil {
		return v, err
	}
	up, found := cluster.Find(w.nodes, v.Options.Upstream)
	if !found || !v.Survey.Servers[up.ID].Reachable || r.Force {
		return v, nil
	}
	info, err := pg.ParseConninfo(up.Conninfo)
	if err != nil {
		return v, err
	}
	repl, err := pg.ConnectReplication(ctx, info, up.ReplUser)
	if err != nil {
		return v, fault.Wrap(err, fault.BadConfig, "the upstream refuses a replication connection").
			WithHint("check pg_hba.conf there; -F/--force writes the settings all the same")
	}
	closeRepl(repl)
	return v, nil
}
