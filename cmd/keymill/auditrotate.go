package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/station"
)

func (a *app) auditRotateCmd() *cobra.Command {
	var next string
	cmd := &cobra.Command{
		Use:   "rotate --to KEY",
		Short: "Go from the station's audit key to another, signed by both",
		Long: `Rotate writes into the station log that another key signs from now on, with a signature
of the old and of the new one: whoever trusts the old key can verify what the new one
signs. KEY is a file, which is made if it is missing, or a pkcs11: URI. Afterwards name
KEY as audit.signing_key, and hand its public half to the auditor all the same.`,
		Example: "  keymill audit rotate --to /etc/keymill/audit-2027.pem\n  keymill audit rotate --to 'pkcs11:token=factory;object=audit-2027'",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if next == "" {
				return fault.Usagef("audit rotate needs --to KEY")
			}
			cfg, err := a.config(cmd, nil)
			if err != nil {
				return err
			}
			o := a.options(cmd)
			ids, err := o.Rotate(cmd.Context(), cfg, next)
			if err != nil {
				return err
			}
			fmt.Fprintf(a.err, "Now name it: audit.signing_key: %s\n", next)
			if a.json {
				return a.writeJSON(map[string]string{"old": ids[0], "new": ids[1]})
			}
			a.printf("%s -> %s\n", ids[0], ids[1])
			return nil
		},
	}
	cmd.Flags().StringVar(&next, "to", "", "the new key: a file or a pkcs11: URI")
	addSettings(cmd)
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) auditRestartCmd() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "restart --reason TEXT",
		Short: "Go on after a ledger was lost: begin the next epoch of its logs",
		Long: `Restart is for a ledger that was put back and lacks events whose heads this station has
signed. Put the newer ledger back if there is one: what restart gives up is lost, every
bundle will say so, and that devices are hidden there cannot be excluded. Lots that the
ledger does not know any more need another name.`,
		Example: `  keymill audit restart --reason "disk replaced, backup of Monday put back"`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if reason == "" {
				return fault.Usagef("audit restart needs --reason TEXT: bundles show it")
			}
			cfg, err := a.config(cmd, nil)
			if err != nil {
				return err
			}
			known, err := station.OpenLedger(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			defer known.Close()
			n, err := station.RestartLogs(cmd.Context(), cfg, known, reason)
			if err != nil {
				return err
			}
			if a.json {
				return a.writeJSON(map[string]int{"logs": n})
			}
			a.printf("%d logs go on under their next epoch.\n", n)
			return nil
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why events are lost")
	addSettings(cmd)
	a.jsonFlag(cmd)
	return cmd
}
