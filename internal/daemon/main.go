package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/pflag"

	"repmgr/internal/conf"
	"repmgr/internal/fault"
)

// flags are repmgrd's options as they were given.
type flags struct {
	configs                             []string
	pidFile, logLevel                   string
	daemonize, showPidFile, noPidFile   bool
	help, version, verbose, withHistory bool
}

func (f *flags) set() *pflag.FlagSet {
	s := pflag.NewFlagSet("repmgrd", pflag.ContinueOnError)
	s.SortFlags = false
	s.StringArrayVarP(&f.configs, "config-file", "f", nil, "read the configuration from this `FILE`; several for a witness of several clusters")
	s.BoolVarP(&f.daemonize, "daemonize", "d", true, "go into the background; --daemonize=false stays in the foreground")
	s.StringVarP(&f.pidFile, "pid-file", "p", "", "write the process's number to this `FILE`, before repmgrd_pid_file of the configuration")
	s.BoolVarP(&f.showPidFile, "show-pid-file", "s", false, "print the path of the PID file and exit")
	s.BoolVar(&f.noPidFile, "no-pid-file", false, "write no PID file")
	s.StringVarP(&f.logLevel, "log-level", "L", "", "log from this `LEVEL` on: DEBUG, INFO, NOTICE, WARNING, ERROR, ALERT, CRIT or EMERG; before log_level of the configuration")
	s.BoolVarP(&f.verbose, "verbose", "v", false, "same as --log-level=DEBUG")
	s.BoolVarP(&f.withHistory, "monitoring-history", "m", false, "write monitoring history, as monitoring_history=yes does")
	s.BoolVarP(&f.version, "version", "V", false, "print the version and exit")
	s.BoolVarP(&f.help, "help", "?", false, "print this help and exit")
	return s
}

// Page is what `repmgrd --help` and the manual page repmgrd(8) are made of.
type Page struct {
	About    string // what the program does; its name goes before it
	Options  *pflag.FlagSet
	Examples [][2]string // what a command is for, and the command
	Signals  string      // what they do
}

// Help is repmgrd's page.
func Help() Page { return page(new(flags).set()) }

func page(options *pflag.FlagSet) Page {
	return Page{
		About:   "watches a node of a PostgreSQL replication cluster and fails over",
		Options: options,
		Examples: [][2]string{
			{"In the foreground, as a service manager wants it:", "repmgrd -f /etc/repmgr.conf --daemonize=false"},
			{"A witness without PostgreSQL may serve several clusters, with a file for each:", "repmgrd -f /etc/repmgr/one.conf -f /etc/repmgr/two.conf"},
		},
		Signals: "SIGHUP reads the configuration again and opens the log file anew, SIGTERM and\nSIGINT end the daemon. Ending it never stops PostgreSQL.",
	}
}

// print writes the page for a terminal.
func (p Page) print(w io.Writer) {
	fmt.Fprintf(w, "repmgrd %s.\n\nUsage:\n  repmgrd [options]\n\nOptions:\n%s\n", p.About, p.Options.FlagUsagesWrapped(helpWidth))
	for _, e := range p.Examples {
		fmt.Fprintf(w, "%s\n  %s\n\n", e[0], e[1])
	}
	fmt.Fprintln(w, p.Signals)
}

// helpWidth is that of a terminal, in columns.
const helpWidth = 80

// Main is the repmgrd program: it reads the options, goes into the background if
// asked to, and runs the daemon. The result is the exit status.
func Main(ctx context.Context, args []string, out, errs io.Writer) int {
	if len(args) > 0 && args[0] == guardFlag {
		if err := runGuard(ctx, args[1:], os.Stderr); err != nil {
			tell(errs, err)
			return int(fault.CodeOf(err))
		}
		return int(fault.Success)
	}
	var f flags
	set := f.set()
	set.SetOutput(errs)
	set.Usage = func() {}
	err := set.Parse(args)
	switch {
	case err != nil:
		fmt.Fprintf(errs, "ERROR: %s\nHINT: Try \"repmgrd --help\" for more information.\n", err)
		return int(fault.BadConfig)
	case f.help:
		page(set).print(out)
		return int(fault.Success)
	case f.version:
		fmt.Fprintf(out, "repmgrd %s\n", version())
		return int(fault.Success)
	case os.Geteuid() == 0:
		err = fault.New(fault.BadConfig, "repmgrd must not be run as root").WithHint("Run it as the user that runs PostgreSQL, for example: sudo -u postgres repmgrd ...")
	case set.NArg() > 0:
		err = fault.New(fault.BadConfig, "repmgrd takes no arguments, %q was found", set.Arg(0))
	default:
		err = f.run(ctx, set, out)
	}
	if err != nil {
		tell(errs, err)
	}
	return int(fault.CodeOf(err))
}

// tell prints an error for the one who started the daemon.
func tell(w io.Writer, err error) {
	fmt.Fprintf(w, "ERROR: %s\n", err)
	var f *fault.Error
	if !errors.As(err, &f) {
		return
	}
	for _, line := range [][2]string{{"DETAIL", f.Detail}, {"HINT", f.Hint}} {
		if line[1] != "" {
			fmt.Fprintf(w, "%s: %s\n", line[0], line[1])
		}
	}
}

