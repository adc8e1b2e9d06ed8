package ledger

// All SQL that reads or writes ledgers is here, but for the tables themselves,
// which are in migrations. It runs unchanged on SQLite and PostgreSQL.

// A device's id is lot<<rowBits | row, an event's station<<seqBits | seq.
const (
	rowBits = 32
	seqBits = 40
)

func deviceID(lot int64, row int) int64 { return lot<<rowBits | int64(row) }

// deviceRow returns the row of a device id.
func deviceRow(id int64) int { return int(id & (1<<rowBits - 1)) }

// lotRange returns the bounds of the ids of a lot's devices, exclusive and
// inclusive. Lot 0 stands for all lots.
func lotRange(lot int64) (after, last int64) {
	if lot == 0 {
		return 0, 1<<63 - 1
	}
	return lot << rowBits, lot<<rowBits | (1<<rowBits - 1)
}

// Of the path of Commit and Append. Placeholders that appear once each and in
// their order, as those of sqlUpdate, sqlNewEvent and all inserts of planning
// do, may be made anonymous; see anonymous.
const (
	sqlUpdate = `UPDATE records SET state = $1, keys_generated = $2, keys_destroyed = $3,
	updated = $4, attempts = $5, station = $6, pack_offset = $7, pack_length = $8,
	algorithm = $9, public_key = $10, replaces = $11, reason = $12,
	auth_device = $13, auth_set = $14, auth_status = $15, auth_request = $16, auth_http = $17, auth_attempts = $18,
	out_name = $19, out_bytes = $20, out_sha256 = $21
	WHERE id = $22 AND state = $23 AND lease = $24 AND superseded = $25`

	// Reserves $2 sequence numbers, at the time $3 or that of the last event,
	// whichever is later.
	sqlReserve = `UPDATE stations SET seq = seq + $2, last = CASE WHEN last > $3 THEN last ELSE $3 END
	WHERE name = $1 RETURNING id, seq, last`

	sqlNewStation = `INSERT INTO stations (id, name, seq, last)
	VALUES ((SELECT COALESCE(MAX(id), 0) + 1 FROM stations), $1, 0, 0) ON CONFLICT (name) DO NOTHING`

	sqlNewEvent = `INSERT INTO events (id, lot, canonical, leaf) VALUES ($1, $2, $3, $4)`
)

// Of lots.
const (
	sqlLotID       = `SELECT id FROM lots WHERE name = $1`
	sqlLotName     = `SELECT name FROM lots WHERE id = $1`
	sqlStationName = `SELECT name FROM stations WHERE id = $1`

	sqlNewLot = `INSERT INTO lots (id, name, manifest_path, manifest_sha256, devices, golden_path, golden_sha256,
	golden_bytes, inject_sha256, format, keys, algorithm, server, out, station, created, closed)
	VALUES ((SELECT COALESCE(MAX(id), 0) + 1 FROM lots), $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, 0)
	ON CONFLICT (name) DO NOTHING RETURNING id`

	sqlCountLot = `UPDATE lots SET devices = $2 WHERE id = $1`
	sqlCloseLot = `UPDATE lots SET closed = $2 WHERE id = $1 AND closed = 0`

	sqlLots = `SELECT name, manifest_path, manifest_sha256, devices, golden_path, golden_sha256,
	golden_bytes, inject_sha256, format, keys, algorithm, server, out, station, created, closed FROM lots`
	sqlOneLot  = sqlLots + ` WHERE name = $1`
	sqlAllLots = sqlLots + ` ORDER BY id`
)

// Of planning. The heads are completed with as many rows of values as there
// are to insert.
const (
	sqlNewDevices = `INSERT INTO devices (id, sum, identity, attrs) VALUES `
	sqlNewRecords = `INSERT INTO records (id, state, updated) VALUES `
	sqlNewNames   = `INSERT INTO names (value, id) VALUES `

	// In the order of the sums, as the table's own order makes that one pass
	// over its pages. Identities that are held already are left for sqlClashes.
	sqlNewIdentities = `INSERT INTO identities (sum, id)
	SELECT sum, id FROM devices WHERE id > $1 AND id <= $2 ORDER BY sum, id ON CONFLICT (sum) DO NOTHING`

	sqlClashes = `SELECT d.id, d.sum, d.identity, i.id, r.state, r.lease, r.public_key, r.replaces
	FROM devices d JOIN identities i ON i.sum = d.sum JOIN records r ON r.id = i.id
	WHERE d.id > $1 AND d.id <= $2 AND i.id <> d.id ORDER BY d.id LIMIT 500`

	sqlTakeOver  = `UPDATE identities SET id = $3 WHERE sum = $1 AND id = $2`
	sqlSupersede = `UPDATE records SET superseded = $2
	WHERE id = $1 AND superseded = 0 AND (lease = '' OR lease_until < $3) AND state IN ('failed', 'conflict', 'undone')`
	sqlReplace = `UPDATE records SET replaces = $2 WHERE id = $1`
	sqlEarlier = `UPDATE devices SET earlier = $2 WHERE id = $1`
)

