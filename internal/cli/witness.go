package cli

import (
	"context"
	"errors"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/ops"
	"repmgr/internal/pg"
	"repmgr/internal/registry"
)

// witnessVerbs are the actions on a witness.
func witnessVerbs() []verb {
	return []verb{{
		name:  "witness register",
		short: "add a witness: a node that only votes",
		long: `Run on the witness's host; -h names the primary.

A witness needs no PostgreSQL: a repmgr.conf with node_id, node_name and state_directory, and neither conninfo nor data_directory, is enough. What its daemon has to know of the cluster, the certificate authority's private key included, is written into the state directory. The other daemons reach it by --daemon-host, else by daemon_listen_address, else by the address that this host has towards the primary.

Where repmgr.conf has a conninfo, the witness is a server of its own, and its database gets a copy of the records. It must not be a copy of the cluster: make it with initdb. With --force a record, and records in the witness's database, are overwritten.`,
		example: "repmgr -f /etc/repmgr.conf witness register -h node1 -U repmgr -d repmgr\nrepmgr -f /etc/repmgr.conf witness register -h node1 -U repmgr -d repmgr --daemon-host witness1",
		options: []string{"connection", "dry-run", "force", "superuser", "daemon-host"},
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
		long:    "Removes the record of this node, or of the one that --node-id names. The witness's own database or state directory is left alone. If its server is down, the primary is named with the connection options, and --force; a witness without PostgreSQL finds the primary as its daemon remembers it, or by the connection options.",
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
	survey, p, err := s.planWitness(ctx, w, primary)
	if err != nil {
		return err
	}
	if err := s.carry(ctx, p, w, fault.BadConfig); err != nil || s.Opt.DryRun {
		return err
	}
	s.Talk.Notice("%s is registered as witness", named(survey.Self))
	return nil
}

// planWitness is the plan for the kind of witness that the configuration is of.
func (s *Session) planWitness(ctx context.Context, w *registry.World, primary pg.Conninfo) (ops.Survey, ops.Plan, error) {
	o := ops.RegisterOptions{Force: s.Opt.Force}
	if s.Conf.WithoutServer() {
		survey, err := w.SurveyPlainWitness(ctx, primary, s.Opt.DaemonHost)
		if err != nil {
			return survey, ops.Plan{}, err
		}
		p, err := ops.PlainWitnessRegister(survey, o)
		return survey, p, err
	}
	if s.Opt.DaemonHost != "" {
		return ops.Survey{}, ops.Plan{}, fault.New(fault.BadConfig, "--daemon-host is for a witness without PostgreSQL").
			WithDetail("the daemon of a node with a server is reached by the host of conninfo")
	}
	survey, holdsRecords, err := w.SurveyWitnessRegister(ctx, primary)
	if err != nil {
		return survey, ops.Plan{}, err
	}
	p, err := ops.WitnessRegister(survey, holdsRecords, o)
	return survey, p, err
}

// surveyUnregister looks at what is to be removed, from the primary where this
// node has no server.
func (s *Session) surveyUnregister(ctx context.Context, w *registry.World, target cluster.NodeID) (ops.Survey, error) {
	if s.Conf.WithoutServer() {
		primary, err := s.Conninfo()
		if err != nil {
			return ops.Survey{}, err
		}
		return w.SurveyPlainUnregister(ctx, primary)
	}
	primary, err := s.given()
	if err != nil {
		return ops.Survey{}, err
	}
	if !s.Opt.Force {
		primary = nil
	}
	return w.SurveyUnregister(ctx, target, primary)
}

// unregister removes the record of a standby or a witness.
func unregister(ctx context.Context, s *Session, verb func(ops.Survey, ops.UnregisterOptions) (ops.Plan, error)) error {
	w := s.world()
	defer w.Close()
	target := s.Opt.NodeID
	if target == 0 && s.Opt.NodeName == "" {
		target = s.Conf.NodeID
	}
	survey, err := s.surveyUnregister(ctx, w, target)
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
