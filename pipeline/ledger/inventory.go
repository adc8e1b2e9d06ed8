package ledger

import (
	"context"
	"database/sql"

	"keymill/pipeline"
)

const (
	// A device is asked into the server's inventory when the server has it.
	sqlAskInventory = `UPDATE records SET inventory = 'pending', inventory_reason = ''
	WHERE id > $1 AND id <= $2 AND inventory = '' AND auth_status <> '' AND superseded = 0 AND state <> 'undone'`
	sqlInventoryTotals = `, COUNT(*) FILTER (WHERE inventory = 'pending' AND state <> 'undone'),
	COUNT(*) FILTER (WHERE inventory = 'failed' AND state <> 'undone')`
)

// AskInventory marks all devices of a lot that the server has, and that were
// never asked into its inventory, as pending.
func (l *Ledger) AskInventory(ctx context.Context, lot string) error {
	id, err := l.lotID(ctx, lot)
	if err != nil {
		return err
	}
	after, last := lotRange(id)
	_, err = l.change(ctx, sqlAskInventory, after, last)
	return err
}

// SetInventories records, in one transaction, how far the server's inventory
// knows of devices of one lot: what each record says.
func (l *Ledger) SetInventories(ctx context.Context, lot string, records []*pipeline.Record) error {
	if len(records) == 0 {
		return nil
	}
	id, err := l.lotID(ctx, lot)
	if err != nil {
		return err
	}
	return l.transact(ctx, func(tx *sql.Tx) error {
		for _, rec := range records {
			if _, err := tx.ExecContext(ctx, sqlInventory, deviceID(id, rec.Row), string(rec.Inventory), text(rec.InventoryReason)); err != nil {
				return err
			}
		}
		return nil
	})
}
