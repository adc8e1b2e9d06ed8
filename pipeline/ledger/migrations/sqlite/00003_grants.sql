-- +goose Up

-- Ranges of undone lots stay on record, and may be given again to those who ask.
CREATE TABLE grants (
    id      INTEGER PRIMARY KEY,
    name    TEXT    NOT NULL, -- of the numbers: of MAC addresses, of a serial's pattern
    first   INTEGER NOT NULL,
    last    INTEGER NOT NULL, -- inclusive
    lot     TEXT    NOT NULL, -- whom they were given to
    created INTEGER NOT NULL,
    undone  INTEGER NOT NULL DEFAULT 0 -- when the lot was undone, 0 if it was not
);

INSERT INTO grants (name, first, last, lot, created) SELECT name, first, last, lot, created FROM allocations;
DROP TABLE allocations;
ALTER TABLE grants RENAME TO allocations;
CREATE UNIQUE INDEX allocations_live ON allocations (name, first) WHERE undone = 0;
CREATE INDEX allocations_lot ON allocations (lot);
