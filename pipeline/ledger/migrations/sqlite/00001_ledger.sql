-- +goose Up

-- Times are microseconds since 1970 in UTC. No private key is in any table.

CREATE TABLE lots (
    id              INTEGER PRIMARY KEY,
    name            TEXT    NOT NULL UNIQUE,
    manifest_path   TEXT    NOT NULL,
    manifest_sha256 TEXT    NOT NULL,
    devices         INTEGER NOT NULL,
    golden_path     TEXT    NOT NULL,
    golden_sha256   TEXT    NOT NULL,
    golden_bytes    INTEGER NOT NULL,
    inject_sha256   TEXT    NOT NULL,
    format          TEXT    NOT NULL,
    keys            TEXT    NOT NULL,
    algorithm       TEXT    NOT NULL,
    server          TEXT    NOT NULL,
    out             TEXT    NOT NULL,
    station         TEXT    NOT NULL,
    created         INTEGER NOT NULL,
    closed          INTEGER NOT NULL -- 0 while the lot is open
);

-- What the manifest says of a device; never changes. The id is
-- lots.id * 2^32 + manifest row, so a lot's devices lie together in their order.
CREATE TABLE devices (
    id       INTEGER PRIMARY KEY,
    sum      BLOB NOT NULL, -- SHA-256 of the identity's canonical JSON
    identity TEXT NOT NULL, -- JSON object in the configured order
    attrs    TEXT NOT NULL, -- JSON object in the manifest's order
    earlier  INTEGER        -- the device of another lot that this one took over
);

-- What became of a device. State stands first: totals read no further.
CREATE TABLE records (
    id             INTEGER PRIMARY KEY, -- devices.id
    state          TEXT    NOT NULL,
    keys_generated INTEGER NOT NULL DEFAULT 0,
    keys_destroyed INTEGER NOT NULL DEFAULT 0,
    superseded     INTEGER NOT NULL DEFAULT 0, -- lots.id of the lot that took the device over
    lease          TEXT    NOT NULL DEFAULT '', -- whose the device is to work on; '' is anybody's
    lease_until    INTEGER NOT NULL DEFAULT 0,
    updated        INTEGER NOT NULL,
    attempts       INTEGER NOT NULL DEFAULT 0,
    station        TEXT    NOT NULL DEFAULT '',
    pack_offset    INTEGER NOT NULL DEFAULT 0,
    pack_length    INTEGER NOT NULL DEFAULT 0, -- 0 when there is no overlay
    algorithm      TEXT    NOT NULL DEFAULT '',
    public_key     BLOB,
    replaces       BLOB,
    reason         TEXT    NOT NULL DEFAULT '',
    auth_device    TEXT    NOT NULL DEFAULT '',
    auth_set       TEXT    NOT NULL DEFAULT '',
    auth_status    TEXT    NOT NULL DEFAULT '',
    auth_request   TEXT    NOT NULL DEFAULT '',
    auth_http      INTEGER NOT NULL DEFAULT 0,
    auth_attempts  INTEGER NOT NULL DEFAULT 0,
    out_name       TEXT    NOT NULL DEFAULT '',
    out_bytes      INTEGER NOT NULL DEFAULT 0,
    out_sha256     TEXT    NOT NULL DEFAULT ''
);

CREATE INDEX records_superseded ON records (superseded) WHERE superseded > 0;

-- Which device holds an identity now: one over all lots. Records that were
-- superseded, and only these, have no entry.
CREATE TABLE identities (
    sum BLOB    NOT NULL PRIMARY KEY,
    id  INTEGER NOT NULL -- devices.id
) WITHOUT ROWID;

-- The values by which people look a device up.
CREATE TABLE names (
    value TEXT    NOT NULL,
    id    INTEGER NOT NULL, -- devices.id
    PRIMARY KEY (value, id)
) WITHOUT ROWID;

-- The heads of the stations' logs.
CREATE TABLE stations (
    id   INTEGER PRIMARY KEY,
    name TEXT    NOT NULL UNIQUE,
    seq  INTEGER NOT NULL, -- of the last event
    last INTEGER NOT NULL  -- time of the last event
);

-- The id is stations.id * 2^40 + seq, so a station's log lies together in its order.
CREATE TABLE events (
    id        INTEGER PRIMARY KEY,
    lot       INTEGER NOT NULL, -- lots.id, 0 for events of no lot
    canonical TEXT    NOT NULL, -- RFC 8785 JSON
    leaf      BLOB    NOT NULL  -- RFC 6962 leaf hash of canonical
);

CREATE INDEX events_lot ON events (lot, id);
