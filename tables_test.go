package house

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"repmgr/internal/conf"
)

// programs walks the syntax of what the two programs are made of. Tests, the lab and
// the simulation are no part of that, and of conf only what hands out values.
func programs(t *testing.T, visit func(ast.Node)) {
	t.Helper()
	paths, err := filepath.Glob("internal/*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		pkg := filepath.Base(filepath.Dir(path))
		if strings.HasSuffix(path, "_test.go") || pkg == "lab" || pkg == "sim" || pkg == "conf" && filepath.Base(path) != "conf.go" {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			visit(n)
			return true
		})
	}
}

// Every parameter is read by some code, or the table says that it changes nothing,
// so that a file that sets it draws a warning; and the table says so of no other.
func TestNothingIsIgnoredInSilence(t *testing.T) {
	read := map[string]bool{}
	programs(t, func(n ast.Node) {
		if s, ok := n.(*ast.SelectorExpr); ok && ast.IsExported(s.Sel.Name) {
			read[strings.ToLower(s.Sel.Name)] = true
		}
	})
	for _, p := range conf.Params {
		field := strings.ReplaceAll(strings.TrimSuffix(p.Name, "_secs"), "_", "") // as conf's own test has it
		switch {
		case len(p.Choices) == 1: // there is nothing to choose
		case p.Unread == "" && !read[field]:
			t.Errorf("no code reads %s, and its Unread does not say so", p.Name)
		case p.Unread != "" && read[field]:
			t.Errorf("%s is read, and its Unread says that it %s", p.Name, p.Unread)
		}
	}
}

// unannounced are events of repmgr 5 that nothing here announces. Their names are
// known, since a file made for repmgr 5 may hold them.
var unannounced = []string{
	"standby_unregister", "witness_unregister", // their names are put together: role.String() + "_unregister"
	"repmgrd_config_reload", "repmgrd_failover_abort", "repmgrd_failover_aborted",
}

// The events that event_notifications knows are those that are announced, and those
// of repmgr 5.
func TestKnownEventsAreThoseAnnounced(t *testing.T) {
	name := regexp.MustCompile(`^(cluster|primary|standby|witness|node|repmgrd|child)_[a-z_]+$`)
	settings := []string{"primary_conninfo", "primary_slot_name"} // PostgreSQL's, which look the same
	announced := map[string]bool{}
	programs(t, func(n ast.Node) {
		l, ok := n.(*ast.BasicLit)
		if !ok || l.Kind != token.STRING || l.Value[0] == '`' {
			return
		}
		text, err := strconv.Unquote(l.Value)
		_, param := conf.Lookup(text)
		other := param || slices.Contains(settings, text)
		if err == nil && name.MatchString(text) && (!other || slices.Contains(conf.Events, text)) { // child_nodes_disconnect_command is both
			announced[text] = true
		}
	})
	for event := range announced {
		if !slices.Contains(conf.Events, event) {
			t.Errorf("the event %s is announced, and conf.Events lacks it", event)
		}
	}
	for _, event := range conf.Events {
		if announced[event] == slices.Contains(unannounced, event) {
			t.Errorf("the event %s: announced %t, which the test did not expect", event, announced[event])
		}
	}
}
