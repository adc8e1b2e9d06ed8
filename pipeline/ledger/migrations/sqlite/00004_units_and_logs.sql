-- +goose Up

-- Units, a log for each lot, stations of a lot. Times are microseconds since 1970 in UTC.

-- The transparency logs. Their ids go on where those of the stations' logs of
-- the first format ended, so that old events stay where they are.
CREATE TABLE logs (
    id      INTEGER PRIMARY KEY,
    origin  TEXT    NOT NULL UNIQUE, -- first line of its checkpoints
    kind    TEXT    NOT NULL, -- legacy: all of a station; lot: one lot at a station; station: the station's own
    station TEXT    NOT NULL,
    lot     INTEGER NOT NULL, -- lots.id of a lot log, else 0
    epoch   INTEGER NOT NULL, -- from 1
    size    INTEGER NOT NULL, -- events; seq of the last one
    last    INTEGER NOT NULL, -- time of the last event, 0 before there is one
    frozen  INTEGER NOT NULL DEFAULT 0, -- 1 where it takes no more events
    root    TEXT    NOT NULL DEFAULT ''  -- base64 of the tree's root, once it is frozen
);
CREATE UNIQUE INDEX logs_open ON logs (station, lot) WHERE frozen = 0;
CREATE INDEX logs_lot ON logs (lot);

-- The origin of a log of the first format follows from its station, which the
-- program escapes.
INSERT INTO logs (id, origin, kind, station, lot, epoch, size, last)
    SELECT id, 'keymill/' || name, 'legacy', name, 0, 1, seq, last FROM stations;

-- An event's id is logs.id * 2^40 + seq. Events of lot logs have lot 0 here:
-- their log says it.
DROP INDEX events_lot;
CREATE INDEX events_lot ON events (lot, id) WHERE lot > 0;

-- Signed checkpoints, the notes as they are.
CREATE TABLE heads (
    origin TEXT    NOT NULL,
    size   INTEGER NOT NULL,
    signed TEXT    NOT NULL,
    PRIMARY KEY (origin, size)
) WITHOUT ROWID;

-- The stations as such.
ALTER TABLE stations DROP COLUMN seq;
ALTER TABLE stations DROP COLUMN last;
ALTER TABLE stations ADD COLUMN boot           TEXT    NOT NULL DEFAULT ''; -- boot id of the process that beats
ALTER TABLE stations ADD COLUMN pid            INTEGER NOT NULL DEFAULT 0;
ALTER TABLE stations ADD COLUMN host           TEXT    NOT NULL DEFAULT '';
ALTER TABLE stations ADD COLUMN out            TEXT    NOT NULL DEFAULT '';
ALTER TABLE stations ADD COLUMN url            TEXT    NOT NULL DEFAULT ''; -- where other stations reach it
ALTER TABLE stations ADD COLUMN public_key     TEXT    NOT NULL DEFAULT ''; -- of its logs
ALTER TABLE stations ADD COLUMN beat           INTEGER NOT NULL DEFAULT 0;  -- by the database's clock
ALTER TABLE stations ADD COLUMN retired        INTEGER NOT NULL DEFAULT 0;  -- when
ALTER TABLE stations ADD COLUMN retired_reason TEXT    NOT NULL DEFAULT '';

-- The stations that work on a lot, each with its folder and its pack.
CREATE TABLE lot_stations (
    lot       INTEGER NOT NULL, -- lots.id
    station   TEXT    NOT NULL,
    out       TEXT    NOT NULL DEFAULT '',
    pack_uuid TEXT    NOT NULL DEFAULT '', -- hexadecimal; '' before it is known
    joined    INTEGER NOT NULL,
    signed_by TEXT    NOT NULL DEFAULT '', -- the station that signed a retired one's head
    PRIMARY KEY (lot, station)
) WITHOUT ROWID;
CREATE INDEX lot_stations_out ON lot_stations (station, out);
INSERT INTO lot_stations (lot, station, out, joined) SELECT id, station, out, created FROM lots;

ALTER TABLE lots ADD COLUMN server_mode  TEXT NOT NULL DEFAULT '';
ALTER TABLE lots ADD COLUMN unique_attrs TEXT NOT NULL DEFAULT ''; -- names, separated by commas
ALTER TABLE lots ADD COLUMN settings     TEXT NOT NULL DEFAULT '';

ALTER TABLE records ADD COLUMN run              INTEGER NOT NULL DEFAULT 0; -- seq of the last run-started event
ALTER TABLE records ADD COLUMN pack_station     TEXT    NOT NULL DEFAULT ''; -- in whose pack the overlay lies
ALTER TABLE records ADD COLUMN hsm              TEXT    NOT NULL DEFAULT '';
ALTER TABLE records ADD COLUMN cert_serial      TEXT    NOT NULL DEFAULT '';
ALTER TABLE records ADD COLUMN cert_sha256      TEXT    NOT NULL DEFAULT '';
ALTER TABLE records ADD COLUMN cert_not_before  INTEGER NOT NULL DEFAULT 0;
ALTER TABLE records ADD COLUMN cert_not_after   INTEGER NOT NULL DEFAULT 0;
ALTER TABLE records ADD COLUMN cert_revoked     INTEGER NOT NULL DEFAULT 0;
ALTER TABLE records ADD COLUMN cert_reason      TEXT    NOT NULL DEFAULT '';
ALTER TABLE records ADD COLUMN stale_offset     INTEGER NOT NULL DEFAULT 0; -- of a key that was given up
ALTER TABLE records ADD COLUMN stale_length     INTEGER NOT NULL DEFAULT 0;
ALTER TABLE records ADD COLUMN stale_output     TEXT    NOT NULL DEFAULT '';
ALTER TABLE records ADD COLUMN stale_spki       TEXT    NOT NULL DEFAULT '';
ALTER TABLE records ADD COLUMN predecessor      INTEGER NOT NULL DEFAULT 0; -- devices.id
ALTER TABLE records ADD COLUMN successor        INTEGER NOT NULL DEFAULT 0; -- devices.id
ALTER TABLE records ADD COLUMN inventory        TEXT    NOT NULL DEFAULT '';
ALTER TABLE records ADD COLUMN inventory_reason TEXT    NOT NULL DEFAULT '';
UPDATE records SET pack_station = station WHERE pack_length > 0;
CREATE INDEX records_stale ON records (id) WHERE stale_length > 0 OR stale_output <> '';

