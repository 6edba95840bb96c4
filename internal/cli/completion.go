package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/registry"
)

// completionTimeout bounds what a press of the tab key may take.
const completionTimeout = time.Second

// completionCommand prints the script that makes a shell complete repmgr's words.
func (a *app) completionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "completion",
		Short: "print a completion script for a shell",
		Long: `Prints a script for bash, zsh or fish that completes objects, actions, options, and
the names and numbers of nodes.`,
		Example: `repmgr completion bash > /etc/bash_completion.d/repmgr
repmgr completion zsh > "${fpath[1]}/_repmgr"
repmgr completion fish > ~/.config/fish/completions/repmgr.fish`,
		Args:      cobra.ArbitraryArgs,
		ValidArgs: []string{"bash", "zsh", "fish"},
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) != 1 {
				a.mistake(fmt.Errorf("completion needs the name of one shell: bash, zsh or fish"))
				return a.mistakes("repmgr completion")
			}
			w := a.sys.Stdout
			switch args[0] {
			case "bash":
				return c.Root().GenBashCompletionV2(w, true)
			case "zsh":
				return c.Root().GenZshCompletion(w)
			case "fish":
				return c.Root().GenFishCompletion(w, true)
			}
			a.mistake(fmt.Errorf("completion takes bash, zsh or fish, found %q", args[0]))
			return a.mistakes("repmgr completion")
		},
	}
}

// completions tells cobra what the values of c's options may be.
func (a *app) completions(c *cobra.Command) {
	words := func(values ...string) cobra.CompletionFunc {
		return cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)
	}
	nothing := cobra.NoFileCompletions
	known := map[string]cobra.CompletionFunc{
		"format":                     words("text", "csv", "json"),
		"log-level":                  words(levelNames[:]...),
		"copy-external-config-files": words("samepath", "pgdata"),
		"node-name":                  a.nodeCompletion(func(n cluster.Node) string { return n.Name }),
		"node-id":                    a.nodeCompletion(nodeNumber),
		"upstream-node-id":           a.nodeCompletion(nodeNumber),
		"for-real":                   a.nodeCompletion(func(n cluster.Node) string { return n.Name }),
		"yes":                        a.nodeCompletion(func(n cluster.Node) string { return n.Name }),
		"pgdata":                     directories,
		"pg_bindir":                  directories,
	}
	for _, o := range table {
		if c.Flag(o.name) == nil || o.arg == "" || o.name == "config-file" {
			continue
		}
		complete, ok := known[o.name]
		if !ok {
			complete = nothing
		}
		// It fails only for a flag that is not there or was registered before.
		_ = c.RegisterFlagCompletionFunc(o.name, complete)
	}
}

func directories(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveFilterDirs
}

func nodeNumber(n cluster.Node) string { return fmt.Sprintf("%d\t%s", n.ID, n.Name) }

// nodeCompletion offers the registered nodes. Where they cannot be read it offers
// nothing and says nothing: a shell's prompt is no place for errors.
func (a *app) nodeCompletion(show func(cluster.Node) string) cobra.CompletionFunc {
	return func(c *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
		nodes, err := a.knownNodes(c.Context())
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var out []string
		for _, n := range nodes {
			if text := show(n); strings.HasPrefix(text, begun) {
				out = append(out, text)
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

func (a *app) knownNodes(ctx context.Context) ([]cluster.Node, error) {
	ctx, cancel := context.WithTimeout(ctx, completionTimeout)
	defer cancel()
	a.talk.limit = Emerg
	s := &Session{System: a.sys, Opt: a.opt, Talk: a.talk}
	var err error
	if s.Conf, s.ConfPath, err = a.load(configOptional); err != nil {
		return nil, err
	}
	if s.ConfPath == "" && s.Opt.Host == "" && s.Opt.DBName == "" {
		return nil, fault.New(fault.BadConfig, "nothing says where the nodes are registered")
	}
	c, err := s.Connect(ctx)
	if err != nil {
		return nil, err
	}
	defer registry.Close(c)
	return registry.Nodes(ctx, c)
}
