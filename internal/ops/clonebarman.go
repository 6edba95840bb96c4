package ops

import (
	"context"
	"fmt"
	"strings"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/plan"
)

// BarmanBackup is a base backup that Barman keeps.
type BarmanBackup struct {
	Host     string // as barman_host has it
	Server   string // Barman's name of the cluster
	ID       string
	Ended    string // when, in Barman's words
	Done     bool   // Barman says that it is complete
	Version  int    // PostgreSQL's, as server_version_num has it
	SystemID string
	BeginWAL string // the first segment of WAL that a copy needs to become consistent
	Timeline cluster.Timeline
	Diverged string // why its history is not the primary's; empty: it is, or that is not known
	Gone     bool   // the upstream no longer has BeginWAL
}

// String names the backup.
func (b BarmanBackup) String() string {
	return fmt.Sprintf("backup %s of %q in Barman on %s", b.ID, b.Server, b.Host)
}

// restoreCommand is the setting by which a standby gets its WAL from there. The
// program logs in as the user barman unless it is told another.
func (b BarmanBackup) restoreCommand() string {
	login := b.Host
	if user, host, named := strings.Cut(b.Host, "@"); named {
		login = "-U " + user + " " + host
	}
	return fmt.Sprintf("restore_command = 'barman-wal-restore %s %s %%f %%p' in repmgr.conf; the program is in the package barman-cli", login, b.Server)
}

// copied is what a clone copies, in words.
func copied(src CloneSource, o CloneOptions) string {
	switch {
	case o.Barman != nil:
		return o.Barman.String()
	case o.API != nil:
		return o.API.String()
	}
	return src.Name
}

// origin is where a backup comes from.
type origin struct {
	backup   string // in words
	systemID string // empty: not known
	version  int    // as server_version_num has it
	diverged string // why its history is not the primary's; empty: it is, or that is not known
}

// check says why no standby of the source can be made of it. The parameter is what names
// the backup in repmgr.conf, and again how to take another.
func (b origin) check(code fault.Code, source, systemID string, version int, parameter, again string) error {
	switch {
	case b.systemID != "" && systemID != "" && b.systemID != systemID:
		return fault.New(code, "%s is of another cluster", b.backup).
			WithDetail("its system identifier is %s; that of %s is %s", b.systemID, source, systemID).
			WithHint("correct %s in repmgr.conf; if the cluster has been made anew, take a new backup", parameter)
	case b.version/10000 != version/10000:
		return fault.New(code, "%s is of another major version", b.backup).
			WithDetail("it is of PostgreSQL %s; %s runs %s", major(b.version), source, major(version)).
			WithHint("%s", again)
	case b.diverged != "":
		return fault.New(code, "%s is of a history that the primary has left", b.backup).
			WithDetail("%s", b.diverged).
			WithHint("%s", again)
	}
	return nil
}

// notVerifiable refuses --verify-backup for a backup of Barman, and says what else there is to do.
func notVerifiable(instead string) error {
	return fault.New(fault.BadConfig, "a backup of Barman cannot be verified by --verify-backup").
		WithDetail("pg_verifybackup knows what pg_basebackup has just copied").
		WithHint("leave --verify-backup out, or %s", instead)
}

// checkBarman says why a standby cannot be made of the backup.
func checkBarman(_ Survey, src CloneSource, _ DirectoryState, o CloneOptions) error {
	b := o.Barman
	switch {
	case b == nil:
		return nil
	case o.VerifyBackup:
		return notVerifiable("copy the server itself with --without-barman")
	case !b.Done:
		return fault.New(fault.Barman, "%s is not complete", b).
			WithHint("take another with \"barman backup %s\", or copy the server itself with --without-barman", b.Server)
	}
	again := fmt.Sprintf("take a new backup with \"barman backup %s\", or copy the server itself with --without-barman", b.Server)
	from := origin{b.String(), b.SystemID, b.Version, b.Diverged}
	if err := from.check(fault.Barman, src.Name, src.SystemID, src.Version, "barman_server", again); err != nil {
		return err
	}
	if o.RestoreCommand == "" && b.Gone {
		return fault.New(fault.BadConfig, "the WAL that %s needs cannot be had", b).
			WithDetail("it begins with segment %s, which the upstream no longer has, and restore_command is not set", b.BeginWAL).
			WithHint("set %s", b.restoreCommand())
	}
	return nil
}

// unseenNotes say what is not known where no connection to the upstream was made, and
// what is left to do for that.
func unseenNotes(src CloneSource, o CloneOptions) []fault.Error {
	b := o.Barman
	unknown := "that the upstream has gone on from the backup's timeline, " + fmt.Sprint(b.Timeline) +
		", and still has WAL from segment " + b.BeginWAL + " on; that it lets this node replicate, and has a WAL sender free; " +
		"and which of its configuration files live outside its data directory"
	if src.SystemID == "" {
		unknown = "that the backup is of the upstream's cluster (its system identifier is " + b.SystemID +
			") and of its major version, " + major(b.Version) + "; " + unknown
	}
	notes := []fault.Error{*fault.New(0, "the upstream was not asked").
		WithDetail("not checked is: %s", unknown).
		WithHint("look into this server's log when it has been started: it must stream from the upstream")}
	if o.Slot != "" {
		notes = append(notes, *fault.New(0, "replication slot %q was not made", o.Slot).
			WithDetail("primary_slot_name names it, and the standby cannot stream without it").
			WithHint("before it is started, on the upstream: SELECT pg_create_physical_replication_slot('%s', true)", o.Slot))
	}
	return notes
}

// CopyBackup copies a backup of Barman's. What it leaves when it fails goes with its
// directory.
type CopyBackup struct {
	Path   string
	Backup BarmanBackup
}

// Describe says what the step does.
func (s CopyBackup) Describe() string { return "copy " + s.Backup.String() + " by rsync" }

// Check is always ready.
func (s CopyBackup) Check(context.Context, World) (plan.Status, error) { return ready, nil }

// Do copies it.
func (s CopyBackup) Do(ctx context.Context, w World) error { return w.CopyBackup(ctx, s) }

// Undo has nothing to do.
func (s CopyBackup) Undo(context.Context, World) error { return nil }
