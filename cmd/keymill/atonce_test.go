package main

import (
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"

	"keymill/cmd/keymill/internal/fault"
	"keymill/imaging"
	"keymill/pipeline"
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

// TestStorageHints: what keeps us from a file decides what to do about it.
func TestStorageHints(t *testing.T) {
	for _, test := range []struct {
		err  error
		want string
	}{
		{fmt.Errorf("open x: %w", fs.ErrPermission), "chown"},
		{fmt.Errorf("write x: %w", syscall.ENOSPC), "Free or repair the disk"},
		{fmt.Errorf("x: %w", imaging.ErrPackInUse), "Another keymill"},
		{pipeline.WithHint(fs.ErrPermission, "ask Ann"), "ask Ann"},
	} {
		if err := fault.StorageOutage(test.err); exitCode(err) != exitStorage || !strings.Contains(fault.Hint(err), test.want) {
			t.Errorf("%v: code %d, hint %q", test.err, exitCode(err), fault.Hint(err))
		}
	}
}
