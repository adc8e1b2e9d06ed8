package reports

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"keymill/pipeline"
)

// ImbalanceError says why a lot cannot close.
type ImbalanceError struct {
	Lot   string
	Wrong []string
}

func (e *ImbalanceError) Error() string {
	return fmt.Sprintf("lot %s does not reconcile: %s", e.Lot, strings.Join(e.Wrong, "; "))
}

// Close checks that a lot's totals reconcile and returns the event that closes
// it: the balance, and the head of the log of each station that worked on it. The
// caller appends it to the ledger and signs the lot then. A lot that does not
// reconcile is an *ImbalanceError. It costs what the lot costs, however much else
// the ledger holds.
func Close(ctx context.Context, src Source, lot, station string) (pipeline.Event, error) {
	s, err := survey(ctx, src, lot)
	if err != nil {
		return pipeline.Event{}, err
	}
	if wrong := s.Balance.Check(s.Lot.Devices); len(wrong) > 0 {
		return pipeline.Event{}, pipeline.WithHint(&ImbalanceError{lot, wrong},
			"run or retry the lot until every device is released, failed or undone; the events say what became of each")
	}
	balance, err := json.Marshal(s.Balance)
	if err != nil {
		return pipeline.Event{}, err
	}
	logs, err := src.Logs(ctx, lot)
	if err != nil {
		return pipeline.Event{}, fmt.Errorf("logs of lot %s: %w", lot, err)
	}
	heads := []namedHead{}
	for _, l := range logs {
		if l.Kind != pipeline.LogLot || l.Size == 0 {
			continue
		}
		b := &bookLog{log: l, walk: walk{name: logName(l)}}
		if err := b.read(ctx, src, nil); err != nil {
			return pipeline.Event{}, err
		}
		heads = append(heads, b.walk.head(l.Origin))
	}
	slices.SortFunc(heads, func(a, b namedHead) int { return strings.Compare(a.Origin, b.Origin) })
	listed, err := json.Marshal(heads)
	if err != nil {
		return pipeline.Event{}, err
	}
	return pipeline.Event{Station: station, Lot: lot, Action: pipeline.ActionClose,
		Facts: []pipeline.Attr{{Name: "balance", Value: string(balance)}, {Name: factHeads, Value: string(listed)}}}, nil
}
