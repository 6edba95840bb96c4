package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"time"

	"repmgr/internal/lab"
)

// Fault is something that befalls a cluster, as the seed drew it. Whom it hits is
// decided when it strikes: roles move.
type Fault struct {
	Kind    string
	Primary bool          // the primary of that moment, else one of the others
	Which   int           // chooses among whatever there are several of
	After   time.Duration // from the beginning of its group
	For     time.Duration // how long it lasts; zero: over at once
}

// String is the fault as a schedule has it.
func (f Fault) String() string {
	whom := "a standby"
	if f.Primary {
		whom = "the primary"
	}
	return fmt.Sprintf("+%.1f s %s, %s, for %.1f s", f.After.Seconds(), f.Kind, whom, f.For.Seconds())
}

// errNothing says that a fault had nothing to strike: no process was there.
var errNothing = errors.New("nothing to strike")

// heal ends a fault.
type heal func(ctx context.Context) error

// kind is a kind of fault.
type kind struct {
	name    string
	weight  int           // how often it is drawn, against the others
	longest time.Duration // that it may last; zero: it is over at once
	// strike hits a node and tells how it is ended (nil: it is over) and what was done where the name alone does not say it.
	strike func(ctx context.Context, l *life, n *lab.Node, which int) (h heal, what string, err error)
}

// kinds are all faults there are.
func kinds() []kind {
	return []kind{
		{"kill-server", 4, 0, killServer},
		{"kill-postmaster", 3, 0, killPostmaster},
		{"kill-backend", 2, 0, killBackend},
		{"hang-server", 4, 15 * time.Second, hangServer},
		{"hang-postmaster", 1, 15 * time.Second, hangPostmaster},
		{"kill-daemon", 3, 15 * time.Second, killDaemon},
		{"hang-daemon", 3, 15 * time.Second, hangDaemon},
		{"kill-companion", 2, 0, killCompanion},
		{"hang-companion", 2, 15 * time.Second, hangCompanion},
		{"freeze", 3, 15 * time.Second, freeze},
		{"power", 5, 20 * time.Second, power},
		{"cut", 5, 20 * time.Second, cut},
		{"split", 4, 20 * time.Second, split},
		{"one-way", 3, 20 * time.Second, oneWay},
		{"loss", 2, 20 * time.Second, loss},
		{"slow", 2, 20 * time.Second, slow},
		{"restart", 3, 0, restart},
		{"blackout", 2, 10 * time.Second, blackout},
		{"pause", 2, 15 * time.Second, pause},
	}
}

// Kinds are the names of all faults.
func Kinds() []string {
	var names []string
	for _, k := range kinds() {
		names = append(names, k.name)
	}
	return names
}

func kindOf(name string) kind {
	for _, k := range kinds() {
		if k.name == name {
			return k
		}
	}
	panic("no fault is called " + name)
}

// schedule draws groups of faults from a seed; of some kinds only, if they are named.
type schedule struct {
	rand  *rand.Rand
	kinds []kind
	total int
}

func newSchedule(seed uint64, only []string) (*schedule, error) {
	s := &schedule{rand: rand.New(rand.NewPCG(seed, 0))}
	for _, k := range kinds() {
		if len(only) == 0 {
			s.add(k)
		}
	}
	for _, name := range only {
		if !strings.Contains(","+strings.Join(Kinds(), ",")+",", ","+name+",") {
			return nil, fmt.Errorf("draw fault %q: what there is: %s", name, strings.Join(Kinds(), ", "))
		}
		s.add(kindOf(name))
	}
	return s, nil
}

func (s *schedule) add(k kind) {
	s.kinds = append(s.kinds, k)
	s.total += k.weight
}

// Group is some faults that overlap.
type Group struct {
	Pause  time.Duration // since the last fault of the group before has ended
	Faults []Fault
}

// How faults follow each other.
const (
	overlap    = 6 * time.Second // how long after the first fault of a group the last one begins, at most
	mostFaults = 3               // in a group
	mostGroups = 4               // in a round
	// mostPause is how long a cluster is left to recover before the next group of a round, at most:
	// as long as that takes most of the time, so that the group meets every stage of it.
	mostPause = 4 * time.Second
)

// next draws a round: one to four groups of faults, of at most that many faults in all.
func (s *schedule) next(most int) []Group {
	var groups []Group
	for i := range 1 + s.rand.IntN(mostGroups) {
		var g Group
		if i > 0 {
			g.Pause = s.between(0, mostPause)
		}
		// What is drawn does not depend on how many are wanted.
		faults := s.group()
		g.Faults = faults[:min(len(faults), most)]
		most -= len(g.Faults)
		if len(g.Faults) > 0 {
			groups = append(groups, g)
		}
	}
	return groups
}

