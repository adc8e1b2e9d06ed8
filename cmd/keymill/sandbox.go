package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/fault"
	"keymill/pipeline"
	"keymill/pipeline/mender/sandbox"
)

func (a *app) sandboxCmd() *cobra.Command {
	var o sandboxOptions
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
			cfg, err := o.config()
			if err != nil {
				return err
			}
			tuneServer()
			return a.serveSandbox(cmd.Context(), cfg, o.listen)
		},
	}
	o.flags(cmd)
	return cmd
}

// sandboxOptions are the flags of the trial server.
type sandboxOptions struct {
	listen, quota, plan, passwordFile string
	mender, secretFile                string
	cfg                               sandbox.Config
}

func (o *sandboxOptions) flags(cmd *cobra.Command) {
	flags, faults := cmd.Flags(), &o.cfg.Faults
	flags.StringVar(&o.mender, "mender", string(sandbox.Main), "server that it plays: 4.1 or main")
	flags.StringVar(&o.listen, "listen", "127.0.0.1:0", "address to listen on")
	flags.StringVar(&o.cfg.Dir, "dir", "", "folder of its CA, token and devices")
	flags.StringSliceVar(&o.cfg.Names, "name", nil, "further host names and addresses for its certificate")
	flags.StringVar(&o.quota, "quota", "", "calls that are let through, as 30/min")
	flags.Float64Var(&faults.Fail, "fail", 0, "rate of calls that get 500 and are not stored")
	flags.Float64Var(&faults.Reset, "reset", 0, "rate of connections that are cut")
	flags.Float64Var(&faults.Stored500, "stored-500", 0, "rate of calls that get 500 but are stored")
	flags.Float64Var(&faults.Orphan500, "orphan-500", 0, "rate of preauthorizations that get 500 and leave a device without a key")
	flags.DurationVar(&faults.Latency, "latency", 0, "time that a call takes, as 20ms")
	flags.DurationVar(&faults.LatencyP95, "latency-p95", 0, "time that 95 % of the calls stay below; --latency is then the median")
	flags.DurationVar(&faults.Cost, "cost", 0, "CPU time that a call burns, as 2ms")
	flags.IntVar(&faults.Capacity, "capacity", 0, "calls that are worked on at once; more wait in line")
	flags.StringVar(&o.plan, "fault-plan", "", "file of faults in time, see above")
	flags.IntVar(&o.cfg.MaxDevices, "max-devices", 0, "limit of accepted devices")
	flags.StringToIntVar(&o.cfg.TierLimits, "tiers", nil, "play a server with device tiers, with these limits: standard=100,micro=0 (-1: no limit)")
	flags.DurationVar(&o.cfg.InventoryLag, "inventory-lag", 0, "how long after its registration the inventory knows a device")
	flags.BoolVar(&o.cfg.NoInventory, "no-inventory", false, "play a server without an inventory")
	flags.StringSliceVar(&o.cfg.Roles, "role", nil, "roles of the token's user, as Mender Enterprise has them")
	flags.StringVar(&o.cfg.Webhook.URL, "webhook", "", "URL that is told what happens to devices")
	flags.StringVar(&o.secretFile, "webhook-secret-file", "", "file that holds the secret which signs what the webhook tells")
	flags.DurationVar(&o.cfg.TokenLife, "token-life", 0, "how long tokens are valid (default 7 days)")
	flags.DurationVar(&o.cfg.Decommission, "decommission", 0, "how long a deleted device goes on existing")
	flags.StringVar(&o.cfg.User, "user", "", "user who may log in")
	flags.StringVar(&o.passwordFile, "password-file", "", "file that holds the user's password")
	flags.Uint64Var(&o.cfg.Seed, "seed", uint64(time.Now().UnixNano()), "order of random faults")
}

