package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// How to add a verb.
//
// A verb is one value of type verb, in the list that its file returns and that
// verbs() joins. All that a verb needs is in that value:
//
//	func standbyVerbs() []verb {
//		return []verb{{
//			name:    "standby follow",
//			short:   "attach a standby to another upstream",
//			long:    "What it does, what it expects, what it never does. Paragraphs, no indent.",
//			example: "repmgr -f /etc/repmgr.conf standby follow --dry-run",
//			options: []string{"dry-run", "upstream-node-id", "wait"},
//			changes: true,
//			check: func(s *Session) []error { ... mistakes of the command line, all of them ... },
//			run:   func(ctx context.Context, s *Session) error { ... },
//		}}
//	}
//
// A new option is one entry of the table in options.go and one field of Options;
// every option is parsed anywhere on the line, and one that the verb does not
// list under options only earns a warning. The connection options (-d -h -p -U)
// are one name there: "connection". The common ones (-f, -L, --format ...) are
// never listed. A verb with changes=true must list dry-run and honour it.
//
// run returns a *fault.Error: its message, detail and hint are printed and its
// code becomes the exit status. Talk goes to s.Talk (stderr), results to
// s.Result (stdout; text, csv and json from one value). Output belongs to
// s.Stdout; nothing in this package touches os.Stdout or ends the process.

// configNeed says what a verb wants of the configuration file.
type configNeed uint8

const (
	configRequired   configNeed = iota // a file with a node_id
	configOrConnect                    // a file, or else connection options
	configOptional                     // works without both
	configIrrelevant                   // is not even looked for
)

// verb is one object and action of the command line.
type verb struct {
	name     string // "standby clone"
	short    string // one line, no full stop
	long     string // paragraphs for --help
	example  string // one command a line; # begins a remark
	options  []string
	changes  bool       // it changes something: it must offer --dry-run
	hidden   bool       // it stands on its own page only
	config   configNeed // the zero value is the usual case
	argument string     // name of the one positional argument that it takes, if any
	check    func(s *Session) []error
	run      func(ctx context.Context, s *Session) error
}

// verbs is every verb of the program, in the order of the help.
func verbs() []verb {
	return slices.Concat(primaryVerbs(), standbyVerbs(), witnessVerbs(),
		nodeVerbs(), nodeServiceVerbs(), []verb{controlVerb()}, clusterVerbs(), serviceVerbs(), []verb{fencedVerb()}, daemonVerbs(), []verb{migrateVerb()})
}

// objects is what verbs act on, in the order of the help.
var objects = []struct{ name, short string }{
	{"primary", "the node that takes writes"},
	{"standby", "a node that replicates from another"},
	{"witness", "a node that only votes"},
	{"node", "the node on this machine"},
	{"cluster", "all nodes together"},
	{"service", "the repmgrd daemons"},
	{"daemon", "the repmgrd of this node"},
}

// aliases are the spellings of earlier releases that go on working; the key and
// the value are object and action.
var aliases = map[string]string{
	"cluster events": "cluster event",
	"daemon status":  "service status",
	"daemon pause":   "service pause",
	"daemon unpause": "service unpause",
	"primary check":  "node check",
	"primary status": "node status",
	"standby check":  "node check",
	"standby status": "node status",
}

// canonical is the object and action that were meant: case does not count, and
// old names are understood.
func canonical(words []string) []string {
	words = slices.Clone(words)
	for i := range min(len(words), 2) {
		words[i] = strings.ToLower(words[i])
	}
	if len(words) > 0 && words[0] == "master" {
		words[0] = "primary"
	}
	if len(words) > 1 {
		if to, ok := aliases[words[0]+" "+words[1]]; ok {
			copy(words, strings.Fields(to))
		}
	}
	return words
}

// lists tells whether the verb declares the option.
func (v verb) lists(o option) bool {
	return o.group == commonOptions || slices.Contains(v.options, o.name) ||
		o.group == connectionOptions && slices.Contains(v.options, "connection")
}

// tree builds the command tree: a command for each object, a command below it
// for each verb, and the few that need no cluster.
func (a *app) tree() *cobra.Command {
	root := &cobra.Command{
		Use:           "repmgr",
		Short:         "set up, show and change a PostgreSQL replication cluster",
		SilenceErrors: true, SilenceUsage: true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		RunE:              func(c *cobra.Command, args []string) error { return a.noVerb(c, args) },
		Args:              cobra.ArbitraryArgs,
	}
	root.SetOut(a.sys.Stdout)
	root.SetErr(a.sys.Stderr)
	root.SetHelpFunc(func(c *cobra.Command, _ []string) { a.help(c) })
	root.SetHelpCommand(&cobra.Command{Use: "help", Hidden: true, Run: func(c *cobra.Command, args []string) {
		target, _, err := root.Find(canonical(args))
		if err != nil || target == nil {
			target = root
		}
		a.help(target)
	}})
	root.PersistentFlags().BoolP(helpOption.name, helpOption.short, false, helpOption.help)
	// A shell is offered what fits; a command line is understood whole.
	a.declare(root.PersistentFlags(), func(o option) bool { return !a.completing || o.group != verbOptions })
	a.completions(root)
	for _, o := range objects {
		sub := &cobra.Command{
			Use: o.name, Short: o.short, Args: cobra.ArbitraryArgs,
			RunE: func(c *cobra.Command, args []string) error { return a.noVerb(c, args) },
		}
		for _, v := range a.verbs {
			if object, action, _ := strings.Cut(v.name, " "); object == o.name {
				sub.AddCommand(a.command(v, action))
			}
		}
		if sub.HasSubCommands() {
			root.AddCommand(sub)
		}
	}
	for _, v := range a.verbs {
		if !strings.Contains(v.name, " ") {
			root.AddCommand(a.command(v, v.name))
		}
	}
	root.AddCommand(a.completionCommand())
	return root
}

