package ops

import (
	"context"
	"fmt"
	"path"
	"strings"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/plan"
)

// DirectoryState is what stands where a data directory is to be made.
type DirectoryState struct {
	Exists  bool
	Empty   bool
	Is      string // what it holds, in words
	Running int    // process number of a server that works there; zero: none
	Partial bool   // a clone was broken off there
	// Leftover is set where what is there is a broken clone's, outside its data
	// directory: it may be deleted with it.
	Leftover bool
	Free     int64 // bytes free on its file system; negative: not known
}

// Tablespace is one outside the data directory.
type Tablespace struct {
	Location string // on the source
	Target   string // here
	State    DirectoryState
}

// Place says where configuration files are copied to.
type Place string

// The places.
const (
	Nowhere  Place = ""
	SamePath Place = "samepath" // the path that they have on the source
	InPgData Place = "pgdata"   // the data directory
)

// ExternalFile is a configuration file of the source that does not live in its
// data directory, and so is not part of a base backup.
type ExternalFile struct {
	Setting string // config_file, hba_file, ident_file, or empty for an included one
	Path    string // on the source
	Here    bool   // a file of that path exists on this host
}

// CloneSource is what was seen of the server that is cloned.
type CloneSource struct {
	Server
	// Unseen is set where no connection to it was made. Then what is here is what
	// others tell of it, and zero is not known.
	Unseen      bool
	Name        string // as messages call it
	Address     string // as the event has it
	Metadata    bool   // its database holds the repmgr schema
	ClusterID   string // system identifier of a registered data node; empty if none was asked
	ClusterName string // of that node
	Settings    map[string]string
	Checksums   bool
	Size        int64 // of all databases, in bytes; zero: not known
	Tablespaces []Tablespace
	Files       []ExternalFile
	MayReadFile bool // the role may read files of the server
	DataDir     string
}

// CloneOptions are the options of `standby clone`.
type CloneOptions struct {
	DataDirectory  string
	Force          bool
	UpstreamGiven  bool           // by --upstream-node-id
	Upstream       cluster.NodeID // zero: the primary
	Recovery       Recovery       // the standby's settings; their primary_conninfo is empty if there is no upstream
	Backup         Backup
	Slot           string // empty: no slot is used
	CopyFiles      Place
	VerifyBackup   bool
	WALDirectory   string // outside the data directory; empty: inside
	WALDirState    DirectoryState
	Streams        bool // WAL is streamed beside the backup
	RestoreCommand string
	ToolMajor      int           // major version of PostgreSQL's programs here; zero: not known
	Barman         *BarmanBackup // the backup that is copied by ssh
	API            *APIBackup    // the backup that is restored here; neither: the server itself is copied
}

// Backup is how the copy is taken.
type Backup struct {
	Path           string
	FastCheckpoint bool
	Tablespaces    [][2]string
	NoSlot         bool   // the source has no slot to spare for the backup's own
	Command        string // as it would be shown; it holds no password
}

// StandbyClone plans `standby clone`.
func StandbyClone(s Survey, src CloneSource, dir DirectoryState, o CloneOptions) (Plan, error) {
	p := Plan{Name: "standby clone"}
	checks := []func(Survey, CloneSource, DirectoryState, CloneOptions) error{
		checkDirectory, checkSource, checkUpstreamOfClone, checkBarman, checkAPI, checkSettings, checkTablespaces, checkFiles, checkCapacity,
	}
	for _, check := range checks {
		if err := check(s, src, dir, o); err != nil {
			return p, err
		}
	}
	target := o.DataDirectory
	upstream := s.node(o.Upstream)
	p.Steps = append(p.Steps, PrepareDirectory{target, dir.Exists, !dir.Exists || dir.Empty})
	for _, t := range src.Tablespaces {
		p.Steps = append(p.Steps, PrepareTablespace{t.Target, t.State.Exists, t.State.Leftover})
	}
	slot := o.Slot != "" && !src.Unseen
	if slot {
		p.Steps = append(p.Steps, HoldWAL{upstream, o.Slot})
	}
	step, method := takeCopy(src, o)
	p.Steps = append(p.Steps, step)
	if o.VerifyBackup {
		p.Steps = append(p.Steps, VerifyBackup{target})
	}
	if len(src.Files) > 0 && copyPlace(src, o) != Nowhere {
		p.Steps = append(p.Steps, CopyConfigFiles{target, copyPlace(src, o), o.Force, src.Files})
	}
	p.Steps = append(p.Steps, ConfigureClone{target, o.Recovery})
	if slot {
		p.Steps = append(p.Steps, KeepWAL{upstream, o.Slot})
	}
	p.Steps = append(p.Steps, FinishDirectory{target}, Announce{Event{Name: "standby_clone", Node: s.Self.ID, About: upstream,
		Details: fmt.Sprintf("cloned from %s; backup method: %s; --force: %s", src.Address, method, yesNo(o.Force))}})
	return p, nil
}

