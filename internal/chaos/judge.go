package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"repmgr/internal/lab"
)

// shown is how many of many witnesses a violation names.
const shown = 5

// judge fills in what the clients saw of a round, whose groups began at some moments, and what is wrong with it.
func (r *run) judge(ctx context.Context, round *Round, moments []time.Duration) error {
	l := r.life
	now, began := l.now(), moments[0]
	outside := l.outside(began)
	round.Gaps = LongestGaps(outside, moments, now)
	round.Failovers, round.InPlace = successions(l.epochs(), began)
	for _, row := range l.rows(began) {
		if row.Outcome == Unknown {
			round.Unknown++
		}
	}
	round.TwoWriters = TwoWriters(after(Overlaps(l.spans()), began))
	r.twoWriters(round, began)
	if round.Gap() == now-began || round.Broken != nil || round.Unfinished {
		r.Say("The writers' last failures: %s", l.lastFailures())
	}
	if round.Broken != nil || round.Unfinished {
		return nil // which rows are there is seen when it is mended, or at the end
	}
	primary, err := l.lab.Primary(ctx)
	if err != nil {
		round.Violations = append(round.Violations, fmt.Sprintf("whole a moment ago, and now: %v", err))
		return nil
	}
	rows, places := l.recent()
	lost, promised, violations, err := l.compare(ctx, primary, rows, places)
	if err != nil {
		return err
	}
	l.settle(rows)
	round.Lost, round.Promised = lost, promised
	round.Violations = append(round.Violations, violations...)
	if key := l.registers.key.Load() - 1; key > 0 {
		round.Violations = append(round.Violations, r.linear(ctx, primary, key)...)
	}
	return nil
}

// lastFailures is what the writers outside were told last that was no acknowledgement.
func (l *life) lastFailures() string {
	var words []string
	for _, w := range l.writers[:outsideWriters] {
		w.mu.Lock()
		if w.last != nil {
			words = append(words, oneLine(w.last))
		}
		w.mu.Unlock()
	}
	return strings.Join(words, " | ")
}

// twoWriters notes if two servers acknowledged, or said that they take writes, at the same time.
func (r *run) twoWriters(round *Round, began time.Duration) {
	for _, o := range after(Overlaps(r.life.epochs()), began) {
		round.Violations = append(round.Violations, "two servers acknowledged: "+o.String())
	}
	for _, o := range after(Overlaps(r.life.spans()), began) {
		round.Violations = append(round.Violations, "two servers took writes: "+o.String())
	}
}

// after are the overlaps that end after a moment.
func after(overlaps []Overlap, moment time.Duration) []Overlap {
	return slices.DeleteFunc(overlaps, func(o Overlap) bool { return o.To <= moment })
}

// successions counts, among the epochs that began after a moment, those of another
// node than the one before, and those of the same.
func successions(epochs []Span, moment time.Duration) (other, same int) {
	for i, e := range epochs {
		switch {
		case i == 0 || e.From <= moment:
		case e.Node != epochs[i-1].Node:
			other++
		default:
			same++
		}
	}
	return other, same
}

// compare looks for what clients were told on a node.
func (l *life) compare(ctx context.Context, n *lab.Node, rows []Insert, places map[int]int64) (lost, promised int, violations []string, err error) {
	present, err := l.present(ctx, n, places)
	if err != nil {
		return 0, 0, nil, err
	}
	gone := Lost(rows, present)
	owed := Promised(gone, rows)
	if len(owed) > 0 {
		violations = append(violations, fmt.Sprintf("%d acknowledged rows that were synchronous are not on %s: %s", len(owed), n.Name, some(owed)))
	}
	if ghosts := Ghosts(rows, present); len(ghosts) > 0 {
		violations = append(violations, fmt.Sprintf("%d rows that were refused are on %s: %s", len(ghosts), n.Name, some(ghosts)))
	}
	return len(gone), len(owed), violations, nil
}

func some(rows []Insert) string {
	var words []string
	for _, row := range rows[:min(len(rows), shown)] {
		words = append(words, row.String())
	}
	if len(rows) > shown {
		words = append(words, "…")
	}
	return strings.Join(words, "; ")
}

// linear judges the history of one register.
func (r *run) linear(ctx context.Context, primary *lab.Node, key int64) (violations []string) {
	history, err := r.life.registers.history(ctx, primary, key)
	if err != nil {
		return []string{fmt.Sprintf("register %d: %v", key, err)}
	}
	path := filepath.Join(r.Logs, fmt.Sprintf("seed-%d-register-%d.html", r.Seed, key))
	drawing, err := draw(history, path)
	if err == nil {
		return nil
	}
	what := fmt.Sprintf("register %d: %v", key, err)
	// A read shows also what is committed here and on no standby yet (safety notes, B18).
	locked := slices.DeleteFunc(slices.Clone(history), func(a Access) bool { return !a.Set && !a.Locked })
	if Linearizable(locked, nil) == nil {
		what += "; without the reads that lock nothing it is linearizable"
	}
	if drawing {
		what += "; drawn in " + path
	}
	return []string{what}
}

