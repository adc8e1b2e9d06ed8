package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/station"
)

// complete teaches the shells what can stand behind a verb: lots and devices from
// the ledger, the few words that a setting can be.
func (a *app) complete(root *cobra.Command) {
	words := map[string][]string{}
	for _, c := range (&config.Config{}).Choices() {
		words[c.Name] = c.Allowed
	}
	for cmd := range everyVerb(root) {
		if first := strings.Fields(cmd.Use + " -")[1]; strings.HasPrefix(strings.Trim(first, "["), "LOT") {
			cmd.ValidArgsFunction = a.completeLots
		}
		for name, setting := range config.Flags() {
			flag := cmd.Flags().Lookup(name)
			if flag == nil || flag.Annotations[settingFlag] == nil || words[setting.Key] == nil {
				continue
			}
			// It fails only for flags that are missing or were registered before.
			_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(words[setting.Key], cobra.ShellCompDirectiveNoFileComp))
		}
		describe(cmd)
	}
}

// describe adds what cobra's own verbs lack.
func describe(cmd *cobra.Command) {
	switch cmd.CommandPath() {
	case "keymill help":
		cmd.Example = "  keymill help run\n  keymill help image write"
	case "keymill completion":
		cmd.Example = "  keymill completion bash > /etc/bash_completion.d/keymill"
	case "keymill completion bash":
		cmd.Example = "  keymill completion bash > /etc/bash_completion.d/keymill"
	case "keymill completion zsh":
		cmd.Example = "  keymill completion zsh > /usr/local/share/zsh/site-functions/_keymill"
	case "keymill completion fish":
		cmd.Example = "  keymill completion fish > ~/.config/fish/completions/keymill.fish"
	case "keymill completion powershell":
		cmd.Example = "  keymill completion powershell > keymill.ps1"
	}
}

// completeLots offers the ledger's lots. A ledger that cannot be read offers none.
func (a *app) completeLots(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	const none = cobra.ShellCompDirectiveNoFileComp
	several := strings.Contains(cmd.Use, "..]")
	devices := len(args) == 1 && strings.Contains(cmd.Use, " LOT DEVICE")
	if len(args) > 0 && !several && !devices {
		return nil, cobra.ShellCompDirectiveDefault
	}
	cfg, err := a.config(cmd, nil)
	if err != nil {
		return nil, none
	}
	known, err := station.OpenKnown(cmd.Context(), cfg.Ledger)
	if err != nil || known == nil {
		return nil, none
	}
	defer known.Close()
	if devices {
		return station.DevicesLike(cmd.Context(), known, args[0], typed), none
	}
	lots, err := known.Lots(cmd.Context())
	if err != nil {
		return nil, none
	}
	var names []cobra.Completion
	for _, lot := range lots {
		if strings.HasPrefix(lot.Name, typed) && !slices.Contains(args, lot.Name) {
			names = append(names, lot.Name)
		}
	}
	return names, none
}