// takeCopy is the step that brings the data, and what the event calls it.
func takeCopy(src CloneSource, o CloneOptions) (step plan.Step[World], method string) {
	switch {
	case o.Barman != nil:
		return CopyBackup{o.DataDirectory, *o.Barman}, "barman"
	case o.API != nil:
		return RestoreBackup{o.DataDirectory, *o.API, src.Name, src.SystemID, src.Version}, "pg-backup-api"
	default:
		return BaseBackup{o.Backup}, "pg_basebackup"
	}
}

func yesNo(b bool) string {
	if b {
		return "Y"
	}
	return "N"
}

// copyPlace says where files from outside the data directory go. Where nothing
// was asked for, they go into the data directory if nothing of theirs is here
// and they can be read: a server without its configuration does not start.
func copyPlace(src CloneSource, o CloneOptions) Place {
	if o.CopyFiles != Nowhere || !src.MayReadFile {
		return o.CopyFiles
	}
	for _, f := range src.Files {
		if f.Here {
			return Nowhere
		}
	}
	return InPgData
}

func checkDirectory(_ Survey, _ CloneSource, dir DirectoryState, o CloneOptions) error {
	switch {
	case dir.Running != 0:
		return fault.New(fault.BadConfig, "a PostgreSQL server runs in %s", o.DataDirectory).
			WithDetail("its process number is %d", dir.Running).
			WithHint("stop it first; --force does not change this")
	case dir.Partial && !o.Force:
		return fault.New(fault.BadConfig, "%s holds a clone that was broken off", o.DataDirectory).
			WithDetail("it is not complete, and no server starts in it").
			WithHint("clone again with -F/--force, which deletes it first")
	case dir.Exists && !dir.Empty && !o.Force:
		return fault.New(fault.BadConfig, "data directory %s is not empty", o.DataDirectory).
			WithDetail("it holds %s", dir.Is).
			WithHint("choose another directory, or use -F/--force to have everything in it deleted")
	}
	return nil
}

func checkSource(s Survey, src CloneSource, _ DirectoryState, o CloneOptions) error {
	if err := checkVersion(src.Server); err != nil {
		return err
	}
	switch {
	case !src.Metadata && !src.Unseen && !o.Force:
		return fault.New(fault.BadConfig, "%s has no repmgr metadata", src.Name).
			WithDetail("its database %q has no table repmgr.nodes", src.Settings["database"]).
			WithHint("register the primary first with \"repmgr primary register\"; check the database name given with -d; or go on with -F/--force")
	case s.Primary == 0 && src.InRecovery:
		return fault.New(fault.BadConfig, "the source is a standby, and no primary was found").
			WithHint("start the primary, or clone from it")
	case src.ClusterID != "" && src.SystemID != "" && src.ClusterID != src.SystemID:
		return fault.New(fault.BadConfig, "%s does not belong to the cluster that it has records of", src.Name).
			WithDetail("its system identifier is %s; that of node %q is %s", src.SystemID, src.ClusterName, src.ClusterID).
			WithHint("it may be a witness: clone from the primary or from a standby")
	case o.ToolMajor != 0 && o.ToolMajor != src.Version/10000:
		return fault.New(fault.BadConfig, "PostgreSQL here has another major version than the source").
			WithDetail("the programs here are of version %d, %s is of %s", o.ToolMajor, copied(src, o), major(src.Version)).
			WithHint("install PostgreSQL %s here, or set pg_bindir to its programs", major(src.Version))
	}
	return checkName(s)
}

