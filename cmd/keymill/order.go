package main

import (
	"crypto"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/cmd/keymill/internal/station"
	"keymill/reports"
)

func (a *app) orderCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "order",
		Short: "Work orders: what a product's owner allows a manufacturer to make",
		Long: `A work order is signed by the owner, away from the factory. A station that has it
as audit.work_order_file refuses, when it plans a lot, what lies outside it; with
audit.require_work_order it makes nothing without one. That binds an honest station
and documents a dishonest one: a fresh ledger forgets what was made. The owner
compares the closings, the logs' heads and the server.`,
		Example: "  keymill order show po-17.dsse.json --key owner.pub",
		Args:    unknownVerb,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.orderNewCmd(), a.orderShowCmd())
	return cmd
}

func (a *app) orderNewCmd() *cobra.Command {
	var order reports.WorkOrder
	var keyFile, until, path string
	cmd := &cobra.Command{
		Use:   "new -o FILE",
		Short: "Make and sign a work order, with the owner's private key",
		Example: "  keymill order new -o po-17.dsse.json --key owner.pem --order PO-17 --quantity 5000 --until 2027-03-31 \\\n" +
			"    --golden SHA256 --station line-3 --serials SN-0001-SN-5000",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if keyFile == "" || path == "" {
				return fault.Usagef("name the owner's private key with --key, and the file to write with -o")
			}
			day, err := time.Parse(time.DateOnly, until)
			if err != nil {
				return fault.Usagef("--until %q: write a day such as 2027-03-31", until)
			}
			order.NotAfter = day.AddDate(0, 0, 1).Add(-time.Second).UTC()
			if err := a.env.GuardSecret("--key", keyFile); err != nil {
				return err
			}
			key, err := station.ReadKey(keyFile)
			if err != nil {
				return fault.As(fault.Usage, err)
			}
			signed, err := reports.SignWorkOrder(cmd.Context(), &order, key)
			if err != nil {
				return fault.As(fault.Usage, err)
			}
			if err := files.Write(path, func(w io.Writer) error { _, err := w.Write(signed); return err }); err != nil {
				return fault.StorageOutage(err)
			}
			a.printf("Wrote %s. The station needs it, and the public half of the key.\n", path)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVarP(&path, "output", "o", "", "file to write")
	f.StringVar(&keyFile, "key", "", "the owner's private key (PEM)")
	f.StringVar(&order.Order, "order", "", "the order's number")
	f.StringVar(&order.Product, "product", "", "what is made")
	f.IntVar(&order.Quantity, "quantity", 0, "how many devices, over all lots")
	f.StringVar(&until, "until", "", "last day, in UTC")
	f.StringSliceVar(&order.Golden, "golden", nil, "SHA-256 of golden images that may be used (default any)")
	f.StringSliceVar(&order.Stations, "station", nil, "stations that may make them (default any)")
	f.StringSliceVar(&order.Lots, "lot", nil, "lots (default any)")
	f.StringSliceVar(&order.MACs, "macs", nil, "ranges of MAC addresses, FIRST-LAST (default any)")
	f.StringSliceVar(&order.Serials, "serials", nil, "ranges of serial numbers, FIRST-LAST (default any)")
	return cmd
}

func (a *app) orderShowCmd() *cobra.Command {
	var keyFile string
	cmd := &cobra.Command{
		Use:     "show FILE --key FILE",
		Short:   "Verify a work order by the owner's public key, and show it",
		Example: "  keymill order show po-17.dsse.json --key owner.pub",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			owner, err := publicKeyFile(keyFile)
			if err != nil {
				return fault.As(fault.Usage, fmt.Errorf("--key: %w", err))
			}
			data, err := os.ReadFile(args[0])
			if err != nil {
				return fault.As(fault.Usage, err)
			}
			order, err := reports.OpenWorkOrder(cmd.Context(), data, owner)
			if err != nil {
				return fault.As(fault.Evidence, fmt.Errorf("%s: %w", args[0], err))
			}
			return a.writeJSON(order)
		},
	}
	cmd.Flags().StringVar(&keyFile, "key", "", "the owner's public key (PEM)")
	a.jsonFlag(cmd) // which is what it prints anyhow
	return cmd
}

func publicKeyFile(path string) (crypto.PublicKey, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	key, err := reports.ParsePublicKey(text)
	return key.Key, err
}
