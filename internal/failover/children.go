package failover

import (
	"fmt"
	"time"

	"repmgr/internal/cluster"
)

// ChildPolicy is the part of the configuration that decides about a primary's
// children: the nodes that follow it by their records.
type ChildPolicy struct {
	Command        bool          // child_nodes_disconnect_command is set
	Paused         bool          // an operator's pause holds the command back
	ConnectedMin   int           // child_nodes_connected_min_count; not above zero: not set
	DisconnectMin  int           // child_nodes_disconnect_min_count; not above zero: not set
	IncludeWitness bool          // child_nodes_connected_include_witness
	Timeout        time.Duration // child_nodes_disconnect_timeout
}

// required is how many of so many children must be attached: fewer have the
// command run. Without a number set it is one.
func (p ChildPolicy) required(children int) int {
	switch {
	case p.ConnectedMin > 0:
		return p.ConnectedMin
	case p.DisconnectMin > 0:
		return children - p.DisconnectMin + 1
	default:
		return 1
	}
}

// ChildSeen is a child as one look found it.
type ChildSeen struct {
	Node     cluster.Node
	Attached bool
}

// ChildEvent is something to record about a child.
type ChildEvent struct {
	Name    string
	About   cluster.Node
	Details string
}

// ChildrenOf lists the children of this node by their records. Whether a
// witness is attached is its daemon's word; a standby is looked for in
// pg_stat_replication by the caller.
func ChildrenOf(v *View, now time.Time) []ChildSeen {
	f := newFacts(v, now)
	var out []ChildSeen
	for _, n := range v.Nodes {
		if n.ID == v.Self || n.Upstream != v.Self {
			continue
		}
		r := v.Peers[n.ID].Report
		attached := n.Role == cluster.Witness && f.fresh(n.ID) && !v.Peers[n.ID].Silent && r.Server == ServerRunning && r.Upstream == v.Self
		out = append(out, ChildSeen{Node: n, Attached: attached})
	}
	return out
}

// Children is what a primary remembers of its children from look to look. The
// zero value has not looked yet.
type Children struct {
	looked bool
	known  map[cluster.NodeID]child
	ran    bool // the command was run, and enough have not been attached since
}

type child struct {
	state childState
	since time.Time // of detached
}

type childState uint8

const (
	childUnknown childState = iota // was never seen attached: it does not count as gone
	childAttached
	childDetached
)

// Looked reports whether there has been a look since this node became the primary.
// What is attached by then is what can be missed later.
func (c *Children) Looked() bool { return c.looked }

// Look folds one look in. It returns the events to record, and whether
// child_nodes_disconnect_command is to be run now, with the reason.
func (c *Children) Look(seen []ChildSeen, p ChildPolicy, now time.Time) (events []ChildEvent, run bool, why string) {
	known := make(map[cluster.NodeID]child, len(seen)) // whose record is gone is forgotten
	for _, s := range seen {
		was, old := c.known[s.Node.ID]
		is, event := was.next(s, old, now)
		known[s.Node.ID] = is
		if event != nil && c.looked { // the first look finds what has long been so
			events = append(events, *event)
		}
	}
	c.looked, c.known = true, known
	run, why = c.disconnected(seen, p, now)
	return events, run, why
}

// next is what a child is after it was seen, and the event that tells of it.
// old says that its record is no new one.
func (c child) next(s ChildSeen, old bool, now time.Time) (child, *ChildEvent) {
	event := func(name, format string, args ...any) *ChildEvent {
		text := fmt.Sprintf("%s node %q (ID: %d) ", s.Node.Role, s.Node.Name, s.Node.ID)
		return &ChildEvent{Name: name, About: s.Node, Details: text + fmt.Sprintf(format, args...)}
	}
	const connected = "child_node_new_connect"
	switch {
	case s.Attached && c.state == childDetached:
		return child{state: childAttached}, event("child_node_reconnect", "has reconnected after %d seconds", int(now.Sub(c.since).Seconds()))
	case s.Attached && c.state == childUnknown:
		return child{state: childAttached}, event(connected, "has connected")
	case !s.Attached && c.state == childAttached:
		return child{childDetached, now}, event("child_node_disconnect", "has disconnected")
	case !old:
		return c, event(connected, "is new and has not connected yet")
	}
	return c, nil
}

// disconnected reports whether too few children are attached, for long enough.
// The command is run once for that, and again only after enough were attached.
func (c *Children) disconnected(seen []ChildSeen, p ChildPolicy, now time.Time) (run bool, why string) {
	children, attached, gone, long := 0, 0, 0, 0
	for _, s := range seen {
		if s.Node.Role == cluster.Witness && !p.IncludeWitness {
			continue
		}
		children++
		switch k := c.known[s.Node.ID]; {
		case k.state == childAttached:
			attached++
		case k.state == childDetached:
			gone++
			if now.Sub(k.since) >= p.Timeout {
				long++
			}
		}
	}
	required := p.required(children)
	if attached >= required {
		c.ran = false
		return false, ""
	}
	if !p.Command || p.Paused || c.ran || gone == 0 || long < gone {
		return false, ""
	}
	c.ran = true
	return true, fmt.Sprintf("%d of %d children are attached, %d are required, and none of the %d that went came back within %s", attached, children, required, gone, p.Timeout)
}
