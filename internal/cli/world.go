package cli

import (
	"context"
	"errors"
	"fmt"
	"os/user"
	"strconv"
	"strings"
	"time"

	"repmgr/internal/api"
	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/ops"
	"repmgr/internal/pg"
	"repmgr/internal/plan"
	"repmgr/internal/registry"
	"repmgr/internal/server"
)

// world is the real world, as this session may change it.
func (s *Session) world() *registry.World {
	return s.worldWith(func(*registry.WorldOptions) {})
}

// worldWith is world with options changed.
func (s *Session) worldWith(change func(*registry.WorldOptions)) *registry.World {
	lost, err := strconv.Atoi(s.Getenv("REPMGRD_LOST_NODE"))
	if err != nil {
		lost = 0
	}
	cfg := *s.Conf
	if s.Opt.PgBindir != "" {
		cfg.PgBindir = s.Opt.PgBindir
	}
	o := registry.WorldOptions{
		ConfigFile: s.ConfPath,
		Superuser:  s.Opt.Superuser,
		Password:   s.Getenv("PGPASSWORD"),
		Lost:       cluster.NodeID(lost),
		EndOfWAL:   server.Own{Config: &cfg}.EndOfWAL,
		NewAuthority: func() (certificate, key []byte, err error) {
			a, err := api.NewAuthority()
			return a.CertPEM, a.KeyPEM, err
		},
		Warn: func(err error) { s.warn(err) },
	}
	change(&o)
	return registry.NewWorld(&cfg, o)
}

// warn tells of what does not make the verb fail.
func (s *Session) warn(err error) {
	e := Entry{Level: Warning, Text: err.Error()}
	var f *fault.Error
	if errors.As(err, &f) {
		e.Detail, e.Hint = f.Detail, f.Hint
	}
	s.Talk.Say(e)
}

// carry runs the plan, or explains it where --dry-run was given. What fails
// without an exit status of its own gets code.
func (s *Session) carry(ctx context.Context, p ops.Plan, w ops.World, code fault.Code) error {
	return s.carryTelling(ctx, p, w, code, s.tell)
}

// carryTelling is carry with a listener of its own.
func (s *Session) carryTelling(ctx context.Context, p ops.Plan, w ops.World, code fault.Code, tell func(plan.Event)) error {
	if !s.Opt.DryRun {
		err := ops.Carry(ctx, p, w, code, tell)
		s.wakeDaemon(ctx)
		return err
	}
	err := p.Explain(ctx, w, tell)
	if err == nil {
		s.Talk.Info("all checks passed; nothing was changed, since --dry-run was given")
	}
	return ops.Coded(err, code)
}

// wakeDaemon lets this node's daemon look at once at what was changed. None may
// run, and it looks by itself a little later: nothing is said if it does not answer.
func (s *Session) wakeDaemon(ctx context.Context) {
	if s.Conf.StateDir() == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, wakeTimeout)
	defer cancel()
	c := api.DialUnix(s.Conf.StateDir())
	defer c.Close()
	_ = c.Wake(ctx)
}

// wakeTimeout bounds the call to a daemon that need not answer.
const wakeTimeout = 500 * time.Millisecond

// tell says one line of a plan's progress.
func (s *Session) tell(e plan.Event) {
	s.note(e)
	step := fmt.Sprintf("step %d of %d: %s", e.Step, e.Of, e.Text)
	switch e.What {
	case plan.Doing:
		s.Talk.Info("%s", step)
	case plan.Skipped:
		s.Talk.Info("%s (done already)", step)
	case plan.Ready:
		s.Talk.Info("would do %s", step)
	case plan.Blocked:
		s.Talk.Error("%s is not possible: %s", step, e.Status.Reason)
	case plan.Failed:
		s.Talk.Debug("%s failed", step)
	case plan.Undone:
		if e.Err != nil {
			s.Talk.Warning("%s could not be undone: %v", step, e.Err)
			return
		}
		s.Talk.Debug("undone: %s", step)
	}
}

// given is how the connection options name a server; nil if there are none. What
// they leave out comes from the configuration.
func (s *Session) given() (*pg.Conninfo, error) {
	if !s.Opt.Given("host") && !s.Opt.Given("port") && !s.Opt.Given("username") && !s.Opt.Given("dbname") {
		return nil, nil
	}
	info, err := s.OptionConninfo()
	if err != nil {
		return nil, err
	}
	own, err := parseConninfo(s.Conf.Conninfo, "conninfo of "+s.ConfPath)
	for _, key := range []string{"user", "dbname"} {
		if info.Get(key) == "" && own.Get(key) != "" {
			info = info.With(key, own.Get(key))
		}
	}
	return &info, err
}

// withDefaults fills in what libpq would: the operating system's user and a
// database of that name.
func (s *Session) withDefaults(info pg.Conninfo) pg.Conninfo {
	if info.Get("user") == "" && s.Getenv("PGUSER") == "" {
		if u, err := user.LookupId(strconv.Itoa(s.UID)); err == nil {
			info = info.With("user", u.Username)
		}
	}
	return info
}

// named is a node as messages call it.
func named(n cluster.Node) string {
	return fmt.Sprintf("node %q (ID: %d)", strings.TrimSpace(n.Name), n.ID)
}
