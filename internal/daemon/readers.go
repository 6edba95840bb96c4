package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/failover"
	"repmgr/internal/fault"
	"repmgr/internal/registry"
)

// readersEvery is how often a primary looks for whom the readers of logical slots wait, and
// readersAgain how long it lets pass after that failed.
const (
	readersEvery = time.Second
	readersAgain = 30 * time.Second
)

// readersWatch is the eyes' part of synchronized_standby_slots.
type readersWatch struct {
	due     time.Time // of the next look
	watch   failover.SlotWatch
	foreign string // a value that is not this daemon's, and was told of
}

// keepReadersBehind has the readers of logical slots for failover wait for the standbys that
// stream, and for no other: see failover.SlotWatch. It costs a failover nothing, so a refusal is
// told and tried again.
func (e *eyes) keepReadersBehind(ctx context.Context, primary bool) {
	if primary && time.Now().Before(e.readers.due) || e.conn.Version() < 170000 {
		return
	}
	e.readers.due = time.Now().Add(readersEvery)
	if err := e.setReadersWait(ctx, primary); err != nil {
		e.readers.due = time.Now().Add(readersAgain)
		e.d.complain(slog.LevelWarn, err)
	}
}

func (e *eyes) setReadersWait(ctx context.Context, primary bool) error {
	r, self, patience := &e.readers, e.d.cfg.NodeID, e.cfg.Load().SynchronousStandbyTimeout
	if !primary {
		r.watch.Look(self, e.nodes, false, nil, nil, time.Now(), patience)
		return nil
	}
	value, streaming, err := e.conn.ReadersWait(ctx)
	if err != nil {
		return err
	}
	listed, ours := e.bySlots(strings.Split(value, ","))
	if !ours && value != "" {
		if r.foreign != value {
			r.foreign = value
			return fault.New(fault.BadConfig, "synchronized_standby_slots is %q, which names other slots than those of registered nodes: it is left as it is", value).
				WithHint("ALTER SYSTEM RESET synchronized_standby_slots, or take manage_synchronized_standby_slots out of repmgr.conf.")
		}
		return nil
	}
	stream, _ := e.bySlots(streaming)
	var names []string
	for _, id := range r.watch.Look(self, e.nodes, true, listed, stream, time.Now(), patience) {
		names = append(names, registry.SlotName(id))
	}
	want := strings.Join(names, ", ")
	if want == value {
		return nil
	}
	if err := e.d.ownServer().SetReadersWait(want); err != nil {
		return err
	}
	e.d.notice(fmt.Sprintf("synchronized_standby_slots is %q now", want), "detail", fmt.Sprintf("It was %q.", value))
	return nil
}

// bySlots returns the registered nodes whose slots those are, and whether each is somebody's.
func (e *eyes) bySlots(slots []string) (ids []cluster.NodeID, all bool) {
	all = true
	for _, name := range slots {
		found := false
		for _, n := range e.nodes {
			if registry.SlotName(n.ID) == strings.TrimSpace(name) {
				ids, found = append(ids, n.ID), true
			}
		}
		all = all && found
	}
	return ids, all
}
