package api

import (
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/failover"
)

// The paths of the versioned interface. The health endpoints have none: their
// names are Patroni's, so that configurations of load balancers work unchanged.
const (
	PathExchange = "/v1/exchange"
	PathStatus   = "/v1/status"
	PathHealth   = "/v1/health"
	PathPause    = "/v1/pause"
	PathWake     = "/v1/wake"
)

// ViewVersion is the version of ClusterView's form; it only grows.
const ViewVersion = 1

// ClusterView is what one daemon knows of its cluster.
type ClusterView struct {
	Version   int             `json:"view_version"`
	ClusterID string          `json:"cluster_id,omitempty"` // of the certificate authority
	Own       failover.Report `json:"own"`
	Peers     []Peer          `json:"peers"`
	Nodes     []cluster.Node  `json:"nodes"` // as registered; the server sends them without conninfo
	Decision  Decision        `json:"decision"`
	Recent    []Decision      `json:"recent"` // the last decisions that did or changed something, oldest first

	// Turned is how long ago the daemon's loop last went round; zero is just now.
	Turned time.Duration `json:"turned_ago_ns"`
}

// Peer is another daemon, as far as it was heard of.
type Peer struct {
	Node   cluster.NodeID   `json:"node_id"`
	Name   string           `json:"node_name"`
	Host   string           `json:"host"`
	Port   int              `json:"port"`
	Report *failover.Report `json:"report,omitempty"` // its latest; nil: never heard of it
	Age    time.Duration    `json:"age_ns"`           // since that report came
	Error  string           `json:"error,omitempty"`  // of the last attempt to reach it, if it failed
}

// Decision is a rule that applied, and what was done about it.
type Decision struct {
	At      time.Time `json:"at"` // by the daemon's own clock
	Rule    string    `json:"rule"`
	Why     string    `json:"why"`
	Actions []string  `json:"actions,omitempty"`
}

// Health is the body of the health endpoints: a node in a few words.
type Health struct {
	OK       bool                 `json:"ok"`
	Why      string               `json:"why,omitempty"` // if not ok
	Node     cluster.NodeID       `json:"node_id"`
	Name     string               `json:"node_name"`
	Version  string               `json:"version"`
	Role     cluster.Role         `json:"role"`
	Server   failover.ServerState `json:"server"`
	Timeline cluster.Timeline     `json:"timeline"`
	LSN      cluster.LSN          `json:"lsn"`
	Replayed cluster.LSN          `json:"replayed"`
	Lag      *uint64              `json:"lag_bytes,omitempty"` // behind the primary's last known position, if asked for and known
	Paused   bool                 `json:"paused"`
}

// pauseRequest is the body of PathPause.
type pauseRequest struct {
	Paused bool   `json:"paused"`
	Reason string `json:"reason,omitempty"`
}

// failure is the body of every answer that is an error: a fault.Error's parts.
type failure struct {
	Code   int    `json:"code"`
	Msg    string `json:"error"`
	Detail string `json:"detail,omitempty"`
	Hint   string `json:"hint,omitempty"`
}
