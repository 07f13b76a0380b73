-- Times are microseconds since 1970, UTC. A "data" or "head" column holds a record of package store. The shard of a
-- ticket, a message and what belongs to a message is the one in the message's id; that of a gate, of what waits there and
-- of its slots is the gate's.

CREATE TABLE meta (
    key   text COLLATE "C" NOT NULL PRIMARY KEY,
    value bigint NOT NULL
);

-- Small tables without a shard: configuration and nodes.

CREATE TABLE node_epochs (
    name text COLLATE "C" NOT NULL PRIMARY KEY,
    last bigint NOT NULL -- the epoch of its last lease
);

-- A row stays for a while after it was forgotten.
CREATE TABLE nodes (
    name      text COLLATE "C" NOT NULL,
    epoch     bigint NOT NULL,
    address   text NOT NULL,
    expires   bigint NOT NULL,
    forgotten bigint,
    PRIMARY KEY (name, epoch)
);

-- Version 0 means that there is no such tenant: the row is there to be locked.
CREATE TABLE tenants (
    id      bigint NOT NULL PRIMARY KEY,
    version bigint NOT NULL
);

CREATE TABLE config (
    tenant  bigint NOT NULL,
    kind    text COLLATE "C" NOT NULL,
    name    text COLLATE "C" NOT NULL,
    value   bytea NOT NULL,
    created bigint NOT NULL,
    updated bigint NOT NULL,
    PRIMARY KEY (tenant, kind, name)
);
CREATE INDEX config_name ON config (kind, name, tenant);

CREATE TABLE ticks (
    tenant   bigint NOT NULL,
    schedule text COLLATE "C" NOT NULL,
    next     bigint,
    data     bytea NOT NULL,
    PRIMARY KEY (tenant, schedule)
);
CREATE INDEX ticks_next ON ticks (next) WHERE next IS NOT NULL;

-- Hot tables. Every key begins with the shard.

-- The day is that of the id. It is last in the keys, so that the tables can be partitioned by it.
CREATE TABLE messages (
    shard   smallint NOT NULL,
    tenant  bigint NOT NULL,
    id      text COLLATE "C" NOT NULL,
    day     integer NOT NULL,
    at_once boolean NOT NULL,
    head    bytea NOT NULL,
    body    bytea NOT NULL,
    PRIMARY KEY (shard, tenant, id, day)
);

CREATE TABLE attempts (
    shard   smallint NOT NULL,
    tenant  bigint NOT NULL,
    id      text COLLATE "C" NOT NULL,
    number  integer NOT NULL,
    day     integer NOT NULL,
    started bigint NOT NULL,
    ended   bigint NOT NULL,
    at_once boolean NOT NULL,
    data    bytea NOT NULL,
    PRIMARY KEY (shard, tenant, id, number, day)
);
CREATE INDEX attempts_ended ON attempts (shard, tenant, ended, id, number);
CREATE INDEX attempts_started ON attempts (shard, tenant, started, id, number) WHERE NOT at_once;

-- n is 0 for CANCEL_REQUESTED and 1 for CANCELED.
CREATE TABLE marks (
    shard  smallint NOT NULL,
    tenant bigint NOT NULL,
    at     bigint NOT NULL,
    id     text COLLATE "C" NOT NULL,
    n      smallint NOT NULL,
    day    integer NOT NULL,
    PRIMARY KEY (shard, tenant, at, id, n, day)
);
CREATE INDEX marks_id ON marks (shard, tenant, id);

-- The shard of a dead letter is derived from seq.
CREATE TABLE dead_letters (
    shard   smallint NOT NULL,
    tenant  bigint NOT NULL,
    ms      bigint NOT NULL,
    seq     bigint NOT NULL,
    message text COLLATE "C" NOT NULL,
    data    bytea NOT NULL,
    PRIMARY KEY (shard, tenant, ms, seq)
);
CREATE INDEX dead_letters_message ON dead_letters (shard, message);

-- due is set when Delayed or Ready, node and epoch when Claimed, at_shard to place when Waiting: they are the key of the
-- row in waits. plain says that the ticket names no gate.
CREATE TABLE tickets (
    shard    smallint NOT NULL,
    id       text COLLATE "C" NOT NULL,
    tenant   bigint NOT NULL,
    due      bigint,
    plain    boolean NOT NULL,
    node     text COLLATE "C",
    epoch    bigint,
    at_shard smallint,
    at_kind  smallint,
    at_name  text COLLATE "C",
    rank     smallint,
    place    bigint,
    data     bytea NOT NULL,
    PRIMARY KEY (shard, id)
) WITH (autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX tickets_due ON tickets (shard, due) WHERE due IS NOT NULL;
CREATE INDEX tickets_ripe ON tickets (shard, tenant, due, id) WHERE due IS NOT NULL;
CREATE INDEX tickets_claims ON tickets (shard, node, epoch, id) WHERE node IS NOT NULL;
CREATE INDEX tickets_tenant ON tickets (shard, tenant, id) WHERE node IS NULL;

-- The wait lists. A row carries a copy of its ticket, but for Due: that is wake, which alone changes.
CREATE TABLE waits (
    shard  smallint NOT NULL,
    kind   smallint NOT NULL,
    tenant bigint NOT NULL,
    name   text COLLATE "C" NOT NULL,
    rank   smallint NOT NULL,
    place  bigint NOT NULL,
    id     text COLLATE "C" NOT NULL,
    wake   bigint,
    data   bytea NOT NULL,
    PRIMARY KEY (shard, kind, tenant, name, rank, place, id)
) WITH (autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX waits_wake ON waits (shard, wake) WHERE wake IS NOT NULL;

-- Empty data means that there is no such gate: the row is there to be locked. No index holds what a start changes, so
-- that updates stay on their page. Nothing waits at the gate before rank and place, so whoever looks for its first tickets need not
-- pass what left the list and is not cleaned up yet.
CREATE TABLE gates (
    shard  smallint NOT NULL,
    kind   smallint NOT NULL,
    tenant bigint NOT NULL,
    name   text COLLATE "C" NOT NULL,
    data   bytea NOT NULL,
    rank   smallint NOT NULL DEFAULT -32768,
    place  bigint NOT NULL DEFAULT -9223372036854775808,
    PRIMARY KEY (shard, kind, tenant, name)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);

CREATE TABLE slots (
    shard  smallint NOT NULL,
    source text COLLATE "C" NOT NULL,
    kind   smallint NOT NULL,
    tenant bigint NOT NULL,
    name   text COLLATE "C" NOT NULL,
    gen    bigint NOT NULL,
    open   bigint NOT NULL,
    PRIMARY KEY (shard, source, kind, tenant, name, gen)
) WITH (autovacuum_vacuum_scale_factor = 0.05);

-- A row that never expires in the future is there to be locked.
CREATE TABLE dedup (
    shard   smallint NOT NULL,
    tenant  bigint NOT NULL,
    key     text COLLATE "C" NOT NULL,
    message text COLLATE "C" NOT NULL,
    expires bigint NOT NULL,
    PRIMARY KEY (shard, tenant, key)
) WITH (autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX dedup_expires ON dedup (shard, expires);

-- The counter of a tenant and day is the sum of its parts. Part 0 is locked by requests under a daily limit, the others are
-- raised blindly, by different writers different ones.
CREATE TABLE quota (
    shard  smallint NOT NULL,
    tenant bigint NOT NULL,
    day    integer NOT NULL,
    part   smallint NOT NULL,
    n      bigint NOT NULL,
    PRIMARY KEY (shard, tenant, day, part)
) WITH (fillfactor = 50);
