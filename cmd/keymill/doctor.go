package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/logs"
	"keymill/cmd/keymill/internal/say"
	"keymill/imaging"
)

func (a *app) doctorCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check this machine, the server, the HSM and the configuration",
		Long: "Doctor changes nothing. It ends with the exit code of the first thing that is wrong,\n" +
			"and says which settings are in force and where they were set (see `keymill config`).\n\n" + exitCodesHelp,
		Example: "  keymill doctor\n  keymill doctor --json",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.doctor(cmd) },
	}
	addSettings(cmd, lineSettings...)
	a.jsonFlag(cmd)
	return cmd
}

// finding is the outcome of one check.
type finding struct {
	Check  string `json:"check"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
	Hint   string `json:"hint,omitempty"`
	kind   fault.Kind
}

func (a *app) doctor(cmd *cobra.Command) error {
	ctx := cmd.Context()
	cfg, err := a.config(cmd, nil)
	findings := []finding{found("configuration", "readable, nothing unknown in it", err)}
	if err == nil {
		j := &job{app: a, cfg: cfg, log: logs.New(cfg.Log, a.err)}
		defer j.Close()
		checks := []struct {
			name string
			run  func(context.Context) (string, error)
		}{
			{"secrets", j.checkSecrets}, {"e2fsprogs", j.checkTools}, {"golden image", j.checkGolden}, {"disk", j.checkDisk},
			{"ledger", j.checkLedger}, {"keys", j.checkKeys}, {"server", j.checkServer}, {"told", j.checkTold}, {"telemetry", j.checkTelemetry},
		}
		for _, check := range checks {
			detail, err := check.run(ctx)
			findings = append(findings, found(check.name, detail, err))
		}
	}
	if a.json {
		if err := a.writeJSON(findings); err != nil {
			return err
		}
	} else {
		a.printFindings(findings)
		if err == nil {
			if err := a.printChanged(cfg); err != nil {
				return err
			}
		}
	}
	for _, f := range findings {
		if !f.OK {
			return fault.Told(f.kind, "%s: %s", f.Check, f.Detail)
		}
	}
	return nil
}

func found(check, detail string, err error) finding {
	if err == nil {
		return finding{Check: check, OK: true, Detail: detail}
	}
	return finding{Check: check, Detail: err.Error(), Hint: fault.Hint(err), kind: fault.KindOf(err)}
}

func (a *app) printFindings(findings []finding) {
	for _, f := range findings {
		mark := "ok  "
		if !f.OK {
			mark = "FAIL"
		}
		a.printf("%s  %-14s %s\n", mark, f.Check, f.Detail)
		if f.Hint != "" {
			a.printf("      hint: %s\n", f.Hint)
		}
	}
}

func (j *job) checkTools(ctx context.Context) (string, error) {
	if err := imaging.ToolsMissing(); err != nil {
		return "", err
	}
	return "debugfs and e2fsck are there", ctx.Err()
}

func (j *job) checkGolden(ctx context.Context) (string, error) {
	if err := j.openGolden(ctx, time.Now().UTC().Truncate(time.Second)); err != nil {
		return "", err
	}
	data, err := j.images.golden.Data()
	if err != nil {
		return "", imageFault(ctx, j.cfg.Image.Golden, err)
	}
	return fmt.Sprintf("%s, data partition is number %d", j.cfg.Image.Golden, data.Number), nil
}

func (j *job) checkDisk(context.Context) (string, error) {
	out, err := j.cfg.OutDir("LOT")
	if err != nil {
		return "", err
	}
	free, err := imaging.FreeBytes(existingParent(out))
	if err != nil {
		return "", fault.StorageOutage(err)
	}
	return say.Bytes(free) + " free for products", nil
}

func (j *job) checkLedger(ctx context.Context) (string, error) {
	known, err := openKnown(ctx, j.cfg.Ledger)
	if err != nil {
		return "", err
	}
	if known == nil {
		return j.cfg.Ledger + " will be made by the first run", nil
	}
	lots, err := known.Lots(ctx)
	if err := errors.Join(err, known.Close()); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s, %d lots", j.cfg.Ledger, len(lots)), nil
}

func (j *job) checkKeys(ctx context.Context) (string, error) {
	keys, err := j.app.openKeys(ctx, j.cfg, j.log)
	if err != nil {
		return "", err
	}
	rate, err := keyRate(ctx, keys)
	if err := errors.Join(err, keys.Close()); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s, %s, about %.0f a second and core", j.cfg.Keys.Source, j.cfg.Keys.Algorithm, rate), nil
}

func (j *job) checkServer(ctx context.Context) (string, error) {
	server, err := j.app.openServer(j.cfg, j.log)
	if err != nil {
		return "", err
	}
	defer server.Close()
	probe, err := server.ProbeNow(ctx)
	if err != nil {
		return "", err
	}
	return viewServer(probe).String(), nil
}

// checkSecrets looks at every file with a secret that the configuration names,
// used by this run or not.
func (j *job) checkSecrets(context.Context) (string, error) {
	files := map[string]string{
		"server.token_file": j.cfg.Server.TokenFile, "server.password_file": j.cfg.Server.PasswordFile,
		"notify.secret_file": j.cfg.Notify.SecretFile, "telemetry.headers_file": j.cfg.Telemetry.HeadersFile,
	}
	for name, server := range j.cfg.Servers {
		files["servers."+name+".token_file"], files["servers."+name+".password_file"] = server.TokenFile, server.PasswordFile
	}
	for setting, path := range files {
		if err := j.app.env.GuardSecret(setting, path); err != nil {
			return "", err
		}
	}
	if err := j.app.env.GuardPIN("keys.hsm", j.cfg.Keys.HSM); err != nil {
		return "", err
	}
	if err := j.app.env.GuardSigningKey(j.cfg.Audit.SigningKey); err != nil {
		return "", err
	}
	return "no file with a secret is open to everybody", nil
}
