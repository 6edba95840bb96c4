-- The daemons' group under the quorum rule: that it was founded, and by whom, so
-- that it is not founded a second time; and which rule is in force, for a daemon
-- that is no member yet. Decisions are made from the group's own record.

CREATE TABLE repmgr.quorum (
    founding   text        NOT NULL,
    node_id    integer     NOT NULL,
    founded_at timestamptz NOT NULL DEFAULT now(),
    rule       text        NOT NULL DEFAULT 'visibility'
);

CREATE UNIQUE INDEX quorum_single_row ON repmgr.quorum ((TRUE));

REVOKE ALL ON repmgr.quorum FROM PUBLIC;
