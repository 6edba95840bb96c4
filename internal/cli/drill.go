package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"repmgr/internal/api"
	"repmgr/internal/cluster"
	"repmgr/internal/failover"
	"repmgr/internal/record"
)

func drillVerb() verb {
	return verb{
		name:  "cluster drill",
		short: "say what the loss of each node would lead to, or try it",
		long: `Asks the daemon of this node what each single fault would lead to as the cluster is now: the crash of each server (its daemon lives), the loss of each host, of each location where there are several, and with --pairs of every two hosts. The daemon answers by the rules that would decide then. Nothing is changed.

Heals: whether a server takes writes afterwards, without an operator. After: how long that takes at most by what is configured; the work itself (agreeing, promoting) comes on top. Could be lost: the write-ahead log that the new primary does not have, by the last reports, or nothing acknowledged, by the synchronous set.

--for-real=NODE kills every process of that node's server, as a crash does, and reports what follows, as a client sees it, until the cluster is whole again. It asks for the node's name first, or takes it from --yes=NODE. It refuses where the drill says that nobody would take writes afterwards, unless --force is given. A standby's server is started again after 5 seconds. It writes nothing but empty logical messages into the write-ahead log, and the event cluster_drill. Ends with 0 if the cluster is whole again, else with 25; --wait=SECONDS is how long that may take (120).

csv: heals (t or f), fault, lost (node ids with a blank between them), location, new or remaining primary's node_id (0: none), promoted (t or f), seconds, lag_bytes (-1 unknown), acknowledged_kept (t or f).`,
		example: `repmgr -f /etc/repmgr.conf cluster drill
repmgr -f /etc/repmgr.conf cluster drill --pairs --format json
repmgr -f /etc/repmgr.conf cluster drill --for-real=node1 --dry-run
repmgr -f /etc/repmgr.conf cluster drill --for-real=node1
repmgr -f /etc/repmgr.conf cluster drill --for-real=node1 --yes=node1   # in a script`,
		options: []string{"pairs", "for-real", "yes", "force", "wait", "dry-run"},
		changes: true,
		check: func(s *Session) []error {
			var wrong []error
			for _, o := range []string{"yes", "force", "wait"} {
				if s.Opt.Given(o) && !s.Opt.Given("for-real") {
					wrong = append(wrong, fmt.Errorf("--%s is for --for-real", o))
				}
			}
			if s.Opt.Pairs && s.Opt.Given("for-real") {
				wrong = append(wrong, errors.New("--pairs and --for-real exclude each other"))
			}
			return wrong
		},
		run: clusterDrill,
	}
}

func clusterDrill(ctx context.Context, s *Session) error {
	if s.Opt.Given("for-real") {
		return s.drillForReal(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, drillTimeout)
	defer cancel()
	c := api.DialUnix(s.Conf.StateDir())
	defer c.Close()
	d, err := c.Drill(ctx, s.Opt.Pairs)
	if err != nil {
		return noDaemon(err, "the drill cannot be asked for")
	}
	view, err := s.localView(ctx, daemonTimeout)
	if err != nil {
		return noDaemon(err, "the names of the nodes cannot be read")
	}
	return s.Result(newDrill(d, view.Nodes))
}

// DrillRow is what one fault would lead to.
type DrillRow struct {
	failover.Outcome
	LostNames []string `json:"lost_node_names"`
	Name      string   `json:"node_name"` // of who takes writes then
	Seconds   float64  `json:"seconds_after"`
}

// Drill is the answer of "cluster drill".
type Drill struct {
	Version int         `json:"version"` // of this form, which only grows
	Rule    record.Rule `json:"rule"`
	Rows    []DrillRow  `json:"outcomes"`
}

// newDrill puts names to a daemon's answer.
func newDrill(d api.Drill, nodes []cluster.Node) Drill {
	out := Drill{Version: 1, Rule: d.Rule, Rows: []DrillRow{}}
	names := map[cluster.NodeID]string{}
	for _, n := range nodes {
		names[n.ID] = n.Name
	}
	for _, o := range d.Outcomes {
		row := DrillRow{Outcome: o, Name: names[o.Node], Seconds: o.After.Seconds()}
		for _, id := range o.Lost {
			row.LostNames = append(row.LostNames, names[id])
		}
		out.Rows = append(out.Rows, row)
	}
	return out
}

// faultText names the faults in a table.
var faultText = map[failover.Fault]string{failover.Crash: "server", failover.Gone: "host"}

// lost is what is lost, in words.
func (r DrillRow) lost() string {
	what := faultText[r.Fault]
	if r.Location != "" {
		return fmt.Sprintf("location %s (%s)", r.Location, strings.Join(r.LostNames, ", "))
	}
	if len(r.LostNames) > 1 {
		what += "s"
	}
	return what + " of " + strings.Join(r.LostNames, " and ")
}

// then is who takes writes afterwards.
func (r DrillRow) then() string {
	switch {
	case r.Node == 0:
		return "nobody"
	case r.Promoted:
		return r.Name + " (promoted)"
	}
	return r.Name + " (as now)"
}

// takes is how long that may last.
func (r DrillRow) takes() string {
	switch {
	case r.Promoted && r.After == 0:
		return "at once"
	case r.Promoted || r.After > 0:
		return fmt.Sprintf("%.1f s", r.Seconds)
	}
	return ""
}

// loss is what could be lost.
func (r DrillRow) loss() string {
	switch {
	case !r.Promoted:
		return ""
	case r.Kept:
		return "nothing acknowledged"
	case r.Lag == nil:
		return "not known"
	case *r.Lag == 0:
		return "nothing as of now"
	}
	return fmt.Sprintf("%d bytes as of now", *r.Lag)
}

// Text prints the table.
func (d Drill) Text(w io.Writer) {
	g := grid{header: []string{"Heals", "Lost", "Primary then", "After", "Could be lost", "Why"}}
	for _, r := range d.Rows {
		g.rows = append(g.rows, []string{map[bool]string{true: "yes", false: "NO"}[r.Heals], r.lost(), r.then(), r.takes(), r.loss(), r.Why})
	}
	g.write(w)
	fmt.Fprintf(w, "\n By the %s rule. After: at most, by what is configured; the work of agreeing and promoting comes on top.\n", d.Rule)
	if bad := slices.ContainsFunc(d.Rows, func(r DrillRow) bool { return !r.Heals }); bad {
		fmt.Fprintln(w, " NO: nobody would take writes until an operator acts, or what is lost comes back.")
	}
}

// CSV prints one line for each fault.
func (d Drill) CSV(w io.Writer) {
	for _, r := range d.Rows {
		lost := make([]string, len(r.Lost))
		for i, id := range r.Lost {
			lost[i] = fmt.Sprint(id)
		}
		lag := int64(-1)
		if r.Lag != nil {
			lag = int64(*r.Lag)
		}
		csvLine(w, okLetter(r.Heals), r.Fault, strings.Join(lost, " "), r.Location, r.Node, okLetter(r.Promoted), fmt.Sprintf("%.3f", r.Seconds), lag, okLetter(r.Kept))
	}
}
