// Package cli is the repmgr command: its grammar, its verbs, what it prints and
// with which status it ends. It reads a command line and a configuration file,
// asks servers and daemons, and carries plans out. It never ends the process and
// never touches the process's own streams: both belong to the caller.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/conf"
	"repmgr/internal/fault"
	"repmgr/internal/pg"
)

// System is all of the process that the command may use.
type System struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Getenv         func(string) string
	Now            func() time.Time
	UID            int    // effective user id; 0 is refused
	Dir            string // working directory, absolute
	Executable     string // path of the program, absolute
}

// FromProcess is the System of this process.
func FromProcess() System {
	dir, err := os.Getwd()
	if err != nil {
		dir = "/"
	}
	exe, err := os.Executable()
	if err != nil {
		exe = ""
	}
	return System{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Getenv: os.Getenv, Now: time.Now, UID: os.Geteuid(), Dir: dir, Executable: exe,
	}
}

// app is one run of the program, before it is known which verb it is.
type app struct {
	sys   System
	opt   *Options
	verbs []verb
	talk  *Talk
	wrong []error // mistakes of the command line

	doubts []conf.Warning // about the configuration

	unsure     bool // an option was not understood, so that a word may be its value
	completing bool // a shell asks what the next word may be
}

// Main runs the command line args (without the program's name) and returns the
// exit status.
func Main(ctx context.Context, args []string, sys System) int {
	a := &app{sys: sys, opt: defaultOptions(), verbs: verbs()}
	a.talk = &Talk{w: sys.Stderr, limit: Info}
	err := a.run(ctx, args)
	if err != nil && !errors.Is(err, errSaid) {
		a.talk.Fault(err)
	}
	return int(fault.CodeOf(err))
}

// errSaid marks an error whose story has been told, so that only its code matters.
var errSaid = errors.New("told already")

// said is an exit status without another word.
func said(code fault.Code) error {
	return &fault.Error{Code: code, Msg: "", Err: errSaid}
}

func (a *app) run(ctx context.Context, args []string) error {
	a.completing = len(args) > 0 && strings.HasPrefix(args[0], "__complete")
	root := a.tree()
	if a.completing {
		root.SetArgs(args)
		return root.ExecuteContext(ctx)
	}
	line := arrange(args)
	a.wrong, a.unsure = line.mistakes, len(line.mistakes) > 0
	if len(line.mistakes) == 0 {
		if done := a.version(line.flags); done {
			return nil
		}
	}
	words := canonical(line.words)
	harmless := slices.Contains(line.flags, "--help") || slices.Contains(line.flags, "--dump-config") ||
		len(words) > 0 && (words[0] == "completion" || words[0] == "help")
	if a.sys.UID == 0 && !harmless {
		return fault.New(fault.BadConfig, "repmgr does not run as root").
			WithHint("run it as the user that PostgreSQL runs as, such as: su - postgres -c 'repmgr ...'")
	}
	if !slices.Contains(line.flags, "--dump-config") {
		root.SetArgs(append(words, line.flags...))
		return root.ExecuteContext(ctx)
	}
	if err := root.ParseFlags(line.flags); err != nil {
		return err
	}
	return a.dump(words)
}

// version answers -V and --version-number, whatever else stands on the line.
func (a *app) version(flags []string) bool {
	switch {
	case slices.Contains(flags, "--version"):
		fmt.Fprintf(a.sys.Stdout, "repmgr %s\n", cluster.Version)
	case slices.Contains(flags, "--version-number"):
		fmt.Fprintln(a.sys.Stdout, versionNumber(cluster.Version))
	default:
		return false
	}
	return true
}

// versionNumber is the release as one number: 6.1.2 is 60102.
func versionNumber(version string) int {
	version, _, _ = strings.Cut(version, "-")
	n, unit := 0, 10000
	for part := range strings.SplitSeq(version, ".") {
		v, err := strconv.Atoi(part)
		if err != nil {
			break
		}
		n += v * unit
		unit /= 100
	}
	return n
}

func (a *app) mistake(err error) { a.wrong = append(a.wrong, err) }

