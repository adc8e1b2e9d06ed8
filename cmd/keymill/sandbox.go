package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/spf13/cobra"

	"keymill/pipeline/mender/sandbox"
)

func (a *app) sandboxCmd() *cobra.Command {
	var listen, dir, quota string
	var cfg sandbox.Config
	cmd := &cobra.Command{
		Use:   "sandbox",
		Short: "Serve a Mender server for trials, with faults on request",
		Long: `Sandbox serves the part of a Mender server that preauthorization needs, device side
included, over TLS. It writes DIR/ca.crt and DIR/token, keeps its devices in DIR,
prints its URL on stdout when it is ready, and stops on SIGTERM. It is for trials:
its CA key and its token lie in plain files.`,
		Example: "  keymill sandbox --dir sandbox --listen 127.0.0.1:8443\n" +
			"  keymill sandbox --dir sandbox --fail 0.05 --stored-500 0.05 --quota 600/min --latency 20ms",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dir == "" {
				return usagef("sandbox needs --dir, the folder of its CA, token and devices")
			}
			var err error
			if cfg.Faults.QuotaPerMin, err = parseQuota(quota); err != nil {
				return err
			}
			for name, rate := range map[string]float64{"fail": cfg.Faults.Fail, "reset": cfg.Faults.Reset, "stored-500": cfg.Faults.Stored500} {
				if rate < 0 || rate > 1 {
					return usagef("--%s is %v; it is a fraction of the calls, 0 to 1", name, rate)
				}
			}
			cfg.Dir = dir
			return a.serveSandbox(cmd.Context(), cfg, listen)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&listen, "listen", "127.0.0.1:0", "address to listen on")
	flags.StringVar(&dir, "dir", "", "folder of its CA, token and devices")
	flags.StringVar(&quota, "quota", "", "calls that are let through, as 30/min")
	flags.Float64Var(&cfg.Faults.Fail, "fail", 0, "rate of calls that get 500 and are not stored")
	flags.Float64Var(&cfg.Faults.Reset, "reset", 0, "rate of connections that are cut")
	flags.Float64Var(&cfg.Faults.Stored500, "stored-500", 0, "rate of calls that get 500 but are stored")
	flags.DurationVar(&cfg.Faults.Latency, "latency", 0, "time that a call takes, as 20ms")
	flags.IntVar(&cfg.MaxDevices, "max-devices", 0, "limit of accepted devices")
	flags.Uint64Var(&cfg.Seed, "seed", uint64(time.Now().UnixNano()), "order of random faults")
	return cmd
}

// parseQuota reads "30/min".
func parseQuota(s string) (int, error) {
	if s == "" {
		return 0, nil
	}
	var n int
	var unit string
	if _, err := fmt.Sscanf(s, "%d/%s", &n, &unit); err != nil || unit != "min" || n < 1 {
		return 0, usagef("--quota is %q; it looks like 30/min", s)
	}
	return n, nil
}

// serveSandbox serves until ctx ends, which is no error here.
func (a *app) serveSandbox(ctx context.Context, cfg sandbox.Config, listen string) error {
	box, err := sandbox.New(cfg)
	if err != nil {
		return withCode(exitStorage, err)
	}
	var listener net.ListenConfig
	ln, err := listener.Listen(ctx, "tcp", listen)
	if err != nil {
		return errors.Join(withCode(exitUsage, err), box.Close())
	}
	if err := box.WriteFiles(cfg.Dir); err != nil {
		return errors.Join(withCode(exitStorage, err), ln.Close(), box.Close())
	}
	a.printf("https://%s\n", ln.Addr())
	return errors.Join(box.Serve(ctx, ln), box.Close())
}
