package ops

import (
	"fmt"
	"strings"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/plan"
)

// RegisterOptions are the options of the verbs that register a node.
type RegisterOptions struct {
	Force bool

	Upstream         cluster.NodeID // standby: whom it follows; zero: the primary
	UpstreamConninfo string         // of an upstream that is not registered yet, with Force
	WaitSync         time.Duration  // standby: zero: not waited for; negative: without a bound
}

// PrimaryRegister plans `primary register`.
func PrimaryRegister(s Survey, o RegisterOptions) (Plan, error) {
	p := Plan{Name: "primary register"}
	if err := checkVersion(s.Local); err != nil {
		return p, err
	}
	if s.Local.InRecovery {
		return p, fault.New(fault.BadConfig, "this server is a standby and cannot be registered as primary").
			WithDetail("%s is in recovery", called(s.Self)).
			WithHint("use \"repmgr standby register\", or register the primary on its own host")
	}
	if err := checkName(s); err != nil {
		return p, err
	}
	var old []cluster.Node
	for _, n := range s.Nodes {
		if n.Role != cluster.Primary || !n.Active || n.ID == s.Self.ID {
			continue
		}
		if s.Servers[n.ID].Role() == cluster.Primary {
			return p, fault.New(fault.BadConfig, "another primary is registered and runs").
				WithDetail("%s takes writes", called(n)).
				WithHint("a cluster has one primary: stop one of both servers; a former primary comes back as a standby by \"repmgr node rejoin\" or \"repmgr standby clone\"")
		}
		old = append(old, n)
	}
	if err := checkRecord(s, o.Force); err != nil {
		return p, err
	}
	p.Steps = append(p.Steps, CreateMetadata{Cluster})
	for _, n := range old {
		was := n
		n.Active = false
		p.Steps = append(p.Steps, SaveRecord{Node: n, Was: &was})
	}
	p.Steps = append(p.Steps, saveSelf(s), SaveEndpoint{s.Self.ID, s.Endpoint}, CreateAuthority{},
		Announce{Event{Name: "primary_register", Node: s.Self.ID,
			Details: fmt.Sprintf("node %d is registered as primary", s.Self.ID)}})
	return p, nil
}

// saveSelf writes the local node's record over the one that there is.
func saveSelf(s Survey) SaveRecord {
	if was, found := cluster.Find(s.Nodes, s.Self.ID); found {
		return SaveRecord{Node: s.Self, Was: &was}
	}
	return SaveRecord{Node: s.Self}
}

// StandbyRegister plans `standby register`. Where the local server does not run,
// Local is not reachable and force is needed.
func StandbyRegister(s Survey, o RegisterOptions) (Plan, error) {
	p := Plan{Name: "standby register"}
	if err := checkStandby(s, o.Force); err != nil {
		return p, err
	}
	if err := checkName(s); err != nil {
		return p, err
	}
	if err := checkRecord(s, o.Force); err != nil {
		return p, err
	}
	primary := s.node(s.Primary)
	self := s.Self
	self.Upstream = s.Primary
	if o.Upstream != 0 {
		self.Upstream = o.Upstream
	}
	placeholder, err := checkUpstream(s, o)
	if err != nil {
		return p, err
	}
	p.Steps = append(p.Steps, CreateMetadata{Cluster})
	if placeholder != nil {
		p.Steps = append(p.Steps, SaveRecord{Node: *placeholder})
	}
	s.Self = self
	p.Steps = append(p.Steps, saveSelf(s), SaveEndpoint{self.ID, s.Endpoint})
	details := fmt.Sprintf("standby %s is registered; its upstream is node %d", called(self), self.Upstream)
	p.Steps = append(p.Steps, Announce{Event{Name: "standby_register", Node: self.ID, Details: details, About: primary}})
	if o.WaitSync != 0 {
		p.Steps = append(p.Steps, WaitSync{self, o.WaitSync},
			Announce{Event{Name: "standby_register_sync", Node: self.ID, About: primary,
				Details: fmt.Sprintf("the record of node %d has reached it", self.ID)}})
	}
	return p, nil
}

// checkStandby says why the local server cannot be a standby of this cluster.
func checkStandby(s Survey, force bool) error {
	primary := s.Servers[s.Primary]
	switch {
	case !s.Local.Reachable && !force:
		return fault.New(fault.BadConfig, "this server cannot be reached").
			WithDetail("%s", s.Local.Why).
			WithHint("start it, or register it while it is down with -F/--force and the connection options of the primary")
	case s.Local.Reachable && !s.Local.InRecovery:
		return fault.New(fault.BadConfig, "this server is no standby").
			WithDetail("%s is not in recovery: it takes writes", called(s.Self)).
			WithHint("a primary is registered with \"repmgr primary register\"; if it was meant to be a standby, clone it with \"repmgr standby clone\"")
	case s.Primary == 0:
		return fault.New(fault.BadConfig, "no primary was found").
			WithHint("register the primary first, with \"repmgr primary register\" on its host")
	case s.Local.Reachable && s.Local.Version/10000 != primary.Version/10000:
		return fault.New(fault.BadConfig, "this server has another major version than the primary").
			WithDetail("PostgreSQL %s here, %s on %s", major(s.Local.Version), major(primary.Version), called(s.node(s.Primary))).
			WithHint("physical replication needs the same major version: clone this node with the primary's")
	case s.Local.Reachable && s.Local.SystemID != primary.SystemID:
		return otherCluster(s.Local.SystemID, primary.SystemID, s.node(s.Primary))
	}
	return nil
}

// otherCluster reports system identifiers that differ.
func otherCluster(here, there string, of cluster.Node) *fault.Error {
	return fault.New(fault.BadConfig, "this server belongs to another cluster").
		WithDetail("its system identifier is %s; that of %s is %s", here, called(of), there).
		WithHint("check data_directory and conninfo; a copy of that cluster is made with \"repmgr standby clone\"")
}

