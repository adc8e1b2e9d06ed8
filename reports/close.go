package reports

import (
	"context"
	"crypto"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sync/errgroup"

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
// it: the balance, and a checkpoint of the station's log so far. The caller
// appends it to the ledger. A lot that does not reconcile is an
// *ImbalanceError.
func Close(ctx context.Context, src Source, lot, station string, key crypto.Signer) (pipeline.Event, error) {
	pass := &eventPass{lot: lot, dir: os.TempDir(), each: func(pipeline.StoredEvent) error { return nil }}
	defer pass.close()
	var s *Summary
	work, within := errgroup.WithContext(ctx)
	work.Go(func() (err error) {
		s, err = survey(within, src, lot)
		return err
	})
	work.Go(func() error { return pass.run(within, src, "") })
	if err := work.Wait(); err != nil {
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
	event := pipeline.Event{Station: station, Lot: lot, Action: pipeline.ActionClose,
		Facts: []pipeline.Attr{{Name: "balance", Value: string(balance)}}}
	for _, l := range pass.logs {
		if l.station != station {
			continue
		}
		head, err := l.head(io.Discard)
		if err != nil {
			return pipeline.Event{}, err
		}
		signed, err := head.sign(key)
		if err != nil {
			return pipeline.Event{}, err
		}
		event.Facts = append(event.Facts, pipeline.Attr{Name: factCheckpoint, Value: string(signed)})
	}
	return event, nil
}
