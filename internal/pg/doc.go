// Package pg owns everything that is said to one PostgreSQL server and read from
// one data directory: connections, facts, replication slots, the control file,
// recovery settings, base backups and the command lines of PostgreSQL's tools.
// It knows nothing of other nodes, of the repmgr schema and of what is decided.
package pg
