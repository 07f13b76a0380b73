-- Times are microseconds since 1970, UTC. A "data" or "head" column holds a record of package store.

CREATE TABLE meta (
    key   TEXT NOT NULL PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE nodes (
    name    TEXT NOT NULL PRIMARY KEY,
    epoch   INTEGER NOT NULL, -- of its last lease
    address TEXT NOT NULL,
    joined  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE tenants (
    id      INTEGER PRIMARY KEY,
    version INTEGER NOT NULL -- of its configuration
) STRICT;

CREATE TABLE config (
    tenant  INTEGER NOT NULL,
    kind    TEXT NOT NULL,
    name    TEXT NOT NULL,
    value   BLOB NOT NULL,
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL,
    PRIMARY KEY (tenant, kind, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX config_name ON config (kind, name);

-- Content. A table with rowids, because rows are larger than what fits well into the inner pages of a key's tree, and
-- because n tells the order of commits.
CREATE TABLE messages (
    n       INTEGER PRIMARY KEY,
    tenant  INTEGER NOT NULL,
    id      TEXT NOT NULL,
    at_once INTEGER NOT NULL,
    claim   BLOB, -- the ticket it was claimed with when it was accepted; NULL if it was not, or the ticket moved on without an attempt
    head    BLOB NOT NULL,
    body    BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX messages_id ON messages (tenant, id);

-- Claimed tickets that are not open (see below). They are no more than attempts in flight, so this tree is small and always in memory.
CREATE TABLE claims (
    id     TEXT NOT NULL PRIMARY KEY,
    tenant INTEGER NOT NULL,
    n      INTEGER NOT NULL, -- of the message; 0 if it is not stored
    data   BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- All claimed tickets: those that have a row, and the open ones. An open claim stands with its message until its attempt is recorded
-- or it gets a row; meta.written is the n up to which none is open any more.
CREATE VIEW all_claims AS
SELECT id, tenant, n, data FROM claims
UNION ALL
SELECT id, tenant, n, claim FROM messages
WHERE n > coalesce((SELECT value FROM meta WHERE key = 'written'), 0) AND claim IS NOT NULL
AND NOT EXISTS (SELECT 1 FROM attempts WHERE attempts.n = messages.n << 20);

-- The other tickets. Of due, and (gate, rank, place) exactly one is set: due when Delayed or Ready, the others when
-- Waiting. wake is set when Waiting and its gate is to be looked at then.
CREATE TABLE tickets (
    id     TEXT NOT NULL PRIMARY KEY,
    tenant INTEGER NOT NULL,
    n      INTEGER NOT NULL,
    due    INTEGER,
    gate   TEXT,
    rank   INTEGER,
    place  INTEGER,
    wake   INTEGER,
    data   BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX tickets_tenant ON tickets (tenant, id);
CREATE INDEX tickets_due ON tickets (tenant, due, id) WHERE due IS NOT NULL;
CREATE INDEX tickets_gate ON tickets (gate, rank, place, id) WHERE gate IS NOT NULL;
CREATE INDEX tickets_wake ON tickets (wake) WHERE wake IS NOT NULL;

CREATE TABLE gates (
    tenant INTEGER NOT NULL,
    kind   INTEGER NOT NULL,
    name   TEXT NOT NULL,
    data   BLOB NOT NULL,
    PRIMARY KEY (tenant, kind, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE slots (
    source TEXT NOT NULL,
    gate   TEXT NOT NULL,
    gen    INTEGER NOT NULL,
    open   INTEGER NOT NULL,
    PRIMARY KEY (source, gate, gen)
) STRICT, WITHOUT ROWID;

CREATE TABLE dedup (
    tenant  INTEGER NOT NULL,
    key     TEXT NOT NULL,
    message TEXT NOT NULL,
    expires INTEGER NOT NULL,
    PRIMARY KEY (tenant, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX dedup_expires ON dedup (expires);

CREATE TABLE quota (
    tenant INTEGER NOT NULL,
    day    INTEGER NOT NULL,
    n      INTEGER NOT NULL,
    PRIMARY KEY (tenant, day)
) STRICT, WITHOUT ROWID;
CREATE INDEX quota_day ON quota (day);

CREATE TABLE ticks (
    tenant   INTEGER NOT NULL,
    schedule TEXT NOT NULL,
    next     INTEGER,
    data     BLOB NOT NULL,
    PRIMARY KEY (tenant, schedule)
) STRICT, WITHOUT ROWID;
CREATE INDEX ticks_next ON ticks (next) WHERE next IS NOT NULL;

-- n is that of the message times 1048576, plus the attempt's number. So a message's attempts stand together, and no
-- index is needed to find them.
CREATE TABLE attempts (
    n       INTEGER PRIMARY KEY,
    tenant  INTEGER NOT NULL,
    id      TEXT NOT NULL,
    started INTEGER NOT NULL,
    ended   INTEGER NOT NULL,
    at_once INTEGER NOT NULL,
    data    BLOB NOT NULL
) STRICT;
CREATE INDEX attempts_ended ON attempts (tenant, ended, id);
CREATE INDEX attempts_started ON attempts (tenant, started, id) WHERE at_once = 0;

-- n is 0 for CANCEL_REQUESTED and 1 for CANCELED.
CREATE TABLE marks (
    tenant INTEGER NOT NULL,
    at     INTEGER NOT NULL,
    id     TEXT NOT NULL,
    n      INTEGER NOT NULL,
    PRIMARY KEY (tenant, at, id, n)
) STRICT, WITHOUT ROWID;
CREATE INDEX marks_id ON marks (tenant, id);

CREATE TABLE dead_letters (
    n       INTEGER PRIMARY KEY,
    tenant  INTEGER NOT NULL,
    ms      INTEGER NOT NULL,
    seq     INTEGER NOT NULL,
    message TEXT NOT NULL,
    data    BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX dead_letters_id ON dead_letters (tenant, ms, seq);
CREATE INDEX dead_letters_message ON dead_letters (message);
