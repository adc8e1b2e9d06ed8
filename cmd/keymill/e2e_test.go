package main

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"keymill/pipeline"
	"keymill/pipeline/mender/sandbox"
)

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

// TestRealClientAcceptsImage boots Debian's mender-client with the key out of a
// produced image: the device turns from preauthorized to accepted, and does
// not with another device's key.
func TestRealClientAcceptsImage(t *testing.T) {
	needRoot(t, "it boots mender-client in a mount namespace of its own")
	needTools(t, "mender-client", "mender", "unshare")
	needTools(t, "e2fsprogs", "debugfs")
	for _, algorithm := range []string{"ed25519", "ecdsa-p256", "rsa-3072"} {
		t.Run(algorithm, func(t *testing.T) {
			f := newFactory(t, 2, sandbox.Config{})
			if code, _, errs := f.call(f.args("--algorithm", algorithm)...); code != 0 {
				t.Fatalf("exit %d: %s", code, errs)
			}
			f.checkLot(2)
			own, other := f.records()[0], f.records()[1]
			if code := f.boot(own, other); code == 0 {
				t.Error("the server accepted a device with another device's key")
			}
			if device, _ := f.box.Find(own.Identity.JSON()); device.Status != "preauthorized" {
				t.Errorf("after a boot with another key the device is %s", device.Status)
			}
			if code := f.boot(own, own); code != 0 {
				t.Errorf("the client was not accepted with its own key: boot-client.sh exits with %d", code)
			}
			if device, _ := f.box.Find(own.Identity.JSON()); device.Status != "accepted" {
				t.Errorf("after its first boot the device is %s", device.Status)
			}
		})
	}
}

// boot starts a mender-client as dev with the key that lies in another's image.
func (f *factory) boot(dev, image *pipeline.Record) int {
	f.t.Helper()
	key := filepath.Join(f.t.TempDir(), "key.pem")
	out, err := exec.Command("mender-artifact", "cat", f.path("out", "images", image.Output.Name)+":/data/mender/mender-agent.pem").Output()
	if err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(key, out, 0o600); err != nil {
		f.t.Fatal(err)
	}
	args := []string{f.server, f.path("sb", "ca.crt"), key, filepath.Join(f.t.TempDir(), "data")}
	for _, attr := range dev.Identity {
		args = append(args, attr.Name+"="+attr.Value)
	}
	log, err := exec.Command("../../pipeline/mender/sandbox/testdata/boot-client.sh", args...).CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		f.t.Logf("boot-client.sh: %s", lastLine(log))
		return exit.ExitCode()
	}
	if err != nil {
		f.t.Fatal(err)
	}
	return 0
}

func lastLine(text []byte) []byte {
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	return lines[len(lines)-1]
}

// TestRealPeerAgrees: Debian's mender-artifact reads the recorded key.
func TestRealPeerAgrees(t *testing.T) {
	needTools(t, "mender-artifact", "mender-artifact")
	needTools(t, "e2fsprogs", "debugfs")
	f := newFactory(t, 3, sandbox.Config{})
	if code, _, errs := f.call(f.args("--algorithm", "ecdsa-p384")...); code != 0 {
		t.Fatalf("exit %d: %s", code, errs)
	}
	for _, rec := range f.records() {
		image := f.path("out", "images", rec.Output.Name)
		out, err := exec.Command("mender-artifact", "cat", image+":/data/mender/mender-agent.pem").Output()
		if err != nil {
			t.Fatal(err)
		}
		if err := pipeline.MatchKey(out, rec.PublicKey); err != nil {
			t.Errorf("%s: %v", rec.Identity, err)
		}
		if err := checkData(t, image); err != nil {
			t.Error(err)
		}
	}
}

// TestKillNine kills a run at random moments, with faults on in the server,
// until it was killed 50 times, and lets the last one end. Nothing may be lost,
// nothing be there twice.
func TestKillNine(t *testing.T) {
	needTools(t, "e2fsprogs", "debugfs")
	kills, devices := 50, 500
	if testing.Short() {
		kills, devices = 5, 60
	}
	for _, format := range []string{"raw", "pack"} {
		t.Run(format, func(t *testing.T) {
			left := kills
			if format == "pack" {
				left = kills / 3 // it goes the same way but for its last step
			}
			for left > 0 {
				f := newFactory(t, devices, sandbox.Config{Seed: 11, Faults: sandbox.Faults{
					Fail: 0.05, Reset: 0.05, Stored500: 0.05, Orphan500: 0.02, Latency: 40 * time.Millisecond,
				}})
				args := f.args("--format", format, "--workers", "24", "--in-flight", "4")
				killed := f.killInTheMiddle(args, left)
				left -= killed
				t.Logf("killed a lot %d times in the middle", killed)
				f.box.SetFaults(sandbox.Faults{Fail: 0.05, Reset: 0.05, Stored500: 0.05, Orphan500: 0.02})
				for range 3 { // devices may fail; the same command tries them again
					if code, _, _ := f.call(args...); code == 0 {
						break
					}
				}
				f.checkLot(devices)
				f.checkBooks(devices, format)
			}
		})
	}
}

