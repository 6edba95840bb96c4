package sim

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"repmgr/internal/failover"
	"repmgr/internal/record"
)

// The tables of failover.Rules, in its order.
const (
	visibilityTable = iota
	quorumTable
	leaderTable
	syncTable
)

// Reached is how often something was, and the lowest seed that did.
type Reached struct {
	Times int
	Seed  uint64
}

// Coverage is what a run, or many, came across.
type Coverage struct {
	Rules    [4]map[string]Reached // that decided, by table
	Entries  map[string]Reached    // of the record that were accepted, by kind
	Refusals map[string]Reached    // by kind and reason, numbers left out
	Faults   map[string]Reached    // by kind
}

func newCoverage() (c Coverage) {
	for i := range c.Rules {
		c.Rules[i] = map[string]Reached{}
	}
	c.Entries, c.Refusals, c.Faults = map[string]Reached{}, map[string]Reached{}, map[string]Reached{}
	return c
}

func (c *Coverage) maps() []map[string]Reached {
	return append(c.Rules[:], c.Entries, c.Refusals, c.Faults)
}

// Add sums up.
func (c *Coverage) Add(o Coverage) {
	mine := c.maps()
	for i, m := range o.maps() {
		for k, r := range m {
			old, known := mine[i][k]
			if !known || r.Seed < old.Seed {
				old.Seed = r.Seed
			}
			old.Times += r.Times
			mine[i][k] = old
		}
	}
}

// reach counts in one of the maps.
func (w *World) reach(m map[string]Reached, what string) {
	m[what] = Reached{m[what].Times + 1, w.Seed}
}

// decided counts which rule of which table decided. What a node without a record
// decides is the quorum rule's: every cluster in here is under it.
func (w *World) decided(table int, d *daemon, rule string) {
	if table == quorumTable && (w.Visibility || d.rec != nil && d.rec.Rule != record.Quorum) {
		table = visibilityTable
	}
	w.reach(w.cover.Rules[table], rule)
}

var number = regexp.MustCompile(`\b[0-9]+(/[0-9A-F]+)?`)

// entered counts what came of an entry.
func (w *World) entered(kind, refused string) {
	switch {
	case kind == "":
		w.reach(w.cover.Entries, "change of members")
	case refused == "":
		w.reach(w.cover.Entries, kind)
	default:
		w.reach(w.cover.Refusals, kind+": "+number.ReplaceAllString(refused, "N"))
	}
}

// Missed lists what was never reached: rules, kinds of entries and of faults; under the
// visibility rule, what of that one alone.
// The rules of synchronous replication count only where one of them ever decided.
func (c *Coverage) Missed(visibility bool) (out []string) {
	for i, table := range failover.Rules() {
		if visibility != (i == visibilityTable) {
			continue
		}
		if len(c.Rules[i]) == 0 {
			out = append(out, fmt.Sprintf("%s: none of its %d rules", table.Name, len(table.Rules)))
			continue
		}
		for _, r := range table.Rules {
			if _, ok := c.Rules[i][r[0]]; !ok {
				out = append(out, fmt.Sprintf("%s: %s", table.Name, r[0]))
			}
		}
	}
	if visibility {
		return out
	}
	for _, kind := range record.Kinds() {
		if _, ok := c.Entries[kind]; !ok {
			out = append(out, "entry: "+kind)
		}
	}
	for _, k := range faults {
		if _, ok := c.Faults[k.name]; !ok {
			out = append(out, "fault: "+k.name)
		}
	}
	return out
}

// Unrefused lists the reasons of refusal in the source of the record that no
// entry met.
func (c *Coverage) Unrefused(sources ...string) (out []string, err error) {
	for _, source := range sources {
		reasons, err := reasonsIn(source)
		if err != nil {
			return nil, err
		}
		for _, reason := range reasons {
			if !slices.ContainsFunc(slices.Collect(maps.Keys(c.Refusals)), pattern(reason).MatchString) {
				out = append(out, reason)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// pattern finds a reason as it was counted by the words it was written with.
func pattern(format string) *regexp.Regexp {
	text := regexp.QuoteMeta(number.ReplaceAllString(format, "N"))
	return regexp.MustCompile("^[a-z-]+: " + regexp.MustCompile(`%[sdqv]`).ReplaceAllString(text, ".*") + "$")
}

// reasonsIn are the texts that the record's functions refuse with.
func reasonsIn(source string) (out []string, err error) {
	file, err := parser.ParseFile(token.NewFileSet(), source, nil, 0)
	if err != nil {
		return nil, err
	}
	for _, d := range file.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok || !slices.Contains([]string{"apply", "heldBy", "changesSync", "pick", "enough"}, f.Name.Name) {
			continue
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if r, ok := n.(*ast.ReturnStmt); ok {
				for _, result := range r.Results {
					if text, ok := literal(result); ok && text != "" && !strings.HasPrefix(text, "node %d has the most") {
						out = append(out, text)
					}
				}
			}
			return true
		})
	}
	return out, nil
}

// literal is the text of a string, or of the format that it is made with.
func literal(e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		text, err := strconv.Unquote(e.Value)
		return text, err == nil && e.Kind == token.STRING
	case *ast.BinaryExpr:
		text, ok := literal(e.X)
		return text + "%s", ok
	case *ast.CallExpr:
		if f, ok := e.Fun.(*ast.SelectorExpr); ok && f.Sel.Name == "Sprintf" && len(e.Args) > 0 {
			return literal(e.Args[0])
		}
	}
	return "", false
}
