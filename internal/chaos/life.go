package chaos

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"repmgr/internal/lab"
)

// Clients of a life.
const (
	outsideWriters   = 3 // beside one on each node
	outsideAccessors = 2
)

// life is one cluster's, from its making to its end, with its clients.
type life struct {
	system System
	setup  Setup
	lab    *lab.Lab
	nodes  []*lab.Node
	say    func(format string, args ...any)

	hosts     *hosts
	writers   []*writer // those outside first
	probers   []*prober
	registers *registers
	ended     int // services that ended by themselves

	began   time.Time
	cancel  context.CancelFunc
	clients sync.WaitGroup
	checked map[int]int // writer → rows that were checked for good
}

// now is the time in this life.
func (l *life) now() time.Duration { return time.Since(l.began) }

// begin makes a cluster and lets the clients go to work.
func begin(ctx context.Context, system System, setup Setup, say func(string, ...any)) (*life, error) {
	l := &life{system: system, setup: setup, say: say, checked: map[int]int{}}
	var err error
	if l.lab, err = system.Up(ctx, setup); err != nil {
		return nil, err
	}
	l.nodes, l.began = l.lab.Nodes, time.Now()
	l.hosts = newHosts(l)
	primary, err := l.lab.Primary(ctx)
	if err == nil {
		err = primary.AppExec(ctx, tableCreation)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make the clients' tables: %w", err), l.lab.Close())
	}
	// An interrupt ends the faults; the clients and the service managers end with the life.
	working, cancel := context.WithCancel(context.WithoutCancel(ctx))
	l.cancel = cancel
	l.registers = &registers{life: l, histories: map[int64][]Access{}, open: map[int64]int{}}
	places := append(slices.Repeat([]*lab.Node{nil}, outsideWriters), l.nodes...)
	for i, from := range places {
		w := &writer{life: l, number: i + 1, from: from, nodes: l.nodes}
		l.writers = append(l.writers, w)
		l.clients.Go(func() { w.run(working) })
	}
	for _, n := range l.nodes {
		p := &prober{life: l, node: n}
		l.probers = append(l.probers, p)
		l.clients.Go(func() { p.run(working) })
	}
	if l.linear() {
		for i, from := range append(slices.Repeat([]*lab.Node{nil}, outsideAccessors), l.nodes...) {
			l.clients.Go(func() { l.registers.run(working, i+1, from) })
		}
	}
	l.clients.Go(func() { l.hosts.manage(working) })
	return l, nil
}

// linear says whether acknowledgements promise enough for a register.
func (l *life) linear() bool { return l.setup.Sync != "off" }

// rest ends the clients.
func (l *life) rest() {
	l.cancel()
	l.clients.Wait()
}

// outside are the rows of the writers that live outside, from a moment on.
func (l *life) outside(from time.Duration) []Insert {
	return l.rowsSince(l.writers[:outsideWriters], from)
}

// rows are the rows of all writers, from a moment on.
func (l *life) rows(from time.Duration) []Insert { return l.rowsSince(l.writers, from) }

func (l *life) rowsSince(writers []*writer, from time.Duration) []Insert {
	var rows []Insert
	for _, w := range writers {
		rows = append(rows, w.after(from)...)
	}
	return rows
}

// primary is the node that acknowledged last, outside: the clients' primary,
// whatever state its server is in.
func (l *life) primary() *lab.Node {
	var last Insert
	for _, w := range l.writers[:outsideWriters] {
		if row, ok := w.newest(); ok && row.Answered > last.Answered {
			last = row
		}
	}
	if last.Node == 0 {
		return l.nodes[0]
	}
	return l.lab.Node(last.Node)
}

// target is the node that a fault hits now.
func (l *life) target(f Fault) *lab.Node {
	primary := l.primary()
	if f.Primary {
		return primary
	}
	others := slices.DeleteFunc(slices.Clone(l.nodes), func(n *lab.Node) bool { return n == primary })
	return others[f.Which%len(others)]
}

// present are the rows that a node has, from some places on.
func (l *life) present(ctx context.Context, n *lab.Node, places map[int]int64) (map[RowID]bool, error) {
	const writerUnit = 1 << 40
	query := fmt.Sprintf("SELECT writer * %d + seq FROM public.chaos_rows WHERE false", int64(writerUnit))
	for writer, seq := range places {
		query += fmt.Sprintf(" OR writer = %d AND seq >= %d", writer, seq)
	}
	numbers, err := n.AppNumbers(ctx, query)
	if err != nil {
		return nil, err
	}
	found := make(map[RowID]bool, len(numbers))
	for _, number := range numbers {
		found[RowID{int(number / writerUnit), number % writerUnit}] = true
	}
	return found, nil
}

// recent are the rows that were not checked for good, and their first places.
func (l *life) recent() (rows []Insert, places map[int]int64) {
	places = map[int]int64{}
	for _, w := range l.writers {
		mine := w.since(l.checked[w.number])
		if len(mine) > 0 {
			places[w.number] = mine[0].Seq
		}
		rows = append(rows, mine...)
	}
	return rows, places
}

// everything makes the next check one of all rows.
func (l *life) everything() { clear(l.checked) }

// settle notes that rows need no check before the last one: they were there, or
// not, when the cluster was whole.
func (l *life) settle(rows []Insert) {
	for _, row := range rows {
		l.checked[row.Writer]++
	}
}

// epochs are the times in which each server on each timeline acknowledged.
func (l *life) epochs() []Span { return Epochs(l.rows(0)) }

// spans are the times in which the servers said of themselves that they take writes.
func (l *life) spans() []Span {
	var spans []Span
	for _, p := range l.probers {
		spans = append(spans, p.seen()...)
	}
	return spans
}