func (f *flags) run(ctx context.Context, set *pflag.FlagSet, out io.Writer) error {
	paths, err := f.find()
	if err != nil {
		return err
	}
	var all []Options
	for _, path := range paths {
		opt, err := f.options(path)
		if err != nil {
			return err
		}
		if f.showPidFile {
			fmt.Fprintln(out, strings.TrimPrefix(opt.PidFile, "-"))
		}
		all = append(all, opt)
	}
	if len(all) > 1 {
		if err := f.together(all); err != nil {
			return err
		}
	}
	ready := func() {}
	switch {
	case f.showPidFile:
		return nil
	case os.Getenv(readyVariable) != "":
		ready = detach
	case f.daemonize:
		return startDetached(again(set, paths), filepath.Dir(paths[0]))
	}
	if len(all) > 1 {
		return runTogether(ctx, all, ready)
	}
	all[0].Ready = ready
	return Run(ctx, all[0])
}

// options are those of the daemon with that configuration file.
func (f *flags) options(path string) (opt Options, err error) {
	load := func() (*conf.Config, []conf.Warning, error) {
		cfg, warnings, err := conf.Load(conf.Files{ReadFile: os.ReadFile, ReadDir: os.ReadDir}, path)
		if err != nil {
			return nil, nil, fault.Wrap(err, fault.BadConfig, "the configuration cannot be used")
		}
		return cfg, warnings, nil
	}
	opt = Options{Load: load, ConfigFile: path, LogLevel: f.logLevel, History: f.withHistory}
	if f.verbose && opt.LogLevel == "" {
		opt.LogLevel = "DEBUG"
	}
	opt.PidFile, err = f.pidPath(load)
	return opt, err
}

// find is the configuration files' absolute paths: those that were named, or the
// first that is found.
func (f *flags) find() ([]string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return nil, fault.Wrap(err, fault.BadConfig, "the working directory cannot be told")
	}
	var named []string
	for _, config := range f.configs {
		if config != "" {
			named = append(named, conf.SearchPath(config, dir, "")...)
		}
	}
	if len(named) > 0 {
		return named, nil
	}
	sysconf := ""
	if exe, err := os.Executable(); err == nil {
		sysconf = filepath.Join(filepath.Dir(filepath.Dir(exe)), "etc")
	}
	places := conf.SearchPath("", dir, sysconf)
	for _, path := range places {
		if _, err := os.Stat(path); err == nil {
			return []string{path}, nil
		}
	}
	return nil, fault.New(fault.BadConfig, "no configuration file was found").WithDetail("Looked for %s.", strings.Join(places, ", ")).WithHint("Name one with -f.")
}

// pidPath is where the PID file goes: the option's, or the
// configuration's; "-" is none.
func (f *flags) pidPath(load func() (*conf.Config, []conf.Warning, error)) (string, error) {
	if f.noPidFile {
		return "-", nil
	}
	if f.pidFile != "" {
		return filepath.Abs(f.pidFile)
	}
	cfg, _, err := load()
	if err != nil {
		return "", err
	}
	return cfg.PidFile(), nil
}

// readyVariable tells a detached daemon that its parent waits on file descriptor 3
// for the word that it watches.
const readyVariable = "REPMGRD_READY_FD"

// again are the options as they were given, but with absolute paths of the
// configuration files: a detached daemon works in another directory.
func again(set *pflag.FlagSet, paths []string) []string {
	var args []string
	set.Visit(func(f *pflag.Flag) {
		if f.Name != "config-file" {
			args = append(args, "--"+f.Name+"="+f.Value.String())
		}
	})
	for _, path := range paths {
		args = append(args, "--config-file="+path)
	}
	return args
}

// startDetached starts this program again in a session of its own and waits
// until it watches, or has said on standard error why it cannot.
func startDetached(args []string, dir string) error {
	exe, err := os.Executable()
	if err != nil {
		return fault.Wrap(err, fault.SysFailure, "repmgrd cannot go into the background")
	}
	read, write, err := os.Pipe()
	if err != nil {
		return fault.Wrap(err, fault.SysFailure, "repmgrd cannot go into the background")
	}
	defer read.Close()
	child := exec.Command(exe, args...)
	child.Env = append(os.Environ(), readyVariable+"=3")
	child.ExtraFiles = []*os.File{write}
	child.Stderr = os.Stderr
	child.Dir = dir
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = child.Start()
	write.Close()
	if err != nil {
		return fault.Wrap(err, fault.SysFailure, "repmgrd cannot go into the background")
	}
	if word, _ := io.ReadAll(read); string(word) == "ready" {
		return child.Process.Release()
	}
	err = child.Wait() // it has said why
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 {
		return fault.New(fault.Code(exit.ExitCode()), "repmgrd did not start")
	}
	return fault.Wrap(err, fault.SysFailure, "repmgrd did not start")
}

// detach tells the waiting parent that the daemon watches. Standard error stays
// open for whoever collects it when no log file is set.
func detach() {
	w := os.NewFile(3, "ready")
	_, _ = w.WriteString("ready") // a parent that is gone needs no word
	w.Close()
}
