// Package demo makes what the demo needs: manifest, golden image,
// configuration, and a sandbox that it finds again.
package demo

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

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/imaging"
	"keymill/pipeline"
	"keymill/pipeline/mender/sandbox"
	"keymill/sources"
)

// Inputs makes what is not there yet: manifest, golden image, configuration.
func Inputs(ctx context.Context, dir string, devices int) error {
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

// Start starts the sandbox on the address that an earlier demo had,
// as the lot is bound to its server's URL. stopped yields how it ended.
func Start(ctx context.Context, dir string) (address string, stopped <-chan error, err error) {
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
