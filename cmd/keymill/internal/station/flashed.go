package station

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"keymill/pipeline"
	"keymill/pipeline/ledger"
)

// FlashedBefore says when and where a device was flashed last, "" if never.
func FlashedBefore(ctx context.Context, known *ledger.Ledger, rec *pipeline.Record) (string, error) {
	said := ""
	for event, err := range known.Events(ctx, rec.Lot) {
		if err != nil {
			return "", err
		}
		if !bytes.Contains(event.Canonical, []byte(`"action":"`+pipeline.ActionFlash+`"`)) {
			continue
		}
		var flashed struct {
			Row   int               `json:"row"`
			Time  string            `json:"time"`
			Facts map[string]string `json:"facts"`
		}
		if err := json.Unmarshal(event.Canonical, &flashed); err != nil {
			return "", errors.Join(errors.New("the ledger holds an unreadable event"), err)
		}
		if flashed.Row == rec.Row {
			said = fmt.Sprintf("at %s to %s by station %s", flashed.Time, flashed.Facts["disk"], event.Station)
		}
	}
	return said, nil
}
