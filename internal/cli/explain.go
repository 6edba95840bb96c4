package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"repmgr/internal/api"
	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/record"
)

func explainVerb() verb {
	return verb{
		name:  "cluster explain",
		short: "show who was made the primary, and why",
		long: `Under the quorum rule the daemons keep a record of what they decided. This prints one decision from it: what ended the lease of the former primary, what each standby offered and what was made of that, who won and why, and when each of it happened, by the clock of who said it.

Without an option it is the last time that a standby was chosen, or, while nobody is the primary, what is missing until one can be chosen. The local daemon is asked; any node's will do. The last 100 entries are kept.

csv: time, seconds since the entry before, entry, term, node_id, reason.`,
		example: `repmgr -f /etc/repmgr.conf cluster explain
repmgr -f /etc/repmgr.conf cluster explain --term=4
repmgr -f /etc/repmgr.conf cluster explain --format json`,
		options: []string{"last", "term"},
		check: func(s *Session) []error {
			if s.Opt.Last && s.Opt.Given("term") {
				return []error{errors.New("--last and --term exclude each other")}
			}
			return nil
		},
		run: clusterExplain,
	}
}

func clusterExplain(ctx context.Context, s *Session) error {
	view, err := s.localView(ctx, daemonTimeout)
	if err != nil {
		return noDaemon(err, "the record of decisions cannot be read")
	}
	p := view.Promotion
	if p == nil || p.Record == nil {
		e := fault.New(fault.BadConfig, "there is no record of decisions on this node").
			WithHint("what the daemons did is shown by \"repmgr cluster event\"")
		if p != nil {
			e = e.WithDetail("Standbys are promoted by the %s rule: %s.", p.Rule, p.Why)
		}
		return e
	}
	x, err := newExplanation(p.Record, s.Opt.Term)
	if err != nil {
		return err
	}
	return s.Result(x)
}

// noDaemon is the error of a command that needs the local daemon.
func noDaemon(err error, what string) error {
	e := fault.Wrap(err, fault.RepmgrdService, "%s", what)
	if errors.Is(err, api.ErrNotRunning) {
		return e.WithHint("start repmgrd on this node, or run this command on a node where it runs")
	}
	return e.WithHint("\"repmgr service status\" shows which daemons run; any node's will do")
}

// Explanation is one decision of the daemons, from what brought it about to what
// came of it.
type Explanation struct {
	Version int            `json:"version"` // of this form, which only grows
	Open    bool           `json:"open"`    // nothing is decided yet
	Term    uint64         `json:"term"`
	Node    cluster.NodeID `json:"node_id"` // who was chosen; 0: nobody yet
	Name    string         `json:"node_name"`
	Why     string         `json:"why"`
	Steps   []Step         `json:"steps"`            // oldest first
	Barred  []api.Barred   `json:"barred,omitempty"` // who may not be promoted now, whatever it offers

	names map[cluster.NodeID]string
}

// Step is one entry of the record.
type Step struct {
	record.Decision
	Name  string   `json:"node_name"`
	After *float64 `json:"seconds_after"` // the step before; null: the first
}

// newExplanation finds the decision of a term; term 0 is the last, or the one
// that is under way.
func newExplanation(r *record.Record, term uint64) (Explanation, error) {
	x := Explanation{Version: 1, names: map[cluster.NodeID]string{}}
	for _, m := range r.Members {
		x.names[m.Node] = m.Name
		if m.Barred != "" {
			x.Barred = append(x.Barred, api.Barred{Node: m.Node, Name: m.Name, Why: m.Barred})
		}
	}
	if term == 0 && r.Rule == record.Quorum && r.Lease.State == record.Vacant {
		return x.open(r), nil
	}
	at := -1
	for i, d := range r.Decisions {
		chooses := d.What == "grant" || d.What == "regrant" || d.What == "begin"
		switch {
		case !chooses || term != 0 && d.Term != term:
		case term != 0 || at < 0 || d.What == "grant" || r.Decisions[at].What != "grant":
			at = i
		}
	}
	if at < 0 {
		e := fault.New(fault.BadConfig, "no decision of term %d is kept", term)
		if term == 0 {
			e = fault.New(fault.BadConfig, "nothing was decided yet")
		}
		return x, e.WithDetail("It is term %d, and the last %d entries go back to %s.", r.Term, len(r.Decisions), oldest(r)).
			WithHint("older ones may be found with \"repmgr cluster event\"")
	}
	chosen := r.Decisions[at]
	x.Term, x.Node, x.Name, x.Why = chosen.Term, chosen.Node, x.names[chosen.Node], chosen.Why
	for i, d := range r.Decisions[:at] {
		opened := slices.Contains([]string{"release", "expire", "void", "fenced", "withdraw"}, d.What)
		if opened && chosen.What == "grant" && d.Vacancy == chosen.Vacancy || i == at-1 && d.What == "pause" {
			x.add(d)
		}
	}
	x.add(chosen)
	for _, d := range r.Decisions[at+1:] {
		if d.What == "grant" || d.What == "begin" || d.What == "expire" || d.What == "release" || d.What == "fenced" || d.What == "regrant" && d.Term != chosen.Term+1 {
			break
		}
		if slices.Contains([]string{"promoted", "regrant", "void", "pause", "unpause", "end", "switchover", record.WhatCalledOff}, d.What) {
			x.add(d)
		}
		if d.What == "void" {
			break
		}
	}
	return x, nil
}

