package demo

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

	"keymill/cmd/keymill/internal/fault"
	"keymill/pipeline"
	"keymill/pipeline/mender/sandbox"
)

// SandboxOptions are the flags of the trial server.
type SandboxOptions struct {
	Listen, Quota, Plan, PasswordFile string
	Mender, SecretFile                string
	Cfg                               sandbox.Config
}

// Check checks the flags.
func (o *SandboxOptions) Check() (sandbox.Config, error) {
	if o.Cfg.Dir == "" {
		return o.Cfg, fault.Usagef("sandbox needs --dir, the folder of its CA, token and devices")
	}
	var err error
	if o.Cfg.Version, err = sandbox.ParseVersion(o.Mender); err != nil {
		return o.Cfg, fault.As(fault.Usage, err)
	}
	if o.SecretFile != "" {
		secret, err := os.ReadFile(o.SecretFile)
		if err != nil {
			return o.Cfg, fault.As(fault.Usage, err)
		}
		o.Cfg.Webhook.Secret = bytes.TrimSpace(secret)
	}
	if o.Cfg.Faults.QuotaPerMin, err = parseQuota(o.Quota); err != nil {
		return o.Cfg, err
	}
	f := o.Cfg.Faults
	sum := 0.0
	for _, rate := range []float64{f.Fail, f.Reset, f.Stored500, f.Orphan500} {
		if !(rate >= 0 && rate <= 1) { // NaN is neither
			return o.Cfg, fault.Usagef("a rate of faults is %v; it is a fraction of the calls, 0 to 1", rate)
		}
		sum += rate
	}
	if sum > 1 {
		return o.Cfg, fault.Usagef("the rates of faults add up to %v; each call suffers one at most", sum)
	}
	for _, d := range []time.Duration{f.Latency, f.LatencyP95, f.Cost, o.Cfg.TokenLife, o.Cfg.Decommission, o.Cfg.InventoryLag} {
		if d < 0 {
			return o.Cfg, fault.Usagef("%v is no time that something can take", d)
		}
	}
	if f.Capacity < 0 || o.Cfg.MaxDevices < 0 {
		return o.Cfg, fault.Usagef("--capacity and --max-devices are numbers of calls and devices")
	}
	if o.Plan != "" {
		text, err := os.ReadFile(o.Plan)
		if err != nil {
			return o.Cfg, fault.As(fault.Usage, err)
		}
		if o.Cfg.Faults.Plan, err = sandbox.ParsePlan(string(text)); err != nil {
			return o.Cfg, fault.Usagef("%s: %w", o.Plan, err)
		}
	}
	if o.Cfg.User != "" {
		password, err := os.ReadFile(o.PasswordFile)
		if err != nil {
			return o.Cfg, fault.As(fault.Usage, pipeline.WithHint(err, "--user needs --password-file."))
		}
		o.Cfg.Password = strings.TrimSpace(string(password))
	}
	return o.Cfg, nil
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

// Serve serves until ctx ends, which is no error here. ready is told the URL.
func Serve(ctx context.Context, cfg sandbox.Config, listen string, ready func(url string)) error {
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
	ready("https://" + reachable(ln.Addr().String(), cfg.Names))
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
