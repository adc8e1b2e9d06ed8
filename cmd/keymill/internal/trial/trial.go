// Package trial puts together what a lot needs, for tests: a golden image, a
// manifest, and a sandbox in this process that a test can look into.
package trial

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/files"
	"keymill/imaging"
	"keymill/pipeline/mender/sandbox"
	"keymill/sources"
)

// Trial is a folder with everything that a lot needs.
type Trial struct {
	T      testing.TB
	Dir    string
	Box    *sandbox.Sandbox
	Server string // URL
	Ledger string // path
}

// New makes a golden image and a manifest of so many devices, and starts a sandbox.
func New(t testing.TB, devices int, cfg sandbox.Config) *Trial {
	t.Helper()
	f := &Trial{T: t, Dir: t.TempDir()}
	if err := imaging.Sample(t.Context(), f.Path("golden.sdimg"), imaging.SampleOptions{}); err != nil {
		t.Fatal(err)
	}
	f.Write("manifest.csv", func(w io.Writer) error { return sources.Generate(w, devices, 3) })
	f.Ledger = f.Path("keymill.db")
	var err error
	if f.Box, err = sandbox.New(cfg); err != nil {
		t.Fatal(err)
	}
	var listener net.ListenConfig
	ln, err := listener.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.Server = "https://" + ln.Addr().String()
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context())) // t.Context() ends before Cleanup
	served := make(chan error, 1)
	go func() { served <- f.Box.Serve(ctx, ln) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	if err := f.Box.WriteFiles(f.Path("sb")); err != nil {
		t.Fatal(err)
	}
	return f
}

// Path is a path in the folder.
func (f *Trial) Path(name ...string) string {
	return filepath.Join(append([]string{f.Dir}, name...)...)
}

// Write writes a file in the folder.
func (f *Trial) Write(name string, write func(io.Writer) error) {
	f.T.Helper()
	if err := files.Write(f.Path(name), write); err != nil {
		f.T.Fatal(err)
	}
}

// Settings are a configuration for the folder's lot; more beats them.
func (f *Trial) Settings(more map[string]any) config.Layers {
	flags := map[string]any{
		"image.golden": f.Path("golden.sdimg"), "ledger": f.Ledger, "out": f.Path("out"), "server.url": f.Server,
		"server.token_file": f.Path("sb", "token"), "server.ca_file": f.Path("sb", "ca.crt"),
	}
	for key, value := range more {
		if flags[key] = value; value == nil {
			delete(flags, key)
		}
	}
	return config.Layers{Env: os.Environ(), Flags: flags}
}

// Manifest writes a manifest of count devices, whose numbers begin with first.
func (f *Trial) Manifest(name string, first, count int) {
	f.T.Helper()
	f.Write(name, func(w io.Writer) error {
		fmt.Fprintln(w, "mac,serial")
		for i := range count {
			fmt.Fprintf(w, "AC:DE:48:%02X:%02X:%02X,SN%06d\n", (first+i)>>16&255, (first+i)>>8&255, (first+i)&255, first+i)
		}
		return nil
	})
}

// Devices returns how many devices the sandbox has.
func (f *Trial) Devices() int {
	n := 0
	for range f.Box.Devices() {
		n++
	}
	return n
}

// NeedTools skips a test on a machine without the tools of a Debian package,
// and fails it in CI.
func NeedTools(t testing.TB, debian string, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err == nil {
			continue
		}
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is missing; .ci/setup installs Debian's %s", tool, debian)
		}
		t.Skipf("%s is missing; .ci/setup installs Debian's %s", tool, debian)
	}
}
