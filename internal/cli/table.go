package cli

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// grid is a table of text: each column as wide as its longest cell.
type grid struct {
	header []string
	rows   [][]string
}

// write prints the table in repmgr's shape: cells to the left, bars between
// them, a rule below the heading.
func (g grid) write(w io.Writer) {
	width := make([]int, len(g.header))
	for _, row := range append([][]string{g.header}, g.rows...) {
		for i, cell := range row {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	g.line(w, g.header, width)
	rule := make([]string, len(width))
	for i, n := range width {
		rule[i] = strings.Repeat("-", n+2)
	}
	fmt.Fprintln(w, strings.Join(rule, "+"))
	for _, row := range g.rows {
		g.line(w, row, width)
	}
}

func (g grid) line(w io.Writer, row []string, width []int) {
	cells := make([]string, len(row))
	for i, cell := range row {
		cells[i] = cell + strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell))
	}
	fmt.Fprintln(w, " "+strings.TrimRight(strings.Join(cells, " | "), " "))
}

// csvLine prints values as repmgr does, without quotes.
func csvLine(w io.Writer, values ...any) {
	for i, v := range values {
		if i > 0 {
			fmt.Fprint(w, ",")
		}
		fmt.Fprint(w, v)
	}
	fmt.Fprintln(w)
}
