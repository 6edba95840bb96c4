package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"repmgr/internal/cluster"
	"repmgr/internal/conf"
	"repmgr/internal/fault"
	"repmgr/internal/pg"
	"repmgr/internal/registry"
)

// Session is one run of one verb: what was asked, under which configuration, and
// where the talk goes.
type Session struct {
	System
	Verb     string // object and action
	Opt      *Options
	Args     []string     // positional arguments after the action
	Conf     *conf.Config // never nil; defaults if there is no file
	ConfPath string       // absolute; empty if there is no file
	Talk     *Talk

	steps   []PlanStep // of the plan that was carried out
	printed bool       // a result stands on stdout
}

// Result is an answer that can be printed in each format; its JSON is what
// encoding/json makes of it.
type Result interface {
	Text(w io.Writer)
	CSV(w io.Writer)
}

// Format is how results are printed: text, csv or json.
func (s *Session) Format() string {
	switch {
	case s.Opt.CSV:
		return "csv"
	case s.Opt.Format != "":
		return s.Opt.Format
	}
	return "text"
}

// Result prints r on stdout in the format that was asked for.
func (s *Session) Result(r Result) error {
	s.printed = true
	out := bufio.NewWriter(s.Stdout) // each cell would be a system call of its own
	var err error
	switch s.Format() {
	case "csv":
		r.CSV(out)
	case "json":
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		err = enc.Encode(r)
	default:
		r.Text(out)
	}
	if err = errors.Join(err, out.Flush()); err != nil {
		return fmt.Errorf("write the result: %w", err)
	}
	return nil
}

// Conninfo is how to reach the server that the command starts from: by the
// configuration if there is one, else by the connection options.
func (s *Session) Conninfo() (pg.Conninfo, error) {
	if s.ConfPath != "" && s.Conf.WithoutServer() {
		return s.rememberedPrimary()
	}
	if s.ConfPath != "" {
		return parseConninfo(s.Conf.Conninfo, "conninfo of "+s.ConfPath)
	}
	return s.OptionConninfo()
}

// elsewhere tells whether the command line names a server.
func (s *Session) elsewhere() bool {
	return slices.ContainsFunc([]string{"host", "port", "username", "dbname"}, s.Opt.Given)
}

// rememberedPrimary is where a witness without PostgreSQL starts from: the server
// that the connection options name, else the primary as its daemon remembers it.
func (s *Session) rememberedPrimary() (pg.Conninfo, error) {
	if s.elsewhere() {
		return s.OptionConninfo()
	}
	for _, n := range registry.Remembered(s.Conf.StateDir()) {
		if n.Role == cluster.Primary && n.Active && n.Conninfo != "" {
			return parseConninfo(n.Conninfo, "primary's conninfo in "+s.Conf.StateDir())
		}
	}
	return pg.Conninfo{}, fault.New(fault.BadConfig, "this node has no server, and no primary is remembered").
		WithHint("name the primary with -h, -p, -U and -d")
}

// OptionConninfo is the server named by -d, -h, -p and -U; what stands in a
// conninfo given with -d comes before the others.
func (s *Session) OptionConninfo() (pg.Conninfo, error) {
	ci := pg.Conninfo{}
	for _, p := range []struct{ key, value string }{
		{"host", s.Opt.Host}, {"user", s.Opt.User}, {"dbname", s.Opt.DBName},
	} {
		if p.value != "" && !(p.key == "dbname" && isConninfo(p.value)) {
			ci = ci.With(p.key, p.value)
		}
	}
	if s.Opt.Port != 0 {
		ci = ci.With("port", fmt.Sprint(s.Opt.Port))
	}
	if !isConninfo(s.Opt.DBName) {
		return ci, nil
	}
	given, err := parseConninfo(s.Opt.DBName, "connection string of -d")
	if err != nil {
		return given, err
	}
	for _, key := range []string{"host", "port", "user"} {
		if v := ci.Get(key); v != "" && given.Get(key) == "" && !(key == "host" && given.Get("hostaddr") != "") {
			given = given.With(key, v)
		}
	}
	return given, nil
}

// isConninfo tells a connection string from the name of a database.
func isConninfo(s string) bool {
	return strings.Contains(s, "=") || strings.HasPrefix(s, "postgres://") || strings.HasPrefix(s, "postgresql://")
}

func parseConninfo(text, where string) (pg.Conninfo, error) {
	ci, err := pg.ParseConninfo(text)
	if err != nil {
		return ci, fault.Wrap(err, fault.BadConfig, "the %s cannot be read", where)
	}
	return ci, nil
}

// Connect opens a connection to the server that the command starts from.
func (s *Session) Connect(ctx context.Context) (*pg.Conn, error) {
	ci, err := s.Conninfo()
	if err != nil {
		return nil, err
	}
	return pg.Connect(ctx, ci)
}
