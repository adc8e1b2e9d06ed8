package ledger

// All SQL that reads or writes ledgers is here, but for the tables themselves,
// which are in migrations. It runs unchanged on SQLite and PostgreSQL.

// A device's id is lot<<rowBits | row, a unit's lot<<rowBits | number, an event's
// log<<seqBits | seq.
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
	out_name = $19, out_bytes = $20, out_sha256 = $21, run = $22, pack_station = $23
	WHERE id = $24 AND state = $25 AND lease = $26 AND superseded = $27`

	// What few changes touch; follows sqlUpdate in its transaction.
	sqlDetails = `UPDATE records SET hsm = $1, cert_serial = $2, cert_sha256 = $3, cert_not_before = $4, cert_not_after = $5,
	cert_revoked = $6, cert_reason = $7, stale_offset = $8, stale_length = $9, stale_output = $10, stale_spki = $11,
	predecessor = $12, successor = $13 WHERE id = $14`

	// Reserves $2 sequence numbers in the log that the station $1 has for the lot
	// $4, at the time $3 or that of the last event, whichever is later.
	sqlReserve = `UPDATE logs SET size = size + $2, last = CASE WHEN last > $3 THEN last ELSE $3 END
	WHERE station = $1 AND lot = $4 AND frozen = 0 RETURNING id, size, last, epoch, kind`

	sqlNewEvent = `INSERT INTO events (id, lot, canonical, leaf) VALUES ($1, $2, $3, $4)`
)

// Of lots.
const (
	sqlLotID   = `SELECT id FROM lots WHERE name = $1`
	sqlLotName = `SELECT name FROM lots WHERE id = $1`

	sqlNewLot = `INSERT INTO lots (id, name, manifest_path, manifest_sha256, devices, golden_path, golden_sha256,
	golden_bytes, inject_sha256, format, keys, algorithm, server, out, station, created, server_mode, unique_attrs, settings, closed)
	VALUES ((SELECT COALESCE(MAX(id), 0) + 1 FROM lots), $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15,
	$16, $17, $18, 0)
	ON CONFLICT (name) DO NOTHING RETURNING id`

	sqlCountLot = `UPDATE lots SET devices = $2 WHERE id = $1`
	sqlCloseLot = `UPDATE lots SET closed = $2 WHERE id = $1 AND closed = 0`

	sqlLots = `SELECT name, manifest_path, manifest_sha256, devices, golden_path, golden_sha256,
	golden_bytes, inject_sha256, format, keys, algorithm, server, out, station, created, closed,
	server_mode, unique_attrs, settings FROM lots`
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
	r.out_name, r.out_bytes, r.out_sha256, r.run, r.pack_station, r.inventory, r.inventory_reason,
	r.hsm, r.cert_serial, r.cert_sha256, r.cert_not_before, r.cert_not_after, r.cert_revoked, r.cert_reason,
	r.stale_offset, r.stale_length, r.stale_output, r.stale_spki, r.predecessor, r.successor`

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
	WHERE d.id = r.id AND r.id > $1 AND r.id <= $2 AND r.pack_length > 0 AND (r.pack_station = $3 OR $3 = '')
	ORDER BY r.pack_offset`

	// One pass without sorting; an index on the state would cost every commit.
	// The counts of the states are added between.
	sqlTotals = `SELECT CAST(COALESCE(SUM(keys_generated), 0) AS BIGINT), CAST(COALESCE(SUM(keys_destroyed), 0) AS BIGINT),
	COUNT(*)`
	sqlStateCount = `, COUNT(*) FILTER (WHERE state = '%s')`
	sqlTotalsOf   = ` FROM records WHERE id > $1 AND id <= $2`
)

// Of events and their logs.
const (
	sqlAllEvents = `SELECT id, lot, canonical, leaf FROM events WHERE id > $1 ORDER BY id LIMIT 256`
	sqlLotEvents = `SELECT id, lot, canonical, leaf FROM events WHERE id > $1 AND lot = $2 AND lot > 0 ORDER BY id LIMIT 256`
	sqlLogEvents = `SELECT id, lot, canonical, leaf FROM events WHERE id > $1 AND id <= $2 ORDER BY id LIMIT 256`
	sqlLeaves    = `SELECT id, leaf FROM events WHERE id > $1 AND id <= $2 ORDER BY id LIMIT 4096`

	sqlLogs    = `SELECT id, origin, kind, station, lot, epoch, size, last, frozen, root FROM logs `
	sqlOneLog  = sqlLogs + `WHERE id = $1`
	sqlAllLogs = sqlLogs + `ORDER BY id`
	// The open one comes first.
	sqlLogOf = sqlLogs + `WHERE station = $1 AND lot = $2 ORDER BY frozen, id DESC LIMIT 1`
	// Of a lot: its own, those of the first format that have events of it, and the
	// station logs of their stations.
	sqlLogsOfLot = sqlLogs + `WHERE lot = $1
	OR lot = 0 AND kind = 'legacy' AND EXISTS (SELECT 1 FROM events e WHERE e.lot = $1 AND e.lot > 0
		AND e.id > logs.id * 1099511627776 AND e.id < (logs.id + 1) * 1099511627776)
	OR lot = 0 AND kind = 'station' AND (station IN (SELECT s.station FROM logs s WHERE s.lot = $1)
		OR station IN (SELECT s.station FROM lot_stations s WHERE s.lot = $1)) ORDER BY id`
	sqlByOrigin = sqlLogs + `WHERE origin = $1`

	sqlNewLog = `INSERT INTO logs (id, origin, kind, station, lot, epoch, size, last)
	VALUES ((SELECT COALESCE(MAX(id), 0) + 1 FROM logs), $1, $2, $3, $4, $5, 0, $6)`
	sqlFreeze = `UPDATE logs SET frozen = 1, root = $2 WHERE id = $1`
	// Whether a log of the first format has events of a lot; ids as in sqlLogEvents.
	sqlHasLot    = `SELECT COUNT(*) FROM (SELECT 1 FROM events WHERE id > $1 AND id <= $2 AND lot = $3 AND lot > 0 LIMIT 1) AS one`
	sqlLastEvent = `SELECT COALESCE(MAX(last), 0) FROM logs`

	sqlNewStation = `INSERT INTO stations (id, name) VALUES ((SELECT COALESCE(MAX(id), 0) + 1 FROM stations), $1)
	ON CONFLICT (name) DO NOTHING`
	sqlRetired = `SELECT retired FROM stations WHERE name = $1`

	sqlSaveHead = `INSERT INTO heads (origin, size, signed) VALUES ($1, $2, $3) ON CONFLICT (origin, size) DO UPDATE SET signed = $3`
	sqlHead     = `SELECT size, signed FROM heads WHERE origin = $1 ORDER BY size DESC LIMIT 1`
)

// Of stations.
const (
	stationColumns = `name, boot, pid, host, out, url, public_key, beat, retired, retired_reason`
	sqlStations    = `SELECT ` + stationColumns + ` FROM stations ORDER BY id`
	sqlOneStation  = `SELECT ` + stationColumns + ` FROM stations WHERE name = $1`
	sqlBeat        = `UPDATE stations SET boot = $2, pid = $3, host = $4, out = $5, url = $6, public_key = $7, beat = $8
	WHERE name = $1 AND retired = 0`
	sqlRetire     = `UPDATE stations SET retired = $2, retired_reason = $3 WHERE name = $1 AND retired = 0`
	sqlFreezeLogs = `UPDATE logs SET frozen = 1 WHERE station = $1 AND frozen = 0`
	sqlHeldBy     = ` WHERE lease = $1 OR SUBSTR(lease, 1, LENGTH($2)) = $2`
	sqlRevoke     = `UPDATE records SET lease = '', lease_until = 0` + sqlHeldBy
	sqlLockHeld   = `SELECT 1 FROM records` + sqlHeldBy

	lotStationColumns = `l.name, s.station, s.out, s.pack_uuid, s.joined, s.signed_by`
	sqlLotStations    = `SELECT ` + lotStationColumns + ` FROM lot_stations s JOIN lots l ON l.id = s.lot
	WHERE s.lot = $1 ORDER BY s.joined, s.station`
	sqlOutTaken = `SELECT ` + lotStationColumns + ` FROM lot_stations s JOIN lots l ON l.id = s.lot
	WHERE s.station = $1 AND s.out = $2 AND s.lot <> $3 AND s.out <> ''`
	sqlJoin = `INSERT INTO lot_stations (lot, station, out, pack_uuid, joined) VALUES ($1, $2, $3, $4, $5)
	ON CONFLICT (lot, station) DO UPDATE SET out = $3, pack_uuid = $4`
	sqlSignedBy = `UPDATE lot_stations SET signed_by = $3 WHERE lot = $1 AND station = $2`
)

// Of units.
const (
	unitColumns = `u.id, u.device, d.identity, d.attrs, u.state, u.reason, u.fingerprint, u.marker, u.medium, u.slot, u.recipient,
	u.operator, u.label, u.client, u.etag, u.image_sha256, u.owner_station, u.owner_boot, u.owner_pid, u.created, u.updated`
	sqlUnits     = `SELECT ` + unitColumns + ` FROM units u CROSS JOIN devices d WHERE d.id = u.device AND u.id > $1 AND u.id <= $2 ORDER BY u.id LIMIT 256`
	sqlUnitsOf   = `SELECT ` + unitColumns + ` FROM units u CROSS JOIN devices d WHERE d.id = u.device AND u.device = $1 ORDER BY u.id`
	sqlLiveUnit  = `SELECT ` + unitColumns + ` FROM units u CROSS JOIN devices d WHERE d.id = u.device AND u.device = $1 AND u.state NOT IN ('failed', 'scrapped')`
	sqlLastUnit  = `SELECT COALESCE(MAX(id), 0) FROM units WHERE id > $1 AND id <= $2`
	sqlHoldState = `UPDATE records SET updated = updated WHERE id = $1 AND superseded = 0 RETURNING state, public_key`
	sqlNewUnit   = `INSERT INTO units (state, reason, fingerprint, marker, medium, slot, recipient, operator, label, client, etag,
	image_sha256, owner_station, owner_boot, owner_pid, updated, id, device, created)
	VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)`
	sqlMoveUnit = `UPDATE units SET state = $1, reason = $2, fingerprint = $3, marker = $4, medium = $5, slot = $6, recipient = $7,
	operator = $8, label = $9, client = $10, etag = $11, image_sha256 = $12, owner_station = $13, owner_boot = $14, owner_pid = $15,
	updated = $16 WHERE id = $17 AND device = $18 AND state = $19`
)

// Of unique attributes.
const (
	sqlUniqueHolders = `SELECT u.value, u.id, r.state, r.superseded FROM uniques u JOIN records r ON r.id = u.id
	WHERE u.attr = $1 AND u.value IN (`
	sqlFreeUnique = `DELETE FROM uniques WHERE attr = $1 AND value = $2`
	sqlAttrs      = `SELECT id, attrs FROM devices WHERE id > $1 ORDER BY id LIMIT 1024`
)

// Of leases. $1 and $2 are the bounds of ids, exclusive and inclusive. Devices
// whose key lies in a pack are for the pack's station, $6.
const (
	sqlClaim = `UPDATE records SET lease = $3, lease_until = $4
	WHERE id > $1 AND id <= $2 AND superseded = 0 AND state NOT IN ('released', 'undone')
	AND (lease = '' OR lease = $3 OR lease_until < $5)
	AND (pack_length = 0 OR pack_station = '' OR pack_station = $6)`
	sqlLockRows = `SELECT 1 FROM records WHERE id > $1 AND id <= $2`
	sqlClaimed  = sqlRecords + ` AND r.lease = $3 AND r.superseded = 0 AND r.state NOT IN ('released', 'undone') ORDER BY r.id`
	sqlRenew    = `UPDATE records SET lease_until = $4 WHERE id > $1 AND id <= $2 AND lease = $3`
	sqlYield    = `UPDATE records SET lease = '', lease_until = 0 WHERE id > $1 AND id <= $2 AND lease = $3`
)

// Of the queue's look at what is to be done. $1 and $2 are the bounds of ids.
const (
	sqlRows  = `SELECT MIN(id), MAX(id) FROM devices WHERE id > $1 AND id <= $2`
	sqlLoose = `SELECT (id - $1) / $4, CASE WHEN pack_length = 0 THEN '' ELSE pack_station END FROM records
	WHERE id >= $1 AND id <= $2 AND superseded = 0 AND state IN ` + loosely + ` AND (lease = '' OR lease_until < $3)
	GROUP BY 1, 2 ORDER BY 1, 2`
	sqlDue = `SELECT EXISTS (SELECT 1 FROM records WHERE id > $1 AND id <= $2 AND superseded = 0 AND state IN ` + loosely + `
	AND (pack_length = 0 OR pack_station = '' OR pack_station = $3))`
)

// Of what all stations together may ask of a server.
const (
	sqlNewLimit = `INSERT INTO server_limits (url, rate, burst, tokens, updated) VALUES ($1, $2, $3, $3, $4)
	ON CONFLICT (url) DO NOTHING`
	sqlLockLimit = `UPDATE server_limits SET rate = $2, burst = $3 WHERE url = $1 RETURNING tokens, updated`
	sqlSetLimit  = `UPDATE server_limits SET tokens = $2, updated = $3 WHERE url = $1`
)

const sqlInventory = `UPDATE records SET inventory = $2, inventory_reason = $3 WHERE id = $1`

const (
	sqlStale = sqlRecords + ` AND (r.stale_length > 0 OR r.stale_output <> '')`

	sqlProgram     = `INSERT INTO programs (schema, program, applied) VALUES ($1, $2, $3) ON CONFLICT (schema) DO NOTHING`
	sqlLastProgram = `SELECT program FROM programs ORDER BY schema DESC LIMIT 1`
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
	sqlSizes = `SELECT l.name, l.devices,
	(SELECT COUNT(*) FROM devices d WHERE d.id > l.id * 4294967296 AND d.id < (l.id + 1) * 4294967296),
	(SELECT COUNT(*) FROM records r WHERE r.id > l.id * 4294967296 AND r.id < (l.id + 1) * 4294967296)
	FROM lots l ORDER BY l.id`

	// Identities that point to no device of theirs, or to one that was superseded.
	sqlStray = `SELECT COUNT(*) FROM identities i LEFT JOIN devices d ON d.id = i.id AND d.sum = i.sum
	LEFT JOIN records r ON r.id = i.id WHERE d.id IS NULL OR r.id IS NULL OR r.superseded > 0`
	sqlLive = `SELECT (SELECT COUNT(*) FROM records WHERE superseded = 0), (SELECT COUNT(*) FROM identities)`
)