// group draws one to three faults that overlap.
func (s *schedule) group() []Fault {
	size := 1
	switch p := s.rand.IntN(100); {
	case p < 12:
		size = mostFaults
	case p < 40:
		size = 2
	}
	var group []Fault
	for i := range size {
		f := s.fault()
		if i > 0 {
			f.After = s.between(0, overlap)
		}
		group = append(group, f)
	}
	return group
}

func (s *schedule) fault() Fault {
	drawn := s.rand.IntN(s.total)
	var chosen kind
	for _, k := range s.kinds {
		if drawn -= k.weight; drawn < 0 {
			chosen = k
			break
		}
	}
	f := Fault{Kind: chosen.name, Primary: s.rand.IntN(100) < 65, Which: s.rand.IntN(1 << 20)}
	if lasts := s.between(500*time.Millisecond, 20*time.Second); chosen.longest > 0 {
		f.For = min(lasts, chosen.longest)
	}
	return f
}

func (s *schedule) between(least, most time.Duration) time.Duration {
	return least + time.Duration(s.rand.Int64N(int64(most-least)))
}

func killServer(ctx context.Context, _ *life, n *lab.Node, _ int) (heal, string, error) {
	if !n.Running() {
		return nil, "", errNothing
	}
	return nil, "", n.Kill9(ctx)
}

func killPostmaster(_ context.Context, _ *life, n *lab.Node, _ int) (heal, string, error) {
	if !n.Running() {
		return nil, "", errNothing
	}
	return nil, "", n.SignalPostmaster(syscall.SIGKILL)
}

func killBackend(_ context.Context, _ *life, n *lab.Node, which int) (heal, string, error) {
	found, err := n.Processes()
	if err != nil || len(found) < 2 {
		return nil, "", errors.Join(errNothing, err)
	}
	return nil, "", syscall.Kill(found[1+which%(len(found)-1)], syscall.SIGKILL)
}

func hangServer(ctx context.Context, _ *life, n *lab.Node, _ int) (heal, string, error) {
	if !n.Running() {
		return nil, "", errNothing
	}
	return func(context.Context) error { return n.Resume() }, "", n.Pause(ctx)
}

func hangPostmaster(_ context.Context, _ *life, n *lab.Node, _ int) (heal, string, error) {
	if !n.Running() {
		return nil, "", errNothing
	}
	return func(context.Context) error { return n.Resume() }, "", n.SignalPostmaster(syscall.SIGSTOP)
}

// deciding is the service that decides.
func (l *life) deciding() string {
	programs := l.system.Programs()
	return programs[len(programs)-1]
}

func killDaemon(ctx context.Context, l *life, n *lab.Node, _ int) (heal, string, error) {
	if n.ServicePID(l.deciding()) == 0 {
		return nil, "", errNothing
	}
	l.hosts.hold(n, l.deciding(), 1)
	_, err := n.EndService(ctx, l.deciding(), syscall.SIGKILL)
	return func(context.Context) error { l.hosts.hold(n, l.deciding(), -1); return nil }, "", err
}

func hangDaemon(_ context.Context, l *life, n *lab.Node, _ int) (heal, string, error) {
	if n.ServicePID(l.deciding()) == 0 {
		return nil, "", errNothing
	}
	return func(context.Context) error {
		if n.ServicePID(l.deciding()) == 0 {
			return nil // another fault ended it meanwhile
		}
		return n.SignalService(l.deciding(), syscall.SIGCONT)
	}, "", n.SignalService(l.deciding(), syscall.SIGSTOP)
}

func killCompanion(_ context.Context, l *life, n *lab.Node, _ int) (heal, string, error) {
	return signalCompanion(l, n, syscall.SIGKILL)
}

func hangCompanion(_ context.Context, l *life, n *lab.Node, _ int) (heal, string, error) {
	_, name, err := signalCompanion(l, n, syscall.SIGSTOP)
	return func(context.Context) error {
		_, err := l.system.Companion(n, syscall.SIGCONT)
		return err
	}, name, err
}

func signalCompanion(l *life, n *lab.Node, signal syscall.Signal) (heal, string, error) {
	for _, program := range l.system.Programs() {
		if signal == syscall.SIGKILL && program != l.deciding() {
			l.hosts.hold(n, program, 0) // the service manager knows of it
		}
	}
	name, err := l.system.Companion(n, signal)
	if err == nil && name == "" {
		err = errNothing
	}
	return nil, name, err
}

