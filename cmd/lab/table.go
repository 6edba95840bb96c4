package main

import (
	"fmt"
	"slices"
	"time"
)

// column holds a peer's figures.
type column struct {
	who      who
	outcomes map[string][]outcome // by the fault's name
	show     []time.Duration
	wide     map[string][]time.Duration // by the command
	cpu      []float64                  // percent of a core, one per daemon
	resident []float64                  // MiB, one per daemon
	failure  error
}

// row is a line of the table: a figure, its unit's format, and what ours must reach.
type row struct {
	label  string
	target float64 // zero: none
	format string
	figure func(c *column) (float64, bool)
}

var rows = append([]row{
	{"daemon at rest (Patroni: and etcd): CPU, hungriest of three", 1.0, "%.2f %%", func(c *column) (float64, bool) { return largest(c.cpu) }},
	{"daemon at rest (Patroni: and etcd): resident, largest", 40, "%.1f MiB", func(c *column) (float64, bool) { return largest(c.resident) }},
	{"switchover: the whole command, median", 3, "%.2f s", func(c *column) (float64, bool) { return median(commands(c.outcomes["switchover"])) }},
	{"the same, pgbench at half load", 3, "%.2f s", func(c *column) (float64, bool) { return median(commands(c.outcomes["switchover-load"])) }},
	{"cluster show (Patroni: patronictl list): median", 0.060, "%.3f s", func(c *column) (float64, bool) { return median(c.show) }},
}, wideRows()...)

func median(d []time.Duration) (float64, bool) { return medianOf(d2s(d)) }

func worst(d []time.Duration) (float64, bool) { return largest(d2s(d)) }

func d2s(durations []time.Duration) []float64 {
	var seconds []float64
	for _, d := range durations {
		seconds = append(seconds, d.Seconds())
	}
	return seconds
}

func medianOf[N int | float64](values []N) (float64, bool) {
	if len(values) == 0 {
		return 0, false
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return float64(sorted[middle]), true
	}
	return (float64(sorted[middle-1]) + float64(sorted[middle])) / 2, true
}

func largest(values []float64) (float64, bool) {
	if len(values) == 0 {
		return 0, false
	}
	return slices.Max(values), true
}

func summary(d []time.Duration) string {
	m, _ := median(d)
	w, _ := worst(d)
	return fmt.Sprintf("median %.3f s, worst %.3f s of %d", m, w, len(d))
}

// missed says whether a figure of the column misses its target.
func missed(c *column) bool {
	for _, f := range faults() {
		o := c.outcomes[f.name]
		gap, known := median(gaps(o))
		if known && f.target > 0 && gap > f.target.Seconds() || slices.ContainsFunc(o, outcome.bad) ||
			f.kept && slices.ContainsFunc(o, func(o outcome) bool { return o.missing > 0 }) {
			return true
		}
	}
	return slices.ContainsFunc(rows, func(r row) bool {
		figure, known := r.figure(c)
		return known && r.target > 0 && figure > r.target
	})
}

// printTable shows the figures of all peers, the targets last.
func printTable(p *page, columns []*column) {
	printFaults(p, columns)
	table := [][]string{{""}}
	for _, c := range columns {
		table[0] = append(table[0], c.who.name())
	}
	table[0] = append(table[0], "target")
	for _, r := range rows {
		line := []string{r.label}
		for _, c := range columns {
			line = append(line, cell(r, c))
		}
		target := ""
		if r.target > 0 {
			target = "<= " + fmt.Sprintf(r.format, r.target)
		}
		table = append(table, append(line, target))
	}
	p.say("")
	printAligned(p, table)
}

func printAligned(p *page, table [][]string) {
	for i, line := range aligned(table) {
		if i == 0 {
			line = p.paint(bold, line)
		}
		p.line(line)
	}
}

// printFaults shows a line for each fault and peer that was measured.
func printFaults(p *page, columns []*column) {
	table := [][]string{{"fault", "", "runs", "gap: median", "worst", "target", "rows missing: median", "most", "primaries at the end", "whole by itself", "after: median", "worst"}}
	var inside []string
	for _, f := range faults() {
		for _, c := range columns {
			o := c.outcomes[f.name]
			if len(o) == 0 {
				continue
			}
			table = append(table, faultLine(f, c.who.name(), o))
			if f.inside {
				inside = append(inside, insideLine(c.who.name(), o))
			}
		}
	}
	if len(table) == 1 {
		return
	}
	printAligned(p, table)
	for _, line := range inside {
		p.say("%s", line)
	}
}

func faultLine(f fault, title string, outcomes []outcome) []string {
	var missing, primaries []int
	var back []time.Duration
	for _, o := range outcomes {
		missing, primaries = append(missing, o.missing), append(primaries, o.primaries)
		if o.broken == nil {
			back = append(back, o.back)
		}
	}
	target := ""
	if f.target > 0 {
		target = fmt.Sprintf("<= %.1f s", f.target.Seconds())
	}
	seconds := func(v float64, known bool) string {
		if !known {
			return "-"
		}
		return fmt.Sprintf("%.2f s", v)
	}
	lost, _ := medianOf(missing)
	ends := fmt.Sprint(slices.Max(primaries))
	if least := slices.Min(primaries); least != slices.Max(primaries) {
		ends = fmt.Sprintf("%d to %s", least, ends)
	}
	return []string{f.label, title, fmt.Sprint(len(outcomes)), seconds(median(gaps(outcomes))), seconds(worst(gaps(outcomes))), target,
		fmt.Sprintf("%.0f", lost), fmt.Sprint(slices.Max(missing)), ends,
		fmt.Sprintf("%d of %d", len(back), len(outcomes)), seconds(median(back)), seconds(worst(back))}
}

// insideLine tells what a client on the cut-off side was promised.
func insideLine(title string, outcomes []outcome) string {
	var last []time.Duration
	var acknowledged, missing int
	for _, o := range outcomes {
		last = append(last, o.inside.last)
		acknowledged += o.inside.acknowledged
		missing += o.inside.missing
	}
	m, _ := median(last)
	w, _ := worst(last)
	return fmt.Sprintf("Inside the cut-off side, %s: last acknowledged write after the cut at %.2f s (median), %.2f s (worst); %d acknowledged in all runs, %d of them missing at the end.",
		title, m, w, acknowledged, missing)
}

// bad says that a cluster did not end as it must: one primary, and whole.
func (o outcome) bad() bool { return o.broken != nil || o.primaries != 1 }

func gaps(outcomes []outcome) []time.Duration {
	var all []time.Duration
	for _, o := range outcomes {
		all = append(all, o.gap)
	}
	return all
}

func commands(outcomes []outcome) []time.Duration {
	var all []time.Duration
	for _, o := range outcomes {
		all = append(all, o.took)
	}
	return all
}

func cell(r row, c *column) string {
	figure, known := r.figure(c)
	if !known {
		return "-"
	}
	return fmt.Sprintf(r.format, figure)
}

// aligned pads the cells of each column to one width, the first to the left.
func aligned(table [][]string) []string {
	width := make([]int, len(table[0]))
	for _, line := range table {
		for i, cell := range line {
			width[i] = max(width[i], len(cell))
		}
	}
	var lines []string
	for _, line := range table {
		padded := fmt.Sprintf("%-*s", width[0], line[0])
		for i, cell := range line[1:] {
			padded += fmt.Sprintf(" | %*s", width[i+1], cell)
		}
		lines = append(lines, padded)
	}
	return lines
}
