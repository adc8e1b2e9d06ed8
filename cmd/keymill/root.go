package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"keymill/pipeline"
)

// app is what all verbs share.
type app struct {
	stdio
	brake *brake
	// telemetry is nil where nothing is sent.
	telemetry *telemetry
	// observe is told of each run before its devices move; nil is allowed.
	observe func(*job, *pipeline.Line)
	// replaceAccepted lets on_conflict replace reach accepted devices, too.
	replaceAccepted bool
	verifyHow       string // all, sample or none: what a run compares at its end
	env             []string
	configPath      string
	json            bool
}

// run executes one command line.
func run(ctx context.Context, args []string, stdio stdio, brake *brake) error {
	out := &outlet{w: stdio.out}
	stdio.out = out
	a := &app{stdio: stdio, brake: brake, env: os.Environ()}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(stdio.in)
	root.SetErr(stdio.err)
	if err := root.ExecuteContext(ctx); err != nil {
		return err
	}
	return out.fault()
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "keymill",
		Short: "Provision production lots of Mender devices",
		// `keymill version` tells more.
		Version: buildVersion(),
		Long: `Keymill gives every device of a manufacturing manifest a key of its own, puts the
private key into that device's disk image, preauthorizes the public key with the
Mender server, and leaves evidence that an auditor can check.

` + exitCodesHelp,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          unknownVerb,
		Example:       "  keymill demo\n  keymill init line-3\n  keymill help run",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cmd.Help()
		},
	}
	root.PersistentFlags().StringVar(&a.configPath, "config", "", "configuration file (default ./keymill.yaml if it exists)")
	root.SetFlagErrorFunc(flagProblem)
	root.AddCommand(
		a.demoCmd(), a.initCmd(), a.checkCmd(), a.planCmd(), a.traced(a.runCmd()), a.batchCmd(), a.statusCmd(), a.traced(a.retryCmd()),
		a.traced(a.verifyCmd()), a.traced(a.undoCmd()), a.allocateCmd(), a.ledgerCmd(),
		a.traced(a.exportCmd()), a.imageCmd(), a.hsmCmd(), a.auditCmd(), a.sandboxCmd(), a.doctorCmd(), a.configCmd(), a.versionCmd(), a.manCmd(),
	)
	root.SetOut(a.out) // cobra's completion verb asks for it while it is made
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	strict(root)
	a.complete(root)
	wrapUsage(root)
	return root
}

// wrapUsage gives cobra's own complaints about arguments and verbs exit code 2.
func wrapUsage(cmd *cobra.Command) {
	if validate := cmd.Args; validate != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			err := validate(cmd, args)
			if err == nil {
				return nil
			}
			if !cmd.HasSubCommands() && cmd.Name() != "help" {
				err = fmt.Errorf("arguments are missing or too many: it is written `%s`", strings.TrimSuffix(cmd.UseLine(), " [flags]"))
			}
			return withCode(exitUsage, pipeline.WithHint(err, "See `%s --help`.", cmd.CommandPath()))
		}
	}
	for _, child := range cmd.Commands() {
		wrapUsage(child)
	}
}

// setting is a configuration setting that a verb takes as a flag.
type setting struct {
	key   string
	usage string
	count bool // a number
}