func freeze(_ context.Context, _ *life, n *lab.Node, _ int) (heal, string, error) {
	return func(context.Context) error { return n.Thaw() }, "", n.Freeze()
}

func power(ctx context.Context, l *life, n *lab.Node, _ int) (heal, string, error) {
	return func(ctx context.Context) error { return l.hosts.powerOn(ctx, n) }, "", l.hosts.powerOff(ctx, n)
}

func cut(_ context.Context, l *life, n *lab.Node, _ int) (heal, string, error) {
	return func(context.Context) error { return l.hosts.cut(n, -1) }, "", l.hosts.cut(n, 1)
}

// split parts the nodes in two sides, of which the smaller has the struck node.
// Clients outside reach both.
func split(_ context.Context, l *life, n *lab.Node, which int) (heal, string, error) {
	side := map[int]bool{n.ID: true}
	for i := 0; len(side) < (len(l.nodes)-1)/2; i++ {
		side[l.nodes[(which+i)%len(l.nodes)].ID] = true
	}
	change := func(by int) (err error) {
		for _, a := range l.nodes {
			for _, b := range l.nodes {
				if side[a.ID] != side[b.ID] {
					err = errors.Join(err, l.hosts.lose(a, b, by))
				}
			}
		}
		return err
	}
	return func(context.Context) error { return change(-1) }, "", change(1)
}

// oneWay loses what a node sends to all others, or what they send to it.
func oneWay(_ context.Context, l *life, n *lab.Node, which int) (heal, string, error) {
	out := which%2 == 0
	change := func(by int) (err error) {
		for _, other := range l.nodes {
			switch {
			case other == n:
			case out:
				err = errors.Join(err, l.hosts.lose(n, other, by))
			default:
				err = errors.Join(err, l.hosts.lose(other, n, by))
			}
		}
		return err
	}
	what := "what it is sent is lost"
	if out {
		what = "what it sends is lost"
	}
	return func(context.Context) error { return change(-1) }, what, change(1)
}

func loss(_ context.Context, _ *life, n *lab.Node, which int) (heal, string, error) {
	share := 0.02 + 0.01*float64(which%30)
	return undisturbed(n), fmt.Sprintf("%.0f %% of its packets", 100*share), n.Disturb(share, 0)
}

func slow(_ context.Context, _ *life, n *lab.Node, which int) (heal, string, error) {
	rate := 64_000 << (which % 4)
	return undisturbed(n), fmt.Sprintf("%d kbit/s", rate/1000), n.Disturb(0, rate)
}

func undisturbed(n *lab.Node) heal {
	return func(context.Context) error { return n.Disturb(0, 0) }
}

func restart(ctx context.Context, _ *life, n *lab.Node, which int) (heal, string, error) {
	if !n.Running() {
		return nil, "", errNothing
	}
	mode := "fast"
	if which%4 == 0 {
		mode = "immediate"
	}
	return nil, mode, n.Restart(ctx, mode)
}

// blackout takes the power from all nodes, and gives it back to one after the other.
func blackout(ctx context.Context, l *life, _ *lab.Node, which int) (heal, string, error) {
	errs := make(chan error, len(l.nodes))
	for _, n := range l.nodes {
		go func() { errs <- l.hosts.powerOff(ctx, n) }()
	}
	var err error
	for range l.nodes {
		err = errors.Join(err, <-errs)
	}
	return func(ctx context.Context) error {
		for i := range l.nodes {
			n := l.nodes[(which+i)%len(l.nodes)]
			go func() { errs <- l.hosts.powerOn(ctx, n) }()
			sleep(ctx, time.Duration(which%7)*300*time.Millisecond)
		}
		var err error
		for range l.nodes {
			err = errors.Join(err, <-errs)
		}
		return err
	}, "all nodes", err
}

// pause is an operator who switches failover off, and on again when he can.
func pause(ctx context.Context, l *life, n *lab.Node, _ int) (heal, string, error) {
	return func(ctx context.Context) error {
		return lab.Wait(ctx, unpauseBound, "failover to be switched on again", func() error {
			var errs []error
			for _, n := range l.nodes {
				err := l.system.Unpause(ctx, n)
				if err == nil {
					return nil
				}
				errs = append(errs, err)
			}
			sleep(ctx, time.Second)
			return errors.Join(errs...)
		})
	}, "", l.system.Pause(ctx, n)
}

// unpauseBound is how long an operator tries.
const unpauseBound = 3 * time.Minute
