package cli

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/ops"
	"repmgr/internal/record"
	"repmgr/internal/registry"
)

// standbyVerbs are the actions on a standby.
func standbyVerbs() []verb {
	return []verb{cloneVerb(), registerVerb(), switchoverVerb(), {
		name:    "standby unregister",
		short:   "remove a standby's record",
		long:    "Removes the record of this node, or of the one that --node-id or --node-name names. The server is left alone: stop it first, or it goes on replicating. A node that others have as their upstream is not removed.",
		example: "repmgr -f /etc/repmgr.conf standby unregister\nrepmgr -f /etc/repmgr.conf standby unregister --node-id=3",
		options: []string{"connection", "dry-run", "force", "node-id", "node-name"},
		changes: true,
		run: func(ctx context.Context, s *Session) error {
			return unregister(ctx, s, ops.StandbyUnregister)
		},
	}, {
		name:  "standby promote",
		short: "make this standby the primary",
		long: `Promotes the local server and records it as the primary. No other reachable node may be a primary. The promotion is ordered by pg_promote() where the user may call it, else by service_promote_command or pg_ctl; promote_check_timeout bounds the wait.

Under the quorum rule it is refused: the daemons choose the primary, and end the server of any other node that takes writes.

The former siblings do not follow by themselves unless repmgrd runs there with failover=automatic. With --siblings-follow the daemon of each is told to, whatever its failover says and though the cluster is paused, and the command waits until they are attached, for standby_follow_timeout at most. One that cannot be asked beforehand is a reason to refuse, unless --force is given. Without it: run "repmgr standby follow" on each.`,
		example: "repmgr -f /etc/repmgr.conf standby promote --dry-run\nrepmgr standby promote -f /etc/repmgr.conf --log-to-file    # as promote_command",
		options: []string{"dry-run", "force", "siblings-follow"},
		changes: true,
		run:     standbyPromote,
	}, {
		name:  "standby follow",
		short: "attach this standby to another upstream",
		long: `Points the local standby at the primary, or at the node that --upstream-node-id names, and waits up to standby_follow_timeout until it is attached there. Both histories are compared before anything is changed: a standby that has WAL which its target lacks is refused.

Of a witness, the record and the copy of the records are brought up to date.`,
		example: "repmgr -f /etc/repmgr.conf standby follow --dry-run\nrepmgr standby follow -f /etc/repmgr.conf --log-to-file --upstream-node-id=%n    # as follow_command",
		options: []string{"connection", "dry-run", "upstream-node-id", "wait"},
		changes: true,
		run:     standbyFollow,
	}}
}

func registerVerb() verb {
	return verb{
		name:  "standby register",
		short: "add this standby to the cluster's records",
		long: `Adds or updates this node's record on the primary. The server must be a standby of the cluster, and attached to its upstream: the primary, or the node that --upstream-node-id names.

With --force an existing record is overwritten, a server that is down or not attached is registered all the same, and an upstream that is not registered yet gets an inactive record.`,
		example: "repmgr -f /etc/repmgr.conf standby register\nrepmgr -f /etc/repmgr.conf standby register --upstream-node-id=2 --wait-sync=30\nrepmgr -f /etc/repmgr.conf standby register -F    # after a change of repmgr.conf",
		options: []string{"connection", "dry-run", "force", "upstream-node-id", "upstream-conninfo", "wait-start", "wait-sync", "replication-user"},
		changes: true,
		run:     standbyRegister,
	}
}

func standbyRegister(ctx context.Context, s *Session) error {
	w := s.world()
	defer w.Close()
	primary, err := s.given()
	if err != nil {
		return err
	}
	survey, err := w.SurveyStandbyRegister(ctx, registry.RegisterRequest{
		WaitStart: s.Opt.WaitStart, Force: s.Opt.Force, Upstream: s.Opt.UpstreamNodeID, Given: primary})
	if err != nil {
		return err
	}
	if survey.Local.Reachable && primary != nil {
		s.Talk.Warning("the connection options are of no use while this server runs, and are ignored")
	}
	o := ops.RegisterOptions{Force: s.Opt.Force, Upstream: s.Opt.UpstreamNodeID, UpstreamConninfo: s.Opt.UpstreamConninfo}
	if s.Opt.Given("wait-sync") {
		o.WaitSync = s.Opt.WaitSync
	}
	if s.Opt.ReplicationUser != "" {
		survey.Self.ReplUser = s.Opt.ReplicationUser
	}
	p, err := ops.StandbyRegister(survey, o)
	if err != nil {
		return err
	}
	if err := s.carry(ctx, p, w, fault.BadConfig); err != nil || s.Opt.DryRun {
		return err
	}
	s.Talk.Notice("%s is registered as standby", named(survey.Self))
	return nil
}

func standbyPromote(ctx context.Context, s *Session) error {
	if err := s.leftToDaemons(ctx); err != nil {
		return err
	}
	w := s.world()
	defer w.Close()
	survey, method, err := w.SurveyPromote(ctx)
	if err != nil {
		return err
	}
	p, err := ops.StandbyPromote(survey, ops.PromoteOptions{Promotion: method, Force: s.Opt.Force})
	if err != nil {
		return err
	}
	var others siblings
	if s.Opt.SiblingsFollow {
		if others, err = s.findSiblings(ctx, ops.Siblings(survey)); err != nil {
			return err
		}
	}
	if err := s.carry(ctx, p, w, fault.PromotionFail); err != nil || s.Opt.DryRun {
		return err
	}
	self, _ := cluster.Find(survey.Nodes, s.Conf.NodeID)
	s.Talk.Notice("%s is the primary now", named(self))
	left := ops.SiblingsLeft(survey)
	if s.Opt.SiblingsFollow {
		left = strings.Join(others.follow(ctx, s), "; ")
	}
	if left != "" {
		s.Talk.Say(Entry{Level: Warning, Text: "nodes that followed the former primary must be told to follow this one",
			Detail: left, Hint: "where repmgrd runs with failover=automatic it does so itself; else run \"repmgr standby follow\" on each"})
	}
	return nil
}

