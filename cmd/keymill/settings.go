package main

import (
	"strings"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/config"
)

func (a *app) configCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Show every setting: its value, where it was set, what it means",
		Long: `Config shows the configuration that is in force here. Flags beat environment
variables beat keymill.yaml beat what a lot was planned with beat the defaults.
Secrets are not shown.`,
		Example: "  keymill config\n  keymill config --json\n  keymill config --config /etc/keymill/keymill.yaml",
		Args:    unknownVerb,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.config(cmd, nil)
			if err != nil {
				return err
			}
			list, err := cfg.InForce()
			if err != nil {
				return err
			}
			if a.json {
				return a.writeJSON(list)
			}
			a.printSettings(list)
			return nil
		},
	}
	addSettings(cmd, lineSettings...)
	a.jsonFlag(cmd)
	cmd.AddCommand(&cobra.Command{
		Use:     "schema",
		Short:   "Print the JSON Schema of keymill.yaml, for editors",
		Example: "  keymill config schema > keymill.schema.json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := a.out.Write(config.Schema)
			return err
		},
	})
	return cmd
}

func (a *app) printSettings(list []config.SettingView) {
	for _, s := range list {
		a.printf("%s: %s\n    from %s\n", s.Setting, s.Value, s.From)
		for line := range strings.Lines(s.Meaning) {
			a.printf("    %s\n", strings.TrimRight(line, "\n"))
		}
	}
}

// printChanged shows on one line each the settings that are not the default.
func (a *app) printChanged(cfg *config.Config) error {
	list, err := cfg.InForce()
	if err != nil {
		return err
	}
	same := 0
	for _, s := range list {
		if s.From == "default" {
			same++
			continue
		}
		a.printf("set   %-22s %s  (%s)\n", s.Setting, s.Value, s.From)
	}
	a.printf("set   %d settings are at their defaults; `keymill config` explains them all\n", same)
	return nil
}
