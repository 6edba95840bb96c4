package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"go.etcd.io/raft/v3/raftpb"
	"golang.org/x/sys/unix"

	"repmgr/internal/api"
	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/pg"
	"repmgr/internal/raftstore"
	"repmgr/internal/record"
	"repmgr/internal/registry"
	"repmgr/internal/server"
)

func resetQuorumVerb() verb {
	return verb{
		name:  "cluster reset-quorum",
		short: "make a node, or the cluster, begin the quorum rule anew",
		long: `Stop repmgrd on this node first.

--this-node forgets this node's own part in the daemons' group: after its state directory was lost, damaged or brought back from a backup. Start repmgrd after it: the leader of the group takes the node in again, as a new member.

--force --yes-the-other-voters-are-lost is for the loss of a majority for ever, when nobody can be the primary any more. Run it on the one node that shall be the primary, with its server running. The server is promoted, and a new group is founded when three daemons run again; until then the visibility rule is in force. Commits that only the lost servers have are gone. It is refused while another server takes writes, or another daemon sees a majority. If a lost server comes back after all, do not start it: clone it anew.

docs/quorum.md has both step by step.`,
		example: `repmgr -f /etc/repmgr.conf cluster reset-quorum --this-node --dry-run
repmgr -f /etc/repmgr.conf cluster reset-quorum --this-node
repmgr -f /etc/repmgr.conf cluster reset-quorum --force --yes-the-other-voters-are-lost`,
		options: []string{"this-node", "yes-the-other-voters-are-lost", "force", "dry-run"},
		changes: true,
		check: func(s *Session) []error {
			switch {
			case s.Opt.ThisNode == s.Opt.OthersAreLost:
				return []error{errors.New("cluster reset-quorum needs either --this-node or --yes-the-other-voters-are-lost")}
			case s.Opt.OthersAreLost && !s.Opt.Force:
				return []error{errors.New("--yes-the-other-voters-are-lost needs --force too")}
			}
			return nil
		},
		run: resetQuorum,
	}
}

func resetQuorum(ctx context.Context, s *Session) error {
	lock, err := s.takeStateDir()
	if err != nil {
		return err
	}
	defer lock.Close()
	if s.Opt.OthersAreLost {
		return s.refound(ctx)
	}
	if s.Opt.DryRun {
		s.Talk.Info("the group's state in %s would be forgotten", s.Conf.StateDir())
		return nil
	}
	if err := s.forgetGroup(); err != nil {
		return err
	}
	s.Talk.Say(Entry{Level: Notice, Text: "this node's part in the group is forgotten",
		Hint: "start repmgrd: the leader of the group takes this node in again, as \"repmgr cluster show\" tells"})
	return nil
}

// takeStateDir keeps daemons off the state directory until the file is closed.
func (s *Session) takeStateDir() (*os.File, error) {
	dir := s.Conf.StateDir()
	if dir == "" {
		return nil, fault.New(fault.BadConfig, "there is no state directory").WithHint("set state_directory, or data_directory")
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fault.Wrap(err, fault.BadConfig, "the state directory cannot be used")
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return nil, fault.New(fault.BadPidfile, "repmgrd runs on this node").
			WithDetail("It holds the lock in %s.", dir).WithHint("stop it first, and start it again after this command")
	}
	return lock, nil
}

// forgetGroup empties the store; one that cannot be read is put aside. What the
// state directory says of the data directory, such as that a rewind was broken
// off, stands in files of its own and stays.
func (s *Session) forgetGroup() error {
	dir := s.Conf.StateDir()
	store, err := raftstore.Open(dir)
	if err == nil {
		return errors.Join(store.Reset(), store.Close())
	}
	path := filepath.Join(dir, raftstore.FileName)
	aside := path + s.Now().Format(".20060102T150405")
	s.Talk.Warning("%v; it is kept as %s", err, aside)
	if err := os.Rename(path, aside); err != nil {
		return fault.Wrap(err, fault.SysFailure, "the group's state could not be put aside")
	}
	return nil
}

// refound gives the group up, and makes this node's server the primary.
func (s *Session) refound(ctx context.Context) error {
	c, err := s.Connect(ctx)
	if err != nil {
		return fault.Wrap(err, fault.DBConn, "the server of this node does not answer").
			WithHint("start it first, for example with pg_ctl: without a majority it comes up read-only")
	}
	defer registry.Close(c)
	nodes, err := registered(ctx, c)
	if err != nil {
		return err
	}
	if err := s.othersAreLost(ctx, c, nodes); err != nil {
		return err
	}
	founding, err := registry.ReadFounding(ctx, c)
	if err != nil {
		return err
	}
	at, err := c.Progress(ctx)
	if err != nil {
		return err
	}
	top, err := s.topTimeline()
	if err != nil {
		return err
	}
	timeline := max(at.Timeline, top) + 1
	if s.Opt.DryRun {
		s.Talk.Info("group %q would be given up", founding.Group)
		if at.InRecovery {
			s.Talk.Info("the server of this node would be promoted from timeline %d at %s to timeline %d", at.Timeline, at.Position(), timeline)
		}
		return nil
	}
	s.Talk.Say(Entry{Level: Warning, Text: "the group of daemons is given up, and this node is made the primary: what only the lost servers had is gone",
		Detail: fmt.Sprintf("Group %q; this server has everything up to %s of timeline %d.", founding.Group, at.Position(), at.Timeline)})
	if err := errors.Join(s.forgetGroup(), registry.DisownGroup(s.Conf.StateDir(), founding.Group)); err != nil {
		return err
	}
	if at.InRecovery {
		own := server.Own{Config: s.Conf, Log: func(text string) { s.Talk.Info("%s", text) }}
		if _, err := own.PromoteTo(ctx, timeline); err != nil {
			return err
		}
	}
	return s.recordRefounding(ctx, c, founding.Group, at, timeline)
}

