package station

import (
	"context"

	"keymill/cmd/keymill/internal/config"
	"keymill/pipeline"
)

// Listed is a device that a verb would work on. Its JSON is an element of
// `retry --dry-run --json` and `undo --dry-run --json`.
type Listed struct {
	Device   string         `json:"device"`
	State    pipeline.State `json:"state"`
	Reason   string         `json:"reason,omitempty"`
	Key      string         `json:"key,omitempty"` // SPKI, SHA-256
	OnServer bool           `json:"on_server"`
}

// ListDevices lists a lot's devices in these states. It takes no lock and asks no
// server.
func ListDevices(ctx context.Context, settings config.Layers, lot string, states ...pipeline.State) ([]Listed, error) {
	list := []Listed{}
	view, err := OpenView(ctx, settings, lot)
	if err != nil {
		return list, err
	}
	defer view.Close()
	for rec, err := range view.Records(ctx, lot, states...) {
		if err != nil {
			return list, err
		}
		d := Listed{Device: rec.Identity.Name(), State: rec.State, Reason: rec.Reason, OnServer: rec.Auth.Status != ""}
		if len(rec.PublicKey) > 0 {
			d.Key = rec.Fingerprint()
		}
		list = append(list, d)
	}
	return list, nil
}
