-- +goose Up

-- Ranges of undone lots stay on record, and may be given again to those who ask.
ALTER TABLE allocations DROP CONSTRAINT allocations_pkey;
ALTER TABLE allocations ADD COLUMN id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY;
ALTER TABLE allocations ADD COLUMN undone BIGINT NOT NULL DEFAULT 0; -- when the lot was undone, 0 if it was not
CREATE UNIQUE INDEX allocations_live ON allocations (name, first) WHERE undone = 0;
CREATE INDEX allocations_lot ON allocations (lot);