// checkSettings says which setting of the source stands in the way.
func checkSettings(_ Survey, src CloneSource, _ DirectoryState, o CloneOptions) error {
	set := src.Settings
	wrong := func(name, want string) error {
		return fault.New(fault.BadConfig, "%s of %s must be changed", name, src.Name).
			WithDetail("it is %q; expected is %s", set[name], want).
			WithHint("set it in postgresql.conf of that server, and restart it")
	}
	is := func(name string, values ...string) bool {
		v, seen := set[name]
		for _, want := range values {
			if v == want {
				return true
			}
		}
		return !seen // a setting that the role may not see cannot be judged
	}
	switch {
	case !is("wal_level", "replica", "logical"):
		return wrong("wal_level", "replica or logical")
	case !is("hot_standby", "on"):
		return wrong("hot_standby", "on, since repmgr asks standbys by SQL")
	case set["max_wal_senders"] == "0":
		return wrong("max_wal_senders", "at least 2")
	case o.Slot != "" && set["max_replication_slots"] == "0":
		return wrong("max_replication_slots", "at least 2, since use_replication_slots is on")
	case !is("archive_mode", "off") && set["archive_command"] == "" && set["archive_library"] == "" && !is("archive_command", "(disabled)"):
		return fault.New(fault.BadConfig, "%s archives WAL without a command", src.Name).
			WithDetail("archive_mode is %q and archive_command is empty", set["archive_mode"]).
			WithHint("set archive_command, or archive_mode to off: WAL piles up otherwise")
	case o.Barman == nil && o.API == nil && o.Slot == "" && !o.Streams && o.RestoreCommand == "" && set["wal_keep_size"] == "0":
		return wrong("wal_keep_size", "more than 0, since neither slots nor streaming nor restore_command keep the WAL that the backup needs")
	}
	return nil
}

// checkCapacity says what the source or this host has too little of.
func checkCapacity(s Survey, src CloneSource, dir DirectoryState, o CloneOptions) error {
	need := 1
	if o.Streams {
		need = 2
	}
	source := cluster.Node{Name: src.Name}
	if src.Senders < need && !src.Unseen {
		return noSenders(source, need, src.Senders, fault.BadConfig)
	}
	if o.Slot != "" && !src.Unseen {
		on, free := s.node(o.Upstream), s.Servers[o.Upstream].SlotsFree
		// One holds the WAL while the copy is taken, the other is the lasting one.
		if need := 2; free < need {
			return noSlots(on, need, free, fault.BadConfig)
		}
	}
	if src.Size > 0 && dir.Free >= 0 && len(src.Tablespaces) == 0 && src.Size > dir.Free && !o.Force {
		return fault.New(fault.BadBasebackup, "there is too little room for the clone").
			WithDetail("%s has %s, the file system of %s has %s free", copied(src, o), Bytes(src.Size), o.DataDirectory, Bytes(dir.Free)).
			WithHint("make room, or choose another data_directory; -F/--force tries nevertheless")
	}
	return nil
}

