package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// column holds a peer's figures.
type column struct {
	title               string
	crash, host, show   []time.Duration
	crashLost, hostLost []int
	cpu                 []float64 // percent of a core, one per daemon
	resident            []float64 // MiB, one per daemon
	failure             error
}

// row is a line of the table: a figure, its unit's format, and what ours must reach.
type row struct {
	label  string
	target float64 // zero: none
	format string
	figure func(c *column) (float64, bool)
}

var rows = []row{
	{"crash of the primary: gap, median", 1.0, "%.2f s", func(c *column) (float64, bool) { return median(c.crash) }},
	{"crash of the primary: gap, worst", 2.0, "%.2f s", func(c *column) (float64, bool) { return worst(c.crash) }},
	{"crash of the primary: rows lost, median", 0, "%.0f", func(c *column) (float64, bool) { return medianOf(c.crashLost) }},
	{"host gone: gap, median", 6.0, "%.2f s", func(c *column) (float64, bool) { return median(c.host) }},
	{"host gone: gap, worst", 0, "%.2f s", func(c *column) (float64, bool) { return worst(c.host) }},
	{"host gone: rows lost, median", 0, "%.0f", func(c *column) (float64, bool) { return medianOf(c.hostLost) }},
	{"daemon at rest: CPU, hungriest of three", 1.0, "%.2f %%", func(c *column) (float64, bool) { return largest(c.cpu) }},
	{"daemon at rest: resident, largest", 40, "%.1f MiB", func(c *column) (float64, bool) { return largest(c.resident) }},
	{"cluster show: median", 0.060, "%.3f s", func(c *column) (float64, bool) { return median(c.show) }},
}

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
	return slices.ContainsFunc(rows, func(r row) bool {
		figure, known := r.figure(c)
		return known && r.target > 0 && figure > r.target
	})
}

// printTable shows the figures side by side, the targets last.
func printTable(p *page, columns []*column) {
	table := [][]string{{""}}
	for _, c := range columns {
		table[0] = append(table[0], c.title)
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
	for i, line := range aligned(table) {
		if i == 0 {
			line = p.paint(bold, line)
		}
		p.line(line)
	}
	p.line("Faults made, crash and host gone: " + repeatsOf(columns))
}

func cell(r row, c *column) string {
	figure, known := r.figure(c)
	if !known {
		return "-"
	}
	return fmt.Sprintf(r.format, figure)
}

func repeatsOf(columns []*column) string {
	var parts []string
	for _, c := range columns {
		parts = append(parts, fmt.Sprintf("%s %d and %d", c.title, len(c.crash), len(c.host)))
	}
	return strings.Join(parts, "; ") + "."
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
