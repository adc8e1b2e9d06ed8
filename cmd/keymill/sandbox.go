package main

import (
	"time"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/demo"
	"keymill/cmd/keymill/internal/process"
	"keymill/pipeline/mender/sandbox"
)

func (a *app) sandboxCmd() *cobra.Command {
	var o demo.SandboxOptions
	cmd := &cobra.Command{
		Use:   "sandbox",
		Short: "Serve a Mender server for trials, with faults on request",
		Long: `Sandbox serves the part of a Mender server that preauthorization needs, device side
included, over TLS. It writes DIR/ca.crt and DIR/token, keeps its devices in DIR,
prints its URL on stdout when it is ready (a browser shows its devices there), and
stops on SIGTERM. It is for trials: its CA key and its token lie in plain files.

A fault plan is a file of rules, one a line:
  after 200 requests answer 503 for 20 s
  every 50 requests on preauthorize cut after storing
  5 % of requests answer 429 retry after 2 s`,
		Example: "  keymill sandbox --dir sandbox --listen 127.0.0.1:8443\n" +
			"  keymill sandbox --dir sandbox --fail 0.05 --stored-500 0.05 --quota 600/min --latency 20ms\n" +
			"  keymill sandbox --dir sandbox --fault-plan night.plan",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := o.Check()
			if err != nil {
				return err
			}
			process.TuneServer()
			return demo.Serve(cmd.Context(), cfg, o.Listen, func(url string) { a.printf("%s\n", url) })
		},
	}
	sandboxFlags(cmd, &o)
	return cmd
}

func sandboxFlags(cmd *cobra.Command, o *demo.SandboxOptions) {
	flags, faults := cmd.Flags(), &o.Cfg.Faults
	flags.StringVar(&o.Mender, "mender", string(sandbox.Main), "server that it plays: 4.1 or main")
	flags.StringVar(&o.Listen, "listen", "127.0.0.1:0", "address to listen on")
	flags.StringVar(&o.Cfg.Dir, "dir", "", "folder of its CA, token and devices")
	flags.StringSliceVar(&o.Cfg.Names, "name", nil, "further host names and addresses for its certificate")
	flags.StringVar(&o.Quota, "quota", "", "calls that are let through, as 30/min")
	flags.Float64Var(&faults.Fail, "fail", 0, "rate of calls that get 500 and are not stored")
	flags.Float64Var(&faults.Reset, "reset", 0, "rate of connections that are cut")
	flags.Float64Var(&faults.Stored500, "stored-500", 0, "rate of calls that get 500 but are stored")
	flags.Float64Var(&faults.Orphan500, "orphan-500", 0, "rate of preauthorizations that get 500 and leave a device without a key")
	flags.DurationVar(&faults.Latency, "latency", 0, "time that a call takes, as 20ms")
	flags.DurationVar(&faults.LatencyP95, "latency-p95", 0, "time that 95 % of the calls stay below; --latency is then the median")
	flags.DurationVar(&faults.Cost, "cost", 0, "CPU time that a call burns, as 2ms")
	flags.IntVar(&faults.Capacity, "capacity", 0, "calls that are worked on at once; more wait in line")
	flags.StringVar(&o.Plan, "fault-plan", "", "file of faults in time, see above")
	flags.IntVar(&o.Cfg.MaxDevices, "max-devices", 0, "limit of accepted devices")
	flags.StringToIntVar(&o.Cfg.TierLimits, "tiers", nil, "play a server with device tiers, with these limits: standard=100,micro=0 (-1: no limit)")
	flags.DurationVar(&o.Cfg.InventoryLag, "inventory-lag", 0, "how long after its registration the inventory knows a device")
	flags.BoolVar(&o.Cfg.NoInventory, "no-inventory", false, "play a server without an inventory")
	flags.StringSliceVar(&o.Cfg.Roles, "role", nil, "roles of the token's user, as Mender Enterprise has them")
	flags.StringVar(&o.Cfg.Webhook.URL, "webhook", "", "URL that is told what happens to devices")
	flags.StringVar(&o.SecretFile, "webhook-secret-file", "", "file that holds the secret which signs what the webhook tells")
	flags.DurationVar(&o.Cfg.TokenLife, "token-life", 0, "how long tokens are valid (default 7 days)")
	flags.DurationVar(&o.Cfg.Decommission, "decommission", 0, "how long a deleted device goes on existing")
	flags.StringVar(&o.Cfg.User, "user", "", "user who may log in")
	flags.StringVar(&o.PasswordFile, "password-file", "", "file that holds the user's password")
	flags.Uint64Var(&o.Cfg.Seed, "seed", uint64(time.Now().UnixNano()), "order of random faults")
}
