package cli

import (
	"context"
	"errors"

	"repmgr/internal/fault"
	"repmgr/internal/ops"
)

// witnessVerbs are the actions on a witness.
func witnessVerbs() []verb {
	return []verb{{
		name:  "witness register",
		short: "add a witness: a server of its own that only votes",
		long: `Run on the witness's host; -h names the primary. The witness's own database, which conninfo of repmgr.conf names, gets a copy of the records.

The witness must not be a copy of the cluster: make its server with initdb. With --force a record, and records in the witness's database, are overwritten.`,
		example: "repmgr -f /etc/repmgr.conf witness register -h node1",
		options: []string{"connection", "dry-run", "force", "superuser"},
		changes: true,
		check: func(s *Session) []error {
			if s.Opt.Host == "" && !isConninfo(s.Opt.DBName) {
				return []error{errors.New("witness register needs the primary's host: give it with -h")}
			}
			return nil
		},
		run: witnessRegister,
	}, {
		name:    "witness unregister",
		short:   "remove a witness's record",
		long:    "Removes the record of this node, or of the one that --node-id names. The witness's own database is left alone. If its server is down, the primary is named with the connection options, and --force.",
		example: "repmgr -f /etc/repmgr.conf witness unregister\nrepmgr -f /etc/repmgr.conf witness unregister -h node1 -F",
		options: []string{"connection", "dry-run", "force", "node-id"},
		changes: true,
		run: func(ctx context.Context, s *Session) error {
			return unregister(ctx, s, ops.WitnessUnregister)
		},
	}}
}

func witnessRegister(ctx context.Context, s *Session) error {
	w := s.world()
	defer w.Close()
	primary, err := s.OptionConninfo()
	if err != nil {
		return err
	}
	survey, holdsRecords, err := w.SurveyWitnessRegister(ctx, primary)
	if err != nil {
		return err
	}
	p, err := ops.WitnessRegister(survey, holdsRecords, ops.RegisterOptions{Force: s.Opt.Force})
	if err != nil {
		return err
	}
	if err := s.carry(ctx, p, w, fault.BadConfig); err != nil || s.Opt.DryRun {
		return err
	}
	s.Talk.Notice("%s is registered as witness", named(survey.Self))
	return nil
}

// unregister removes the record of a standby or a witness.
func unregister(ctx context.Context, s *Session, verb func(ops.Survey, ops.UnregisterOptions) (ops.Plan, error)) error {
	w := s.world()
	defer w.Close()
	primary, err := s.given()
	if err != nil {
		return err
	}
	if !s.Opt.Force {
		primary = nil
	}
	target := s.Opt.NodeID
	if target == 0 && s.Opt.NodeName == "" {
		target = s.Conf.NodeID
	}
	survey, err := w.SurveyUnregister(ctx, target, primary)
	if err != nil {
		return err
	}
	if target == 0 {
		for _, n := range survey.Nodes {
			if n.Name == s.Opt.NodeName {
				target = n.ID
			}
		}
		if target == 0 {
			return fault.New(fault.BadConfig, "no node is called %q", s.Opt.NodeName).
				WithHint("\"repmgr cluster show\" lists the registered nodes")
		}
	}
	p, err := verb(survey, ops.UnregisterOptions{Target: target, Force: s.Opt.Force, Endpoint: w.TargetEndpoint(ctx, target)})
	if err != nil {
		return err
	}
	return s.carry(ctx, p, w, fault.BadConfig)
}
