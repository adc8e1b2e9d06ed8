-- +goose Up

-- Ranges of numbers that were handed out: of MAC addresses, of serial numbers.
CREATE TABLE allocations (
    name    TEXT    NOT NULL, -- of the numbers: an OUI, a serial's pattern
    first   BIGINT  NOT NULL,
    last    BIGINT  NOT NULL, -- inclusive
    lot     TEXT    NOT NULL, -- whom they were given to
    created BIGINT  NOT NULL,
    PRIMARY KEY (name, first)
);