// command is the cobra command of one verb.
func (a *app) command(v verb, action string) *cobra.Command {
	c := &cobra.Command{
		Use: action, Short: v.short, Long: v.long, Example: v.example, Hidden: v.hidden,
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error { return a.perform(c.Context(), v, args) },
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		},
	}
	if a.completing {
		a.declare(c.Flags(), func(o option) bool { return o.group == verbOptions && v.lists(o) })
		a.completions(c)
	}
	return c
}

// noVerb reports an object without an action, or words that are no verb.
func (a *app) noVerb(c *cobra.Command, args []string) error {
	var names []string
	for _, sub := range c.Commands() {
		if !sub.Hidden && sub.Name() != "completion" {
			names = append(names, sub.Name())
		}
	}
	what, kind := "command", "object"
	if c.HasParent() {
		what, kind = c.Name(), "action"
	}
	switch {
	case a.unsure:
	case len(args) == 0 && c.HasParent():
		a.mistake(fmt.Errorf("%s needs an action: one of %s", what, strings.Join(names, ", ")))
	case len(args) == 0:
		a.mistake(fmt.Errorf("no command was given: expected an object (%s) and an action", strings.Join(names, ", ")))
	default:
		a.mistake(fmt.Errorf("%q is no %s%s: expected one of %s", args[0], kind, ofObject(c), strings.Join(names, ", ")))
	}
	return a.mistakes("repmgr " + strings.TrimPrefix(strings.TrimPrefix(c.CommandPath(), "repmgr"), " "))
}

func ofObject(c *cobra.Command) string {
	if c.HasParent() {
		return " of " + c.Name()
	}
	return ""
}

// helpWidth is the longest line of a page's prose, in bytes.
const helpWidth = 88

// help prints the page of a command: what it is for, its own options, the
// common ones, and an example that can be pasted.
func (a *app) help(c *cobra.Command) {
	w := c.OutOrStdout()
	path := c.CommandPath()
	v, isVerb := a.verb(strings.TrimPrefix(path, "repmgr "))
	fmt.Fprintf(w, "%s: %s\n\nUsage:\n", path, c.Short)
	switch {
	case isVerb && v.argument != "":
		fmt.Fprintf(w, "  %s [options] [%s]\n", path, v.argument)
	case isVerb:
		fmt.Fprintf(w, "  %s [options]\n", path)
	case c.HasParent():
		fmt.Fprintf(w, "  %s ACTION [options]\n", path)
	default:
		fmt.Fprintf(w, "  %s OBJECT ACTION [options]\n", path)
	}
	if c.Long != "" {
		for paragraph := range strings.SplitSeq(c.Long, "\n\n") {
			fmt.Fprintf(w, "\n%s\n", strings.Join(wrap(paragraph, helpWidth), "\n"))
		}
	}
	a.helpCommands(w, c)
	if isVerb {
		helpOptions(w, "Options", func(o option) bool { return o.group == verbOptions && v.lists(o) })
		helpOptions(w, "Connection options", func(o option) bool { return o.group == connectionOptions && v.lists(o) })
	}
	helpOptions(w, "Common options", func(o option) bool { return o.group == commonOptions })
	if c.Example != "" {
		fmt.Fprintf(w, "\nExamples:\n  %s\n", strings.ReplaceAll(strings.TrimSpace(c.Example), "\n", "\n  "))
	}
	if !isVerb {
		fmt.Fprintf(w, "\n\"%s --help\" shows the options of one command.\n", strings.TrimSpace(path+" OBJECT ACTION"))
	}
}

// helpCommands lists what is below c, with full names, so that they can be copied.
func (a *app) helpCommands(w io.Writer, c *cobra.Command) {
	var rows [][2]string
	for _, v := range a.verbs {
		if v.hidden {
			continue
		}
		if !c.HasParent() || strings.HasPrefix(v.name, c.Name()+" ") && c.HasSubCommands() {
			rows = append(rows, [2]string{v.name, v.short})
		}
	}
	if !c.HasParent() {
		rows = append(rows, [2]string{"completion bash|zsh|fish", "print a completion script for a shell"})
	}
	if len(rows) == 0 {
		return
	}
	fmt.Fprintf(w, "\nCommands:\n")
	for _, r := range rows {
		fmt.Fprintf(w, "  %-26s %s\n", r[0], r[1])
	}
}

// verb finds a verb by object and action.
func (a *app) verb(name string) (verb, bool) {
	for _, v := range a.verbs {
		if v.name == name {
			return v, true
		}
	}
	return verb{}, false
}
