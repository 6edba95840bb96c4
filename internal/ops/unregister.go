package ops

import (
	"fmt"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/plan"
)

// UnregisterOptions are the options of the verbs that remove a record.
type UnregisterOptions struct {
	Target cluster.NodeID // zero: as the verb says
	Force  bool

	Endpoint *Endpoint // of the target, to be put back should the verb fail
}

// StandbyUnregister plans `standby unregister`; without a target it is the
// local node.
func StandbyUnregister(s Survey, o UnregisterOptions) (Plan, error) {
	return unregister(s, o, cluster.Standby)
}

// WitnessUnregister plans `witness unregister`; without a target it is the local
// node. The witness's own database is left alone.
func WitnessUnregister(s Survey, o UnregisterOptions) (Plan, error) {
	return unregister(s, o, cluster.Witness)
}

func unregister(s Survey, o UnregisterOptions, role cluster.Role) (Plan, error) {
	p := Plan{Name: role.String() + " unregister"}
	if o.Target == 0 {
		o.Target = s.Self.ID
	}
	target, err := registered(s, o.Target)
	if err != nil {
		return p, err
	}
	if target.Role != role {
		return p, fault.New(fault.BadConfig, "%s is no %s", called(target), role).
			WithDetail("it is registered as %s", target.Role).
			WithHint("use \"repmgr %s unregister\"", target.Role)
	}
	if err := checkDownstreams(s, target); err != nil {
		return p, err
	}
	p.Steps = []plan.Step[World]{DeleteRecord{target, o.Endpoint},
		Announce{Event{Name: role.String() + "_unregister", Node: target.ID, About: s.node(s.Primary)}}}
	return p, nil
}

// registered returns the record of a node that must be there.
func registered(s Survey, id cluster.NodeID) (cluster.Node, error) {
	n, found := cluster.Find(s.Nodes, id)
	if found {
		return n, nil
	}
	return n, fault.New(fault.BadConfig, "node %d is not registered", id).
		WithDetail("registered are %s", idsOf(s.Nodes)).
		WithHint("name a registered node with --node-id")
}

// checkDownstreams refuses to remove the upstream of others.
func checkDownstreams(s Survey, target cluster.Node) error {
	var below []cluster.Node
	for _, n := range s.Nodes {
		if n.Upstream == target.ID {
			below = append(below, n)
		}
	}
	if len(below) == 0 {
		return nil
	}
	return fault.New(fault.BadConfig, "%s is the upstream of other nodes", called(target)).
		WithDetail("these have it as their upstream: %s", idsOf(below)).
		WithHint("let them follow another node first, with \"repmgr standby follow\"")
}

// PrimaryUnregister plans `primary unregister`; without a target it is the node
// that is registered as the active primary.
func PrimaryUnregister(s Survey, o UnregisterOptions) (Plan, error) {
	p := Plan{Name: "primary unregister"}
	if o.Target == 0 {
		o.Target = s.Primary
	}
	target, err := registered(s, o.Target)
	if err != nil {
		return p, err
	}
	if target.Role == cluster.Witness {
		return p, fault.New(fault.BadConfig, "%s is a witness", called(target)).
			WithHint("use \"repmgr witness unregister\"")
	}
	if err := checkDownstreams(s, target); err != nil {
		return p, err
	}
	server := s.Servers[target.ID]
	switch {
	case target.Role != cluster.Primary:
		return p, fault.New(fault.BadConfig, "%s is no primary", called(target)).
			WithDetail("it is registered as %s", target.Role).
			WithHint("use \"repmgr standby unregister\"")
	case o.Force:
	case server.Role() == cluster.Standby:
		return p, fault.New(fault.BadConfig, "%s runs as a standby", called(target)).
			WithDetail("it is registered as primary, but its server is in recovery").
			WithHint("register it as what it is with \"repmgr standby register --force\", or go on with -F/--force")
	case server.Role() == cluster.Primary && target.ID == s.Primary:
		return p, fault.New(fault.BadConfig, "%s is the current primary", called(target)).
			WithDetail("its server runs and takes writes").
			WithHint("go on with -F/--force")
	case target.Active:
		return p, fault.New(fault.BadConfig, "%s is marked active", called(target)).
			WithHint("go on with -F/--force")
	}
	p.Steps = []plan.Step[World]{DeleteRecord{target, o.Endpoint},
		Announce{Event{Name: "primary_unregister", Node: s.Self.ID, About: target,
			Details: fmt.Sprintf("%s was unregistered", called(target))}}}
	return p, nil
}