// leftToDaemons refuses a promotion by hand where the local daemon would end the
// server for it. A pause changes nothing: the lease stays with its holder.
func (s *Session) leftToDaemons(ctx context.Context) error {
	if s.ConfPath == "" || s.Conf.StateDir() == "" {
		return nil
	}
	view, err := s.localView(ctx, daemonTimeout)
	if err != nil || view.Promotion == nil || view.Promotion.Rule != record.Quorum {
		return nil
	}
	e := fault.New(fault.PromotionFail, "the cluster is under the quorum rule: its daemons choose the primary")
	holder := "another node"
	if r := view.Promotion.Record; r != nil && r.Lease.Taken() {
		m, _ := r.Member(r.Lease.Holder)
		holder = fmt.Sprintf("node %q (ID: %d)", m.Name, m.Node)
	}
	return e.WithDetail("A server that takes writes without the lease, which is %s's or a majority's to give, is stopped at once by its daemon.", holder).
		WithHint("if the primary is gone another is promoted by itself; \"repmgr cluster show\" says what is missing, and docs/quorum.md what to do when a majority is lost for ever")
}

func standbyFollow(ctx context.Context, s *Session) error {
	w := s.world()
	defer w.Close()
	request := registry.FollowRequest{Target: s.Opt.UpstreamNodeID, KeepSlot: s.Opt.Given("host")}
	if s.Opt.Given("wait") {
		request.Wait = s.Conf.PrimaryFollowTimeout
		if s.Opt.Wait != Unlimited {
			request.Wait = time.Duration(s.Opt.Wait) * time.Second
		}
	}
	survey, o, err := w.SurveyFollow(ctx, request)
	if err != nil {
		return err
	}
	self, _ := cluster.Find(survey.Nodes, s.Conf.NodeID)
	if self.Role == cluster.Witness && !s.Opt.DryRun {
		return registry.FollowWitness(ctx, w, request.Target, s.tell)
	}
	p, err := ops.StandbyFollow(survey, o)
	if err != nil {
		return err
	}
	if err := s.carry(ctx, p, w, fault.FollowFail); err != nil || s.Opt.DryRun {
		return err
	}
	target := request.Target
	if target == 0 {
		target = survey.Primary
	}
	n, _ := cluster.Find(survey.Nodes, target)
	s.Talk.Notice("%s follows %s", named(self), named(n))
	return nil
}

func cloneVerb() verb {
	return verb{
		name:  "standby clone",
		short: "make a standby by copying a server",
		long: `Copies the primary, or a standby, into data_directory with pg_basebackup and writes the settings that make it a standby of the primary, or of the node that --upstream-node-id names. It neither starts nor registers the new standby.

Where barman_host is set, the copy is of the latest backup that Barman keeps, by ssh and rsync, and costs the server nothing; restore_command should then fetch WAL from Barman too. --without-barman copies the server all the same. --no-upstream-connection makes no connection to any server of the cluster, so that a standby can be made while none can be reached: whom it shall follow is said by --upstream-conninfo, else Barman's host asks its server for the records by psql. What cannot be checked then is told, and no replication slot is made.

Where pg_backupapi_host is set, and barman_host is not or --without-barman is given, pg-backup-api has Barman restore the backup of pg_backupapi_backup_id. --dry-run asks that service for its status, for the server and for the backup, and orders nothing.

The directory must be missing or empty; with --force everything in it is deleted. No server starts in it before the copy is complete, and a clone that is broken off leaves neither files nor a replication slot behind.`,
		example:  "repmgr -h node1 -U repmgr -d repmgr -f /etc/repmgr.conf standby clone --dry-run\nrepmgr -h node1 -U repmgr -d repmgr -f /etc/repmgr.conf standby clone\nrepmgr -h node2 -U repmgr -d repmgr -f /etc/repmgr.conf standby clone --upstream-node-id=2    # cascading",
		argument: "HOST",
		options: []string{"connection", "dry-run", "force", "pgdata", "upstream-node-id", "upstream-conninfo", "replication-user", "superuser",
			"fast-checkpoint", "copy-external-config-files", "verify-backup", "replication-conf-only", "recovery-min-apply-delay",
			"no-upstream-connection", "without-barman"},
		changes: true,
		config:  configOptional,
		check:   checkClone,
		run:     standbyClone,
	}
}

func checkClone(s *Session) []error {
	var wrong []error
	if len(s.Args) > 0 && s.Opt.Host != "" {
		wrong = append(wrong, errors.New("the source was named twice: as an argument and with -h"))
	}
	if len(s.Args) == 0 && s.Opt.Host == "" && !isConninfo(s.Opt.DBName) && !s.Opt.NoUpstreamConnection {
		wrong = append(wrong, errors.New("standby clone needs a server to copy: give its host with -h"))
	}
	if d := s.Opt.RecoveryMinApplyDelay; d != "" && !delay.MatchString(d) {
		wrong = append(wrong, fmt.Errorf("option --recovery-min-apply-delay takes a number with ms, s, min, h or d, found %q", d))
	}
	return wrong
}

// delay is how recovery_min_apply_delay is written.
var delay = regexp.MustCompile(`^[0-9]+(ms|s|min|h|d)?$`)
