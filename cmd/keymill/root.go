package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"keymill/cmd/keymill/internal/build"
	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/logs"
	"keymill/cmd/keymill/internal/process"
	"keymill/cmd/keymill/internal/say"
	"keymill/cmd/keymill/internal/station"
	"keymill/cmd/keymill/internal/telemetry"
	"keymill/hsm"
	"keymill/pipeline"
	"keymill/pipeline/ledger"
	"keymill/sources"
)

// app is what all verbs share.
type app struct {
	stdio
	brake *process.Brake
	// telemetry is nil where nothing is sent.
	telemetry *telemetry.Telemetry
	// begun is told of each run before its devices move; nil is allowed.
	begun func(station.Begun)
	// replaceAccepted lets on_conflict replace reach accepted devices, too.
	replaceAccepted bool
	verifyHow       string // all, sample or none: what a run compares at its end
	env             config.Environ
	modules         *hsm.Modules // of the process
	configPath      string
	json            bool
}

// run executes one command line.
func run(ctx context.Context, args []string, stdio stdio, brake *process.Brake) error {
	out := &process.Outlet{W: stdio.out}
	stdio.out = out
	a := &app{stdio: stdio, brake: brake, env: environ(stdio), modules: hsm.NewModules()}
	defer a.modules.Close() // a module that hangs in it is left to the end of the process
	root := a.root()
	root.SetArgs(args)
	root.SetIn(stdio.in)
	root.SetErr(stdio.err)
	if err := root.ExecuteContext(ctx); err != nil {
		return err
	}
	return out.Fault()
}

// environ is the environment that settings come from.
func environ(stdio stdio) []string {
	if stdio.env != nil {
		return stdio.env
	}
	return os.Environ()
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "keymill",
		Short: "Provision production lots of Mender devices",
		// `keymill version` tells more.
		Version: build.Version(),
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
	for _, group := range a.verbs() {
		root.AddGroup(&cobra.Group{ID: group.id, Title: group.title})
		for _, verb := range group.verbs {
			verb.GroupID = group.id
			root.AddCommand(verb)
		}
	}
	root.AddCommand(a.manCmd())
	root.AddCommand(topics()...)
	root.SetHelpCommandGroupID("machine")
	root.SetCompletionCommandGroupID("machine")
	root.SetOut(a.out) // cobra's completion verb asks for it while it is made
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	strict(root)
	a.complete(root)
	wrapUsage(root)
	return root
}

// verbGroup are the verbs that serve one kind of people.
type verbGroup struct {
	id, title string
	verbs     []*cobra.Command
}

// verbs are all verbs, by whom they serve.
func (a *app) verbs() []verbGroup {
	return []verbGroup{
		{"lots", "Lots:", []*cobra.Command{
			a.demoCmd(), a.initCmd(), a.allocateCmd(), a.checkCmd(), a.planCmd(), a.traced(a.runCmd()), a.batchCmd(), a.statusCmd(),
			a.traced(a.retryCmd()), a.traced(a.verifyCmd()), a.watchCmd(), a.traced(a.undoCmd()), a.traced(a.rmaCmd()),
		}},
		{"stations", "Stations:", []*cobra.Command{a.stationCmd(), a.unitCmd(), a.labelCmd(), a.submitCmd(), a.workerCmd(), a.imageCmd(), a.hsmCmd(), a.certCmd(), a.orderCmd()}},
		{"auditor", "The auditor:", []*cobra.Command{a.traced(a.exportCmd()), a.affectedCmd(), a.auditCmd()}},
		{"machine", "The machine:", []*cobra.Command{a.ledgerCmd(), a.sandboxCmd(), a.doctorCmd(), a.configCmd(), a.versionCmd()}},
	}
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
				err = fmt.Errorf("wrong number of arguments; usage: `%s`", strings.TrimSuffix(cmd.UseLine(), " [flags]"))
			}
			return fault.As(fault.Usage, pipeline.WithHint(err, "See `%s --help`.", cmd.CommandPath()))
		}
	}
	for _, child := range cmd.Commands() {
		wrapUsage(child)
	}
}

// addSettings declares flags of the settings table on a verb.
func addSettings(cmd *cobra.Command, names ...string) {
	table := config.Flags()
	for _, name := range append(names, "ledger", "log-format", "log-level") {
		if table[name].Count {
			cmd.Flags().Int(name, 0, table[name].Usage)
		} else {
			cmd.Flags().String(name, "", table[name].Usage)
		}
		cmd.Flags().Lookup(name).Annotations = map[string][]string{settingFlag: {table[name].Key}}
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

// config loads the configuration for a verb; lot is the lot it works on, nil
// if there is none yet.
func (a *app) config(cmd *cobra.Command, lot *pipeline.Lot) (*config.Config, error) {
	return a.layers(cmd).For(lot)
}

// layers are where a verb's configuration comes from.
func (a *app) layers(cmd *cobra.Command) config.Layers {
	given := map[string]any{}
	cmd.Flags().Visit(func(flag *pflag.Flag) {
		if key, ok := flag.Annotations[settingFlag]; ok {
			given[key[0]] = flag.Value.String()
		}
	})
	return config.Layers{File: a.configPath, Env: a.env, Flags: given}
}

// options say how a verb works on lots, and lead what happens to the terminal.
func (a *app) options(cmd *cobra.Command) station.Options {
	return station.Options{
		Settings: a.layers(cmd), ReplaceAccepted: a.replaceAccepted, Verify: a.verifyHow, Drain: a.brake.Drainable, Modules: a.modules,
		Hooks: station.Hooks{
			LogTo:   a.err,
			Notice:  func(text string) { fmt.Fprintln(a.err, text) },
			AskPIN:  a.askPIN(),
			Problem: func(p sources.Problem) { fmt.Fprintln(a.err, p) },
			Unshown: func(n int, what string) {
				fmt.Fprintf(a.err, "%s more; `keymill check` lists all\n", say.Count(n, what))
			},
			Progress: a.showProgress,
			Begun:    a.begun, Follow: a.telemetry.Follower(), FollowRequest: a.telemetry.RequestFollower(),
		},
	}
}

// askPIN returns how a person is asked for a PIN, nil where there is no terminal.
func (a *app) askPIN() func(context.Context, string) ([]byte, error) {
	file, ok := a.in.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return nil
	}
	return func(_ context.Context, token string) ([]byte, error) {
		fmt.Fprintf(a.err, "PIN of the HSM token %s: ", token)
		defer fmt.Fprintln(a.err)
		return term.ReadPassword(int(file.Fd()))
	}
}

// openLedger opens the ledger of a verb that needs one to be there.
func (a *app) openLedger(cmd *cobra.Command) (*ledger.Ledger, error) {
	cfg, err := a.config(cmd, nil)
	if err != nil {
		return nil, err
	}
	return station.OpenLedger(cmd.Context(), cfg)
}

// openLot opens the ledger and finds the lot, with its settings as defaults.
func (a *app) openLot(cmd *cobra.Command, name string) (*station.View, error) {
	return station.OpenView(cmd.Context(), a.layers(cmd), name)
}

func (a *app) printf(format string, args ...any) {
	fmt.Fprintf(a.out, format, args...)
}

// signer opens the station's signing key.
func (a *app) signer(cmd *cobra.Command, cfg *config.Config) (station.Signer, error) {
	o := a.options(cmd)
	return o.Signer(cmd.Context(), cfg, logs.New(cfg.Log, a.err))
}
