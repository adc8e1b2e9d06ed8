// Keymill provisions production lots of Mender devices: a key pair for each
// row of a manufacturing manifest, the private key in the device's image, the
// public key preauthorized on the Mender server, and evidence of all of it.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/logs"
	"keymill/cmd/keymill/internal/process"
	"keymill/hsm"
)

func main() {
	// Keys pass through this memory: no core dumps, no swap where that is permitted.
	hsm.Harden()
	hsm.GuardCrashes(fault.HSM.ExitCode())
	process.Tune()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stdio := stdio{in: os.Stdin, out: os.Stdout, env: os.Environ(), err: logs.Journaled(os.Stderr, os.Getenv("JOURNAL_STREAM"))}
	for _, secret := range []string{"KEYMILL_HSM_PIN", "KEYMILL_TOKEN", "KEYMILL_WEBHOOK_SECRET"} {
		os.Unsetenv(secret) // children inherit what is left
	}
	interrupts := make(chan os.Signal, 2)
	signal.Notify(interrupts, os.Interrupt, syscall.SIGTERM)
	brake := process.NewBrake(cancel)
	go func() {
		for range interrupts {
			drains, again := brake.Press()
			if drains {
				fmt.Fprintln(stdio.err, "\nStopping: the steps under way are being finished. Interrupt again to stop at once; both can be resumed.")
			}
			if again {
				// Every step can be cut off anywhere; a hanging one must not keep us.
				time.AfterFunc(time.Second, func() { os.Exit(fault.Interrupted.ExitCode()) })
			}
		}
	}()
	os.Exit(report(stdio, run(ctx, os.Args[1:], stdio, brake)).ExitCode())
}
