package cli

import (
	"errors"
	"fmt"
	"log/syslog"
	"os"
	"path/filepath"
	"strings"

	"repmgr/internal/conf"
	"repmgr/internal/fault"
)

// load finds and reads the configuration file; the path is absolute, or empty if
// there is none and the verb can do without.
func (a *app) load(need configNeed) (*conf.Config, string, error) {
	if need == configIrrelevant {
		return a.override(conf.Default()), "", nil
	}
	sysconf := ""
	if a.sys.Executable != "" {
		sysconf = filepath.Join(filepath.Dir(filepath.Dir(a.sys.Executable)), "etc")
	}
	places := conf.SearchPath(a.opt.ConfigFile, a.sys.Dir, sysconf)
	for _, path := range places {
		if _, err := os.Stat(path); err == nil || a.opt.ConfigFile != "" {
			c, err := a.read(path)
			return c, path, err
		}
	}
	if need == configRequired {
		return nil, "", fault.New(fault.BadConfig, "no configuration file was found").
			WithDetail("looked for %s", either(places)).
			WithHint("name one with -f")
	}
	return a.override(conf.Default()), "", nil
}

// read loads the file at path. What is wrong with it is told whole, whatever
// --terse leaves out, since without it the message would say nothing.
func (a *app) read(path string) (*conf.Config, error) {
	c, warnings, err := conf.Load(conf.Files{ReadFile: os.ReadFile, ReadDir: os.ReadDir}, path)
	a.doubts = warnings
	var wrong *conf.Error
	switch {
	case errors.As(err, &wrong):
		a.warn() // a doubtful name may be the reason of the error
		return nil, fault.New(fault.BadConfig, "%s", wrong.Error()).WithHint("correct the file; nothing was done")
	case err != nil:
		return nil, err
	}
	return a.override(c), nil
}

// warn tells what is doubtful in the configuration, once it is known where the
// talk goes.
func (a *app) warn() {
	for _, w := range a.doubts {
		if !a.opt.Terse {
			a.talk.Warning("%v", w)
		}
	}
}

// override lets the command line win over the file.
func (a *app) override(c *conf.Config) *conf.Config {
	if a.opt.PgBindir != "" {
		c.PgBindir = a.opt.PgBindir
	}
	if a.opt.LogLevel != "" {
		c.LogLevel = a.opt.LogLevel
	}
	return c
}

// openLog sets the talk up as the options and the configuration want it. The
// caller calls the function returned when the verb has ended.
func (a *app) openLog(s *Session) (func(), error) {
	t := a.talk
	if l, ok := parseLevel(s.Conf.LogLevel); ok {
		t.limit = l
	}
	if a.opt.DryRun {
		t.limit = max(t.limit, Info)
	}
	if a.opt.Quiet {
		t.limit = Error
	}
	t.terse, t.verbose = a.opt.Terse, a.opt.Verbose
	if !a.opt.LogToFile {
		return func() {}, nil
	}
	t.stamp = a.sys.Now
	switch facility := strings.ToUpper(s.Conf.LogFacility); {
	case s.Conf.LogFile != "":
		f, err := os.OpenFile(s.Conf.LogFile, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, fault.Wrap(err, fault.BadConfig, "the log file cannot be written").
				WithHint("check log_file in %s, and who may write there", s.ConfPath)
		}
		t.w = f
		return func() { f.Close() }, nil
	case facility != "" && facility != "STDERR":
		w, err := syslog.New(facilityOf(facility)|syslog.LOG_INFO, "repmgr")
		if err != nil {
			return nil, fault.Wrap(err, fault.BadConfig, "no connection to syslog").
				WithHint("check log_facility in %s", s.ConfPath)
		}
		t.syslog = w
		return func() { w.Close() }, nil
	}
	return func() {}, nil
}

// facilityOf is the facility of that name: LOCAL0 to LOCAL7, or USER.
func facilityOf(name string) syslog.Priority {
	var n int
	if _, err := fmt.Sscanf(name, "LOCAL%d", &n); err == nil && n >= 0 && n <= 7 {
		return syslog.LOG_LOCAL0 + syslog.Priority(n)<<3
	}
	return syslog.LOG_USER
}
