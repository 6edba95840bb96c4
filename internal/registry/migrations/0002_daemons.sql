-- What repmgr 5 does not have: where the daemons listen, and the certificate
-- authority by which they know each other. Physical replication carries both to
-- every standby. Nobody but the owner may read the authority's private key.

CREATE TABLE repmgr.endpoints (
    node_id integer PRIMARY KEY REFERENCES repmgr.nodes (node_id) ON DELETE CASCADE,
    host    text    NOT NULL,
    port    integer NOT NULL
);

CREATE TABLE repmgr.authority (
    certificate text NOT NULL,
    private_key text NOT NULL
);

CREATE UNIQUE INDEX authority_single_row ON repmgr.authority ((TRUE));

REVOKE ALL ON repmgr.endpoints, repmgr.authority FROM PUBLIC;
