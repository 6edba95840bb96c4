package pg

import (
	"context"

	"github.com/jackc/pgx/v5"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
)

// Attachment says whether a standby is connected to a server for replication.
type Attachment string

// The answers. NotAttached is a connection that does not stream: it may be
// starting, catching up or failing.
const (
	AttachmentUnknown Attachment = "unknown"
	Detached          Attachment = "detached"
	NotAttached       Attachment = "not attached"
	Attached          Attachment = "attached"
)

// Attached looks for the standby of that application_name in pg_stat_replication,
// be it bound to a term or not (see cluster.StandbyName).
// Several rows are AttachmentUnknown, none is Detached. The state (streaming,
// catchup, ...) is empty if the role may not see it: then a row counts as Attached.
func (c *Conn) Attached(ctx context.Context, applicationName string) (Attachment, string, error) {
	var states []string
	err := c.each(ctx, attachedSQL, []any{applicationName}, func(rows pgx.Rows) error {
		var pid *int32
		var state *string
		if err := rows.Scan(&pid, &state); err != nil {
			return err
		}
		if state == nil {
			state = new(string)
		}
		states = append(states, *state)
		return nil
	})
	switch {
	case err != nil:
		return AttachmentUnknown, "", queryFault(err, "replication connection of %q", applicationName)
	case len(states) == 0:
		return Detached, "", nil
	case len(states) > 1:
		return AttachmentUnknown, "", nil
	case states[0] == "" || states[0] == "streaming":
		return Attached, states[0], nil
	default:
		return NotAttached, states[0], nil
	}
}

// Slot is a replication slot.
type Slot struct {
	Name       string
	Physical   bool
	Active     bool
	RestartLSN cluster.LSN // zero: no WAL is kept
	WALStatus  string      // reserved, extended, unreserved or lost
}

// Slots lists the server's replication slots by name.
func (c *Conn) Slots(ctx context.Context) ([]Slot, error) {
	var out []Slot
	err := c.each(ctx, slotsSQL, nil, func(rows pgx.Rows) error {
		var s Slot
		var kind, lsn string
		if err := rows.Scan(&s.Name, &kind, &s.Active, &lsn, &s.WALStatus); err != nil {
			return err
		}
		s.Physical = kind == "physical"
		if lsn != "" {
			if err := s.RestartLSN.UnmarshalText([]byte(lsn)); err != nil {
				return err
			}
		}
		out = append(out, s)
		return nil
	})
	if err != nil {
		return nil, queryFault(err, "replication slots of the server")
	}
	return out, nil
}

// FormerSlots are the logical slots of a standby that it had when it was the primary and that
// were made for failover; empty before PostgreSQL 17, and on a primary. While one is there,
// the slot of that name is not taken over from the primary (manual, "Replication Slot
// Synchronization").
func (c *Conn) FormerSlots(ctx context.Context) ([]string, error) {
	var out []string
	err := c.each(ctx, formerSlotsSQL, nil, func(rows pgx.Rows) error {
		var name string
		if err := rows.Scan(&name); err != nil {
			return err
		}
		out = append(out, name)
		return nil
	})
	if err != nil {
		return nil, queryFault(err, "logical slots of a former primary")
	}
	return out, nil
}

// ReadersWait returns synchronized_standby_slots, and the physical slots that somebody streams by
// now. Both are empty before PostgreSQL 17, which has that setting first.
func (c *Conn) ReadersWait(ctx context.Context) (value string, streaming []string, err error) {
	if err := c.one(ctx, readersWaitSQL, nil, &value, &streaming); err != nil {
		return "", nil, queryFault(err, "standbys that readers of logical slots wait for")
	}
	return value, streaming, nil
}

// CreateSlot makes a physical slot that keeps WAL from now on. One that is there
// already, physical and unused, is taken as it is.
func (c *Conn) CreateSlot(ctx context.Context, name string) error {
	err := c.run(ctx, createSlotSQL, name)
	if Code(err) != "42710" { // duplicate_object
		if err != nil {
			return slotFault(err, "replication slot %q could not be created", name)
		}
		return nil
	}
	slots, listErr := c.Slots(ctx)
	if listErr != nil {
		return listErr
	}
	for _, s := range slots {
		if s.Name != name {
			continue
		}
		switch {
		case !s.Physical:
			return fault.New(fault.DBQuery, "replication slot %q is a logical one", name).WithHint("Drop it, or use another node_id: slots are named after it.")
		case s.Active:
			return fault.New(fault.DBQuery, "replication slot %q is in use", name).WithHint("Find its user in pg_stat_replication; another standby may have the same node_id.")
		}
	}
	return nil
}

// DropSlot removes a slot that nobody uses. One that does not exist is no error.
func (c *Conn) DropSlot(ctx context.Context, name string) error {
	err := c.run(ctx, dropSlotSQL, name)
	if err == nil || Code(err) == "42704" { // undefined_object
		return nil
	}
	return slotFault(err, "replication slot %q could not be dropped", name)
}