// Of reading records. CROSS JOIN keeps SQLite from scanning devices first.
const (
	recordColumns = `r.id, d.identity, d.attrs, r.state, r.keys_generated, r.keys_destroyed, r.superseded, r.lease,
	r.updated, r.attempts, r.station, r.pack_offset, r.pack_length, r.algorithm, r.public_key, r.replaces, r.reason,
	r.auth_device, r.auth_set, r.auth_status, r.auth_request, r.auth_http, r.auth_attempts,
	r.out_name, r.out_bytes, r.out_sha256`

	// What there is to do, at the time $3; the states are added.
	sqlToDo = sqlRecords + ` AND r.superseded = 0 AND (r.lease = '' OR r.lease_until < $3) AND r.state IN (`

	sqlRecords = `SELECT ` + recordColumns + ` FROM records r CROSS JOIN devices d
	WHERE d.id = r.id AND r.id > $1 AND r.id <= $2`
	sqlPage = ` ORDER BY r.id LIMIT 256`

	sqlOneRecord = `SELECT ` + recordColumns + ` FROM records r CROSS JOIN devices d WHERE d.id = r.id AND r.id = $1`

	// The sums keep SQLite from going through the records by id instead of through
	// records_superseded, which holds few.
	sqlSupersededKeys = `SELECT ` + recordColumns + ` FROM records r CROSS JOIN devices d
	WHERE d.id = r.id AND r.id + 0 > $1 AND r.id + 0 <= $2
	AND r.superseded > 0 AND r.superseded >= $3 AND r.superseded <= $4 AND r.pack_length > 0`

	sqlFind = `SELECT ` + recordColumns + ` FROM names n CROSS JOIN records r CROSS JOIN devices d
	WHERE n.value IN ($1, $2) AND n.id > $3 AND n.id <= $4 AND r.id = n.id AND d.id = n.id
	ORDER BY CASE WHEN r.superseded = 0 THEN 0 ELSE 1 END, r.id`

	sqlHolder  = `SELECT id FROM identities WHERE sum = $1`
	sqlPassOn  = `SELECT earlier FROM devices WHERE id = $1`
	sqlHolders = `SELECT i.sum, i.id, r.state FROM identities i JOIN records r ON r.id = i.id WHERE i.sum IN (`

	sqlPacked = `SELECT d.sum, r.pack_offset, r.pack_length, r.state, r.superseded
	FROM records r CROSS JOIN devices d
	WHERE d.id = r.id AND r.id > $1 AND r.id <= $2 AND r.pack_length > 0 ORDER BY r.pack_offset`

	// One pass without sorting; an index on the state would cost every commit.
	// The counts of the states are added between.
	sqlTotals = `SELECT CAST(COALESCE(SUM(keys_generated), 0) AS BIGINT), CAST(COALESCE(SUM(keys_destroyed), 0) AS BIGINT),
	COUNT(*)`
	sqlStateCount = `, COUNT(*) FILTER (WHERE state = '%s')`
	sqlTotalsOf   = ` FROM records WHERE id > $1 AND id <= $2`
)

// Of events.
const (
	sqlAllEvents = `SELECT id, lot, canonical, leaf FROM events WHERE id > $1 ORDER BY id LIMIT 256`
	sqlLotEvents = `SELECT id, lot, canonical, leaf FROM events WHERE id > $1 AND lot = $2 ORDER BY id LIMIT 256`
)

// Of leases. $1 and $2 are the bounds of ids, exclusive and inclusive.
const (
	sqlClaim = `UPDATE records SET lease = $3, lease_until = $4
	WHERE id > $1 AND id <= $2 AND superseded = 0 AND state NOT IN ('released', 'undone')
	AND (lease = '' OR lease = $3 OR lease_until < $5)`
	sqlClaimed = sqlRecords + ` AND r.lease = $3 AND r.superseded = 0 AND r.state NOT IN ('released', 'undone') ORDER BY r.id`
	sqlRenew   = `UPDATE records SET lease_until = $4 WHERE id > $1 AND id <= $2 AND lease = $3`
	sqlYield   = `UPDATE records SET lease = '', lease_until = 0 WHERE id > $1 AND id <= $2 AND lease = $3`
)

// Of allocations.
const (
	sqlAllocated = `SELECT name, first, last, lot, created, undone FROM allocations
	WHERE name = $1 AND last >= $2 AND first <= $3 ORDER BY first, id`
	sqlAllocatedTo = `SELECT name, first, last, lot, created, undone FROM allocations
	WHERE lot = $1 ORDER BY name, first, id`
	sqlAllocate   = `INSERT INTO allocations (name, first, last, lot, created) VALUES ($1, $2, $3, $4, $5)`
	sqlDeallocate = `UPDATE allocations SET undone = $1 WHERE lot = $2 AND undone = 0`
)

// Of Check.
const (
	sqlHeads = `SELECT id, name, seq FROM stations ORDER BY id`

	sqlSizes = `SELECT l.name, l.devices,
	(SELECT COUNT(*) FROM devices d WHERE d.id > l.id * 4294967296 AND d.id < (l.id + 1) * 4294967296),
	(SELECT COUNT(*) FROM records r WHERE r.id > l.id * 4294967296 AND r.id < (l.id + 1) * 4294967296)
	FROM lots l ORDER BY l.id`

	// Identities that point to no device of theirs, or to one that was superseded.
	sqlStray = `SELECT COUNT(*) FROM identities i LEFT JOIN devices d ON d.id = i.id AND d.sum = i.sum
	LEFT JOIN records r ON r.id = i.id WHERE d.id IS NULL OR r.id IS NULL OR r.superseded > 0`
	sqlLive = `SELECT (SELECT COUNT(*) FROM records WHERE superseded = 0), (SELECT COUNT(*) FROM identities)`
)