-- The physical things that images went to.
CREATE TABLE units (
    id            INTEGER PRIMARY KEY, -- device's lot * 2^32 + number
    device        INTEGER NOT NULL, -- devices.id
    state         TEXT    NOT NULL,
    reason        TEXT    NOT NULL DEFAULT '',
    fingerprint   TEXT    NOT NULL, -- SHA-256 of the key's SPKI
    marker        BLOB,
    medium        TEXT    NOT NULL DEFAULT '',
    slot          TEXT    NOT NULL DEFAULT '',
    recipient     TEXT    NOT NULL DEFAULT '',
    operator      TEXT    NOT NULL DEFAULT '',
    label         TEXT    NOT NULL DEFAULT '',
    client        TEXT    NOT NULL DEFAULT '',
    etag          TEXT    NOT NULL DEFAULT '',
    image_sha256  TEXT    NOT NULL DEFAULT '',
    owner_station TEXT    NOT NULL DEFAULT '',
    owner_boot    TEXT    NOT NULL DEFAULT '',
    owner_pid     INTEGER NOT NULL DEFAULT 0,
    created       INTEGER NOT NULL,
    updated       INTEGER NOT NULL
);
-- One image goes to one unit.
CREATE UNIQUE INDEX units_live ON units (device) WHERE state NOT IN ('failed', 'scrapped');
CREATE INDEX units_device ON units (device);

-- Until now an event said that a device was flashed. Its last one becomes a unit:
-- scrapped, if the device was given up afterwards.
CREATE TEMP TABLE flashed AS SELECT id, lot, CAST(json_extract(canonical, '$.row') AS INTEGER) AS device_row,
    COALESCE(json_extract(canonical, '$.spki_sha256'), '') AS spki, COALESCE(json_extract(canonical, '$.facts.disk'), '') AS disk,
    COALESCE(json_extract(canonical, '$.facts.operator'), '') AS operator,
    CAST(strftime('%s', substr(json_extract(canonical, '$.time'), 1, 19)) AS INTEGER) * 1000000
        + CAST(substr(json_extract(canonical, '$.time'), 21, 6) AS INTEGER) AS at
    FROM events WHERE lot > 0 AND substr(canonical, 1, 20) = '{"action":"flashed",';
CREATE TEMP TABLE given AS SELECT id, lot, CAST(json_extract(canonical, '$.row') AS INTEGER) AS device_row
    FROM events WHERE lot > 0 AND substr(canonical, 1, 19) IN ('{"action":"rekeyed"', '{"action":"undone",')
    AND EXISTS (SELECT 1 FROM flashed);
INSERT INTO units (id, device, state, reason, fingerprint, medium, operator, created, updated)
    SELECT lot * 4294967296 + ROW_NUMBER() OVER (PARTITION BY lot ORDER BY id), lot * 4294967296 + device_row,
        CASE WHEN given_up > 0 THEN 'scrapped' ELSE 'confirmed' END,
        CASE WHEN given_up > 0 THEN 'the device was given up' ELSE '' END,
        spki, disk, operator, at, at
    FROM (
        SELECT f.id, f.lot, f.device_row, f.spki, f.disk, f.operator, f.at,
            (SELECT COUNT(*) FROM given g WHERE g.lot = f.lot AND g.device_row = f.device_row AND g.id > f.id) AS given_up
        FROM flashed f
        WHERE f.id = (SELECT MAX(o.id) FROM flashed o WHERE o.lot = f.lot AND o.device_row = f.device_row)
    ) AS latest;
DROP TABLE flashed;
DROP TABLE given;

-- Values of attributes that no two live devices share. Duplicates of older
-- ledgers stay: the first one has the value.
CREATE TABLE uniques (
    attr  TEXT    NOT NULL,
    value TEXT    NOT NULL,
    id    INTEGER NOT NULL, -- devices.id
    PRIMARY KEY (attr, value)
) WITHOUT ROWID;
INSERT INTO uniques (attr, value, id)
    SELECT 'serial', COALESCE(json_extract(d.attrs, '$.serial'), ''), d.id FROM devices d JOIN records r ON r.id = d.id
    WHERE r.superseded = 0 AND r.state <> 'undone' AND COALESCE(json_extract(d.attrs, '$.serial'), '') <> '' ORDER BY d.id
    ON CONFLICT DO NOTHING;

-- What all stations together may ask of a server: a token bucket.
CREATE TABLE server_limits (
    url     TEXT   NOT NULL PRIMARY KEY,
    rate    REAL NOT NULL, -- requests a second
    burst   REAL NOT NULL,
    tokens  REAL NOT NULL,
    updated INTEGER NOT NULL
) WITHOUT ROWID;

-- Which program brought the ledger to which schema.
CREATE TABLE programs (
    schema  INTEGER NOT NULL PRIMARY KEY,
    program TEXT    NOT NULL,
    applied INTEGER NOT NULL
);
