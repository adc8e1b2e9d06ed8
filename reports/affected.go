package reports

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"maps"
	"strings"
	"time"

	"keymill/pipeline"
)

// Fleet is what is asked for affected devices; a ledger satisfies it.
type Fleet interface {
	Lots(ctx context.Context) ([]pipeline.Lot, error)
	// Records, Events: as of Source.
	Records(ctx context.Context, lot string, states ...pipeline.State) iter.Seq2[*pipeline.Record, error]
	Events(ctx context.Context, lot string) iter.Seq2[pipeline.StoredEvent, error]
	// Units yields a lot's units, ordered by number.
	Units(ctx context.Context, lot string) iter.Seq2[*pipeline.Unit, error]
}

// Asked says which devices are affected: those for which each of the criteria that
// are given holds of some key or image that was ever made for them. A device that
// got a new key since is still listed: the old one may be out.
type Asked struct {
	Golden    string     `json:"golden_sha256,omitempty"` // of the unpacked golden image that its image was made from
	Algorithm string     `json:"key_algorithm,omitempty"` // of its key
	Firmware  string     `json:"hsm_firmware,omitempty"`  // of the token that made its key
	Tool      string     `json:"tool_sha256,omitempty"`   // of the keymill binary that made key or image
	From      *time.Time `json:"from,omitempty"`          // key or image was made at this time or later
	To        *time.Time `json:"to,omitempty"`            // and before this one
}

// Affected are the devices that were asked for.
type Affected struct {
	Asked    Asked                  `json:"asked"`
	Lots     []AffectedLot          `json:"lots"` // those that have any
	Devices  int                    `json:"devices"`
	Units    int                    `json:"units"`
	Unsure   int                    `json:"unsure"` // devices of which the ledger does not say enough
	States   map[pipeline.State]int `json:"states"`
	Markets  map[string]int         `json:"markets"` // "" for devices without one
	Searched struct {
		Lots    int `json:"lots"`
		Devices int `json:"devices"`
	} `json:"searched"` // the whole ledger

	List []AffectedDevice `json:"-"` // by lot and row
}

// AffectedLot is one lot of the affected devices.
type AffectedLot struct {
	Lot      string `json:"lot"`
	Devices  int    `json:"devices"` // of the lot
	Affected int    `json:"affected"`
	Golden   string `json:"golden_sha256,omitempty"`
	Station  string `json:"station"` // that planned it
}

// AffectedDevice is one line of affected.jsonl.
type AffectedDevice struct {
	Algorithm    string            `json:"algorithm,omitempty"` // of the present key
	HSM          string            `json:"hsm,omitempty"`       // token that made the present key
	Identity     map[string]string `json:"identity"`
	Lot          string            `json:"lot"`
	Market       string            `json:"market,omitempty"` // the manifest's column market
	OutputSHA256 string            `json:"output_sha256,omitempty"`
	Released     string            `json:"released,omitempty"` // when its last image went out
	Row          int               `json:"row"`
	Serial       string            `json:"serial,omitempty"`
	SPKISHA256   string            `json:"spki_sha256,omitempty"`
	State        pipeline.State    `json:"state"`
	Units        []AffectedUnit    `json:"units,omitempty"`
	// Unsure says why the ledger does not say whether the device is affected.
	Unsure string `json:"unsure,omitempty"`
}

// AffectedUnit is a physical thing that an affected device's image went to.
type AffectedUnit struct {
	Number    int                `json:"number"`
	Recipient string             `json:"recipient,omitempty"`
	State     pipeline.UnitState `json:"state"`
}

// FindAffected looks through a whole ledger. It costs what its events cost.
func FindAffected(ctx context.Context, fleet Fleet, asked Asked) (*Affected, error) {
	lots, err := fleet.Lots(ctx)
	if err != nil {
		return nil, err
	}
	a := &Affected{Asked: asked, Lots: []AffectedLot{}, States: map[pipeline.State]int{}, Markets: map[string]int{}}
	for _, lot := range lots {
		a.Searched.Lots++
		a.Searched.Devices += lot.Devices
		if asked.Golden != "" && lot.GoldenSHA256 != asked.Golden || asked.To != nil && !lot.Created.Before(*asked.To) {
			continue
		}
		if err := a.lot(ctx, fleet, lot); err != nil {
			return nil, fmt.Errorf("lot %s: %w", lot.Name, err)
		}
	}
	return a, nil
}

