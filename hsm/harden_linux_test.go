package hsm

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// A child hardens itself and shows what the kernel thinks of it.
func TestHarden(t *testing.T) {
	if os.Getenv("KEYMILL_TEST_HARDEN") != "" {
		h := Harden()
		limits, _ := os.ReadFile("/proc/self/limits")
		os.Stdout.Write(limits)
		if _, err := os.ReadFile("/proc/self/mem"); os.Getuid() != 0 && err == nil {
			t.Error("memory can be read from outside")
		}
		if !h.NoCoreDumps || h.MemoryErased != secretErasure || !h.MemoryLocked && len(h.Notes) == 0 {
			t.Errorf("%+v", h)
		}
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestHarden$", "-test.v")
	cmd.Env = append(os.Environ(), "KEYMILL_TEST_HARDEN=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "Max core file size") && strings.Fields(line)[4] == "0" {
			return
		}
	}
	t.Errorf("core dumps aren't off:\n%s", out)
}
