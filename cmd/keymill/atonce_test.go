package main

import (
	"strings"
	"testing"

	"keymill/imaging"
	"keymill/pipeline/mender/sandbox"
)

// TestLotInUse: while one process works on a lot, another one is told to wait,
// and not to repair the disk.
func TestLotInUse(t *testing.T) {
	needTools(t, "e2fsprogs", "e2fsck", "debugfs")
	f := newFactory(t, 2, sandbox.Config{})
	if code, _, stderr := f.call(f.args("--format", "pack")...); code != 0 {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	held, err := imaging.OpenPack(f.path("out", "lot.pack"))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	code, _, stderr := f.call("undo", "lot", "--yes", "--ledger", f.ledger, "--token-file", f.path("sb", "token"), "--ca-file", f.path("sb", "ca.crt"))
	if code != exitStorage || !strings.Contains(stderr, "hint: Another keymill works on this lot") {
		t.Errorf("exit %d: %s", code, stderr)
	}
}
