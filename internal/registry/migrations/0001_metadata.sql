-- The metadata of repmgr 5.5, column for column. This file is skipped where the
-- tables exist already, made by an earlier run or by repmgr 5's extension.

CREATE TABLE repmgr.nodes (
    node_id          integer     PRIMARY KEY,
    upstream_node_id integer     NULL REFERENCES repmgr.nodes (node_id) DEFERRABLE,
    active           boolean     NOT NULL DEFAULT true,
    node_name        text        NOT NULL,
    type             text        NOT NULL CHECK (type IN ('primary', 'standby', 'witness', 'bdr')),
    location         text        NOT NULL DEFAULT 'default',
    priority         integer     NOT NULL DEFAULT 100,
    conninfo         text        NOT NULL,
    repluser         varchar(63) NOT NULL,
    slot_name        text        NULL,
    config_file      text        NOT NULL
);

-- An event outlives its node, so node_id refers to nothing.
CREATE TABLE repmgr.events (
    node_id         integer     NOT NULL,
    event           text        NOT NULL,
    successful      boolean     NOT NULL DEFAULT true,
    event_timestamp timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    details         text        NULL
);

CREATE TABLE repmgr.monitoring_history (
    primary_node_id           integer     NOT NULL,
    standby_node_id           integer     NOT NULL,
    last_monitor_time         timestamptz NOT NULL,
    last_apply_time           timestamptz,
    last_wal_primary_location pg_lsn      NOT NULL,
    last_wal_standby_location pg_lsn,
    replication_lag           bigint      NOT NULL,
    apply_lag                 bigint      NOT NULL
);

CREATE INDEX idx_monitoring_history_time
    ON repmgr.monitoring_history (last_monitor_time, standby_node_id);

-- One row at most, and it cannot be deleted.
CREATE TABLE repmgr.voting_term (
    term integer NOT NULL
);

CREATE UNIQUE INDEX voting_term_restrict ON repmgr.voting_term ((TRUE));

CREATE RULE voting_term_delete AS ON DELETE TO repmgr.voting_term DO INSTEAD NOTHING;

CREATE VIEW repmgr.show_nodes AS
    SELECT node.node_id,
           node.node_name,
           node.active,
           node.upstream_node_id,
           upstream.node_name AS upstream_node_name,
           node.type,
           node.priority,
           node.conninfo
      FROM repmgr.nodes AS node
      LEFT JOIN repmgr.nodes AS upstream ON upstream.node_id = node.upstream_node_id;

-- The newest sample of each standby. The C extension keeps the time of the last
-- write of a standby in shared memory; here it is the sample's own time.
CREATE VIEW repmgr.replication_status AS
    SELECT sample.primary_node_id,
           sample.standby_node_id,
           node.node_name AS standby_name,
           node.type AS node_type,
           node.active,
           sample.last_monitor_time,
           CASE WHEN node.type = 'standby' THEN sample.last_wal_primary_location END
               AS last_wal_primary_location,
           sample.last_wal_standby_location,
           CASE WHEN node.type = 'standby' THEN pg_catalog.pg_size_pretty(sample.replication_lag) END
               AS replication_lag,
           CASE WHEN node.type <> 'standby' THEN NULL
                WHEN sample.replication_lag > 0 THEN pg_catalog.now() - sample.last_apply_time
                ELSE '0'::interval
           END AS replication_time_lag,
           CASE WHEN node.type = 'standby' THEN pg_catalog.pg_size_pretty(sample.apply_lag) END
               AS apply_lag,
           pg_catalog.now() - sample.last_monitor_time AS communication_time_lag
      FROM (SELECT DISTINCT ON (standby_node_id) *
              FROM repmgr.monitoring_history
             ORDER BY standby_node_id, last_monitor_time DESC) AS sample
      JOIN repmgr.nodes AS node ON node.node_id = sample.standby_node_id;