// checkUpstream says why the node cannot be registered as following its
// upstream. An upstream that is not registered yet gets a placeholder, by force.
func checkUpstream(s Survey, o RegisterOptions) (placeholder *cluster.Node, err error) {
	id, known := s.Primary, false
	if o.Upstream != 0 {
		id = o.Upstream
	}
	up, found := cluster.Find(s.Nodes, id)
	_, known = cluster.Find(s.Nodes, s.Self.ID)
	switch {
	case id == s.Self.ID:
		return nil, fault.New(fault.BadConfig, "node %d cannot be its own upstream", id).
			WithHint("give the ID of the node that it replicates from with --upstream-node-id, or leave the option out")
	case !found && !o.Force:
		return nil, fault.New(fault.BadConfig, "node %d is not registered and cannot be an upstream", id).
			WithDetail("registered are %s", idsOf(s.Nodes)).
			WithHint("register it first, or go on with -F/--force")
	case !found:
		return &cluster.Node{ID: id, Name: fmt.Sprintf("node%d", id), Role: cluster.Standby, Upstream: s.Primary,
			Location: "default", Priority: 100, Conninfo: o.UpstreamConninfo, ReplUser: s.Self.ReplUser, ConfigFile: s.Self.ConfigFile}, nil
	case o.Force || !s.Local.Reachable:
		return nil, nil
	case !up.Active:
		return nil, fault.New(fault.BadConfig, "%s is marked inactive and cannot be an upstream", called(up)).
			WithHint("register it again first, or go on with -F/--force")
	case (o.Upstream != 0 || !known) && !s.Servers[id].Holds:
		why := s.Servers[id].Why
		if why == "" {
			why = fmt.Sprintf("its pg_stat_replication has no streaming connection with application_name %q", s.Self.Name)
		}
		return nil, fault.New(fault.BadConfig, "this server is not attached to its upstream, %s", called(up)).
			WithDetail("%s", why).
			WithHint("check primary_conninfo and the server's log; name another upstream with --upstream-node-id; or go on with -F/--force")
	}
	return nil, nil
}

func idsOf(nodes []cluster.Node) string {
	if len(nodes) == 0 {
		return "no nodes"
	}
	var all []string
	for _, n := range nodes {
		all = append(all, fmt.Sprintf("%s (ID: %d)", n.Name, n.ID))
	}
	return strings.Join(all, ", ")
}

// WitnessRegister plans `witness register`. Local is the witness's server, and
// holdsRecords tells whether its database has records already.
func WitnessRegister(s Survey, holdsRecords bool, o RegisterOptions) (Plan, error) {
	p := Plan{Name: "witness register"}
	primary := s.Servers[s.Primary]
	if err := checkVersion(s.Local); err != nil {
		return p, err
	}
	if s.Local.InRecovery {
		return p, fault.New(fault.BadConfig, "this server is a standby and cannot be a witness").
			WithDetail("it is in recovery; a witness keeps its own copy of the records and so must take writes").
			WithHint("make a server for the witness with initdb, on a host of its own")
	}
	if s.Primary == 0 || primary.InRecovery {
		return p, fault.New(fault.BadConfig, "the server that was named is not the primary").
			WithDetail("%s", primary.Why).
			WithHint("give the primary's host with -h")
	}
	if s.Local.SystemID == primary.SystemID {
		return p, fault.New(fault.BadConfig, "this server belongs to the cluster that it should watch").
			WithDetail("both have the system identifier %s", primary.SystemID).
			WithHint("a witness needs a server of its own, made with initdb")
	}
	if err := checkWitnessRecord(s, o); err != nil {
		return p, err
	}
	if holdsRecords && !o.Force {
		return p, fault.New(fault.BadConfig, "the witness's database holds records already").
			WithHint("check conninfo; overwrite them with -F/--force")
	}
	p.Steps = append([]plan.Step[World]{CreateMetadata{OfWitness}}, witnessSteps(s)...)
	return p, nil
}

// PlainWitnessRegister plans `witness register` for a witness without PostgreSQL:
// what it has to know is written into its state directory.
func PlainWitnessRegister(s Survey, o RegisterOptions) (Plan, error) {
	p := Plan{Name: "witness register"}
	if s.Primary == 0 {
		return p, fault.New(fault.BadConfig, "the server that was named is not the primary").
			WithHint("give the primary's host with -h")
	}
	if err := checkWitnessRecord(s, o); err != nil {
		return p, err
	}
	p.Steps = witnessSteps(s)
	return p, nil
}

// checkWitnessRecord says why the witness's record cannot be written.
func checkWitnessRecord(s Survey, o RegisterOptions) error {
	if was, found := cluster.Find(s.Nodes, s.Self.ID); found && was.Role != cluster.Witness {
		return fault.New(fault.BadConfig, "node %d is registered as %s", was.ID, was.Role).
			WithHint("give the witness another node_id, or unregister that node")
	}
	if err := checkRecord(s, o.Force); err != nil {
		return err
	}
	return checkName(s)
}

// witnessSteps record a witness, and let it know the others.
func witnessSteps(s Survey) []plan.Step[World] {
	s.Self.Role, s.Self.Priority, s.Self.Upstream, s.Self.SlotName = cluster.Witness, 0, s.Primary, ""
	return []plan.Step[World]{CreateMetadata{Cluster}, saveSelf(s), SaveEndpoint{s.Self.ID, s.Endpoint}, CopyRecords{},
		Announce{Event{Name: "witness_register", Node: s.Self.ID, About: s.node(s.Primary),
			Details: fmt.Sprintf("witness %s is registered", called(s.Self))}}}
}
