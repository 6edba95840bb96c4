package conf

// Limits that many parameters share, in the notation of the file.
const (
	anyInt    = "2147483647" // what an integer of PostgreSQL holds
	anySecs   = "2147483647" // repmgr 5's limit for every number of seconds
	anyMillis = "2147483647" // PostgreSQL's limit for recovery_min_apply_delay
	oneDay    = "86400"      // for what is done again and again
	nameLen   = "63"         // of an identifier of PostgreSQL
	pathLen   = "1023"       // of a path
	textLen   = "1023"       // of other short text
	longLen   = "8191"       // of commands and connection strings
	second    = "s"          // base unit of most durations
	milli     = "ms"         // base unit of recovery_min_apply_delay
)

// The headings of the sample and the reference.
const (
	groupNode       = "This node"
	groupLog        = "Logging"
	groupEvents     = "Events"
	groupStandby    = "Making standbys"
	groupCommands   = "Time limits of commands"
	groupChecks     = "Thresholds of node check"
	groupMonitoring = "Watching"
	groupFailover   = "Failover"
	groupQuorum     = "Failover by quorum"
	groupChildren   = "Lost standbys"
	groupServices   = "Starting and stopping services"
	groupRemote     = "Remote shells and copying"
	groupBarman     = "Cloning from Barman"
)

