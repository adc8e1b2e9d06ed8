package station

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"os"
	"time"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/pipeline"
	"keymill/pipeline/ledger"
	"keymill/reports"
)

// workOrder is the order that a lot is made under.
type workOrder struct {
	*reports.WorkOrder
	sha256 string // of its file, hexadecimal
}

// openWorkOrder verifies the order that the settings name, nil if they name none.
func openWorkOrder(ctx context.Context, cfg *config.Config) (*workOrder, error) {
	a := &cfg.Audit
	if a.WorkOrderFile == "" {
		if a.RequireWorkOrder {
			return nil, fault.As(fault.Usage, pipeline.WithHint(errors.New("this station makes nothing without a work order"),
				"Set audit.work_order_file to the file that the product's owner signed."))
		}
		return nil, nil
	}
	if a.WorkOrderKey == "" {
		return nil, fault.As(fault.Usage, pipeline.WithHint(errors.New("a work order is named, and not whose key signs it"), "Set audit.work_order_key to the owner's public key."))
	}
	text, err := os.ReadFile(a.WorkOrderKey)
	if err != nil {
		return nil, fault.As(fault.Usage, fmt.Errorf("audit.work_order_key: %w", err))
	}
	owner, err := reports.ParsePublicKey(text)
	if err != nil {
		return nil, fault.As(fault.Usage, fmt.Errorf("audit.work_order_key: %w", err))
	}
	data, err := os.ReadFile(a.WorkOrderFile)
	if err != nil {
		return nil, fault.As(fault.Usage, fmt.Errorf("audit.work_order_file: %w", err))
	}
	order, err := reports.OpenWorkOrder(ctx, data, owner.Key)
	if err != nil {
		return nil, fault.As(fault.Usage, pipeline.WithHint(fmt.Errorf("work order %s: %w", a.WorkOrderFile, err), "Ask the owner for the file as it was signed."))
	}
	sum := sha256.Sum256(data)
	return &workOrder{order, hex.EncodeToString(sum[:])}, nil
}

// checkWorkOrder refuses a lot that its work order doesn't allow. A lot that the
// ledger has was counted when it was planned.
func (l *Lot) checkWorkOrder(ctx context.Context) (err error) {
	if l.order, err = openWorkOrder(ctx, l.Config); err != nil || l.order == nil {
		return err
	}
	used := 0
	if l.Ledger != nil {
		if used, err = usedOf(ctx, l.Ledger, l.order.Order, l.Name); err != nil {
			return err
		}
	}
	if l.planned {
		ours, _, err := usedByLot(ctx, l.Ledger, l.order.Order, &l.Lot)
		if err != nil {
			return err
		}
		if !ours {
			return refusedByOrder(fmt.Errorf("the lot was not planned under the work order %s", l.order.Order))
		}
	}
	if err := l.order.AllowsLot(&l.Lot, l.Config.Audit.Station, used, time.Now()); err != nil {
		return refusedByOrder(err)
	}
	return nil
}

func refusedByOrder(err error) error {
	return fault.As(fault.Manifest, pipeline.WithHint(fmt.Errorf("%w; nothing was changed", err), "Ask the product's owner for another work order (`keymill order show` shows this one)."))
}

// allowed passes devices on as long as the work order allows them.
func (l *Lot) allowed(devices iter.Seq2[pipeline.Device, error]) iter.Seq2[pipeline.Device, error] {
	if l.order == nil {
		return devices
	}
	return func(yield func(pipeline.Device, error) bool) {
		for dev, err := range devices {
			if err == nil {
				if err = l.order.AllowsDevice(&dev); err != nil {
					err = refusedByOrder(err)
				}
			}
			if !yield(dev, err) || err != nil {
				return
			}
		}
	}
}

// facts are what events say of the order.
func (w *workOrder) facts() map[string]string {
	if w == nil {
		return nil
	}
	return map[string]string{"work_order": w.Order, "work_order_sha256": w.sha256}
}

// usedOf counts the devices that the other lots of an order have used. A device
// that was taken back counts, too, if its image had ever been released: it may
// have been given out.
func usedOf(ctx context.Context, known *ledger.Ledger, order, except string) (used int, err error) {
	lots, err := known.Lots(ctx)
	if err != nil {
		return 0, err
	}
	for i := range lots {
		if lots[i].Name == except {
			continue
		}
		_, n, err := usedByLot(ctx, known, order, &lots[i])
		if err != nil {
			return 0, err
		}
		used += n
	}
	return used, nil
}

func usedByLot(ctx context.Context, known *ledger.Ledger, order string, lot *pipeline.Lot) (ours bool, used int, err error) {
	released, undone := map[int]bool{}, map[int]bool{}
	for stored, err := range known.Events(ctx, lot.Name) {
		if err != nil {
			return false, 0, err
		}
		var event struct {
			Action string          `json:"action"`
			Row    int             `json:"row"`
			Facts  json.RawMessage `json:"facts"`
		}
		if !ours && !bytes.Contains(stored.Canonical, []byte(`"action":"`+pipeline.ActionPlan+`"`)) {
			continue
		}
		if err := json.Unmarshal(stored.Canonical, &event); err != nil {
			return false, 0, fault.StorageOutage(fmt.Errorf("event %d of %s: %w", stored.Seq, stored.Origin, err))
		}
		switch event.Action {
		case pipeline.ActionPlan:
			var facts map[string]string
			if err := json.Unmarshal(event.Facts, &facts); err != nil || facts["work_order"] != order {
				return false, 0, nil // a lot without such facts is no lot of the order
			}
			ours = true
		case pipeline.ActionRelease:
			released[event.Row] = true
		case pipeline.ActionUndo:
			undone[event.Row] = true
		}
	}
	if !ours {
		return false, 0, nil
	}
	used = lot.Devices
	for row := range undone {
		if !released[row] {
			used--
		}
	}
	return true, used, nil
}
