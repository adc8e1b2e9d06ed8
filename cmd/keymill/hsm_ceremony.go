package main

import (
	_ "embed"
	"strings"

	"github.com/spf13/cobra"
)

// ceremony is what `keymill hsm ceremony` shows.
//
//go:embed ceremony.txt
var ceremony string

// hsmCeremonyCmd is a help topic: it has nothing to run.
func hsmCeremonyCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "ceremony",
		Short:   "How the station's keys come into being: ceremony, backup, rotation",
		Long:    strings.TrimSpace(ceremony),
		Example: "  keymill hsm ceremony",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
}