// killInTheMiddle starts runs and kills each after a random time, most times,
// or until one ends by itself. It returns how many were killed. The time that a
// run gets follows what the last one achieved, so that the kills spread over
// the whole lot on slow machines and on fast ones.
func (f *factory) killInTheMiddle(args []string, most int, settings ...string) (killed int) {
	f.t.Helper()
	random := rand.New(rand.NewPCG(1, uint64(most)))
	grace := 600 * time.Millisecond
	for killed < most {
		before := countDevices(f.box)
		cmd, log := f.process(args...)
		cmd.Env = append(cmd.Env, settings...)
		if err := cmd.Start(); err != nil {
			f.t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		select {
		case <-time.After(time.Duration(random.Float64() * float64(grace))):
			if err := cmd.Process.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
				f.t.Fatal(err)
			}
			if err := <-ended; err == nil {
				return killed // it was quicker
			}
			killed++
		case err := <-ended:
			if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() != exitDevices {
				f.t.Fatalf("a run ended by itself with %v:\n%s", err, log)
			}
			return killed
		}
		switch made := countDevices(f.box) - before; {
		case made > 20:
			grace = grace * 3 / 4
		case made == 0:
			grace = grace * 5 / 4
		}
	}
	return killed
}

// checkBooks: the totals add up, and no key lies where it should not.
func (f *factory) checkBooks(devices int, format string) {
	f.t.Helper()
	code, out, errs := f.call("status", "lot", "--json", "--ledger", f.ledger)
	if code != 0 {
		f.t.Fatalf("exit %d: %s", code, errs)
	}
	for _, want := range []string{`"released": ` + strconv.Itoa(devices), `"planned": 0`, `"staged": 0`, `"failed": 0`} {
		if !strings.Contains(out, want) {
			f.t.Errorf("status lacks %s:\n%s", want, out)
		}
	}
	product := ""
	if format == "pack" {
		product = f.path("out", "lot.pack")
	}
	if stray := f.strayKeys(product); len(stray) > 0 {
		f.t.Errorf("private keys lie in %v", stray)
	}
	if format == "pack" {
		data, err := os.ReadFile(product)
		if err != nil {
			f.t.Fatal(err)
		}
		if n := bytes.Count(data, []byte("BEGIN PRIVATE KEY")); n != devices {
			f.t.Errorf("the pack holds %d keys, want %d", n, devices)
		}
	}
}

// TestInterrupt: the first interrupt drains and exits with 130, the second one
// stops at once, and both can be resumed.
func TestInterrupt(t *testing.T) {
	needTools(t, "e2fsprogs", "debugfs")
	const devices = 400
	f := newFactory(t, devices, sandbox.Config{Faults: sandbox.Faults{Latency: 50 * time.Millisecond}})
	args := f.args("--format", "pack", "--in-flight", "4", "--workers", "16")
	for signals := 1; signals <= 2; signals++ {
		cmd, log := f.process(args...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		f.waitForDevices(signals * 20)
		for range signals {
			if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
		}
		err := cmd.Wait()
		if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != exitInterrupted {
			t.Fatalf("%d interrupts: %v, want exit code 130\n%s", signals, err, log)
		}
		if !strings.Contains(log.String(), "run the same command again") {
			t.Errorf("the interrupted run does not say how to go on:\n%s", log)
		}
		open := 0
		for _, rec := range f.records() {
			if rec.State != pipeline.Released {
				open++
			}
		}
		if open == 0 {
			t.Fatal("the lot was done before the interrupt")
		}
	}
	f.box.SetFaults(sandbox.Faults{})
	if code, _, errs := f.call(args...); code != 0 {
		t.Fatalf("resumed: exit %d: %s", code, errs)
	}
	f.checkLot(devices)
	f.checkBooks(devices, "pack")
}

// waitForDevices waits until the server has that many devices.
func (f *factory) waitForDevices(n int) {
	f.t.Helper()
	deadline := time.NewTimer(time.Minute)
	tick := time.NewTicker(5 * time.Millisecond)
	defer deadline.Stop()
	defer tick.Stop()
	for countDevices(f.box) < n {
		select {
		case <-tick.C:
		case <-deadline.C:
			f.t.Fatalf("the server has %d devices after a minute, want %d", countDevices(f.box), n)
		}
	}
}

// needRoot skips a test that only root can run, and fails it in CI.
func needRoot(t *testing.T, why string) {
	t.Helper()
	if os.Getuid() == 0 {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatalf("this test needs root: %s", why)
	}
	t.Skipf("this test needs root: %s", why)
}

// TestTokenInTheMiddle: a token that is renewed beside a running lot is picked
// up; one that is revoked stops the lot with code 5, and a new one resumes it.
func TestTokenInTheMiddle(t *testing.T) {
	needTools(t, "e2fsprogs", "debugfs")
	const devices = 200
	f := newFactory(t, devices, sandbox.Config{Faults: sandbox.Faults{Latency: 20 * time.Millisecond}})
	args := f.args("--format", "pack", "--in-flight", "4", "--workers", "16")
	cmd, log := f.process(args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	f.waitForDevices(20)
	f.box.Revoke()
	if err := f.box.WriteFiles(f.path("sb")); err != nil {
		t.Fatal(err)
	}
	f.waitForDevices(60)
	f.box.Revoke()
	err := cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != exitServer {
		t.Fatalf("with a revoked token: %v, want exit code %d\n%s", err, exitServer, log)
	}
	if !strings.Contains(log.String(), "hint: ") {
		t.Errorf("no hint:\n%s", log)
	}
	if err := f.box.WriteFiles(f.path("sb")); err != nil {
		t.Fatal(err)
	}
	f.box.SetFaults(sandbox.Faults{})
	if code, _, errs := f.call(args...); code != 0 {
		t.Fatalf("with a new token: exit %d: %s", code, errs)
	}
	f.checkLot(devices)
	f.checkBooks(devices, "pack")
}
