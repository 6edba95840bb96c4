package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"repmgr/internal/registry"
)

// Events is the answer of "cluster event".
type Events struct {
	Version int              `json:"version"` // of this form, which only grows
	Events  []registry.Event `json:"events"`
	compact bool
}

const eventTime = "2006-01-02 15:04:05"

// okLetter is how the tables write whether an event was a success.
func okLetter(ok bool) string {
	if ok {
		return "t"
	}
	return "f"
}

// Text prints the table, or a sentence if there is nothing to show.
func (e Events) Text(w io.Writer) {
	if len(e.Events) == 0 {
		fmt.Fprintln(w, "no matching events found")
		return
	}
	g := grid{header: []string{"Node ID", "Name", "Event", "OK", "Timestamp", "Details"}}
	if e.compact {
		g.header = g.header[:5]
	}
	for _, ev := range e.Events {
		row := []string{fmt.Sprint(ev.Node), ev.NodeName, ev.Name, okLetter(ev.Successful), ev.At.Local().Format(eventTime)}
		if !e.compact {
			row = append(row, strings.Join(strings.Fields(ev.Details), " "))
		}
		g.rows = append(g.rows, row)
	}
	g.write(w)
}

// CSV prints all but the details, which may hold anything.
func (e Events) CSV(w io.Writer) {
	for _, ev := range e.Events {
		csvLine(w, ev.Node, ev.NodeName, ev.Name, okLetter(ev.Successful), ev.At.Local().Format(eventTime))
	}
}

func clusterEvent(ctx context.Context, s *Session) error {
	filter := registry.EventFilter{Node: s.Opt.NodeID, Name: s.Opt.Event, Limit: s.Opt.Limit}
	if filter.Node == 0 {
		filter.NodeName = s.Opt.NodeName
	}
	if s.Opt.All {
		filter.Limit = 0
		if s.Opt.Given("limit") {
			filter.Limit = s.Opt.Limit
			s.Talk.Warning("--all is ignored, since --limit was given")
		}
	}
	c, err := s.Connect(ctx)
	if err != nil {
		return err
	}
	defer registry.Close(c)
	ctx, cancel := context.WithTimeout(ctx, registry.AskTimeout)
	defer cancel()
	found, err := registry.Events(ctx, c, filter)
	if err != nil {
		return err
	}
	if found == nil {
		found = []registry.Event{}
	}
	return s.Result(Events{Version: 1, Events: found, compact: s.Opt.Compact})
}