// checkUpstreamOfClone says why the standby would not know whom to follow.
func checkUpstreamOfClone(s Survey, src CloneSource, _ DirectoryState, o CloneOptions) error {
	_, found := cluster.Find(s.Nodes, o.Upstream)
	switch {
	case o.Upstream == s.Self.ID && o.UpstreamGiven:
		return fault.New(fault.BadConfig, "node %d cannot be its own upstream", o.Upstream).
			WithHint("name another node with --upstream-node-id")
	case src.Unseen && len(s.Nodes) == 0:
		return nil // the operator says whom it follows
	case !found && o.UpstreamGiven:
		return fault.New(fault.BadConfig, "node %d is not registered and cannot be the upstream", o.Upstream).
			WithDetail("registered are %s", idsOf(s.Nodes)).WithHint("name a registered node with --upstream-node-id")
	case !found && src.Unseen:
		return fault.New(fault.BadConfig, "%s has no record of an active primary", src.Name).
			WithDetail("registered are %s", idsOf(s.Nodes)).
			WithHint("say whom the standby shall follow with --upstream-conninfo, or with --upstream-node-id")
	case !found && !o.Force:
		return fault.New(fault.BadConfig, "%s has no record of an active primary", src.Name).
			WithDetail("registered are %s", idsOf(s.Nodes)).
			WithHint("register the primary with \"repmgr primary register\", or go on with -F/--force to follow the server that is cloned")
	case s.node(o.Upstream).Role == cluster.Witness:
		return fault.New(fault.BadConfig, "%s is a witness and cannot be the upstream", called(s.node(o.Upstream))).
			WithHint("name another node with --upstream-node-id")
	}
	return nil
}

func checkTablespaces(_ Survey, src CloneSource, _ DirectoryState, o CloneOptions) error {
	for _, m := range o.Backup.Tablespaces {
		found := o.API != nil // it maps none
		var all []string
		for _, t := range src.Tablespaces {
			found = found || t.Location == m[0]
			all = append(all, t.Location)
		}
		if !found {
			return fault.New(fault.BadConfig, "tablespace_mapping names a tablespace that there is not").
				WithDetail("%s has no tablespace at %q; it has %s", copied(src, o), m[0], listed(all)).
				WithHint("correct tablespace_mapping in repmgr.conf")
		}
	}
	for _, t := range src.Tablespaces {
		if t.State.Exists && !t.State.Empty && !t.State.Leftover {
			f := fault.New(fault.BadConfig, "directory %s, for a tablespace, is not empty", t.Target).
				WithDetail("it holds %s; --force never deletes a tablespace", t.State.Is).
				WithHint("empty it, or choose another place for it with tablespace_mapping='%s=...'", t.Location)
			if o.API != nil {
				f.WithHint("empty it: pg-backup-api restores a tablespace to where it is on the server that was backed up")
			}
			return f
		}
	}
	if o.WALDirectory != "" && o.WALDirState.Exists && !o.WALDirState.Empty && !o.WALDirState.Leftover {
		return fault.New(fault.BadConfig, "directory %s, for the WAL, is not empty", o.WALDirectory).
			WithHint("empty it, or correct --waldir in pg_basebackup_options")
	}
	return nil
}

func listed(words []string) string {
	if len(words) == 0 {
		return "none"
	}
	return strings.Join(words, ", ")
}

func checkFiles(_ Survey, src CloneSource, _ DirectoryState, o CloneOptions) error {
	if o.CopyFiles != Nowhere && src.Unseen {
		return fault.New(fault.BadConfig, "configuration files cannot be copied without a connection to the server").
			WithDetail("--copy-external-config-files reads them over SQL, and --no-upstream-connection makes no session").
			WithHint("leave one of the two out; the files can be copied by hand")
	}
	if o.CopyFiles == Nowhere || len(src.Files) == 0 || src.MayReadFile {
		return nil
	}
	return fault.New(fault.BadConfig, "the configuration files of %s may not be read", src.Name).
		WithDetail("they live outside its data directory: %s", pathsOf(src.Files)).
		WithHint("as a superuser there: GRANT pg_read_server_files to the user of this connection, and GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_binary_file(text) to it; or name a superuser with --superuser; or copy the files by hand")
}

func pathsOf(files []ExternalFile) string {
	var all []string
	for _, f := range files {
		all = append(all, f.Path)
	}
	return strings.Join(all, ", ")
}