// recordRefounding writes to the new primary's database what was done.
func (s *Session) recordRefounding(ctx context.Context, c *pg.Conn, group string, at pg.Progress, timeline cluster.Timeline) error {
	if err := errors.Join(registry.RecordPromotion(ctx, c, s.Conf.NodeID), registry.ForgetFounding(ctx, c)); err != nil {
		return err
	}
	details := fmt.Sprintf("the group %q was given up by an operator; server %q (ID: %d) is the primary, with everything up to %s of timeline %d", group, s.Conf.NodeName, s.Conf.NodeID, at.Position(), at.Timeline)
	if at.InRecovery {
		details += fmt.Sprintf(", and was promoted to timeline %d", timeline)
	}
	if err := registry.Announce(ctx, c, s.Conf, registry.Event{Node: s.Conf.NodeID, Name: "cluster_reset_quorum", Successful: true, Details: details}); err != nil {
		s.Talk.Warning("%v", err)
	}
	s.Talk.Say(Entry{Level: Notice, Text: fmt.Sprintf("node %q (ID: %d) is the primary, under the visibility rule", s.Conf.NodeName, s.Conf.NodeID),
		Hint: "on every other node that is left: stop repmgrd, run \"repmgr cluster reset-quorum --this-node\"; then start repmgrd here and there. Lost nodes: clone them anew, or unregister them"})
	return nil
}

// othersAreLost refuses to give a group up that is not lost, as far as anybody
// can be asked.
func (s *Session) othersAreLost(ctx context.Context, c *pg.Conn, nodes []cluster.Node) error {
	self, found := cluster.Find(nodes, s.Conf.NodeID)
	if !found || self.Role == cluster.Witness {
		return fault.New(fault.BadConfig, "node %d has no data that the cluster could go on with", s.Conf.NodeID).
			WithHint("run this command on a node with a copy of the cluster")
	}
	if n, other, err := registry.FindPrimary(ctx, nodes); err == nil {
		registry.Close(other)
		if n.ID != self.ID {
			return fault.New(fault.BadConfig, "the group is not given up: node %q (ID: %d) takes writes", n.Name, n.ID)
		}
	}
	f, err := s.daemons(ctx, c)
	if err != nil {
		return err
	}
	answers := registry.AskAll(ctx, nodes, func(ctx context.Context, n cluster.Node) (*api.Promotion, error) {
		if n.ID == self.ID {
			return nil, nil
		}
		a := f.report(ctx, n.ID)
		return a.Promotion, a.Err
	})
	for _, a := range answers {
		if p := a.Value; p != nil && p.Record != nil && p.Rule == record.Quorum && p.Leader != 0 {
			return fault.New(fault.BadConfig, "the group is not given up: the daemon of node %q (ID: %d) sees a majority", a.Node.Name, a.Node.ID).
				WithDetail("It knows a leader of the group, node %d.", p.Leader).
				WithHint("for this node alone use --this-node")
		}
	}
	return nil
}

// topTimeline is the highest timeline that this node's record knows of; a number
// is never used twice (safety notes, B15). Entries count that were not committed. Zero
// where nothing is stored, or it is damaged; what only a newer version can read is an error.
func (s *Session) topTimeline() (cluster.Timeline, error) {
	store, err := raftstore.Open(s.Conf.StateDir())
	if err != nil {
		return 0, nil // it is put aside, not removed
	}
	defer store.Close()
	_, stored, found, err := store.Load()
	if err != nil || !found || stored.Snapshot == nil {
		return 0, nil
	}
	newer := func(err error) error {
		return fault.Wrap(err, fault.BadConfig, "it cannot be told which timelines the group has used").
			WithHint("Run this command with the version of repmgr that repmgrd had here; the one from before may be put back after it.")
	}
	rec, err := record.Decode(stored.Snapshot.GetData())
	if err != nil {
		return 0, newer(err)
	}
	for _, e := range stored.Entries {
		if e.GetType() != raftpb.EntryNormal || len(e.GetData()) == 0 {
			continue // raft's own, and changes of members
		}
		entry, change, err := record.DecodeEntry(e.GetData())
		if err != nil {
			return 0, newer(err)
		}
		rec.Apply(change, entry.At, e.GetIndex())
	}
	return rec.TopTimeline, nil
}
