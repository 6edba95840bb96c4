package conf

// Events are the names that event_notifications may hold without a warning: those
// of repmgr 5, and below them our own.
var Events = []string{
	"cluster_created", "cluster_cleanup",
	"primary_register", "primary_unregister",
	"standby_clone", "standby_register", "standby_register_sync", "standby_unregister",
	"standby_promote", "standby_follow", "standby_switchover",
	"node_rejoin", "witness_register", "witness_unregister",
	"repmgrd_start", "repmgrd_reload", "repmgrd_config_reload", "repmgrd_shutdown",
	"repmgrd_local_disconnect", "repmgrd_local_reconnect", "repmgrd_standby_reconnect",
	"repmgrd_upstream_disconnect", "repmgrd_upstream_reconnect",
	"repmgrd_failover_promote", "repmgrd_failover_follow", "repmgrd_failover_abort", "repmgrd_failover_aborted",
	"repmgrd_promote_error", "repmgrd_primary_fenced", "standby_disconnect_manual", "standby_failure", "standby_recovery",
	"child_node_disconnect", "child_node_reconnect", "child_node_new_connect", "child_nodes_disconnect_command",

	"cluster_drill", "cluster_migrate", "cluster_migrate_back", "cluster_reset_quorum", "repmgrd_rejoin", "repmgrd_commits_discarded",
	"repmgrd_quorum_found", "repmgrd_quorum_begin", "repmgrd_quorum_end",
	"repmgrd_node_refused", "cluster_fenced", "repmgrd_disk_full", "repmgrd_ineligible",
}
