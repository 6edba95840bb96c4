package ops

import (
	"fmt"
	"strings"
	"time"

	"repmgr/internal/cluster"
)

// CheckStatus is what a check of a node comes to; its number is the exit status.
type CheckStatus int

// The answers, as monitoring systems know them.
const (
	CheckOK CheckStatus = iota
	CheckWarning
	CheckCritical
	CheckUnknown
)

// String is the word for it.
func (s CheckStatus) String() string {
	return [...]string{"OK", "WARNING", "CRITICAL", "UNKNOWN"}[s]
}

// MarshalText is the word for it.
func (s CheckStatus) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// NodeCheck is one check of a node, and what it came to.
type NodeCheck struct {
	Name    string      `json:"check"`           // the option of `node check`
	Label   string      `json:"label"`           // in the overview
	Service string      `json:"-"`               // in a line for Nagios
	Status  CheckStatus `json:"status"`          //
	Text    string      `json:"details"`         // in words
	Perf    string      `json:"-"`               // figures for Nagios, behind the bar
	Short   string      `json:"-"`               // what a line for Nagios says in place of Text; empty: that
	Value   *int64      `json:"value,omitempty"` // seconds, or files
	Nodes   []string    `json:"nodes,omitempty"` // that are missing
	Slots   []string    `json:"slots,omitempty"` // that are inactive, or missing
	Warn    int64       `json:"warning,omitempty"`
	Crit    int64       `json:"critical,omitempty"`
}

// CheckRole holds what a server is against what its record says.
func CheckRole(registered cluster.Role, inRecovery bool) NodeCheck {
	c := NodeCheck{Name: "role", Label: "Server role", Service: "REPMGR_SERVER_ROLE", Text: fmt.Sprintf("node is %s", registered)}
	is := cluster.Primary
	if inRecovery {
		is = cluster.Standby
	}
	if inRecovery != (registered == cluster.Standby) {
		c.Status, c.Text = CheckCritical, fmt.Sprintf("node is registered as %s and runs as %s", registered, is)
	}
	return c
}

// CheckLag is about replay; seconds is negative where that is not known.
func CheckLag(inRecovery bool, seconds float64, warn, crit time.Duration) NodeCheck {
	lag := int64(seconds)
	c := NodeCheck{Name: "replication-lag", Label: "Replication lag", Service: "REPMGR_REPLICATION_LAG", Text: fmt.Sprintf("%d seconds", lag), Value: &lag,
		Warn: int64(warn.Seconds()), Crit: int64(crit.Seconds())}
	c.Perf, c.Short = fmt.Sprintf("lag=%d;%d;%d", lag, c.Warn, c.Crit), c.Text
	switch {
	case !inRecovery:
		lag = 0
		c.Text, c.Short, c.Perf = "N/A - node is primary", "0 seconds", fmt.Sprintf("lag=0;%d;%d", c.Warn, c.Crit)
	case seconds < 0:
		c.Status, c.Text, c.Perf, c.Value = CheckUnknown, "the lag is not known", "", nil
		c.Short = c.Text
	case seconds >= crit.Seconds():
		c.Status, c.Text = CheckCritical, fmt.Sprintf("%d seconds, critical threshold: %d", lag, c.Crit)
	case seconds > warn.Seconds():
		c.Status, c.Text = CheckWarning, fmt.Sprintf("%d seconds, warning threshold: %d", lag, c.Warn)
	}
	return c
}

// CheckArchive is about WAL files that wait to be archived; why says that they
// could not be counted.
func CheckArchive(files int, why error, warn, crit int) NodeCheck {
	n := int64(files)
	c := NodeCheck{Name: "archive-ready", Label: "WAL archiving", Service: "REPMGR_ARCHIVE_READY", Text: fmt.Sprintf("%d pending archive ready files", files), Value: &n,
		Perf: fmt.Sprintf("files=%d;%d;%d", files, warn, crit), Warn: int64(warn), Crit: int64(crit)}
	c.Short = c.Text
	switch {
	case why != nil:
		c.Status, c.Text, c.Short, c.Perf, c.Value = CheckUnknown, why.Error(), "", "", nil
	case files > crit:
		c.Status, c.Text = CheckCritical, fmt.Sprintf("%d pending archive ready files, critical threshold: %d", files, crit)
	case files > warn:
		c.Status, c.Text = CheckWarning, fmt.Sprintf("%d pending archive ready files, warning threshold: %d", files, warn)
	}
	return c
}

// CheckUpstream is about a node's own upstream: state is how its walsender stands
// there, "streaming" if all is well, and why what is wrong otherwise.
func CheckUpstream(own cluster.Node, upstream *cluster.Node, state, why string) NodeCheck {
	c := NodeCheck{Name: "upstream", Label: "Upstream connection", Service: "REPMGR_UPSTREAM_SERVER"}
	switch {
	case own.Role != cluster.Standby:
		c.Text = fmt.Sprintf("N/A - node is %s", own.Role)
	case upstream == nil:
		c.Status, c.Text = CheckCritical, "no upstream is registered"
	case why != "":
		c.Status, c.Text = CheckCritical, fmt.Sprintf("upstream %s: %s", called(*upstream), why)
	case state != "streaming":
		c.Status, c.Text = CheckCritical, fmt.Sprintf("node is not attached to upstream %s: %q", called(*upstream), state)
	default:
		c.Text = fmt.Sprintf("node is attached to upstream %s", called(*upstream))
	}
	return c
}