// lot looks through one lot.
func (a *Affected) lot(ctx context.Context, fleet Fleet, lot pipeline.Lot) error {
	search := &affectedSearch{asked: a.Asked, runs: map[string]runFacts{}, made: map[int]madeOf{}}
	for stored, err := range fleet.Events(ctx, lot.Name) {
		if err != nil {
			return err
		}
		e, err := parseEvent(stored.Canonical)
		if err != nil {
			return fmt.Errorf("station %s, seq %d: %w", stored.Station, stored.Seq, err)
		}
		search.event(stored.Origin, e)
	}
	wanted := search.wanted()
	maps.DeleteFunc(search.made, func(_ int, m madeOf) bool { return m.met&wanted != wanted })
	if len(search.made) == 0 {
		return nil
	}
	units := map[int][]AffectedUnit{}
	for u, err := range fleet.Units(ctx, lot.Name) {
		if err != nil {
			return err
		}
		units[u.Row] = append(units[u.Row], AffectedUnit{Number: u.Number, Recipient: u.Recipient, State: u.State})
	}
	one := AffectedLot{Lot: lot.Name, Devices: lot.Devices, Golden: lot.GoldenSHA256, Station: lot.Station}
	for r, err := range fleet.Records(ctx, lot.Name) {
		if err != nil {
			return err
		}
		m, ok := search.made[r.Row]
		if !ok {
			continue
		}
		one.Affected++
		a.add(r, m, m.sure&wanted != wanted, units[r.Row])
	}
	a.Lots = append(a.Lots, one)
	return nil
}

func (a *Affected) add(r *pipeline.Record, m madeOf, unsure bool, units []AffectedUnit) {
	d := AffectedDevice{Algorithm: r.Algorithm, HSM: r.HSM, Identity: attrMap(r.Identity), Lot: r.Lot, OutputSHA256: r.Output.SHA256,
		Released: formTime(m.released), Row: r.Row, SPKISHA256: r.Fingerprint(), State: r.State, Units: units}
	d.Serial, _ = r.Attr("serial")
	for _, attr := range r.Attrs {
		if strings.EqualFold(attr.Name, "market") {
			d.Market = attr.Value
		}
	}
	if unsure {
		d.Unsure = m.why
		a.Unsure++
	}
	a.Devices++
	a.Units += len(units)
	a.States[r.State]++
	a.Markets[d.Market]++
	a.List = append(a.List, d)
}

// criteria are bits of what was asked.
type criteria uint8

const (
	byGolden criteria = 1 << iota
	byAlgorithm
	byFirmware
	byTool
	byTime
)

// madeOf is what the events of a device say.
type madeOf struct {
	met, sure criteria  // criteria that may hold, and those that do
	why       string    // why a criterion is unsure
	released  time.Time // the last time
}

// runFacts is what a run-started event says.
type runFacts struct {
	firmware, tool string
	tokens         bool // several tokens made keys; the firmware is that of the first
}

type affectedSearch struct {
	asked Asked
	runs  map[string]runFacts // by log and seq, and by station and seq
	made  map[int]madeOf      // by row
}

// wanted are the criteria that were asked for.
func (s *affectedSearch) wanted() (c criteria) {
	for bit, asked := range map[criteria]bool{byGolden: s.asked.Golden != "", byAlgorithm: s.asked.Algorithm != "",
		byFirmware: s.asked.Firmware != "", byTool: s.asked.Tool != "", byTime: s.asked.From != nil || s.asked.To != nil} {
		if asked {
			c |= bit
		}
	}
	return c
}

// event takes one event of the lot, whose golden image is the one asked for.
func (s *affectedSearch) event(origin string, e *eventLine) {
	switch e.Action {
	case pipeline.ActionRun:
		run := runFacts{firmware: e.fact("token_firmware"), tool: e.fact("tool_sha256"), tokens: e.fact("tokens") != ""}
		s.runs[runKey("log", origin, e.Seq)] = run
		// A lot log that continues another names runs of that one.
		s.runs[runKey("station", e.Station, e.Seq)] = run
	case pipeline.ActionStage, pipeline.ActionRelease:
		s.made[e.Row] = s.making(s.made[e.Row], origin, e)
	}
}

func runKey(kind, name string, seq int64) string { return fmt.Sprintf("%s %d %s", kind, seq, name) }

// making adds what one event says of a key or an image.
func (s *affectedSearch) making(m madeOf, origin string, e *eventLine) madeOf {
	met := func(bit criteria, holds bool) {
		if holds {
			m.met, m.sure = m.met|bit, m.sure|bit
		}
	}
	perhaps := func(bit criteria, why string) { m.met, m.why = m.met|bit, cmp.Or(m.why, why) }
	run, known := s.runs[runKey("log", origin, e.Run)]
	if !known {
		run, known = s.runs[runKey("station", e.Station, e.Run)]
	}
	if e.Action == pipeline.ActionRelease {
		met(byGolden, true)
		m.released = e.Time
	}
	met(byAlgorithm, e.Algorithm == s.asked.Algorithm)
	met(byTime, (s.asked.From == nil || !e.Time.Before(*s.asked.From)) && (s.asked.To == nil || e.Time.Before(*s.asked.To)))
	if !known {
		perhaps(byTool|byFirmware, "the ledger lacks the start of its run")
		return m
	}
	met(byTool, run.tool == s.asked.Tool)
	if e.Action == pipeline.ActionStage {
		met(byFirmware, run.firmware == s.asked.Firmware)
		if run.tokens {
			perhaps(byFirmware, "several tokens made keys in its run, and the firmware of one is recorded")
		}
	}
	return m
}
