package daemon

import (
	"slices"

	"repmgr/internal/conf"
)

// notActedOn are parameters that repmgr.conf may hold and that this release of
// the daemon does not act on yet. A parameter leaves the list with the commit
// that acts on it.
var notActedOn = []string{
	"always_promote", "child_nodes_check_interval", "child_nodes_connected_include_witness", "child_nodes_connected_min_count",
	"child_nodes_disconnect_command", "child_nodes_disconnect_min_count", "child_nodes_disconnect_timeout", "failover_delay",
	"primary_notification_timeout", "promote_delay", "reconnect_loop_sync", "repmgrd_exit_on_inactive_node",
	"repmgrd_standby_startup_timeout", "sibling_nodes_disconnect_timeout", "standby_disconnect_on_failover",
}

// setInVain lists the parameters that were set and change nothing: nothing is
// ignored in silence.
func setInVain(cfg *conf.Config) []string {
	var out []string
	for _, c := range conf.Changed(conf.Default(), cfg) {
		if slices.Contains(notActedOn, c.Param) {
			out = append(out, c.Param)
		}
	}
	return out
}
