// Package conf owns repmgr.conf: what may stand in it, what each parameter
// means, and everything that is made from that knowledge. One table, Params,
// drives parsing, limits, defaults, the rules of a reload, the help text, the
// annotated sample and the reference page. The package reads no file and no
// environment itself; the caller hands it a Files.
package conf

import (
	"time"

	"repmgr/internal/cluster"
)

// Unset is a duration that was not given, or was switched off with -1. What
// that means stands at the parameter; no other negative duration occurs.
const Unset time.Duration = -1

// Mapping says that a tablespace at Old on the upstream is put at New here.
type Mapping struct{ Old, New string }

// Config holds the value of every parameter of repmgr.conf. A field is named
// as its parameter, in camel case and without the unit; Params says what it
// means. A Config is a value: Load makes a new one and nobody changes it.
type Config struct {
	NodeID          cluster.NodeID
	NodeName        string
	Conninfo        string
	ReplicationUser string // empty: the user of Conninfo
	DataDirectory   string
	ConfigDirectory string
	PgBindir        string
	RepmgrBindir    string
	ReplicationType string
	StateDirectory  string // empty: see StateDir

	LogLevel          string // in capitals
	LogFacility       string // in capitals
	LogFile           string
	LogStatusInterval time.Duration // zero: off

	EventNotificationCommand string
	EventNotifications       []string // empty: all

	UseReplicationSlots            bool
	ManageSynchronizedStandbySlots bool
	PgBasebackupOptions            string
	RestoreCommand                 string
	ArchiveCleanupCommand          string
	RecoveryMinApplyDelay          time.Duration // Unset: not written
	TablespaceMapping              []Mapping
	UsePrimaryConninfoPassword     bool
	Passfile                       string

	PromoteCheckTimeout     time.Duration
	PromoteCheckInterval    time.Duration
	PrimaryFollowTimeout    time.Duration
	StandbyFollowTimeout    time.Duration
	StandbyFollowRestart    bool
	ShutdownCheckTimeout    time.Duration
	StandbyReconnectTimeout time.Duration
	WalReceiveCheckTimeout  time.Duration
	NodeRejoinTimeout       time.Duration

	ArchiveReadyWarning    int // files
	ArchiveReadyCritical   int // files
	ReplicationLagWarning  time.Duration
	ReplicationLagCritical time.Duration

	Failover                      string // manual or automatic
	Location                      string
	Priority                      int // zero: never promoted
	PromoteCommand                string
	FollowCommand                 string
	MonitorInterval               time.Duration
	ReconnectAttempts             int
	ReconnectInterval             time.Duration
	ReconnectLoopSync             bool
	ConnectionCheckType           string // ping, connection or query
	ConnectionCheckQuery          string
	MonitoringHistory             bool
	DegradedMonitoringTimeout     time.Duration // Unset: never given up
	AsyncQueryTimeout             time.Duration
	PrimaryNotificationTimeout    time.Duration
	RepmgrdStandbyStartupTimeout  time.Duration // Load and Default put StandbyReconnectTimeout in place of Unset
	RepmgrdPidFile                string
	RepmgrdExitOnInactiveNode     bool
	StandbyDisconnectOnFailover   bool
	SiblingNodesDisconnectTimeout time.Duration
	PrimaryVisibilityConsensus    bool
	AlwaysPromote                 bool
	FailoverValidationCommand     string
	ElectionRerunInterval         time.Duration
	WitnessSyncInterval           time.Duration
	PromoteDelay                  time.Duration
	FailoverDelay                 time.Duration
	DaemonListenAddress           string // empty: every address
	DaemonPort                    int
	PromotionRule                 string
	LeaseTTL                      time.Duration
	PrimaryRestartGrace           time.Duration
	PrimaryRecoveryGrace          time.Duration
	PrimaryHangTimeout            time.Duration
	PrimaryWriteTimeout           time.Duration
	BidWindow                     time.Duration
	MaximumLagOnFailover          int
	SynchronousMode               string
	SynchronousNodeCount          int
	SynchronousStandbyTimeout     time.Duration
	AutoRejoin                    string
	RejoinKeepWAL                 int
	WatchdogDevice                string

	ChildNodesCheckInterval           time.Duration // zero: off
	ChildNodesDisconnectMinCount      int           // -1: not set
	ChildNodesConnectedMinCount       int           // -1: not set
	ChildNodesConnectedIncludeWitness bool
	ChildNodesDisconnectTimeout       time.Duration
	ChildNodesDisconnectCommand       string

	PgCtlOptions               string
	ServiceStartCommand        string
	ServiceStopCommand         string
	ServiceRestartCommand      string
	ServiceReloadCommand       string
	ServicePromoteCommand      string
	RepmgrdServiceStartCommand string
	RepmgrdServiceStopCommand  string

	RsyncOptions string
	SSHOptions   string

	BarmanHost                  string
	BarmanServer                string
	BarmanConfig                string
	PgBackupapiHost             string
	PgBackupapiNodeName         string
	PgBackupapiBackupID         string
	PgBackupapiRemoteSSHCommand string
}

// Default is the configuration of a file in which nothing is set. It lacks what
// has no default (node_id, node_name, conninfo, data_directory).
func Default() *Config {
	c := defaults()
	c.resolve()
	return c
}

// defaults is Default before one parameter's value is taken from another's.
func defaults() *Config {
	c := new(Config)
	for i := range Params {
		if Params[i].Required {
			continue
		}
		if err := Params[i].set(c, Params[i].Default); err != nil {
			panic("conf: the default of " + Params[i].Name + " is not valid: " + err.Error())
		}
	}
	return c
}

// resolve gives one value to what may be written in two ways, and fills what
// takes its value from another parameter when not set.
func (c *Config) resolve() {
	if c.DegradedMonitoringTimeout == 0 { // which repmgr 5 takes for "off" too
		c.DegradedMonitoringTimeout = Unset
	}
	if c.RepmgrdStandbyStartupTimeout == Unset {
		c.RepmgrdStandbyStartupTimeout = c.StandbyReconnectTimeout
	}
}

// WithoutServer reports whether the file is that of a witness without PostgreSQL:
// it names neither a server nor a data directory, and so must name a state_directory.
func (c *Config) WithoutServer() bool { return c.Conninfo == "" && c.DataDirectory == "" }

// StateDir is where the daemon keeps its own files, never inside the data
// directory, which base backups and rewinds replace.
func (c *Config) StateDir() string {
	if c.StateDirectory != "" || c.DataDirectory == "" {
		return c.StateDirectory
	}
	return c.DataDirectory + ".repmgr"
}

// PidFile is where repmgrd writes the number of its process, unless its command
// line names another file.
func (c *Config) PidFile() string {
	if c.RepmgrdPidFile != "" {
		return c.RepmgrdPidFile
	}
	return c.StateDir() + "/repmgrd.pid"
}