// CloneNotes is what the operator should know of a clone that goes well.
func CloneNotes(src CloneSource, o CloneOptions) []fault.Error {
	var notes []fault.Error
	if src.Settings["wal_log_hints"] == "off" && !src.Checksums {
		notes = append(notes, *fault.New(0, "pg_rewind could not be used in this cluster").
			WithDetail("%s has neither data checksums nor wal_log_hints", src.Name).
			WithHint("set wal_log_hints=on, so that a former primary can come back without being cloned"))
	}
	if o.Barman != nil && o.RestoreCommand == "" {
		notes = append(notes, *fault.New(0, "restore_command is not set").
			WithDetail("the standby needs WAL from segment %s on, and asks its upstream alone for it, which may remove it any time", o.Barman.BeginWAL).
			WithHint("set %s", o.Barman.restoreCommand()))
	}
	if o.API != nil {
		notes = append(notes, apiNotes(o)...)
	}
	if src.Unseen {
		notes = append(notes, unseenNotes(src, o)...)
	}
	if len(src.Files) == 0 {
		return notes
	}
	note := fault.New(0, "configuration files of %s live outside its data directory", src.Name).
		WithDetail("they are not part of the copy: %s", pathsOf(src.Files))
	switch copyPlace(src, o) {
	case Nowhere:
		note.WithHint("before the standby is started, its own must be in place: copy them with --copy-external-config-files, or by hand")
		if !src.MayReadFile {
			note.WithHint("they may not be read over SQL: copy them by hand before the standby is started, or GRANT pg_read_server_files to the user of this connection, or name a superuser with --superuser")
		}
	case InPgData:
		note.WithDetail("they are copied into the data directory, and adapted to it: %s", pathsOf(src.Files)).
			WithHint("review them before the standby is started: they are the source's")
	case SamePath:
		note.WithDetail("they are copied to the same paths: %s", pathsOf(src.Files))
	}
	return append(notes, *note)
}

// Bytes writes an amount of data for people.
func Bytes(n int64) string {
	units := []string{"bytes", "kB", "MB", "GB", "TB", "PB"}
	v, u := float64(n), 0
	for v >= 10240 && u < len(units)-1 {
		v, u = v/1024, u+1
	}
	return fmt.Sprintf("%.0f %s", v, units[u])
}

// PrepareDirectory makes the data directory, or empties it.
type PrepareDirectory struct {
	Path   string
	Keep   bool // it was there before
	IsFree bool // nothing has to be deleted
}

// Describe says what the step does.
func (s PrepareDirectory) Describe() string {
	switch {
	case !s.Keep:
		return "create directory " + s.Path
	case s.IsFree:
		return "use the empty directory " + s.Path
	default:
		return "delete everything in directory " + s.Path
	}
}

// Check is always ready: the plan was made for what stood there.
func (s PrepareDirectory) Check(ctx context.Context, w World) (plan.Status, error) {
	d, err := w.DirectoryIs(ctx, s.Path)
	if err == nil && d.Running != 0 {
		return plan.Status{Reason: fmt.Sprintf("a server runs there, process %d", d.Running), Hint: "stop it first"}, nil
	}
	return ready, err
}

// Do makes it.
func (s PrepareDirectory) Do(ctx context.Context, w World) error {
	return w.PrepareDirectory(ctx, s.Path)
}

// Undo removes all that was put there. What was deleted stays deleted: it was
// given up with --force.
func (s PrepareDirectory) Undo(ctx context.Context, w World) error {
	return w.DiscardDirectory(ctx, s.Path, s.Keep)
}

// PrepareTablespace watches over a directory that pg_basebackup makes.
type PrepareTablespace struct {
	Path     string
	Keep     bool // it was there before
	Leftover bool // what is in it goes with the broken clone that left it
}

// Describe says what the step does.
func (s PrepareTablespace) Describe() string { return "use directory " + s.Path + " for a tablespace" }

// Check asks whether it is free.
func (s PrepareTablespace) Check(ctx context.Context, w World) (plan.Status, error) {
	d, err := w.DirectoryIs(ctx, s.Path)
	if err == nil && d.Exists && !d.Empty && !s.Leftover {
		return plan.Status{Reason: "it is not empty", Hint: "empty it, or change tablespace_mapping"}, nil
	}
	return ready, err
}

