package cli

import (
	"context"
	"fmt"
	"time"

	"repmgr/internal/fault"
	"repmgr/internal/registry"
)

// cleanupTimeout bounds the deletion and the vacuum of a large history.
const cleanupTimeout = 30 * time.Minute

func clusterCleanup(ctx context.Context, s *Session) error {
	local, err := s.Connect(ctx)
	if err != nil {
		return err
	}
	nodes, err := registered(ctx, local)
	registry.Close(local)
	if err != nil {
		return err
	}
	_, c, err := registry.FindPrimary(ctx, nodes)
	if err != nil {
		return fault.Wrap(err, fault.DBConn, "monitoring history is deleted on the primary only")
	}
	defer registry.Close(c)
	ctx, cancel := context.WithTimeout(ctx, cleanupTimeout)
	defer cancel()
	which := registry.History{KeepDays: s.Opt.KeepHistory, Standby: s.Opt.NodeID}
	count, err := registry.CountMonitoring(ctx, c, which)
	if err != nil {
		return err
	}
	about := fmt.Sprintf("%d rows of monitoring history%s", count, ofWhom(which))
	switch {
	case count == 0:
		s.Talk.Info("there is no monitoring history to delete%s", ofWhom(which))
		return nil
	case s.Opt.DryRun:
		s.Talk.Info("would delete %s", about)
		return nil
	}
	event := registry.Event{Node: s.Conf.NodeID, Name: "cluster_cleanup", Successful: true}
	_, err = registry.CleanupMonitoring(ctx, c, which)
	event.Details = "deleted " + about
	if err != nil {
		event.Successful, event.Details = false, "could not delete "+about
	}
	if told := registry.Announce(ctx, c, s.Conf, event); told != nil {
		s.Talk.Warning("%v", told)
	}
	if err != nil {
		return err
	}
	if err := registry.VacuumMonitoring(ctx, c); err != nil {
		s.Talk.Warning("%v", err)
	}
	s.Talk.Notice("deleted %s", about)
	return nil
}

// ofWhom says which rows are meant.
func ofWhom(h registry.History) string {
	text := ""
	if h.Standby != 0 {
		text += fmt.Sprintf(" of node %d", h.Standby)
	}
	if h.KeepDays > 0 {
		text += fmt.Sprintf(" older than %d days", h.KeepDays)
	}
	return text
}
