package reports

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"keymill/pipeline"
)

// Summary is what holds for a lot as a whole; every format shows it.
type Summary struct {
	Lot        pipeline.Lot
	Totals     pipeline.Totals
	Balance    Balance
	Identity   []string // names of the identity's values, in the manifest's order
	Attributes []string // names of the other attributes
	Algorithms []count  // devices by key algorithm
	Stats      Stats    // from the events
	Time       time.Time
	Logs       []LogHead // heads of the log of each station that took part; empty without a signer
	KeyID      string    // of the signer
	// Failures are the first failed and conflicting devices, at most
	// maxFailures: what a person must look at comes first in a report.
	Failures []*pipeline.Record
}

// maxFailures bounds what a report lists before it points to the tables.
const maxFailures = 5000

type count struct {
	name  string
	count int
}

// survey reads the lot's records once, before anything is written.
func survey(ctx context.Context, src Source, lot string) (*Summary, error) {
	s := &Summary{}
	var err error
	if s.Lot, err = src.Lot(ctx, lot); err != nil {
		return nil, fmt.Errorf("lot %s: %w", lot, err)
	}
	if s.Totals, err = src.Totals(ctx, lot); err != nil {
		return nil, fmt.Errorf("totals of lot %s: %w", lot, err)
	}
	algorithms := map[string]int{}
	for r, err := range src.Records(ctx, lot) {
		if err != nil {
			return nil, fmt.Errorf("records of lot %s: %w", lot, err)
		}
		s.names(r)
		s.Balance.add(standingOf(r))
		if r.Algorithm != "" {
			algorithms[r.Algorithm]++
		}
		if r.Updated.After(s.Time) {
			s.Time = r.Updated.UTC()
		}
		s.failure(r)
	}
	s.algorithms(algorithms)
	if s.Time.IsZero() {
		s.Time = s.Lot.Created.UTC()
	}
	return s, nil
}

// failure keeps a device that failed or conflicts, as far as there is room.
func (s *Summary) failure(r *pipeline.Record) {
	if (r.State == pipeline.Failed || r.State == pipeline.Conflicted) && len(s.Failures) < maxFailures {
		kept := *r
		s.Failures = append(s.Failures, &kept)
	}
}

// algorithms orders the devices' algorithms, the most frequent first.
func (s *Summary) algorithms(counts map[string]int) {
	for name, n := range counts {
		s.Algorithms = append(s.Algorithms, count{name, n})
	}
	slices.SortFunc(s.Algorithms, func(a, b count) int {
		return cmp.Or(cmp.Compare(b.count, a.count), strings.Compare(a.name, b.name))
	})
}

// names collects the columns; rows of one manifest nearly always have the same.
func (s *Summary) names(r *pipeline.Record) {
	for _, a := range r.Identity {
		if !slices.Contains(s.Identity, a.Name) {
			s.Identity = append(s.Identity, a.Name)
		}
	}
	for _, a := range r.Attrs {
		if !slices.Contains(s.Identity, a.Name) && !slices.Contains(s.Attributes, a.Name) {
			s.Attributes = append(s.Attributes, a.Name)
		}
	}
}

// facts returns the lot's particulars as reports show them, empty ones left out.
func (s *Summary) facts() []pipeline.Attr {
	l := s.Lot
	facts := []pipeline.Attr{
		{Name: "Lot", Value: l.Name},
		{Name: "Station", Value: l.Station},
		{Name: "Server", Value: l.Server},
		{Name: "Planned", Value: stamp(l.Created)},
		{Name: "Closed", Value: stamp(l.Closed)},
		{Name: "State as of", Value: stamp(s.Time)},
		{Name: "Manifest SHA-256", Value: l.ManifestSHA256},
		{Name: "Golden image SHA-256", Value: l.GoldenSHA256},
		{Name: "Injection SHA-256", Value: l.InjectSHA256},
		{Name: "Key source", Value: l.Keys},
		{Name: "Key algorithm", Value: l.Algorithm},
		{Name: "Image format", Value: l.Format},
	}
	return slices.DeleteFunc(facts, func(a pipeline.Attr) bool { return a.Value == "" })
}

// outcomes returns the devices by state, then the keys, in report order.
func (s *Summary) outcomes() []count {
	t := s.Totals
	rows := []count{{"Devices", t.Devices}}
	for _, state := range pipeline.States {
		if n := t.Count(state); n != nil {
			rows = append(rows, count{stateTitle(state), *n})
		}
	}
	return append(rows, count{"Keys generated", t.Keys.Generated},
		count{"Keys released", t.Keys.Released}, count{"Keys destroyed", t.Keys.Destroyed})
}

func stateTitle(s pipeline.State) string {
	if s == "" {
		return ""
	}
	return string(s[0]-'a'+'A') + string(s[1:])
}

// stamp is a time as reports print it: UTC, to the second.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}