// Params is every parameter of repmgr.conf, in the order in which the sample
// and the reference show them.
var Params = []Param{
	{
		Name: "node_id", Group: groupNode, Kind: Integer, Default: "", Min: "1", Max: anyInt, Required: true,
		Reader: ByBoth, Reload: Never, Example: "1",
		Brief: "number of this node, unique in the cluster",
		About: "The number must not change once the node is registered.",
		at:    func(c *Config) any { return &c.NodeID },
	},
	{
		Name: "node_name", Group: groupNode, Kind: Text, Max: nameLen, Required: true,
		Reader: ByBoth, Reload: Never, Example: "node1",
		Brief: "name of this node, unique in the cluster",
		About: "A standby connects to its upstream under this name (`application_name`), so synchronous_standby_names refers to it.",
		at:    func(c *Config) any { return &c.NodeName },
	},
	{
		Name: "conninfo", Group: groupNode, Kind: Conninfo, Max: longLen, Required: true,
		Reader: ByBoth, Reload: AtReload, Example: "host=node1 user=repmgr dbname=repmgr connect_timeout=2",
		Brief: "connection string by which every node of the cluster reaches this one",
		About: "Keywords and values, or a URI, as libpq takes them. It must hold a host that means the same on every node. Keep passwords out of it: use a password file. A witness without PostgreSQL has neither this nor data_directory; it sets state_directory.",
		at:    func(c *Config) any { return &c.Conninfo },
	},
	{
		Name: "data_directory", Group: groupNode, Kind: Path, Max: pathLen, Required: true,
		Reader: ByBoth, Reload: Never, Example: "/var/lib/postgresql/15/main",
		Brief: "PostgreSQL's data directory on this node",
		About: "It is needed also where PostgreSQL does not run, so it is not asked of the server. A witness without PostgreSQL has none.",
		at:    func(c *Config) any { return &c.DataDirectory },
	},
	{
		Name: "config_directory", Group: groupNode, Kind: Path, Max: pathLen, Reader: ByBoth, Reload: AtReload,
		Brief:   "directory of postgresql.conf, if it is not the data directory",
		About:   "It is passed to pg_ctl in place of the data directory.",
		Example: "/etc/postgresql/15/main",
		at:      func(c *Config) any { return &c.ConfigDirectory },
	},
	{
		Name: "replication_user", Group: groupNode, Kind: Text, Max: nameLen, Reader: ByCommand, Reload: AtRegister,
		Brief: "role under which standbys stream from this node; empty: the user of conninfo",
		at:    func(c *Config) any { return &c.ReplicationUser },
	},
	{
		Name: "replication_type", Group: groupNode, Kind: Choice, Default: "physical", Choices: []string{"physical"},
		Reader: ByDaemon, Reload: AtReload,
		Brief: "kind of replication; there is only one",
		at:    func(c *Config) any { return &c.ReplicationType },
	},
	{
		Name: "location", Group: groupNode, Kind: Text, Default: "default", Max: textLen, Reader: ByCommand, Reload: AtRegister,
		Brief: "place of this node, for example a data centre",
		About: "After a failure of the primary a node is promoted only if some node in the primary's location is visible, which may be the primary's own daemon saying that its server is gone; so a location that is cut off does not make a second primary.",
		at:    func(c *Config) any { return &c.Location },
	},
	{
		Name: "priority", Group: groupNode, Kind: Integer, Default: "100", Min: "0", Max: anyInt, Reader: ByCommand, Reload: AtRegister,
		Brief: "between equally fresh standbys the higher one is promoted; 0: never promoted",
		at:    func(c *Config) any { return &c.Priority },
	},
	{
		Name: "pg_bindir", Group: groupNode, Kind: Path, Max: pathLen, Reader: ByBoth, Reload: AtReload,
		Brief:   "directory of PostgreSQL's programs; empty: found by PATH",
		About:   "It does not apply to commands that are set in this file.",
		Example: "/usr/lib/postgresql/15/bin",
		at:      func(c *Config) any { return &c.PgBindir },
	},
	{
		Name: "repmgr_bindir", Group: groupNode, Kind: Path, Max: pathLen, Reader: ByCommand,
		Brief:   "directory of repmgr on every node, for what is run there by ssh; empty: PATH, then pg_bindir",
		Example: "/usr/bin",
		at:      func(c *Config) any { return &c.RepmgrBindir },
	},
	{
		Name: "state_directory", Group: groupNode, Kind: Path, Max: pathLen, New: true, Reader: ByBoth, Reload: AtRestart,
		Brief:   "directory of repmgrd's own files and socket; empty: data_directory with .repmgr appended",
		About:   "It must survive a reboot and must not lie inside the data directory, which a clone or a rewind replaces.",
		Example: "/var/lib/repmgr/15-main",
		at:      func(c *Config) any { return &c.StateDirectory },
	},
	{
		Name: "daemon_port", Group: groupNode, Kind: Integer, Default: "7433", Min: "1", Max: "65535", New: true,
		Reader: ByBoth, Reload: AtRestart,
		Brief: "TCP port on which the daemons of the cluster speak to each other",
		About: "Both sides prove who they are by certificates of the cluster's own authority, which `primary register` makes. Other nodes learn the port from the `repmgr` schema.",
		at:    func(c *Config) any { return &c.DaemonPort },
	},
	{
		Name: "daemon_listen_address", Group: groupNode, Kind: Text, Max: textLen, New: true, Reader: ByDaemon, Reload: AtRestart,
		Brief: "address on which repmgrd listens; empty: every address of the host",
		at:    func(c *Config) any { return &c.DaemonListenAddress },
	},

	{
		Name: "log_level", Group: groupLog, Kind: Choice, Default: "INFO", Choices: []string{"DEBUG", "INFO", "NOTICE", "WARNING", "ERROR", "ALERT", "CRIT", "EMERG"},
		Reader: ByBoth, Reload: AtReload,
		Brief: "least severity of what is logged",
		at:    func(c *Config) any { return &c.LogLevel },
	},
	{
		Name: "log_facility", Group: groupLog, Kind: Choice, Default: "STDERR",
		Choices: []string{"STDERR", "LOCAL0", "LOCAL1", "LOCAL2", "LOCAL3", "LOCAL4", "LOCAL5", "LOCAL6", "LOCAL7", "USER"},
		Reader:  ByBoth, Reload: AtReload,
		Brief: "where the log goes: standard error (or log_file), or a facility of syslog",
		About: "The repmgr command heeds it only with `--log-to-file`.",
		at:    func(c *Config) any { return &c.LogFacility },
	},
	{
		Name: "log_file", Group: groupLog, Kind: Path, Max: pathLen, Reader: ByBoth, Reload: AtReload,
		Brief:   "file that takes what would go to standard error",
		About:   "It is opened anew at each SIGHUP, so it may be rotated. The repmgr command heeds it only with `--log-to-file`.",
		Example: "/var/log/repmgr/repmgrd.log",
		at:      func(c *Config) any { return &c.LogFile },
	},
	{
		Name: "log_status_interval", Group: groupLog, Kind: Duration, Unit: second, Default: "300s", Min: "0", Max: oneDay,
		Reader: ByDaemon, Reload: AtReload,
		Brief: "time between the daemon's lines that all is well; 0: none",
		at:    func(c *Config) any { return &c.LogStatusInterval },
	},

	{
		Name: "event_notification_command", Group: groupEvents, Kind: Command, Max: longLen, Reader: ByBoth, Reload: AtReload,
		Brief: "command that is run for each event",
		About: "Values are not quoted for the shell; put quotes around placeholders that may hold blanks (`%t`, `%d`, `%c`). What a placeholder does not have at an event is empty.",
		Placeholders: []Placeholder{
			{'n', "id of the node that the event is about"}, {'e', "name of the event"}, {'s', "1 for success, 0 for failure"},
			{'t', "time of the event"}, {'d', "details, double quotes escaped"},
			{'p', "id of the primary or of the node followed; of the former primary after a failover or switchover"},
			{'c', "connection string of that node"}, {'a', "name of that node"}, {'%', "a percent sign"},
		},
		Example: `/usr/local/bin/on-event %n %e %s "%t" "%d"`,
		at:      func(c *Config) any { return &c.EventNotificationCommand },
	},
	{
		Name: "event_notifications", Group: groupEvents, Kind: List, Max: textLen, Reader: ByBoth, Reload: AtReload,
		Brief:   "events for which the command is run, separated by commas; empty: all",
		About:   "May be repeated; the lines add up.",
		Example: "repmgrd_failover_promote, standby_promote",
		at:      func(c *Config) any { return &c.EventNotifications },
	},

	{
		Name: "use_replication_slots", Group: groupStandby, Kind: Boolean, Default: "false", Reader: ByBoth, Reload: AtReload,
		Brief: "give each standby a replication slot on its upstream",
		About: "The slot of node 3 is named `repmgr_slot_3`. The upstream keeps WAL for a standby that is away, as long as its disk holds: watch it, or set max_slot_wal_keep_size.",
		at:    func(c *Config) any { return &c.UseReplicationSlots },
	},
	{
		Name: "manage_synchronized_standby_slots", Group: groupStandby, Kind: Boolean, Default: "false", New: true, Reader: ByDaemon, Reload: AtReload,
		Brief: "have readers of logical slots for failover wait for the standbys (PostgreSQL 17 and later)",
		About: "On the primary repmgrd lists in synchronized_standby_slots the slots of the standbys that may be promoted and stream; one that is gone for longer than synchronous_standby_timeout is taken out, so that readers do not stand still. A value of your own that names other slots is left alone. Needs use_replication_slots. Set the same on every node.",
		at:    func(c *Config) any { return &c.ManageSynchronizedStandbySlots },
	},
	{
		Name: "pg_basebackup_options", Group: groupStandby, Kind: Text, Max: longLen, Reader: ByCommand,
		Brief:   "options added to the command line of pg_basebackup",
		Example: "--max-rate=64M",
		at:      func(c *Config) any { return &c.PgBasebackupOptions },
	},
	{
		Name: "restore_command", Group: groupStandby, Kind: Text, Max: longLen, Reader: ByBoth, Reload: AtReload,
		Brief:   "command by which a standby fetches WAL from an archive (its restore_command)",
		About:   "PostgreSQL expands its placeholders (`%f`, `%p`, `%r`).",
		Example: "cp /archive/%f %p",
		at:      func(c *Config) any { return &c.RestoreCommand },
	},
	{
		Name: "archive_cleanup_command", Group: groupStandby, Kind: Text, Max: longLen, Reader: ByBoth, Reload: AtReload,
		Brief:   "command by which a standby removes WAL from an archive (its archive_cleanup_command)",
		About:   "PostgreSQL expands its placeholder (`%r`).",
		Example: "pg_archivecleanup /archive %r",
		at:      func(c *Config) any { return &c.ArchiveCleanupCommand },
	},
	{
		Name: "recovery_min_apply_delay", Group: groupStandby, Kind: Delay, Unit: milli, Min: "0", Max: anyMillis,
		Reader: ByBoth, Reload: AtReload,
		Brief:   "time by which the standby applies changes late; empty: not set",
		About:   "A bare number is in milliseconds, as in PostgreSQL.",
		Example: "5min",
		at:      func(c *Config) any { return &c.RecoveryMinApplyDelay },
	},
	{
		Name: "tablespace_mapping", Group: groupStandby, Kind: Mappings, Max: textLen, Reader: ByCommand,
		Brief:   "where a tablespace of the upstream is put here: old=new",
		About:   "May be repeated, one mapping a line. An equals sign in a path is written `\\\\=` inside the quotes.",
		Example: "/srv/tablespaces/a=/srv/tablespaces/b",
		at:      func(c *Config) any { return &c.TablespaceMapping },
	},
	{
		Name: "use_primary_conninfo_password", Group: groupStandby, Kind: Boolean, Default: "false", Reader: ByBoth, Reload: AtReload,
		Brief: "write the password in PGPASSWORD into primary_conninfo",
		About: "A password file (passfile) is better: this one is stored readable in the data directory.",
		at:    func(c *Config) any { return &c.UsePrimaryConninfoPassword },
	},
	{
		Name: "passfile", Group: groupStandby, Kind: Text, Max: pathLen, Reader: ByBoth, Reload: AtReload,
		Brief:   "password file that is named in primary_conninfo",
		Example: "/var/lib/postgresql/.pgpass",
		at:      func(c *Config) any { return &c.Passfile },
	},

	{
		Name: "promote_check_timeout", Group: groupCommands, Kind: Duration, Unit: second, Default: "60s", Min: "1s", Max: anySecs,
		Reader: ByBoth, Reload: AtReload,
		Brief: "how long to wait for a promotion to complete",
		About: "repmgrd then takes the order back. One that the server has read can't be taken back: under the visibility rule it is awaited for as long as that server runs, and nobody else is promoted.",
		at:    func(c *Config) any { return &c.PromoteCheckTimeout },
	},
	{
		Name: "promote_check_interval", Group: groupCommands, Kind: Duration, Unit: second, Default: "1s", Min: "10ms", Max: oneDay,
		Reader: ByBoth, Reload: AtReload,
		Brief: "time between two looks at whether the promotion is complete",
		at:    func(c *Config) any { return &c.PromoteCheckInterval },
	},
	{
		Name: "primary_follow_timeout", Group: groupCommands, Kind: Duration, Unit: second, Default: "60s", Min: "1s", Max: anySecs,
		Reader: ByBoth, Reload: AtReload,
		Brief: "how long `standby follow --wait` waits for the new primary to appear",
		at:    func(c *Config) any { return &c.PrimaryFollowTimeout },
	},
	{
		Name: "standby_follow_timeout", Group: groupCommands, Kind: Duration, Unit: second, Default: "30s", Min: "1s", Max: anySecs,
		Reader: ByBoth, Reload: AtReload,
		Brief: "how long `standby follow` waits for the standby to attach to its upstream",
		at:    func(c *Config) any { return &c.StandbyFollowTimeout },
	},
	{
		Name: "standby_follow_restart", Group: groupCommands, Kind: Boolean, Default: "false", Reader: ByBoth, Reload: AtReload,
		Brief: "restart PostgreSQL to follow another upstream, where a reload would do",
		at:    func(c *Config) any { return &c.StandbyFollowRestart },
	},
	{
		Name: "shutdown_check_timeout", Group: groupCommands, Kind: Duration, Unit: second, Default: "60s", Min: "1s", Max: anySecs,
		Reader: ByBoth, Reload: AtReload,
		Brief: "how long a switchover waits for the primary to shut down",
		at:    func(c *Config) any { return &c.ShutdownCheckTimeout },
	},
	{
		Name: "standby_reconnect_timeout", Group: groupCommands, Kind: Duration, Unit: second, Default: "60s", Min: "1s", Max: anySecs,
		Reader: ByBoth, Reload: AtReload,
		Brief: "how long a switchover waits for the former primary to attach as a standby",
		About: "It must not be less than node_rejoin_timeout.",
		at:    func(c *Config) any { return &c.StandbyReconnectTimeout },
	},
	{
		Name: "wal_receive_check_timeout", Group: groupCommands, Kind: Duration, Unit: second, Default: "30s", Min: "1s", Max: anySecs,
		Reader: ByBoth, Reload: AtReload,
		Brief: "how long a switchover waits for the standby to receive the primary's last WAL",
		at:    func(c *Config) any { return &c.WalReceiveCheckTimeout },
	},
	{
		Name: "node_rejoin_timeout", Group: groupCommands, Kind: Duration, Unit: second, Default: "60s", Min: "1s", Max: anySecs,
		Reader: ByCommand,
		Brief:  "how long the former primary may take to attach after a switchover, or by `node rejoin`",
		at:     func(c *Config) any { return &c.NodeRejoinTimeout },
	},

	{
		Name: "archive_ready_warning", Group: groupChecks, Kind: Integer, Default: "16", Min: "1", Max: anyInt, Reader: ByCommand,
		Brief: "WAL files waiting to be archived at which `node check`, and a switchover, warns",
		About: "It must be less than archive_ready_critical.",
		at:    func(c *Config) any { return &c.ArchiveReadyWarning },
	},
	{
		Name: "archive_ready_critical", Group: groupChecks, Kind: Integer, Default: "128", Min: "1", Max: anyInt, Reader: ByCommand,
		Brief: "WAL files waiting to be archived at which `node check` is critical, and a switchover refused",
		at:    func(c *Config) any { return &c.ArchiveReadyCritical },
	},
	{
		Name: "replication_lag_warning", Group: groupChecks, Kind: Duration, Unit: second, Default: "300s", Min: "1s", Max: anySecs,
		Reader: ByCommand,
		Brief:  "replication lag at which `node check`, and a switchover, warns",
		About:  "It must be less than replication_lag_critical.",
		at:     func(c *Config) any { return &c.ReplicationLagWarning },
	},
	{
		Name: "replication_lag_critical", Group: groupChecks, Kind: Duration, Unit: second, Default: "600s", Min: "1s", Max: anySecs,
		Reader: ByCommand,
		Brief:  "replication lag at which `node check` is critical, and a switchover refused",
		at:     func(c *Config) any { return &c.ReplicationLagCritical },
	},

	{
		Name: "monitor_interval_secs", Group: groupMonitoring, Kind: Duration, Unit: second, Default: "1s", Min: "100ms", Max: oneDay,
		Repmgr5: "2s", Why: "a failure is noticed sooner; a look costs next to nothing",
		Reader: ByDaemon, Reload: AtReload,
		Brief: "time between two looks at the servers; under the quorum rule every 5 s at another node's, while its daemon vouches for it",
		at:    func(c *Config) any { return &c.MonitorInterval },
	},
	{
		Name: "connection_check_type", Group: groupMonitoring, Kind: Choice, Default: "ping", Choices: []string{"ping", "connection", "query"},
		Reader: ByDaemon, Reload: AtReload,
		Brief: "how the upstream is looked at: by its answer alone, by a new connection, or by a query",
		at:    func(c *Config) any { return &c.ConnectionCheckType },
	},
	{
		Name: "connection_check_query", Group: groupMonitoring, Kind: Text, Default: "SELECT 1", Max: textLen, Undocumented: true,
		Reader: ByDaemon, Reload: AtReload,
		Brief: "the query, where connection_check_type is query",
		at:    func(c *Config) any { return &c.ConnectionCheckQuery },
	},
	{
		Name: "async_query_timeout", Group: groupMonitoring, Kind: Duration, Unit: second, Default: "60s", Min: "0", Max: anySecs,
		Reader: ByDaemon, Reload: AtReload,
		Brief: "how long that query may take",
		at:    func(c *Config) any { return &c.AsyncQueryTimeout },
	},
	{
		Name: "reconnect_attempts", Group: groupMonitoring, Kind: Integer, Default: "3", Min: "0", Max: "100000",
		Repmgr5: "6", Why: "together with reconnect_interval: seconds, not a minute, until a failover begins",
		Reader: ByDaemon, Reload: AtReload,
		Brief: "how many times an upstream that does not answer is tried again",
		at:    func(c *Config) any { return &c.ReconnectAttempts },
	},
	{
		Name: "reconnect_interval", Group: groupMonitoring, Kind: Duration, Unit: second, Default: "1s", Min: "0", Max: oneDay,
		Repmgr5: "10s", Why: "together with reconnect_attempts: seconds, not a minute, until a failover begins",
		Reader: ByDaemon, Reload: AtReload,
		Brief: "time between two of these attempts",
		at:    func(c *Config) any { return &c.ReconnectInterval },
	},
	{
		Name: "reconnect_loop_sync", Group: groupMonitoring, Kind: Boolean, Default: "false", Undocumented: true,
		Reader: ByDaemon, Reload: AtReload,
		Brief:  "count the time that an attempt took towards reconnect_interval",
		Unread: "has no effect: attempts begin reconnect_interval apart, or as soon as one that took longer has ended, whatever the value",
		at:     func(c *Config) any { return &c.ReconnectLoopSync },
	},
	{
		Name: "degraded_monitoring_timeout", Group: groupMonitoring, Kind: Duration, Unit: second, Default: "-1", Min: "0", Max: anySecs, Off: true,
		Reader: ByDaemon, Reload: AtReload,
		Brief: "how long repmgrd goes on when it cannot watch its server or upstream, before it ends; -1 or 0: for ever",
		About: "It then ends with exit status 9.",
		at:    func(c *Config) any { return &c.DegradedMonitoringTimeout },
	},
	{
		Name: "monitoring_history", Group: groupMonitoring, Kind: Boolean, Default: "false", Reader: ByDaemon, Reload: AtReload,
		Brief: "write each standby's position to the table repmgr.monitoring_history",
		About: "`repmgr cluster cleanup` removes old rows.",
		at:    func(c *Config) any { return &c.MonitoringHistory },
	},
	{
		Name: "witness_sync_interval", Group: groupMonitoring, Kind: Duration, Unit: second, Default: "15s", Min: "1s", Max: oneDay,
		Reader: ByDaemon, Reload: AtReload,
		Brief: "time between two copies of repmgr.nodes to a witness",
		at:    func(c *Config) any { return &c.WitnessSyncInterval },
	},
	{
		Name: "repmgrd_pid_file", Group: groupMonitoring, Kind: Path, Max: pathLen, Reader: ByDaemon, Reload: AtRestart,
		Brief:   "file that holds repmgrd's process id",
		About:   "repmgrd's option `--pid-file` overrides it.",
		Example: "/run/repmgr/repmgrd.pid",
		at:      func(c *Config) any { return &c.RepmgrdPidFile },
	},
	{
		Name: "repmgrd_exit_on_inactive_node", Group: groupMonitoring, Kind: Boolean, Default: "false", Reader: ByDaemon, Reload: AtRestart,
		Brief: "refuse to start on a node whose record is inactive, in place of making it active",
		About: "The record of a former primary is never made active by itself: it says who is the primary.",
		at:    func(c *Config) any { return &c.RepmgrdExitOnInactiveNode },
	},

	{
		Name: "failover", Group: groupFailover, Kind: Choice, Default: "manual", Choices: []string{"manual", "automatic"},
		Reader: ByDaemon, Reload: AtReload,
		Brief: "what repmgrd does when the primary fails: nothing but watch, or promote and follow",
		at:    func(c *Config) any { return &c.Failover },
	},
	{
		Name: "promote_command", Group: groupFailover, Kind: Command, Max: longLen, Reader: ByDaemon, Reload: AtReload,
		Brief:   "command that promotes this node; empty: repmgrd does it itself",
		About:   "A command must run `repmgr standby promote`. repmgr 5 requires one where failover is automatic.",
		Example: "repmgr standby promote -f /etc/repmgr.conf --log-to-file",
		at:      func(c *Config) any { return &c.PromoteCommand },
	},
	{
		Name: "follow_command", Group: groupFailover, Kind: Command, Max: longLen, Reader: ByDaemon, Reload: AtReload,
		Placeholders: []Placeholder{{'n', "id of the new upstream"}, {'%', "a percent sign"}},
		Brief:        "command that makes this node follow the new primary; empty: repmgrd does it itself",
		About:        "A command must run `repmgr standby follow`, with `--upstream-node-id=%n`. repmgr 5 requires one where failover is automatic.",
		Example:      "repmgr standby follow -f /etc/repmgr.conf --log-to-file --upstream-node-id=%n",
		at:           func(c *Config) any { return &c.FollowCommand },
	},
	{
		Name: "primary_notification_timeout", Group: groupFailover, Kind: Duration, Unit: second, Default: "60s", Min: "0", Max: anySecs,
		Reader: ByDaemon, Reload: AtReload,
		Brief:  "how long a node that was not chosen waits to hear of the new primary",
		Unread: "has no effect: the daemons hear of a promotion from each other and follow whenever they do; no waiting ends without that, whatever the value",
		at:     func(c *Config) any { return &c.PrimaryNotificationTimeout },
	},
	{
		Name: "repmgrd_standby_startup_timeout", Group: groupFailover, Kind: Duration, Unit: second, Default: "-1", Min: "0", Max: anySecs, Off: true,
		Reader: ByDaemon, Reload: AtReload,
		Brief: "how long repmgrd waits for its server after it made it follow; -1: standby_reconnect_timeout",
		About: "This is for follow_command, which may restart the server. Without one the server is not restarted, and standby_follow_timeout bounds the wait until it streams.",
		at:    func(c *Config) any { return &c.RepmgrdStandbyStartupTimeout },
	},
	{
		Name: "primary_visibility_consensus", Group: groupFailover, Kind: Boolean, Default: "true",
		Repmgr5: "false", Why: "a standby that alone lost its way to the primary no longer starts a failover",
		Reader: ByDaemon, Reload: AtReload,
		Brief: "promote nobody as long as another node still sees the primary",
		at:    func(c *Config) any { return &c.PrimaryVisibilityConsensus },
	},
	{
		Name: "standby_disconnect_on_failover", Group: groupFailover, Kind: Boolean, Default: "false", Reader: ByDaemon, Reload: AtReload,
		Brief: "stop streaming on every standby before the candidates are compared",
		About: "Each daemon with failover=automatic sets its server's primary_conninfo to an empty string when the primary is lost, and puts it back when the loss is over. A daemon that ends in between does so when it is started again. A server that cannot be changed delays the failover by 5 seconds at most.",
		at:    func(c *Config) any { return &c.StandbyDisconnectOnFailover },
	},
	{
		Name: "sibling_nodes_disconnect_timeout", Group: groupFailover, Kind: Duration, Unit: second, Default: "30s", Min: "0", Max: anySecs,
		Reader: ByDaemon, Reload: AtReload,
		Brief: "how long to wait until the other standbys have stopped streaming",
		About: "Counted from this node's own bid. It is used with standby_disconnect_on_failover only; after it the failover goes on.",
		at:    func(c *Config) any { return &c.SiblingNodesDisconnectTimeout },
	},
	{
		Name: "failover_validation_command", Group: groupFailover, Kind: Command, Max: longLen, Reader: ByDaemon, Reload: AtReload,
		Placeholders: []Placeholder{
			{'n', "id of this node"}, {'a', "name of this node"}, {'v', "number of visible nodes"},
			{'u', "number of nodes that share the failed upstream"}, {'t', "number of all nodes"}, {'%', "a percent sign"},
		},
		Brief:   "command that the chosen node asks before its promotion; another exit status than 0 vetoes it",
		About:   "After a veto the choice is made again, election_rerun_interval later.",
		Example: "/usr/local/bin/may-promote %n %v %t",
		at:      func(c *Config) any { return &c.FailoverValidationCommand },
	},
	{
		Name: "election_rerun_interval", Group: groupFailover, Kind: Duration, Unit: second, Default: "15s", Min: "100ms", Max: oneDay,
		Reader: ByDaemon, Reload: AtReload,
		Brief: "time between a veto and the next choice",
		at:    func(c *Config) any { return &c.ElectionRerunInterval },
	},
	{
		Name: "always_promote", Group: groupFailover, Kind: Boolean, Default: "false", Reader: ByDaemon, Reload: AtReload,
		Brief: "promote this node although its record names no upstream",
		About: "Such a record may be out of date: the others do not count this node among the standbys of the lost primary. Without it the node waits for another one's promotion, or for an operator.",
		at:    func(c *Config) any { return &c.AlwaysPromote },
	},
	{
		Name: "promote_delay", Group: groupFailover, Kind: Duration, Unit: second, Default: "0", Min: "0", Max: oneDay, Undocumented: true,
		Reader: ByBoth, Reload: AtReload,
		Brief: "time to wait before a promotion, for tests",
		About: "Counted from this node's bid. When the primary comes back within it, nobody is promoted.",
		at:    func(c *Config) any { return &c.PromoteDelay },
	},
	{
		Name: "failover_delay", Group: groupFailover, Kind: Duration, Unit: second, Default: "0", Min: "0", Max: oneDay, Undocumented: true,
		Reader: ByDaemon, Reload: AtReload,
		Brief: "time to wait before a failover begins, for tests",
		About: "Counted from the loss of the primary.",
		at:    func(c *Config) any { return &c.FailoverDelay },
	},

	{
		Name: "promotion_rule", Group: groupQuorum, Kind: Choice, Default: "auto", Choices: []string{"auto", "visibility"}, New: true,
		Reader: ByDaemon, Reload: AtReload,
		Brief: "by which rule a standby is promoted: by quorum once there are three voters, or by visibility alone",
		About: "With `auto` and failover=automatic the daemons form a group as soon as three of them are registered and run; from then on the primary holds a lease, and nobody is promoted without a majority. `visibility` is repmgr 5's rule, which cannot stop a primary that is cut off. Set the same on every node.",
		at:    func(c *Config) any { return &c.PromotionRule },
	},
	{
		Name: "lease_ttl", Group: groupQuorum, Kind: Duration, Unit: second, Default: "5s", Min: "1s", Max: "300s", New: true,
		Reader: ByDaemon, Reload: AtRestart,
		Brief: "how long the primary's lease lasts without a renewal",
		About: "A primary that cannot renew its lease stops after 0.7 of it; the others promote one of them after all of it. Shorter is faster after the loss of a host, and less patient with slow links. Set the same on every node.",
		at:    func(c *Config) any { return &c.LeaseTTL },
	},
	{
		Name: "primary_restart_grace", Group: groupQuorum, Kind: Duration, Unit: second, Default: "3s", Min: "0", Max: "3600s", New: true,
		Reader: ByDaemon, Reload: AtReload,
		Brief: "how long a primary that was stopped in order may stay down before it gives its lease back",
		at:    func(c *Config) any { return &c.PrimaryRestartGrace },
	},
	{
		Name: "primary_recovery_grace", Group: groupQuorum, Kind: Duration, Unit: second, Default: "5s", Min: "0", Max: "3600s", New: true,
		Reader: ByDaemon, Reload: AtReload,
		Brief: "how long a primary may be starting or recovering before it gives its lease back",
		at:    func(c *Config) any { return &c.PrimaryRecoveryGrace },
	},
	{
		Name: "primary_hang_timeout", Group: groupQuorum, Kind: Duration, Unit: second, Default: "3s", Min: "1s", Max: "3600s", New: true,
		Reader: ByDaemon, Reload: AtReload,
		Brief: "how long a primary that lives may give no answer before it is stopped and gives its lease back",
		at:    func(c *Config) any { return &c.PrimaryHangTimeout },
	},
	{
		Name: "primary_write_timeout", Group: groupQuorum, Kind: Duration, Unit: second, Default: "20s", Min: "0", Max: "3600s", New: true,
		Reader: ByDaemon, Reload: AtReload,
		Brief: "how long a small commit of repmgrd's own may take before the primary's disk counts as stalled; 0: never",
		About: "A server whose disk does not take writes any more still answers queries. Longer than the longest stall that a checkpoint causes.",
		at:    func(c *Config) any { return &c.PrimaryWriteTimeout },
	},
	{
		Name: "bid_window", Group: groupQuorum, Kind: Duration, Unit: milli, Default: "300ms", Min: "10ms", Max: "60s", New: true,
		Reader: ByDaemon, Reload: AtReload,
		Brief: "how long standbys that were heard of are waited for before one is promoted",
		About: "When all have told how far they are, none is waited for.",
		at:    func(c *Config) any { return &c.BidWindow },
	},
	{
		Name: "maximum_lag_on_failover", Group: groupQuorum, Kind: Integer, Default: "67108864", Min: "-1", Max: anyInt, New: true,
		Reader: ByDaemon, Reload: AtReload,
		Brief: "how many bytes of WAL a standby may be behind and still be promoted by itself; -1: any number",
		About: "Measured against the primary's position at its last renewal of the lease, which may be a fifth of lease_ttl old.",
		at:    func(c *Config) any { return &c.MaximumLagOnFailover },
	},
	{
		Name: "synchronous_mode", Group: groupQuorum, Kind: Choice, Default: "off", Choices: []string{"off", "on", "strict"}, New: true,
		Reader: ByDaemon, Reload: AtReload,
		Brief: "whether repmgrd manages synchronous replication: a commit is acknowledged once it is on standbys",
		About: "Under the quorum rule repmgrd sets synchronous_standby_names to standbys that may be promoted, changes it only in steps that keep every acknowledged commit on whoever is promoted next, and puts back what was configured before when it is switched off. `on`: standbys that are gone or slow are taken out, and while there is none, commits are acknowledged by the primary alone. `strict`: commits wait then. Set the same on every node.",
		at:    func(c *Config) any { return &c.SynchronousMode },
	},
	{
		Name: "synchronous_node_count", Group: groupQuorum, Kind: Integer, Default: "1", Min: "1", Max: "100", New: true,
		Reader: ByDaemon, Reload: AtReload,
		Brief: "how many standbys must have a commit before it is acknowledged",
		About: "With synchronous_mode=`on` fewer are enough while fewer keep up.",
		at:    func(c *Config) any { return &c.SynchronousNodeCount },
	},
	{
		Name: "synchronous_standby_timeout", Group: groupQuorum, Kind: Duration, Unit: second, Default: "5s", Min: "1s", Max: "3600s", New: true,
		Reader: ByDaemon, Reload: AtReload,
		Brief: "how long a synchronous standby may be gone, or make no progress, before it is taken out",
		About: "With synchronous_mode=`on` commits may wait for as long, once, when the last standby is lost.",
		at:    func(c *Config) any { return &c.SynchronousStandbyTimeout },
	},
	{
		Name: "auto_rejoin", Group: groupQuorum, Kind: Choice, Default: "rewind", Choices: []string{"rewind", "clone", "off"}, New: true,
		Reader: ByDaemon, Reload: AtReload,
		Brief: "how far repmgrd may go to make a former primary a standby again",
		About: "`rewind`: it follows as it is if it can, else pg_rewind is run; only where that was broken off, as when the primary was lost meanwhile, and nothing can be started any more, it is cloned anew. `clone`: so it is wherever pg_rewind fails. `off`: it is left to the operators. What is discarded is kept first, counted, and told in the event repmgrd_commits_discarded.",
		at:    func(c *Config) any { return &c.AutoRejoin },
	},
	{
		Name: "rejoin_keep_wal", Group: groupQuorum, Kind: Integer, Default: "1024", Min: "0", Max: anyInt, New: true,
		Reader: ByDaemon, Reload: AtReload,
		Brief: "how many megabytes of a diverged history are kept in the state directory before a rewind",
		About: "It bounds all that is kept there: the oldest is removed when a new one is kept.",
		at:    func(c *Config) any { return &c.RejoinKeepWAL },
	},
	{
		Name: "watchdog_device", Group: groupQuorum, Kind: Path, Max: pathLen, New: true,
		Reader: ByDaemon, Reload: AtRestart,
		Brief:   "watchdog that resets the host if neither repmgrd nor its guard can stop the server; empty: none",
		Example: "/dev/watchdog",
		at:      func(c *Config) any { return &c.WatchdogDevice },
	},

	{
		Name: "child_nodes_check_interval", Group: groupChildren, Kind: Duration, Unit: second, Default: "5s", Min: "0", Max: oneDay,
		Reader: ByDaemon, Reload: AtReload,
		Brief: "time between two looks at which standbys are attached to the primary; 0: none",
		About: "repmgr 5's manual allows 0, its parser does not.",
		at:    func(c *Config) any { return &c.ChildNodesCheckInterval },
	},
	{
		Name: "child_nodes_disconnect_command", Group: groupChildren, Kind: Command, Max: longLen, Reader: ByDaemon, Reload: AtReload,
		Placeholders: []Placeholder{{'p', "id of this node"}, {'%', "a percent sign"}},
		Brief:        "command that the primary runs when too few standbys are attached",
		About:        "It runs once, and again only after enough standbys were attached in between. A standby that was never attached since the daemon watches this primary does not count as away, and all that are away must be so for child_nodes_disconnect_timeout. Nothing is run while failover is paused. There is no time limit, and the end of the daemon does not end it.",
		Example:      "/usr/local/bin/fence-primary %p",
		at:           func(c *Config) any { return &c.ChildNodesDisconnectCommand },
	},
	{
		Name: "child_nodes_disconnect_timeout", Group: groupChildren, Kind: Duration, Unit: second, Default: "30s", Min: "0", Max: anySecs,
		Reader: ByDaemon, Reload: AtReload,
		Brief: "how long they must have been away before the command is run",
		at:    func(c *Config) any { return &c.ChildNodesDisconnectTimeout },
	},
	{
		Name: "child_nodes_connected_min_count", Group: groupChildren, Kind: Integer, Default: "-1", Min: "-1", Max: anyInt,
		Reader: ByDaemon, Reload: AtReload,
		Brief: "the command is run when fewer than this many are attached; -1 or 0: not set",
		About: "It overrides child_nodes_disconnect_min_count. If neither is set the command is run when none is attached.",
		at:    func(c *Config) any { return &c.ChildNodesConnectedMinCount },
	},
	{
		Name: "child_nodes_disconnect_min_count", Group: groupChildren, Kind: Integer, Default: "-1", Min: "-1", Max: anyInt,
		Reader: ByDaemon, Reload: AtReload,
		Brief: "the command is run when this many or more are away; -1 or 0: not set",
		at:    func(c *Config) any { return &c.ChildNodesDisconnectMinCount },
	},
	{
		Name: "child_nodes_connected_include_witness", Group: groupChildren, Kind: Boolean, Default: "false", Reader: ByDaemon, Reload: AtReload,
		Brief: "count a witness too",
		at:    func(c *Config) any { return &c.ChildNodesConnectedIncludeWitness },
	},

	{
		Name: "pg_ctl_options", Group: groupServices, Kind: Text, Max: longLen, Reader: ByBoth, Reload: AtReload,
		Brief: "options added to the command line of pg_ctl",
		About: "They do not apply where a service command is set.",
		at:    func(c *Config) any { return &c.PgCtlOptions },
	},
	{
		Name: "service_start_command", Group: groupServices, Kind: Command, Max: longLen, Reader: ByBoth, Reload: AtReload,
		Brief:   "command that starts PostgreSQL; empty: pg_ctl",
		Example: "sudo systemctl start postgresql@15-main",
		at:      func(c *Config) any { return &c.ServiceStartCommand },
	},
	{
		Name: "service_stop_command", Group: groupServices, Kind: Command, Max: longLen, Reader: ByBoth, Reload: AtReload,
		Brief:   "command that stops PostgreSQL; empty: pg_ctl",
		Example: "sudo systemctl stop postgresql@15-main",
		at:      func(c *Config) any { return &c.ServiceStopCommand },
	},
	{
		Name: "service_restart_command", Group: groupServices, Kind: Command, Max: longLen, Reader: ByBoth, Reload: AtReload,
		Brief:   "command that restarts PostgreSQL; empty: pg_ctl",
		Example: "sudo systemctl restart postgresql@15-main",
		at:      func(c *Config) any { return &c.ServiceRestartCommand },
	},
	{
		Name: "service_reload_command", Group: groupServices, Kind: Command, Max: longLen, Reader: ByBoth, Reload: AtReload,
		Brief:   "command that makes PostgreSQL read its configuration again; empty: pg_ctl",
		Example: "sudo systemctl reload postgresql@15-main",
		at:      func(c *Config) any { return &c.ServiceReloadCommand },
	},
	{
		Name: "service_promote_command", Group: groupServices, Kind: Command, Max: longLen, Reader: ByBoth, Reload: AtReload,
		Brief:   "command that promotes PostgreSQL; empty: asked of the server itself, or pg_ctl",
		About:   "It must not run `repmgr standby promote`; that belongs to promote_command.",
		Example: "sudo pg_ctlcluster 15 main promote",
		at:      func(c *Config) any { return &c.ServicePromoteCommand },
	},
	{
		Name: "repmgrd_service_start_command", Group: groupServices, Kind: Command, Max: longLen, Reader: ByCommand,
		Brief:   "command by which `repmgr daemon start` starts repmgrd; empty: the repmgrd beside the program, in the background",
		Example: "sudo systemctl start repmgrd",
		at:      func(c *Config) any { return &c.RepmgrdServiceStartCommand },
	},
	{
		Name: "repmgrd_service_stop_command", Group: groupServices, Kind: Command, Max: longLen, Reader: ByCommand,
		Brief:   "command by which `repmgr daemon stop` stops repmgrd; empty: SIGTERM",
		About:   "A repmgrd that systemd has started is started again by it after that: then this has to be set.",
		Example: "sudo systemctl stop repmgrd",
		at:      func(c *Config) any { return &c.RepmgrdServiceStopCommand },
	},

	{
		Name: "ssh_options", Group: groupRemote, Kind: Text, Default: "-q -o ConnectTimeout=10", Max: longLen, Reader: ByCommand,
		Brief: "options of ssh, by which Barman's host is reached, and nodes whose daemons do not answer",
		About: "A login must need no password. What ssh itself complains of is shown also where -q is among them.",
		at:    func(c *Config) any { return &c.SSHOptions },
	},
	{
		Name: "rsync_options", Group: groupRemote, Kind: Text, Max: longLen, Reader: ByCommand,
		Brief:  "options of rsync; empty: --archive --checksum --compress --progress --rsh=ssh",
		Unread: "has no effect: `standby clone --copy-external-config-files` reads the files through the connection to the server that is copied",
		at:     func(c *Config) any { return &c.RsyncOptions },
	},

	{
		Name: "barman_host", Group: groupBarman, Kind: Text, Max: textLen, Reader: ByCommand,
		Brief: "host of Barman, for ssh; may hold a user (barman@host)",
		About: "Set together with barman_server. `standby clone` then copies the latest backup there, by `ssh` and `rsync`, unless --without-barman is given. The command `barman` must be in the PATH there, and the user must be able to read Barman's files. Where Barman keeps WAL too, restore_command should fetch it: `barman-wal-restore -U USER HOST SERVER %f %p`.",
		at:    func(c *Config) any { return &c.BarmanHost },
	},
	{
		Name: "barman_server", Group: groupBarman, Kind: Text, Max: textLen, Reader: ByCommand,
		Brief: "name of the cluster in Barman's configuration",
		About: "Set together with barman_host.",
		at:    func(c *Config) any { return &c.BarmanServer },
	},
	{
		Name: "barman_config", Group: groupBarman, Kind: Text, Max: pathLen, Reader: ByCommand,
		Brief: "Barman's configuration file on its host, if not the default one",
		at:    func(c *Config) any { return &c.BarmanConfig },
	},
	{
		Name: "pg_backupapi_host", Group: groupBarman, Kind: Text, Max: nameLen, Reader: ByCommand,
		Brief: "host of pg-backup-api; host:port, or a URL",
		About: "With the three parameters below: the four are set together. `standby clone` then has Barman restore the backup into the data directory, by pg-backup-api, unless barman_host is set and --without-barman is not given. The port is 7480 unless one is named. A URL is for a proxy before the service, which by itself listens on its own host only: `https://backup.example/barman`.",
		at:    func(c *Config) any { return &c.PgBackupapiHost },
	},
	{
		Name: "pg_backupapi_node_name", Group: groupBarman, Kind: Text, Max: nameLen, Reader: ByCommand,
		Brief: "name of the server in Barman, for pg-backup-api",
		at:    func(c *Config) any { return &c.PgBackupapiNodeName },
	},
	{
		Name: "pg_backupapi_backup_id", Group: groupBarman, Kind: Text, Max: nameLen, Reader: ByCommand,
		Brief: "id of the backup that is restored",
		About: "As `barman list-backups` shows it, or one of Barman's words `latest`, `last`, `oldest` and `first`.",
		at:    func(c *Config) any { return &c.PgBackupapiBackupID },
	},
	{
		Name: "pg_backupapi_remote_ssh_command", Group: groupBarman, Kind: Command, Max: longLen, Reader: ByCommand,
		Brief:   "how Barman's host reaches this node",
		About:   "Run by Barman's user on Barman's host, without a password, and for the user that PostgreSQL runs as here.",
		Example: "ssh postgres@node2",
		at:      func(c *Config) any { return &c.PgBackupapiRemoteSSHCommand },
	},
}
