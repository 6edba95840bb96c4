package conf

import (
	"slices"
	"strconv"
	"strings"
)

// Change is a parameter whose value differs between two configurations.
type Change struct {
	Param    string
	Old, New string // as Dump prints them
	Effect   Reload
}

// Changed lists what differs in the order of Params. Where a Change has the
// effect Never, the new configuration must not be used.
func Changed(old, new *Config) []Change {
	var changes []Change
	for i := range Params {
		p := &Params[i]
		if !p.sameIn(old, new) {
			changes = append(changes, Change{p.Name, oneLine(p.Text(old)), oneLine(p.Text(new)), p.Reload})
		}
	}
	return changes
}

func (p *Param) sameIn(a, b *Config) bool { return slices.Equal(p.texts(a), p.texts(b)) }

// oneLine keeps text that holds line ends on one line.
func oneLine(text string) string {
	return strings.NewReplacer("\n", `\n`, "\r", `\r`).Replace(text)
}

// String says what changes, and when it takes effect.
func (c Change) String() string {
	return c.Param + " is now " + strconv.Quote(c.New) + ", was " + strconv.Quote(c.Old)
}
