package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/cmd/keymill/internal/station"
	"keymill/imaging"
	"keymill/pipeline"
	"keymill/pipeline/mender/sandbox"
	"keymill/sources"
)

func (a *app) demoCmd() *cobra.Command {
	var dir string
	var devices int
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Do the whole job on this machine: trial server, invented manifest, generated golden image",
		Long: `Demo needs nothing but this program and Debian's e2fsprogs. It starts a trial server,
invents a manifest, generates a golden image, and runs the lot. Run again, it resumes.`,
		Example: "  keymill demo\n  keymill demo --dir trial --devices 500",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if devices < 1 {
				return fault.Usagef("--devices is %d; it is a number of devices", devices)
			}
			return a.demo(cmd, dir, devices)
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "keymill-demo", "folder for everything that the demo makes")
	cmd.Flags().IntVar(&devices, "devices", 20, "devices in the invented manifest")
	return cmd
}

func (a *app) demo(cmd *cobra.Command, dir string, devices int) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if err := files.MakeDirs(dir); err != nil {
		return err
	}
	ctx := cmd.Context()
	if err := demoInputs(ctx, dir, devices); err != nil {
		return fault.StorageOutage(err)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	server, stopped, err := startDemoServer(ctx, dir)
	if err != nil {
		return err
	}
	fmt.Fprintf(a.err, "Trial server at %s\n", server)
	o := a.options(cmd)
	o.Settings = config.Layers{File: filepath.Join(dir, config.File), Env: a.env, Flags: map[string]any{
		"image.golden": filepath.Join(dir, "golden.sdimg"), "ledger": filepath.Join(dir, "keymill.db"),
		"out": filepath.Join(dir, "out", "demo"), "server.url": server,
		"server.token_file": filepath.Join(dir, "sandbox", "token"), "server.ca_file": filepath.Join(dir, "sandbox", "ca.crt"),
	}}
	runErr := a.tellOutcome(station.Run(ctx, o, filepath.Join(dir, "manifest.csv"), "demo"))
	stop()
	if err := <-stopped; err != nil && runErr == nil {
		runErr = err
	}
	if runErr == nil {
		a.demoEpilogue(dir)
	}
	return runErr
}

// demoInputs makes what is not there yet: manifest, golden image, configuration.
func demoInputs(ctx context.Context, dir string, devices int) error {
	inputs := []struct {
		name string
		make func(path string) error
	}{
		{"manifest.csv", func(path string) error {
			return files.Write(path, func(w io.Writer) error { return sources.Generate(w, devices, 1) })
		}},
		{config.File, func(path string) error {
			return files.Write(path, func(w io.Writer) error {
				_, err := io.WriteString(w, demoConfig)
				return err
			})
		}},
		{"golden.sdimg", func(path string) error {
			// Half an image under the final name would be used by the next demo.
			if err := imaging.Sample(ctx, path+".part", imaging.SampleOptions{}); err != nil {
				return errors.Join(err, os.RemoveAll(path+".part"))
			}
			return os.Rename(path+".part", path)
		}},
	}
	for _, input := range inputs {
		path := filepath.Join(dir, input.name)
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			if err := input.make(path); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
		}
	}
	return nil
}

// demoConfig shows a second file beside the key; everything else is default.
const demoConfig = `# Made by keymill demo.
image:
  inject:
    - {path: /data/mender/mender-agent.pem, content: private-key, mode: "0600"}
    - {path: /data/factory/serial, template: "{{.serial}}\n", mode: "0644"}
`

// startDemoServer starts the sandbox on the address that an earlier demo had,
// as the lot is bound to its server's URL. stopped yields how it ended.
func startDemoServer(ctx context.Context, dir string) (address string, stopped <-chan error, err error) {
	state := filepath.Join(dir, "sandbox")
	box, err := sandbox.New(sandbox.Config{Dir: state})
	if err != nil {
		return "", nil, fault.StorageOutage(err)
	}
	urlFile := filepath.Join(state, "url")
	listen := "127.0.0.1:0"
	if data, err := os.ReadFile(urlFile); err == nil {
		if u, err := url.Parse(strings.TrimSpace(string(data))); err == nil {
			listen = u.Host
		}
	}
	var config net.ListenConfig
	ln, err := config.Listen(ctx, "tcp", listen)
	if err != nil {
		return "", nil, errors.Join(fault.As(fault.Server, pipeline.WithHint(
			fmt.Errorf("the demo's trial server cannot listen where it did before: %w", err),
			"End what listens there, or use another folder with --dir.")), box.Close())
	}
	address = "https://" + ln.Addr().String()
	err = box.WriteFiles(state)
	if err == nil {
		err = files.Write(urlFile, func(w io.Writer) error { _, err := fmt.Fprintln(w, address); return err })
	}
	if err != nil {
		return "", nil, errors.Join(fault.StorageOutage(err), ln.Close(), box.Close())
	}
	done := make(chan error, 1)
	go func() { done <- errors.Join(box.Serve(ctx, ln), box.Close()) }()
	return address, done, nil
}

func (a *app) demoEpilogue(dir string) {
	a.printf(`
Everything lies in %[1]s:
  manifest.csv       the invented manifest
  golden.sdimg       the generated golden image
  out/demo/images    an image a device
  out/demo/report    the audit export
  keymill.db         the ledger
  sandbox            the trial server's CA, token and devices
Look further:
  keymill status demo --ledger %[1]s/keymill.db
  keymill image inspect %[1]s/golden.sdimg
`, dir)
}