// draw checks a history, and draws it where it is wrong.
func draw(history []Access, path string) (drawn bool, err error) {
	if err := Linearizable(history, nil); err == nil {
		return false, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return false, err
	}
	f, err := os.Create(path)
	if err != nil {
		return false, err
	}
	return true, errors.Join(Linearizable(history, f), f.Close())
}

// heir is the node whose history goes on where several say that they are the
// primary, or none does: the one that acknowledged last, of those that take writes.
func (l *life) heir(ctx context.Context) *lab.Node {
	primaries := l.lab.Primaries(ctx)
	epochs := l.epochs()
	slices.SortFunc(epochs, func(a, b Span) int { return int(b.To - a.To) })
	for _, e := range epochs {
		if n := l.lab.Node(e.Node); slices.Contains(primaries, n) {
			return n
		}
	}
	return l.primary()
}

// reckon is the check at the end of a life: all rows, all registers.
func (r *run) reckon(ctx context.Context) error {
	l := r.life
	if n := len(r.result.Rounds); n > 0 && r.result.Rounds[n-1].Unfinished {
		return r.glance(ctx)
	}
	if l.linear() && len(r.result.Rounds) > 0 {
		// The last register is judged too, when nobody writes it any more.
		if err := r.System.Whole(ctx, l.lab); err == nil {
			if err := l.registers.next(ctx); err != nil {
				return err
			}
		}
	}
	r.count()
	n := l.heir(ctx)
	l.everything()
	rows, places := l.recent()
	lost, _, violations, err := l.compare(ctx, n, rows, places)
	if err != nil {
		r.result.Violations = append(r.result.Violations, fmt.Sprintf("%d rows could not be looked for: %v", len(rows), err))
		return nil
	}
	for key := int64(1); key < l.registers.key.Load(); key++ {
		violations = append(violations, r.linear(ctx, n, key)...)
	}
	if ended := r.lostInRounds(); lost != ended {
		r.Say("%d rows are missing at the end, %d were after the rounds.", lost, ended)
	}
	for _, v := range violations {
		r.Say("AT THE END: %s", v)
	}
	r.result.Violations = append(r.result.Violations, violations...)
	if len(violations) > 0 {
		r.keep("end")
	}
	return nil
}

// count adds the rows that were acknowledged in this life.
func (r *run) count() {
	for _, row := range r.life.rows(0) {
		if row.Outcome == Acknowledged {
			r.result.Acknowledged++
		}
	}
}

// glance tells of a cluster that an interrupt met before it was whole what can be told. It is
// no verdict: what is missing on one node may come from another yet.
func (r *run) glance(ctx context.Context) error {
	l := r.life
	r.count()
	primaries := l.lab.Primaries(ctx)
	if len(primaries) != 1 {
		r.Say("INTERRUPTED before the cluster was whole, with %d primaries: the rows since the last round are not looked for.", len(primaries))
		return nil
	}
	l.everything()
	rows, places := l.recent()
	present, err := l.present(ctx, primaries[0], places)
	if err != nil {
		r.Say("INTERRUPTED before the cluster was whole; %d rows could not be looked for: %v", len(rows), err)
		return nil
	}
	r.Say("INTERRUPTED before the cluster was whole: %d acknowledged rows are not on %s now.", len(Lost(rows, present)), primaries[0].Name)
	return nil
}

// lostInRounds is how many rows the rounds of this run lost.
func (r *run) lostInRounds() (lost int) {
	for _, round := range r.result.Rounds {
		lost += round.Lost
	}
	return lost
}

// Gap is the longest of a round.
func (r Round) Gap() (longest time.Duration) {
	for _, g := range r.Gaps {
		longest = max(longest, g.Lasted)
	}
	return longest
}

// String is the round as one line, and its violations one a line.
func (r Round) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%3d  %s\n     %d groups, gap %.2f s, %d failovers, %d in place, %d unknown, %d lost", r.Number, strings.Join(r.Faults, "\n     "),
		len(r.Gaps), r.Gap().Seconds(), r.Failovers, r.InPlace, r.Unknown, r.Lost)
	if r.TwoWriters > 0 {
		fmt.Fprintf(&b, ", two writers for %.2f s", r.TwoWriters.Seconds())
	}
	switch {
	case r.Broken != nil:
		fmt.Fprintf(&b, "; NOT WHOLE: %v", r.Broken)
	case r.Unfinished:
		fmt.Fprintf(&b, "; interrupted %.1f s after the last healing, not whole yet", r.Back.Seconds())
	default:
		fmt.Fprintf(&b, "; whole after %.1f s", r.Back.Seconds())
	}
	for _, v := range r.Violations {
		fmt.Fprintf(&b, "\n     VIOLATION: %s", v)
	}
	return b.String()
}