// config checks the flags.
func (o *sandboxOptions) config() (sandbox.Config, error) {
	if o.cfg.Dir == "" {
		return o.cfg, fault.Usagef("sandbox needs --dir, the folder of its CA, token and devices")
	}
	var err error
	if o.cfg.Version, err = sandbox.ParseVersion(o.mender); err != nil {
		return o.cfg, fault.As(fault.Usage, err)
	}
	if o.secretFile != "" {
		secret, err := os.ReadFile(o.secretFile)
		if err != nil {
			return o.cfg, fault.As(fault.Usage, err)
		}
		o.cfg.Webhook.Secret = bytes.TrimSpace(secret)
	}
	if o.cfg.Faults.QuotaPerMin, err = parseQuota(o.quota); err != nil {
		return o.cfg, err
	}
	f := o.cfg.Faults
	sum := 0.0
	for _, rate := range []float64{f.Fail, f.Reset, f.Stored500, f.Orphan500} {
		if !(rate >= 0 && rate <= 1) { // NaN is neither
			return o.cfg, fault.Usagef("a rate of faults is %v; it is a fraction of the calls, 0 to 1", rate)
		}
		sum += rate
	}
	if sum > 1 {
		return o.cfg, fault.Usagef("the rates of faults add up to %v; each call suffers one at most", sum)
	}
	for _, d := range []time.Duration{f.Latency, f.LatencyP95, f.Cost, o.cfg.TokenLife, o.cfg.Decommission, o.cfg.InventoryLag} {
		if d < 0 {
			return o.cfg, fault.Usagef("%v is no time that something can take", d)
		}
	}
	if f.Capacity < 0 || o.cfg.MaxDevices < 0 {
		return o.cfg, fault.Usagef("--capacity and --max-devices are numbers of calls and devices")
	}
	if o.plan != "" {
		text, err := os.ReadFile(o.plan)
		if err != nil {
			return o.cfg, fault.As(fault.Usage, err)
		}
		if o.cfg.Faults.Plan, err = sandbox.ParsePlan(string(text)); err != nil {
			return o.cfg, fault.Usagef("%s: %w", o.plan, err)
		}
	}
	if o.cfg.User != "" {
		password, err := os.ReadFile(o.passwordFile)
		if err != nil {
			return o.cfg, fault.As(fault.Usage, pipeline.WithHint(err, "--user needs --password-file."))
		}
		o.cfg.Password = strings.TrimSpace(string(password))
	}
	return o.cfg, nil
}

// parseQuota reads "30/min".
func parseQuota(s string) (int, error) {
	if s == "" {
		return 0, nil
	}
	var n int
	var unit string
	if _, err := fmt.Sscanf(s, "%d/%s", &n, &unit); err != nil || unit != "min" || n < 1 {
		return 0, fault.Usagef("--quota is %q; it looks like 30/min", s)
	}
	return n, nil
}

// serveSandbox serves until ctx ends, which is no error here.
func (a *app) serveSandbox(ctx context.Context, cfg sandbox.Config, listen string) error {
	box, err := sandbox.New(cfg)
	if err != nil {
		return fault.As(fault.Storage, err)
	}
	var listener net.ListenConfig
	ln, err := listener.Listen(ctx, "tcp", listen)
	if err != nil {
		return errors.Join(fault.As(fault.Usage, pipeline.WithHint(err, "Name another address with --listen; with port 0 the system chooses a free one.")), box.Close())
	}
	if err := box.WriteFiles(cfg.Dir); err != nil {
		return errors.Join(fault.As(fault.Storage, err), ln.Close(), box.Close())
	}
	a.printf("https://%s\n", reachable(ln.Addr().String(), cfg.Names))
	return errors.Join(box.Serve(ctx, ln), box.Close())
}

// reachable is a listener's address as a client can name it: one that listens on
// all addresses is found under its first name, or on this machine.
func reachable(address string, names []string) string {
	host, port, err := net.SplitHostPort(address)
	if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsUnspecified() {
		return address
	}
	return net.JoinHostPort(append(slices.Clone(names), "127.0.0.1")[0], port)
}