// CheckDownstream holds who should follow a node against who does; a witness follows nobody.
func CheckDownstream(own cluster.NodeID, nodes []cluster.Node, attached func(cluster.Node) bool) NodeCheck {
	c := NodeCheck{Name: "downstream", Label: "Downstream servers", Service: "REPMGR_DOWNSTREAM_SERVERS"}
	there := 0
	for _, n := range nodes {
		switch {
		case n.Upstream != own || n.ID == own || n.Role == cluster.Witness:
		case attached(n):
			there++
		default:
			c.Nodes = append(c.Nodes, fmt.Sprintf("%s (ID: %d)", n.Name, n.ID))
		}
	}
	c.Perf = fmt.Sprintf("attached=%d, missing=%d", there, len(c.Nodes))
	switch {
	case len(c.Nodes) > 0:
		c.Status, c.Text = CheckCritical, fmt.Sprintf("%d of %d downstream nodes not attached (missing: %s)", len(c.Nodes), there+len(c.Nodes), strings.Join(c.Nodes, ", "))
	case there == 0:
		c.Text = "this node has no downstream nodes"
	default:
		c.Text = fmt.Sprintf("%d of %d downstream nodes attached", there, there)
	}
	return c
}

// CheckSlots is about physical slots that nobody uses: each keeps WAL for ever.
func CheckSlots(physical int, inactive []string) NodeCheck {
	c := NodeCheck{Name: "slots", Label: "Replication slots", Service: "REPMGR_INACTIVE_SLOTS", Slots: inactive, Perf: fmt.Sprintf("slots=%d;%d", physical, len(inactive))}
	switch {
	case len(inactive) > 0:
		c.Status, c.Text = CheckCritical, fmt.Sprintf("%d of %d physical replication slots are inactive (%s)", len(inactive), physical, strings.Join(inactive, ", "))
	case physical == 0:
		c.Text = "node has no physical replication slots"
	default:
		c.Text = fmt.Sprintf("%d of %d physical replication slots are active", physical, physical)
	}
	return c
}

// CheckMissingSlots is about slots that downstream nodes have by their records.
func CheckMissingSlots(missing []string) NodeCheck {
	c := NodeCheck{Name: "missing-slots", Label: "Missing physical replication slots", Service: "REPMGR_MISSING_SLOTS", Slots: missing,
		Text: "node has no missing physical replication slots", Perf: fmt.Sprintf("missing_slots=%d", len(missing))}
	if len(missing) > 0 {
		c.Status, c.Text = CheckCritical, fmt.Sprintf("%d physical replication slots are missing (%s)", len(missing), strings.Join(missing, ", "))
		c.Perf += ";" + strings.Join(missing, ",")
	}
	return c
}

// CheckDataDirectory holds data_directory of the configuration against the server's:
// same says whether they are one, and seen whether the server's could be asked for.
// Where not, valid says whether there is a PG_VERSION in it.
func CheckDataDirectory(configured, actual string, same, seen, valid bool) NodeCheck {
	c := NodeCheck{Name: "data-directory-config", Label: "Configured data directory", Service: "REPMGR_DATA_DIRECTORY", Text: fmt.Sprintf("configured \"data_directory\" is %q", configured)}
	switch {
	case seen && !same:
		c.Status, c.Text = CheckCritical, fmt.Sprintf("configured \"data_directory\" is %q, the server works in %q", configured, actual)
	case !seen && !valid:
		c.Status, c.Text = CheckCritical, fmt.Sprintf("configured \"data_directory\" is %q, which is no data directory", configured)
	}
	c.Short = configured
	if c.Status != CheckOK {
		c.Perf = c.Text
	}
	return c
}

// CheckDaemon is about a node's repmgrd; known is false where that cannot be told.
func CheckDaemon(running, paused, known bool) NodeCheck {
	c := NodeCheck{Name: "repmgrd", Label: "repmgrd", Service: "REPMGRD", Text: "repmgrd running"}
	switch {
	case !known:
		c.Status, c.Text = CheckUnknown, "repmgrd status unknown"
	case !running:
		c.Status, c.Text = CheckCritical, "repmgrd not running"
	case paused:
		c.Status, c.Text = CheckWarning, "repmgrd running but paused"
	}
	return c
}

// Nagios is the check in one line for monitoring systems.
func (c NodeCheck) Nagios() string {
	text := c.Text
	if c.Short != "" {
		text = c.Short
	}
	line := fmt.Sprintf("%s %s: %s", c.Service, c.Status, text)
	if c.Perf != "" {
		line += " | " + c.Perf
	}
	return line
}