// slotFault adds what to do about the refusals that slots meet.
func slotFault(err error, format, name string) error {
	f := fault.Wrap(err, fault.DBQuery, format, name)
	switch Code(err) {
	case "53400": // configuration_limit_exceeded
		f.WithHint("All slots are taken: raise max_replication_slots, or drop slots that nobody needs (see pg_replication_slots).")
	case "55006": // object_in_use
		f.WithHint("A standby uses it: stop that standby, or let it follow another node, first.")
	case "42501": // insufficient_privilege
		f.WithHint("The role needs the REPLICATION attribute.")
	case "55000": // object_not_in_prerequisite_state
		f.WithHint("wal_level must be replica or logical, and max_replication_slots at least 1.")
	}
	return f
}

// WalSenders returns how many WAL senders run and how many may.
func (c *Conn) WalSenders(ctx context.Context) (used, limit int, err error) {
	if err := c.one(ctx, walSendersSQL, nil, &used, &limit); err != nil {
		return 0, 0, queryFault(err, "WAL senders of the server")
	}
	return used, limit, nil
}

// Promote asks a standby to become a primary and returns at once: the promotion
// goes on in the server, whatever becomes of the caller.
func (c *Conn) Promote(ctx context.Context) error {
	var sent bool
	err := c.one(ctx, promoteSQL, nil, &sent)
	switch {
	case err != nil && Code(err) == "42501":
		return fault.Wrap(err, fault.PromotionFail, "promotion of the server").
			WithHint("GRANT EXECUTE ON FUNCTION pg_catalog.pg_promote TO the role, or set service_promote_command.")
	case err != nil:
		return fault.Wrap(err, fault.PromotionFail, "promotion of the server")
	case !sent:
		return fault.New(fault.PromotionFail, "the server could not signal its postmaster to promote").WithHint("Look into the server's log.")
	}
	return nil
}

// CanPromote tells whether the role may call pg_promote.
func (c *Conn) CanPromote(ctx context.Context) (bool, error) {
	var may bool
	if err := c.one(ctx, canPromoteSQL, nil, &may); err != nil {
		return false, queryFault(err, "right to promote")
	}
	return may, nil
}

// Tablespace is a tablespace outside the data directory.
type Tablespace struct {
	OID      uint32
	Name     string
	Location string
}

// Tablespaces lists those that lie outside the data directory.
func (c *Conn) Tablespaces(ctx context.Context) ([]Tablespace, error) {
	var out []Tablespace
	err := c.each(ctx, tablespacesSQL, nil, func(rows pgx.Rows) error {
		var t Tablespace
		err := rows.Scan(&t.OID, &t.Name, &t.Location)
		out = append(out, t)
		return err
	})
	if err != nil {
		return nil, queryFault(err, "tablespaces of the server")
	}
	return out, nil
}

// DatabaseSize is the size of all databases together, in bytes. It needs
// CONNECT on each, or pg_read_all_stats.
func (c *Conn) DatabaseSize(ctx context.Context) (int64, error) {
	var size int64
	if err := c.one(ctx, sizeSQL, nil, &size); err != nil {
		return 0, queryFault(err, "size of the databases")
	}
	return size, nil
}

// Checkpoint makes the server write a checkpoint and waits for it.
func (c *Conn) Checkpoint(ctx context.Context) error {
	if err := c.run(ctx, checkpointSQL); err != nil {
		return queryFault(err, "checkpoint")
	}
	return nil
}

// ReloadConf makes the server read its configuration files again.
func (c *Conn) ReloadConf(ctx context.Context) error {
	if err := c.run(ctx, reloadSQL); err != nil {
		return queryFault(err, "reload of the configuration")
	}
	return nil
}

// ResumeReplay ends a pause of a standby's replay.
func (c *Conn) ResumeReplay(ctx context.Context) error {
	if err := c.run(ctx, resumeSQL); err != nil {
		return queryFault(err, "resumption of replay")
	}
	return nil
}

// Promotes tells whether a standby has read an order to promote it, and goes on with that. It asks for
// replay to go on, which is refused "while a promotion is ongoing" (PostgreSQL manual, "Recovery
// Control Functions"); a replay that was paused goes on.
func (c *Conn) Promotes(ctx context.Context) (bool, error) {
	err := c.ResumeReplay(ctx)
	if Code(err) != "55000" { // object_not_in_prerequisite_state
		return false, err
	}
	p, err := c.Progress(ctx) // a primary refuses it as well
	return err == nil && p.InRecovery, err
}

// Privileges is what the session's role may do.
type Privileges struct {
	Role         string
	Superuser    bool
	Replication  bool // may stream, and create and drop slots
	ReadStats    bool // pg_read_all_stats, which pg_monitor includes
	ReadSettings bool // pg_read_all_settings, which pg_monitor includes
	Promote      bool
	ResumeReplay bool
	Checkpoint   bool // before 15 superusers only
}

// Privileges asks what the session's role may do.
func (c *Conn) Privileges(ctx context.Context) (Privileges, error) {
	var p Privileges
	err := c.one(ctx, privilegesSQL, nil, &p.Role, &p.Superuser, &p.Replication, &p.ReadStats,
		&p.ReadSettings, &p.Promote, &p.ResumeReplay, &p.Checkpoint)
	if err != nil {
		return Privileges{}, queryFault(err, "privileges of the role")
	}
	return p, nil
}

// run executes a statement whose rows do not matter.
func (c *Conn) run(ctx context.Context, q queries, args ...any) error {
	sql, err := q.forVersion(c.version())
	if err != nil {
		return err
	}
	_, err = c.Exec(ctx, sql, append([]any{pgx.QueryExecModeExec}, args...)...)
	return err
}