// settings are the flags that set configuration, by flag name. The names are a
// contract with people's scripts.
func settings() map[string]setting {
	return map[string]setting{
		"ledger":         {key: "ledger", usage: "ledger file"},
		"server":         {key: "server.url", usage: "URL of the Mender server"},
		"token-file":     {key: "server.token_file", usage: "file that holds the server's token"},
		"ca-file":        {key: "server.ca_file", usage: "PEM file of a private CA to trust"},
		"in-flight":      {key: "server.in_flight", usage: "most requests under way at once", count: true},
		"give-up":        {key: "server.give_up", usage: "how long the server may be down before the run stops (default 15m)"},
		"on-conflict":    {key: "server.on_conflict", usage: "when the server holds another key: fail or replace"},
		"golden":         {key: "image.golden", usage: "golden image"},
		"partition":      {key: "image.partition", usage: "data partition of the golden image: number, label or PARTUUID"},
		"format":         {key: "image.format", usage: "form of the products: " + strings.Join(imageFormats(), ", ")},
		"out":            {key: "out", usage: "folder of the lot's products (default out/LOT)"},
		"keys":           {key: "keys.source", usage: "where keys come from: software, hsm, hsm-entropy or token"},
		"algorithm":      {key: "keys.algorithm", usage: "ed25519, ecdsa-p256, ecdsa-p384, rsa-2048, rsa-3072 or rsa-4096"},
		"hsm":            {key: "keys.hsm", usage: "the token as an RFC 7512 URI with module-path and pin-source"},
		"workers":        {key: "workers", usage: "devices under way at once", count: true},
		"expect":         {key: "manifest.expect", usage: "control total: number of devices that the manifest must have", count: true},
		"sheet":          {key: "manifest.sheet", usage: "sheet of the workbook"},
		"mac":            {key: "allocate.macs", usage: "ranges to take MAC addresses from, in this order, parted by commas"},
		"mac-attributes": {key: "allocate.mac_attributes", usage: "attributes that get an address each, parted by commas (default mac)"},
		"serial":         {key: "allocate.serial", usage: "pattern of serial numbers, such as 'KM{yy}{ww}-{seq:5}'"},
		"serial-first":   {key: "allocate.serial_first", usage: "lowest sequence number to use", count: true},
		"older-than":     {key: "retention.older_than", usage: "age of closed lots whose keys are destroyed, such as 90d"},
		"log-format":     {key: "log.format", usage: "text or json"},
		"log-level":      {key: "log.level", usage: "debug, info, warn or error"},
	}
}

// addSettings declares flags of the settings table on a verb.
func addSettings(cmd *cobra.Command, names ...string) {
	table := settings()
	for _, name := range append(names, "ledger", "log-format", "log-level") {
		if table[name].count {
			cmd.Flags().Int(name, 0, table[name].usage)
		} else {
			cmd.Flags().String(name, "", table[name].usage)
		}
		cmd.Flags().Lookup(name).Annotations = map[string][]string{settingFlag: {table[name].key}}
	}
}

// settingFlag marks flags that set configuration: a verb may have another flag
// of the same name, as export has --format.
const settingFlag = "keymill-setting"

// lineSettings are the flags of the verbs that work on devices.
var lineSettings = []string{
	"server", "token-file", "ca-file", "in-flight", "on-conflict", "give-up", "golden", "partition", "format", "out",
	"keys", "algorithm", "hsm", "workers",
}

// replaceAcceptedFlag is never a setting: it locks out devices in the field, so
// somebody must say it each time.
func (a *app) replaceAcceptedFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&a.replaceAccepted, "replace-accepted", false,
		"with --on-conflict replace: remove the keys of accepted devices, too; they are locked out")
}

// policy is what happens to devices that the server knows under another key.
func (a *app) policy(cfg *Config) pipeline.OnConflict {
	policy := pipeline.OnConflict(cfg.Server.OnConflict)
	if policy == pipeline.ConflictReplace && a.replaceAccepted {
		return pipeline.ConflictReplaceAccepted
	}
	return policy
}

// config loads the configuration for a verb; lot is the lot it works on, nil
// if there is none yet.
func (a *app) config(cmd *cobra.Command, lot *pipeline.Lot) (*Config, error) {
	given := map[string]any{}
	cmd.Flags().Visit(func(flag *pflag.Flag) {
		if key, ok := flag.Annotations[settingFlag]; ok {
			given[key[0]] = flag.Value.String()
		}
	})
	return layers{lot: lotSettings(lot), file: a.configPath, env: a.env, flags: given}.load()
}

// lotSettings makes what a lot was planned with the default for going on.
func lotSettings(lot *pipeline.Lot) map[string]any {
	if lot == nil {
		return nil
	}
	return map[string]any{
		"server.url": lot.Server, "image.golden": lot.GoldenPath, "image.format": lot.Format,
		"keys.source": lot.Keys, "keys.algorithm": lot.Algorithm, "out": lot.Out,
	}
}

// logger writes the log to w as the configuration says.
func (c LogConfig) logger(w io.Writer) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Level)); err != nil {
		level = slog.LevelInfo
	}
	options := &slog.HandlerOptions{Level: level}
	if to, ok := w.(journal); ok && c.Format == "text" {
		return slog.New(newJournalHandler(to, level))
	}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// closing closes c after err, and returns err if there is one.
func closing(c io.Closer, err error) error {
	if closeErr := c.Close(); err == nil {
		return closeErr
	}
	return err
}

func (a *app) printf(format string, args ...any) {
	fmt.Fprintf(a.out, format, args...)
}
