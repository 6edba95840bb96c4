package chaos

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"repmgr/internal/lab"
)

// hosts are the machines, their cables and their service managers. Faults overlap:
// each counts for itself, and what is cut twice is whole when both are over.
type hosts struct {
	life *life

	mu     sync.Mutex
	off    map[int]int     // node → power cuts that last
	cuts   map[int]int     // node → cuts of its cable that last
	lost   map[[2]int]int  // from, to → losses that last
	held   map[service]int // → faults that keep it down
	killed map[service]bool
}

// service is a program on a node.
type service struct {
	node    int
	program string
}

func newHosts(l *life) *hosts {
	return &hosts{life: l, off: map[int]int{}, cuts: map[int]int{}, lost: map[[2]int]int{}, held: map[service]int{}, killed: map[service]bool{}}
}

// apply brings a node's cable into the state that the counts ask for.
func (h *hosts) apply(n *lab.Node) error {
	if h.off[n.ID] > 0 || h.cuts[n.ID] > 0 {
		return n.Cut()
	}
	return n.Heal()
}

// cut changes how many cuts of a node's cable last.
func (h *hosts) cut(n *lab.Node, by int) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cuts[n.ID] += by
	return h.apply(n)
}

// lose changes how many losses last of what one node sends to another.
func (h *hosts) lose(from, to *lab.Node, by int) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	pair := [2]int{from.ID, to.ID}
	h.lost[pair] += by
	if h.lost[pair] > 0 {
		return h.life.lab.CutOneWay(from, to)
	}
	return h.life.lab.HealOneWay(from, to)
}

// powerOff takes the power from a node.
func (h *hosts) powerOff(ctx context.Context, n *lab.Node) error {
	h.mu.Lock()
	h.off[n.ID]++
	for _, program := range h.life.system.Programs() {
		h.killed[service{n.ID, program}] = true
	}
	h.mu.Unlock()
	return n.PowerOff(ctx)
}

// powerOn gives it back: the host starts what it starts at boot.
func (h *hosts) powerOn(ctx context.Context, n *lab.Node) error {
	h.mu.Lock()
	h.off[n.ID]--
	on := h.off[n.ID] == 0
	err := h.apply(n)
	h.mu.Unlock()
	if err != nil || !on || h.life.system.StartsServer() {
		return err
	}
	// A server that does not come up is the daemon's task, whom the service manager starts meanwhile.
	_ = n.Start(ctx)
	return nil
}

// hold keeps a service down until it is released.
func (h *hosts) hold(n *lab.Node, program string, by int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.held[service{n.ID, program}] += by
	h.killed[service{n.ID, program}] = true
}

// manageEvery is how often the service managers look.
const manageEvery = 500 * time.Millisecond

// manage is the goroutine of all service managers: whatever ended is started
// again. It ends with ctx.
func (h *hosts) manage(ctx context.Context) {
	for ctx.Err() == nil {
		for _, n := range h.life.lab.Nodes {
			for _, program := range h.life.system.Programs() {
				if err := h.start(ctx, n, program); err != nil && ctx.Err() == nil {
					h.life.say("%s of %s cannot be started: %v", program, n.Name, err)
				}
			}
		}
		sleep(ctx, manageEvery)
	}
}

func (h *hosts) start(ctx context.Context, n *lab.Node, program string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := service{n.ID, program}
	if h.off[n.ID] > 0 || h.held[s] > 0 || n.ServicePID(program) != 0 {
		return nil
	}
	if !h.killed[s] {
		h.life.say("%s of %s ended by itself; it is started again", program, n.Name)
		h.life.ended++
	}
	delete(h.killed, s)
	return h.life.system.StartProgram(ctx, n, program)
}

// rest ends every fault that lasts, whatever its own healing did.
func (h *hosts) rest(ctx context.Context) error {
	h.mu.Lock()
	off := slices.DeleteFunc(slices.Clone(h.life.nodes), func(n *lab.Node) bool { return h.off[n.ID] == 0 })
	clear(h.cuts)
	clear(h.lost)
	clear(h.held)
	for _, n := range off {
		h.off[n.ID] = 1
	}
	h.mu.Unlock()
	var errs []error
	for _, n := range h.life.nodes {
		errs = append(errs, n.Thaw())
	}
	errs = append(errs, h.life.lab.Heal())
	booted := make(chan error, len(off))
	for _, n := range off {
		go func() { booted <- h.powerOn(ctx, n) }()
	}
	for range off {
		errs = append(errs, <-booted)
	}
	return errors.Join(errs...)
}
