package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"keymill/pipeline"
)

// Silence is how long a station may be silent before another process may beat
// under its name.
const Silence = 60 * time.Second

// ErrStationTaken says that another process works under the station's name.
var ErrStationTaken = errors.New("another process works as this station")

// ErrPackDiffers says that the lot's pack at this station is another one.
var ErrPackDiffers = errors.New("this is not the lot's pack")

// ErrOutTaken says that another lot has the folder.
var ErrOutTaken = errors.New("another lot has this folder")

// Station is a machine that runs keymill for lots.
type Station struct {
	Name      string
	Boot      string // boot id of the machine that the process which beats runs on
	PID       int    // of that process
	Host      string
	Out       string // where its lots lie
	URL       string // where other stations reach it
	PublicKey string // of its logs
	// Given by the ledger.
	Beat          time.Time // by the database's clock; zero if it never beat
	Retired       time.Time // zero while it isn't
	RetiredReason string
}

func scanStation(rows *sql.Rows) (s Station, err error) {
	var beat, retired int64
	err = rows.Scan(&s.Name, &s.Boot, &s.PID, &s.Host, &s.Out, &s.URL, &s.PublicKey, &beat, &retired, &s.RetiredReason)
	s.Beat, s.Retired = fromMicros(beat), fromMicros(retired)
	return s, err
}

// Beat records that a process works as a station. The error is ErrStationTaken
// while another process that does so beat less than Silence ago, and ErrRetired
// for a station that was retired.
func (l *Ledger) Beat(ctx context.Context, s Station) error {
	return l.transact(ctx, func(tx *sql.Tx) error {
		now, err := l.backend.now(ctx, tx, l.clock)
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, sqlNewStation, s.Name); err != nil {
			return err
		}
		known, err := collect(ctx, tx, scanStation, sqlOneStation, s.Name)
		if err != nil {
			return err
		}
		if !known[0].Retired.IsZero() { // whoever beats under its name
			return fmt.Errorf("%w: %s", ErrRetired, s.Name)
		}
		if k := known[0]; (k.Boot != s.Boot || k.PID != s.PID) && k.Boot != "" && now-micros(k.Beat) < Silence.Microseconds() {
			return fmt.Errorf("%w: %s, process %d on %s, heard of %s ago", ErrStationTaken, s.Name, k.PID, k.Host,
				time.Duration(now-micros(k.Beat))*time.Microsecond)
		}
		n, err := affected(tx.ExecContext(ctx, sqlBeat, s.Name, s.Boot, s.PID, s.Host, s.Out, s.URL, s.PublicKey, now))
		if err == nil && n == 0 {
			err = fmt.Errorf("%w: %s", ErrRetired, s.Name)
		}
		return err
	})
}

// Quit records that a process works as a station no more, so that the next one
// needn't wait.
func (l *Ledger) Quit(ctx context.Context, s Station) error {
	return l.transact(ctx, func(tx *sql.Tx) error {
		known, err := collect(ctx, tx, scanStation, sqlOneStation, s.Name)
		if err != nil || len(known) == 0 || known[0].Boot != s.Boot || known[0].PID != s.PID {
			return err
		}
		_, err = tx.ExecContext(ctx, sqlBeat, s.Name, "", 0, s.Host, s.Out, s.URL, s.PublicKey, micros(known[0].Beat))
		return err
	})
}

// Stations returns all stations in the order in which they were first seen.
func (l *Ledger) Stations(ctx context.Context) ([]Station, error) {
	all, err := collect(ctx, l.db, scanStation, sqlStations)
	return all, l.backend.explain(err)
}

// RetireStation ends a station: its logs take no more events, its leases are
// revoked. It returns how many devices these held. Doing it again does nothing.
func (l *Ledger) RetireStation(ctx context.Context, name, reason string) (revoked int, err error) {
	err = l.transact(ctx, func(tx *sql.Tx) error {
		revoked = 0
		now, err := l.backend.now(ctx, tx, l.clock)
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, sqlNewStation, name); err != nil {
			return err
		}
		n, err := affected(tx.ExecContext(ctx, sqlRetire, name, now, text(reason)))
		if err != nil || n == 0 {
			return err
		}
		if revoked, err = l.revoke(ctx, tx, name); err != nil {
			return err
		}
		return freezeAll(ctx, tx, name)
	})
	if err == nil {
		l.forget(name)
	}
	return revoked, err
}

// freezeAll ends the logs of a station, each with its root.
func freezeAll(ctx context.Context, tx *sql.Tx, station string) error {
	// First nobody adds to them any more.
	if _, err := tx.ExecContext(ctx, sqlFreezeLogs, station); err != nil {
		return err
	}
	logs, err := collect(ctx, tx, scanLog, sqlLogs+`WHERE station = $1 AND root = '' ORDER BY id`, station)
	if err != nil {
		return err
	}
	for _, log := range logs {
		root, err := rootOf(ctx, tx, log)
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, sqlFreeze, log.id, root); err != nil {
			return err
		}
	}
	return nil
}

