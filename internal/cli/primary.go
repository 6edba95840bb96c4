package cli

import (
	"context"

	"repmgr/internal/fault"
	"repmgr/internal/ops"
)

// primaryVerbs are the actions on a primary.
func primaryVerbs() []verb {
	return []verb{{
		name:  "primary register",
		short: "make this server the primary of a cluster",
		long: `Creates the repmgr metadata in the database of conninfo, the cluster's certificate authority and this node's record. It needs no superuser: CREATE on the database will do.

With --force the record is overwritten if there is one, which is how changes of repmgr.conf get into it. A primary that is registered and takes writes is never replaced.`,
		example: "repmgr -f /etc/repmgr.conf primary register --dry-run\nrepmgr -f /etc/repmgr.conf primary register\nrepmgr -f /etc/repmgr.conf primary register -F    # after a change of repmgr.conf",
		options: []string{"dry-run", "force", "superuser", "replication-user"},
		changes: true,
		run:     primaryRegister,
	}, {
		name:  "primary unregister",
		short: "remove the record of a former primary",
		long: `Removes the record of the node that is registered as primary, or of the one that --node-id names. The server is left alone.

A node that others have as their upstream is not removed. One that runs, or is marked active, is only removed with --force.`,
		example: "repmgr -f /etc/repmgr.conf primary unregister --node-id=1 --dry-run\nrepmgr -f /etc/repmgr.conf primary unregister --node-id=1",
		options: []string{"dry-run", "force", "node-id"},
		changes: true,
		run:     primaryUnregister,
	}}
}

func primaryRegister(ctx context.Context, s *Session) error {
	w := s.world()
	defer w.Close()
	survey, err := w.SurveyPrimaryRegister(ctx)
	if err != nil {
		return err
	}
	if s.Opt.ReplicationUser != "" {
		survey.Self.ReplUser = s.Opt.ReplicationUser
	}
	p, err := ops.PrimaryRegister(survey, ops.RegisterOptions{Force: s.Opt.Force})
	if err != nil {
		return err
	}
	if err := s.carry(ctx, p, w, fault.DBQuery); err != nil || s.Opt.DryRun {
		return err
	}
	s.Talk.Notice("%s is registered as primary", named(survey.Self))
	return nil
}

func primaryUnregister(ctx context.Context, s *Session) error {
	w := s.world()
	defer w.Close()
	survey, err := w.SurveyUnregister(ctx, s.Opt.NodeID, nil)
	if err != nil {
		return err
	}
	target := s.Opt.NodeID
	if target == 0 {
		target = survey.Primary
	}
	o := ops.UnregisterOptions{Target: target, Force: s.Opt.Force, Endpoint: w.TargetEndpoint(ctx, target)}
	p, err := ops.PrimaryUnregister(survey, o)
	if err != nil {
		return err
	}
	return s.carry(ctx, p, w, fault.DBQuery)
}