// Do leaves it to pg_basebackup.
func (s PrepareTablespace) Do(context.Context, World) error { return nil }

// Undo removes what was put there.
func (s PrepareTablespace) Undo(ctx context.Context, w World) error {
	return w.DiscardDirectory(ctx, s.Path, s.Keep)
}

// HoldWAL makes the upstream keep the WAL that the standby will need. The hold
// ends with this program, so that a clone that is killed leaves none behind.
type HoldWAL struct {
	On   cluster.Node
	Slot string
}

// Describe says what the step does.
func (s HoldWAL) Describe() string {
	return fmt.Sprintf("keep the WAL of %s while the copy is taken, by a temporary replication slot", called(s.On))
}

// Check asks whether another standby uses the slot that this one shall have.
func (s HoldWAL) Check(ctx context.Context, w World) (plan.Status, error) {
	slot, err := w.Slot(ctx, s.On.ID, s.Slot)
	switch {
	case err != nil:
		return ready, err
	case slot.Active:
		return plan.Status{Reason: fmt.Sprintf("replication slot %q is in use", s.Slot),
			Hint: "another standby may have the same node_id; see pg_stat_replication"}, nil
	case slot.Exists && !slot.Physical:
		return plan.Status{Reason: fmt.Sprintf("replication slot %q is a logical one", s.Slot), Hint: "drop it, or use another node_id"}, nil
	}
	return ready, nil
}

// Do takes hold.
func (s HoldWAL) Do(ctx context.Context, w World) error { return w.HoldWAL(ctx, s.On.ID, s.Slot) }

// Undo lets go.
func (s HoldWAL) Undo(ctx context.Context, w World) error { return w.ReleaseWAL(ctx, s.On.ID, s.Slot) }

// KeepWAL makes a lasting replication slot of the hold.
type KeepWAL struct {
	On   cluster.Node
	Slot string
}

// Describe says what the step does.
func (s KeepWAL) Describe() string {
	return fmt.Sprintf("create replication slot %q on %s", s.Slot, called(s.On))
}

// Check is always ready.
func (s KeepWAL) Check(context.Context, World) (plan.Status, error) { return ready, nil }

// Do creates it.
func (s KeepWAL) Do(ctx context.Context, w World) error { return w.KeepWAL(ctx, s.On.ID, s.Slot) }

// Undo drops it.
func (s KeepWAL) Undo(ctx context.Context, w World) error { return w.DropSlot(ctx, s.On.ID, s.Slot) }

// BaseBackup takes the copy. What it leaves when it fails goes with its directory.
type BaseBackup struct{ Backup Backup }

// Describe says what the step does.
func (s BaseBackup) Describe() string { return "copy the server by pg_basebackup" }

// Check is always ready.
func (s BaseBackup) Check(context.Context, World) (plan.Status, error) { return ready, nil }

// Do takes it.
func (s BaseBackup) Do(ctx context.Context, w World) error { return w.BaseBackup(ctx, s.Backup) }

// Undo has nothing to do.
func (s BaseBackup) Undo(context.Context, World) error { return nil }

// VerifyBackup compares the copy with its manifest.
type VerifyBackup struct{ Path string }

// Describe says what the step does.
func (s VerifyBackup) Describe() string { return "verify the copy by pg_verifybackup" }

// Check is always ready.
func (s VerifyBackup) Check(context.Context, World) (plan.Status, error) { return ready, nil }

// Do verifies it.
func (s VerifyBackup) Do(ctx context.Context, w World) error { return w.VerifyBackup(ctx, s.Path) }

// Undo has nothing to do.
func (s VerifyBackup) Undo(context.Context, World) error { return nil }

// CopyConfigFiles brings configuration files over that are not in the copy.
type CopyConfigFiles struct {
	DataDir string
	To      Place
	Force   bool // files that are there and differ are overwritten
	Files   []ExternalFile
}

// Describe says what the step does.
func (s CopyConfigFiles) Describe() string {
	where := "into the data directory"
	if s.To == SamePath {
		where = "to the same paths"
	}
	var names []string
	for _, f := range s.Files {
		names = append(names, path.Base(f.Path))
	}
	return fmt.Sprintf("copy %s %s", strings.Join(names, ", "), where)
}