func oldest(r *record.Record) string {
	if len(r.Decisions) == 0 {
		return "nothing"
	}
	return stamp(r.Decisions[0].At)
}

// open is the vacancy that nobody was chosen in yet.
func (x Explanation) open(r *record.Record) Explanation {
	x.Open, x.Term = true, r.Term
	for _, d := range r.Decisions {
		if d.Vacancy == r.Lease.Vacancy && d.What != "grant" && d.Node != 0 {
			x.add(d)
		}
	}
	v := r.Verdict()
	x.Why = v.Why
	x.add(record.Decision{Term: r.Term, Vacancy: r.Lease.Vacancy, What: "bids", Why: "offered so far", Bids: v.Bids})
	for _, m := range r.Members {
		if _, bid := r.BidOf(m.Node); !bid && !m.Witness {
			x.add(record.Decision{Term: r.Term, Vacancy: r.Lease.Vacancy, What: "missing", Node: m.Node, Why: "it has not bid"})
		}
	}
	return x
}

func (x *Explanation) add(d record.Decision) {
	s := Step{Decision: d, Name: x.names[d.Node]}
	if n := len(x.Steps); n > 0 && !d.At.IsZero() && !x.Steps[n-1].At.IsZero() {
		seconds := d.At.Sub(x.Steps[n-1].At).Seconds()
		s.After = &seconds
	}
	x.Steps = append(x.Steps, s)
}

// stamp is a time of day as people read it; empty where there is none.
func stamp(at time.Time) string {
	if at.IsZero() {
		return ""
	}
	return at.Local().Format("2006-01-02 15:04:05.000")
}

// saying are the steps in words; %s is the node.
var saying = map[string]string{
	"begin": "the quorum rule began, with %s as the primary", "end": "the quorum rule ended, by %s",
	"release": "%s gave its lease back", "expire": "the lease of %s ran out", "void": "the grant to %s was taken back",
	"withdraw": "%s took its offer back",
	"grant":    "%s was chosen", "regrant": "%s stayed the primary, in a new term", "promoted": "%s took writes",
	"fenced": "the lease of %s was ended by an operator", "pause": "the cluster was paused", "unpause": "the pause was lifted", "bids": "nobody is chosen yet", "missing": "%s is missing",
	"switchover": "a switchover to %s was asked for", record.WhatCalledOff: "the switchover to %s was called off",
}

// Text prints it for a person who was woken up.
func (x Explanation) Text(w io.Writer) {
	if x.Open {
		fmt.Fprintf(w, "Nobody is the primary: %s.\n\n", x.Why)
	} else {
		fmt.Fprintf(w, "Term %d went to %s: %s.\n\n", x.Term, nameOf(x.names, x.Node), x.Why)
	}
	for _, s := range x.Steps {
		after := ""
		if s.After != nil {
			after = fmt.Sprintf("%+.3f s", *s.After)
		}
		what := saying[s.What]
		if s.Node != 0 {
			what = fmt.Sprintf(what, nameOf(x.names, s.Node))
		}
		fmt.Fprintf(w, "%-23s  %11s  %s\n%38s%s\n", stamp(s.At), after, what, "", s.Why)
		x.bids(w, s.Bids)
	}
	for i, b := range x.Barred {
		if i == 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "Not eligible now: %s: %s.\n", nameOf(x.names, b.Node), b.Why)
	}
	fmt.Fprintln(w, "\nEach time is by the clock of the node that said it.")
}

// bids prints what each standby offered.
func (x Explanation) bids(w io.Writer, bids []record.Judged) {
	if len(bids) == 0 {
		return
	}
	g := grid{header: []string{"Standby", "Term of its WAL", "Timeline", "End of its WAL", "Priority", "Verdict"}}
	for _, b := range bids {
		row := []string{nameOf(x.names, b.Node), fmt.Sprint(b.WALTerm), fmt.Sprint(b.Timeline), b.LSN.String(), fmt.Sprint(b.Priority), b.Verdict}
		if b.Declined != "" {
			row[1], row[2], row[3] = "", "", ""
		}
		g.rows = append(g.rows, row)
	}
	fmt.Fprintln(w)
	g.write(w)
	fmt.Fprintln(w)
}

// CSV prints one line for each step.
func (x Explanation) CSV(w io.Writer) {
	for _, s := range x.Steps {
		after := ""
		if s.After != nil {
			after = fmt.Sprintf("%.3f", *s.After)
		}
		csvLine(w, stamp(s.At), after, s.What, s.Term, s.Node, s.Why)
	}
}
