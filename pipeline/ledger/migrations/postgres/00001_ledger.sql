-- +goose Up

-- The tables of migrations/sqlite, where each column's meaning is told.

CREATE TABLE lots (
    id              BIGINT  PRIMARY KEY,
    name            TEXT    NOT NULL UNIQUE,
    manifest_path   TEXT    NOT NULL,
    manifest_sha256 TEXT    NOT NULL,
    devices         BIGINT  NOT NULL,
    golden_path     TEXT    NOT NULL,
    golden_sha256   TEXT    NOT NULL,
    golden_bytes    BIGINT  NOT NULL,
    inject_sha256   TEXT    NOT NULL,
    format          TEXT    NOT NULL,
    keys            TEXT    NOT NULL,
    algorithm       TEXT    NOT NULL,
    server          TEXT    NOT NULL,
    out             TEXT    NOT NULL,
    station         TEXT    NOT NULL,
    created         BIGINT  NOT NULL,
    closed          BIGINT  NOT NULL
);

CREATE TABLE devices (
    id       BIGINT  PRIMARY KEY,
    sum      BYTEA   NOT NULL,
    identity TEXT    NOT NULL,
    attrs    TEXT    NOT NULL,
    earlier  BIGINT
);

CREATE TABLE records (
    id             BIGINT  PRIMARY KEY,
    state          TEXT    NOT NULL,
    keys_generated BIGINT  NOT NULL DEFAULT 0,
    keys_destroyed BIGINT  NOT NULL DEFAULT 0,
    superseded     BIGINT  NOT NULL DEFAULT 0,
    lease          TEXT    NOT NULL DEFAULT '',
    lease_until    BIGINT  NOT NULL DEFAULT 0,
    updated        BIGINT  NOT NULL,
    attempts       BIGINT  NOT NULL DEFAULT 0,
    station        TEXT    NOT NULL DEFAULT '',
    pack_offset    BIGINT  NOT NULL DEFAULT 0,
    pack_length    BIGINT  NOT NULL DEFAULT 0,
    algorithm      TEXT    NOT NULL DEFAULT '',
    public_key     BYTEA,
    replaces       BYTEA,
    reason         TEXT    NOT NULL DEFAULT '',
    auth_device    TEXT    NOT NULL DEFAULT '',
    auth_set       TEXT    NOT NULL DEFAULT '',
    auth_status    TEXT    NOT NULL DEFAULT '',
    auth_request   TEXT    NOT NULL DEFAULT '',
    auth_http      BIGINT  NOT NULL DEFAULT 0,
    auth_attempts  BIGINT  NOT NULL DEFAULT 0,
    out_name       TEXT    NOT NULL DEFAULT '',
    out_bytes      BIGINT  NOT NULL DEFAULT 0,
    out_sha256     TEXT    NOT NULL DEFAULT ''
) WITH (fillfactor = 50); -- a record is changed three times or more: in place, where there is room


CREATE INDEX records_superseded ON records (superseded) WHERE superseded > 0;

CREATE TABLE identities (
    sum BYTEA    NOT NULL PRIMARY KEY,
    id  BIGINT  NOT NULL
);

CREATE TABLE names (
    value TEXT    NOT NULL,
    id    BIGINT  NOT NULL,
    PRIMARY KEY (value, id)
);

CREATE TABLE stations (
    id   BIGINT  PRIMARY KEY,
    name TEXT    NOT NULL UNIQUE,
    seq  BIGINT  NOT NULL,
    last BIGINT  NOT NULL
);

CREATE TABLE events (
    id        BIGINT  PRIMARY KEY,
    lot       BIGINT  NOT NULL,
    canonical TEXT    NOT NULL,
    leaf      BYTEA    NOT NULL
);

CREATE INDEX events_lot ON events (lot, id);
