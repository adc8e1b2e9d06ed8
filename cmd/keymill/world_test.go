package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/cmd/keymill/internal/process"
	"keymill/cmd/keymill/internal/station"
	"keymill/cmd/keymill/internal/trial"
	"keymill/imaging"
	"keymill/pipeline"
	"keymill/pipeline/ledger"
	"keymill/pipeline/mender/sandbox"
)

// factory is a folder with everything that a lot needs: golden image, manifest,
// and a trial server in this process, which the test can look into.
type factory struct {
	t      testing.TB
	dir    string
	box    *sandbox.Sandbox
	server string
	ledger string // path
}

func newFactory(t testing.TB, devices int, cfg sandbox.Config) *factory {
	t.Helper()
	w := trial.New(t, devices, cfg)
	return &factory{t: t, dir: w.Dir, box: w.Box, server: w.Server, ledger: w.Ledger}
}

func (f *factory) path(name ...string) string {
	return filepath.Join(append([]string{f.dir}, name...)...)
}

func (f *factory) write(name string, write func(io.Writer) error) {
	f.t.Helper()
	if err := files.Write(f.path(name), write); err != nil {
		f.t.Fatal(err)
	}
}

// args are the arguments of a run of the factory's manifest as lot "lot".
func (f *factory) args(more ...string) []string {
	return append([]string{
		"run", f.path("manifest.csv"), "--lot", "lot", "--golden", f.path("golden.sdimg"), "--ledger", f.ledger,
		"--out", f.path("out"), "--server", f.server, "--token-file", f.path("sb", "token"), "--ca-file", f.path("sb", "ca.crt"),
	}, more...)
}

// process is a run in a process of its own, ready to be started.
func (f *factory) process(args ...string) (*exec.Cmd, *bytes.Buffer) {
	f.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		f.t.Fatal(err)
	}
	log := &bytes.Buffer{}
	cmd := exec.Command(exe, args...)
	cmd.Dir = f.dir
	cmd.Env = append(os.Environ(), asMain+"=1", "TMPDIR="+f.path("tmp"))
	cmd.Stdout, cmd.Stderr = log, log
	if err := os.MkdirAll(f.path("tmp"), 0o700); err != nil {
		f.t.Fatal(err)
	}
	return cmd, log
}

// call runs a command line in this process and returns its exit code and output.
func (f *factory) call(args ...string) (code int, stdout, stderr string) {
	f.t.Helper()
	var out, errs bytes.Buffer
	io := stdio{in: strings.NewReader(""), out: &out, err: &errs}
	ctx, cancel := context.WithCancel(f.t.Context())
	defer cancel()
	code = report(io, run(ctx, args, io, process.NewBrake(cancel))).ExitCode()
	return code, out.String(), errs.String()
}

// records reads the lot's records.
func (f *factory) records() []*pipeline.Record {
	f.t.Helper()
	db, err := ledger.Open(f.t.Context(), f.ledger)
	if err != nil {
		f.t.Fatal(err)
	}
	defer db.Close()
	var all []*pipeline.Record
	for rec, err := range db.Records(f.t.Context(), "lot") {
		if err != nil {
			f.t.Fatal(err)
		}
		all = append(all, rec)
	}
	return all
}

// checkLot judges a finished lot with means that are not the program's own
// wherever there are any: the server's memory, debugfs, grep.
func (f *factory) checkLot(devices int) {
	f.t.Helper()
	records := f.records()
	if len(records) != devices {
		f.t.Fatalf("%d records, want %d", len(records), devices)
	}
	golden, err := imaging.OpenGolden(f.t.Context(), f.path("golden.sdimg"), imaging.GoldenOptions{})
	if err != nil {
		f.t.Fatal(err)
	}
	defer golden.Close()
	seen := map[string]bool{}
	for _, rec := range records {
		if rec.State != pipeline.Released {
			f.t.Errorf("%s is %s: %s", rec.Identity, rec.State, rec.Reason)
			continue
		}
		if seen[rec.Fingerprint()] {
			f.t.Errorf("%s has a key that another device has, too", rec.Identity)
		}
		seen[rec.Fingerprint()] = true
		device, found := f.box.Find(rec.Identity.JSON())
		if !found || len(device.AuthSets) != 1 || !slices.Equal(device.AuthSets[0].SPKI, rec.PublicKey) {
			f.t.Errorf("%s: the server holds %+v", rec.Identity, device)
		}
		if rec.Output.Name == "" {
			continue
		}
		if err := pipeline.MatchKey(keyByDebugfs(f.t, golden, f.path("out", "images", rec.Output.Name)), rec.PublicKey); err != nil {
			f.t.Errorf("%s: %v", rec.Identity, err)
		}
	}
	if n := countDevices(f.box); n != devices {
		f.t.Errorf("the server has %d devices, want %d", n, devices)
	}
}

func countDevices(box *sandbox.Sandbox) int {
	n := 0
	for range box.Devices() {
		n++
	}
	return n
}

// keyByDebugfs reads the key file out of a raw image with e2fsprogs.
func keyByDebugfs(t testing.TB, golden *imaging.Golden, path string) []byte {
	t.Helper()
	data, err := golden.Data()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("debugfs", "-R", "cat /mender/mender-agent.pem", path+"?offset="+itoa(data.Offset)).Output()
	if err != nil {
		t.Fatalf("debugfs %s: %v", path, err)
	}
	return out
}

// strayKeys lists the files below the factory, images and a pack that is the
// product aside, in which a private key can be read.
func (f *factory) strayKeys(product ...string) []string {
	f.t.Helper()
	var stray []string
	err := filepath.WalkDir(f.dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		if strings.HasPrefix(path, f.path("out", "images")+"/") && !strings.HasPrefix(entry.Name(), ".") || slices.Contains(product, path) {
			return nil
		}
		if entry.Name() == station.SigningKeyFile || strings.HasPrefix(path, f.path("sb")+"/") {
			return nil // the station's own and the trial server's
		}
		data, err := os.ReadFile(path)
		if bytes.Contains(data, []byte("PRIVATE KEY")) {
			stray = append(stray, path)
		}
		return err
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return stray
}

// The exit codes that scripts stand on.
const (
	exitInternal    = 1
	exitUsage       = 2
	exitManifest    = 3
	exitDevices     = 4
	exitServer      = 5
	exitHSM         = 6
	exitStorage     = 7
	exitEvidence    = 8
	exitInterrupted = 130
)

// exitCode is what the process would end with.
func exitCode(err error) int { return fault.KindOf(err).ExitCode() }
