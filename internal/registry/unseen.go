package registry

import (
	"context"
	"encoding/json"
	"strings"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/ops"
	"repmgr/internal/pg"
)

// surveyUnseen takes the place of surveySource where no server of the cluster is to
// be connected to: what the backup says of itself is known, and what Barman's host
// learns of its server, unless the operator has said whom the standby follows.
func (w *World) surveyUnseen(ctx context.Context, v *CloneSurvey, r CloneRequest) error {
	if err := w.askBarman(ctx); err != nil {
		return err
	}
	v.Source.Unseen, v.Source.Name, v.Source.Address = true, "the upstream", "Barman on "+w.barman.ssh.Host
	v.Source.Version = w.barman.backup.Version
	if r.UpstreamConninfo == "" {
		database := r.Source.Get("dbname")
		if own, err := pg.ParseConninfo(w.cfg.Conninfo); err == nil && database == "" {
			database = own.Get("dbname")
		}
		told, err := w.barman.askServer(ctx, database)
		if err != nil {
			return err
		}
		v.Source.Name, v.Source.SystemID, v.Source.Version = "Barman's server", told.SystemID, told.Version
		w.nodes = told.nodes()
	}
	v.Survey = w.survey(ops.Server{})
	v.Survey.Self.Role = cluster.Standby
	return nil
}

// told is what a server says of itself and its cluster through psql on Barman's host.
type told struct {
	SystemID string `json:"system_id"`
	Version  int    `json:"version"` // as server_version_num has it
	Records  []struct {
		ID         cluster.NodeID `json:"node_id"`
		Upstream   cluster.NodeID `json:"upstream_node_id"`
		Active     bool           `json:"active"`
		Name       string         `json:"node_name"`
		Type       string         `json:"type"`
		Location   string         `json:"location"`
		Priority   int            `json:"priority"`
		Conninfo   string         `json:"conninfo"`
		ReplUser   string         `json:"repluser"`
		SlotName   string         `json:"slot_name"`
		ConfigFile string         `json:"config_file"`
	} `json:"nodes"`
}

const toldSQL = "SELECT pg_catalog.json_build_object('system_id', (SELECT system_identifier::text FROM pg_catalog.pg_control_system()), " +
	"'version', pg_catalog.current_setting('server_version_num')::int, 'nodes', (SELECT pg_catalog.json_agg(n ORDER BY node_id) FROM repmgr.nodes n))"

// nodes are the records as they are registered.
func (t told) nodes() []cluster.Node {
	var nodes []cluster.Node
	for _, r := range t.Records {
		nodes = append(nodes, cluster.Node{ID: r.ID, Upstream: r.Upstream, Active: r.Active, Name: r.Name, Role: cluster.ParseRole(r.Type),
			Location: r.Location, Priority: r.Priority, Conninfo: r.Conninfo, ReplUser: r.ReplUser, SlotName: r.SlotName, ConfigFile: r.ConfigFile})
	}
	return nodes
}

// askServer lets Barman's host ask Barman's server for the records in that database, by
// psql. A password in Barman's conninfo is not used: it would stand in two lists of processes.
func (b *barman) askServer(ctx context.Context, database string) (told, error) {
	var t told
	info, err := pg.ParseConninfo(b.info)
	if err != nil {
		return t, unknownUpstream(fault.Wrap(err, fault.BadConfig, "Barman's conninfo of %q is not understood", b.server))
	}
	if info = info.Without("password"); database != "" {
		info = info.With("dbname", database)
	}
	r, err := b.run(ctx, pg.QuoteAll([]string{"psql", "-X", "-A", "-t", "-q", "-w", "-d", info.String(), "-c", toldSQL}))
	switch {
	case err != nil:
		return t, err
	case !r.OK():
		return t, unknownUpstream(fault.New(fault.BadConfig, "it is not known whom the standby shall follow").
			WithDetail("Barman's host was to ask \"%s\" for the records: psql there %s; %s", info.Redacted(), r, firstLine(r.Stderr, r.Stdout)))
	}
	text := r.Stdout[max(0, strings.IndexByte(r.Stdout, '{')):] // a login script may have said something first
	if err := json.Unmarshal([]byte(text), &t); err != nil || len(t.Records) == 0 {
		return t, unknownUpstream(fault.New(fault.BadConfig, "it is not known whom the standby shall follow").
			WithDetail("Barman's host asked \"%s\" for the records, and there are none", info.Redacted()))
	}
	return t, nil
}

func unknownUpstream(f *fault.Error) error {
	return f.WithHint("say how the standby reaches its upstream: --upstream-conninfo='host=... user=... dbname=...'")
}