// forget makes begin look again for the logs of a station.
func (l *Ledger) forget(station string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for key := range l.begun {
		if key.station == station {
			delete(l.begun, key)
		}
	}
}

// LotStation is a station's part of a lot.
type LotStation struct {
	Lot, Station string
	Out          string // absolute path of its folder
	PackUUID     string // hexadecimal; "" before the pack is there
	// Given by the ledger.
	Joined   time.Time
	SignedBy string // the station that signed a retired one's head
}

func scanLotStation(rows *sql.Rows) (s LotStation, err error) {
	var joined int64
	err = rows.Scan(&s.Lot, &s.Station, &s.Out, &s.PackUUID, &joined, &s.SignedBy)
	s.Joined = fromMicros(joined)
	return s, err
}

// JoinLot records where a station keeps its part of a lot. The error is
// ErrPackDiffers if its pack is known by another UUID, and ErrOutTaken if the
// station has another lot in that folder.
func (l *Ledger) JoinLot(ctx context.Context, s LotStation) error {
	return l.joinLot(ctx, s, false)
}

// ReplacePack is JoinLot for a pack that takes the place of the known one.
func (l *Ledger) ReplacePack(ctx context.Context, s LotStation) error {
	return l.joinLot(ctx, s, true)
}

func (l *Ledger) joinLot(ctx context.Context, s LotStation, replace bool) error {
	lot, err := l.lotID(ctx, s.Lot)
	if err != nil {
		return err
	}
	return l.transact(ctx, func(tx *sql.Tx) error {
		if err := freeOut(ctx, tx, lot, s.Station, s.Out); err != nil {
			return err
		}
		all, err := collect(ctx, tx, scanLotStation, sqlLotStations, lot)
		if err != nil {
			return err
		}
		for _, known := range all {
			if known.Station == s.Station && known.PackUUID != "" && s.PackUUID != "" && known.PackUUID != s.PackUUID && !replace {
				return fmt.Errorf("%w: the ledger knows pack %s of lot %s at station %s, this is %s",
					ErrPackDiffers, known.PackUUID, s.Lot, s.Station, s.PackUUID)
			}
			if known.Station == s.Station && s.PackUUID == "" {
				s.PackUUID = known.PackUUID
			}
		}
		_, err = tx.ExecContext(ctx, sqlJoin, lot, s.Station, s.Out, s.PackUUID, l.clock().UnixMicro())
		return err
	})
}

// joinPlanned records where the station that plans a lot keeps it.
func joinPlanned(ctx context.Context, tx *sql.Tx, id int64, lot *pipeline.Lot, now int64) error {
	if lot.Station == "" {
		return nil
	}
	if err := freeOut(ctx, tx, id, lot.Station, lot.Out); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, sqlJoin, id, lot.Station, lot.Out, "", now)
	return err
}

// freeOut makes sure that no other lot has a folder.
func freeOut(ctx context.Context, tx *sql.Tx, lot int64, station, out string) error {
	others, err := collect(ctx, tx, scanLotStation, sqlOutTaken, station, out, lot)
	if err != nil || len(others) == 0 {
		return err
	}
	return pipeline.WithHint(fmt.Errorf("%w: %s is lot %s's", ErrOutTaken, out, others[0].Lot),
		"Give each lot a folder of its own with --out.")
}

// LotStations returns the stations of a lot in the order in which they joined.
func (l *Ledger) LotStations(ctx context.Context, lot string) ([]LotStation, error) {
	id, err := l.lotID(ctx, lot)
	if err != nil {
		return nil, err
	}
	all, err := collect(ctx, l.db, scanLotStation, sqlLotStations, id)
	return all, l.backend.explain(err)
}

// SignedBy records that another station signed the head of a retired one.
func (l *Ledger) SignedBy(ctx context.Context, lot, station, by string) error {
	id, err := l.lotID(ctx, lot)
	if err != nil {
		return err
	}
	_, err = l.change(ctx, sqlSignedBy, id, station, by)
	return err
}

// TakeServer takes n requests out of what all stations together may ask of a
// server: rate a second, burst at once. It returns how long to wait before they
// may be sent.
func (l *Ledger) TakeServer(ctx context.Context, url string, rate, burst float64, n int) (wait time.Duration, err error) {
	if rate <= 0 {
		return 0, nil
	}
	err = l.transact(ctx, func(tx *sql.Tx) error {
		now, err := l.backend.now(ctx, tx, l.clock)
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, sqlNewLimit, url, rate, burst, now); err != nil {
			return err
		}
		var tokens float64
		var updated int64
		if err := tx.QueryRowContext(ctx, sqlLockLimit, url, rate, burst).Scan(&tokens, &updated); err != nil {
			return err
		}
		// Below zero: taken in advance by those who wait.
		passed := float64(max(now-updated, 0)) / 1e6
		tokens = min(burst, tokens+passed*rate) - float64(n)
		wait = 0
		if tokens < 0 {
			wait = time.Duration(-tokens / rate * float64(time.Second))
		}
		_, err = tx.ExecContext(ctx, sqlSetLimit, url, tokens, max(now, updated))
		return err
	})
	return wait, err
}