// mistakes is all that is wrong with the command line, as one error; nil if nothing is.
func (a *app) mistakes(page string) error {
	hint := "\"" + strings.TrimSpace(page) + " --help\" shows what is possible"
	switch len(a.wrong) {
	case 0:
		return nil
	case 1:
		return fault.New(fault.BadConfig, "%v", a.wrong[0]).WithHint("%s", hint)
	}
	var b strings.Builder
	for _, err := range a.wrong {
		fmt.Fprintf(&b, "\n  - %v", err)
	}
	return fault.New(fault.BadConfig, "the command line has %d mistakes:%s", len(a.wrong), b.String()).WithHint("%s", hint)
}

// dump prints the configuration as it was understood.
func (a *app) dump(words []string) error {
	if len(words) > 0 {
		a.mistake(fmt.Errorf("--dump-config takes no command, found %q", strings.Join(words, " ")))
	}
	if err := a.mistakes("repmgr"); err != nil {
		return err
	}
	c, _, err := a.load(configOptional)
	if err != nil {
		return err
	}
	a.warn()
	return c.Dump(a.sys.Stdout)
}

// perform runs a verb: configuration, checks, warnings, log, and the verb itself,
// in this order, so that a mistake is told before anything is touched.
func (a *app) perform(ctx context.Context, v verb, args []string) error {
	s := &Session{System: a.sys, Verb: v.name, Opt: a.opt, Args: args, Talk: a.talk}
	a.checkCommon(v, args)
	if v.check != nil {
		a.wrong = append(a.wrong, v.check(s)...)
	}
	if err := a.mistakes("repmgr " + v.name); err != nil {
		return err
	}
	var err error
	if s.Conf, s.ConfPath, err = a.load(v.need(a.opt)); err != nil {
		return err
	}
	closeLog, err := a.openLog(s)
	if err != nil {
		return err
	}
	defer closeLog()
	a.warn()
	a.relevance(v)
	err = v.run(ctx, s)
	if err != nil && !errors.Is(err, errSaid) {
		a.talk.Fault(err)
	}
	if v.changes && s.Format() == "json" && !s.printed {
		err = errors.Join(s.Result(s.outcome(err)), err)
	}
	if err != nil {
		return said(fault.CodeOf(err))
	}
	return nil
}

// need is what the verb wants of the configuration file, given the options.
func (v verb) need(o *Options) configNeed {
	if v.config == configOrConnect {
		if o.Given("host") || o.Given("port") || o.Given("username") || o.Given("dbname") {
			return configOptional
		}
		return configRequired
	}
	return v.config
}

// checkCommon finds mistakes that any verb may suffer from.
func (a *app) checkCommon(v verb, args []string) {
	most := 0
	if v.argument != "" {
		most = 1
	}
	if len(args) > most && !a.unsure {
		a.mistake(fmt.Errorf("too many words: %q is not expected after %q", strings.Join(args[most:], " "), v.name))
	}
	if a.opt.Given("check-upstream-config") || a.opt.Given("remote-config-file") {
		a.talk.Warning("--check-upstream-config and --remote-config-file do nothing any more")
	}
	if isConninfo(a.opt.DBName) {
		if _, err := pg.ParseConninfo(a.opt.DBName); err != nil {
			a.mistake(fmt.Errorf("option --dbname: %w", err))
		}
	}
	if a.opt.CSV && a.opt.Given("format") && a.opt.Format != "csv" {
		a.mistake(fmt.Errorf("--csv and --format %s exclude each other", a.opt.Format))
	}
	if a.opt.CSV && (a.opt.Nagios || a.opt.OptFormat) || a.opt.Nagios && a.opt.OptFormat {
		a.mistake(errors.New("--csv, --nagios and --optformat exclude each other"))
	}
	if a.opt.NoWait && a.opt.Given("wait") {
		a.mistake(errors.New("--wait and --no-wait exclude each other"))
	}
}

// relevance warns of options that the verb does not use, and takes back those
// that would name another node than the operator thinks.
func (a *app) relevance(v verb) {
	for _, o := range table {
		if !a.opt.Given(o.name) || v.lists(o) {
			continue
		}
		a.opt.given[o.name] = false
		switch o.name {
		case "node-id":
			a.opt.NodeID = 0
		case "node-name":
			a.opt.NodeName = ""
		}
		if !a.opt.Terse {
			a.talk.Warning("option --%s is of no use with \"%s\" and is ignored", o.name, v.name)
		}
	}
	if a.opt.Given("node-id") && a.opt.Given("node-name") && !a.opt.Terse {
		a.talk.Warning("--node-id and --node-name were both given: --node-id counts")
	}
}
