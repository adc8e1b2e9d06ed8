package main

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"

	"keymill/pipeline/mender/sandbox"
)

// TestPruneAccepted: once all devices have come up with their keys, the pack is
// not needed any more; until then it is the only place that has these.
func TestPruneAccepted(t *testing.T) {
	f := newFactory(t, 3, sandbox.Config{})
	if code, _, errs := f.call(f.args("--format", "pack", "--algorithm", "ecdsa-p256")...); code != 0 {
		t.Fatalf("exit %d: %s", code, errs)
	}
	prune := func(says string) {
		t.Helper()
		code, out, errs := f.call("ledger", "prune", "--accepted", "--yes", "--ledger", f.ledger,
			"--token-file", f.path("sb", "token"), "--ca-file", f.path("sb", "ca.crt"))
		if code != 0 || !strings.Contains(out, says) {
			t.Fatalf("exit %d: %s%s", code, out, errs)
		}
	}
	prune("Nothing to destroy")
	f.bootAll(t)
	prune("destroyed: the server accepted all 3 devices")
	if _, err := os.Stat(f.path("out", "lot.pack")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the pack is still there: %v", err)
	}
	prune("Nothing to destroy")
}