// Check is always ready.
func (s CopyConfigFiles) Check(context.Context, World) (plan.Status, error) { return ready, nil }

// Do copies them.
func (s CopyConfigFiles) Do(ctx context.Context, w World) error { return w.CopyFiles(ctx, s) }

// Undo removes them.
func (s CopyConfigFiles) Undo(ctx context.Context, w World) error { return w.DiscardFiles(ctx, s) }

// ConfigureClone makes a standby of the copy.
type ConfigureClone struct {
	Path     string
	Recovery Recovery
}

// Describe says what the step does.
func (s ConfigureClone) Describe() string {
	return "write standby.signal, and " + WriteRecovery{s.Recovery}.Describe()
}

// Check is always ready.
func (s ConfigureClone) Check(context.Context, World) (plan.Status, error) { return ready, nil }

// Do writes them.
func (s ConfigureClone) Do(ctx context.Context, w World) error {
	return w.ConfigureClone(ctx, s.Path, s.Recovery)
}

// Undo has nothing to do: it goes with the directory.
func (s ConfigureClone) Undo(context.Context, World) error { return nil }

// FinishDirectory makes the directory one that a server starts in.
type FinishDirectory struct{ Path string }

// Describe says what the step does.
func (s FinishDirectory) Describe() string { return "declare the copy complete" }

// Check is always ready.
func (s FinishDirectory) Check(context.Context, World) (plan.Status, error) { return ready, nil }

// Do declares it.
func (s FinishDirectory) Do(ctx context.Context, w World) error {
	return w.FinishDirectory(ctx, s.Path)
}

// Undo has nothing to do: it goes with the directory.
func (s FinishDirectory) Undo(context.Context, World) error { return nil }

// ReplicationConf plans `standby clone --replication-conf-only`: the settings of
// a copy that is there already.
func ReplicationConf(s Survey, dir DirectoryState, o CloneOptions) (Plan, error) {
	p := Plan{Name: "standby clone --replication-conf-only"}
	if _, err := registered(s, o.Upstream); err != nil {
		return p, err
	}
	if _, err := ownRecord(s, fault.BadConfig); err != nil {
		return p, err
	}
	upstream := s.node(o.Upstream)
	server := s.Servers[o.Upstream]
	switch {
	case !dir.Exists || dir.Empty || dir.Partial || dir.Is != IsDataDirectory:
		return p, fault.New(fault.BadConfig, "%s is no complete data directory", o.DataDirectory).
			WithDetail("it is expected to hold a copy of the cluster; it holds %s", dir.Is).
			WithHint("make the copy first, or let \"repmgr standby clone\" make it")
	case dir.Running != 0 && !o.Force:
		return p, fault.New(fault.BadConfig, "a server runs in %s", o.DataDirectory).
			WithDetail("its process number is %d", dir.Running).
			WithHint("stop it, or go on with -F/--force and reload it then")
	case !server.Reachable:
		return p, fault.New(fault.BadConfig, "the upstream, %s, cannot be reached", called(upstream)).
			WithDetail("%s", server.Why).WithHint("start it, or name another with --upstream-node-id")
	case o.Slot != "" && server.SlotsFree < 1 && !o.Force:
		return p, noSlots(upstream, 1, server.SlotsFree, fault.BadConfig)
	}
	if o.Slot != "" {
		self := s.node(s.Self.ID)
		if self.SlotName != o.Slot {
			was := self
			self.SlotName = o.Slot
			p.Steps = append(p.Steps, SaveRecord{Node: self, Was: &was})
		}
		p.Steps = append(p.Steps, CreateSlot{On: upstream, Slot: o.Slot})
	}
	p.Steps = append(p.Steps, ConfigureClone{o.DataDirectory, o.Recovery})
	return p, nil
}

// IsDataDirectory is what DirectoryState.Is says of a data directory.
const IsDataDirectory = "a PostgreSQL data directory"
