package station_test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/station"
	"keymill/cmd/keymill/internal/trial"
	"keymill/imaging"
	"keymill/pipeline/mender"
	"keymill/pipeline/mender/sandbox"
)

// putFile writes a file into a partition of the trial's golden image: the data
// partition, or else the first other one with a file system that takes it.
func putFile(t *testing.T, f *trial.Trial, onData bool, dirs []string, path, content string) {
	t.Helper()
	golden, err := imaging.OpenGolden(t.Context(), f.Path("golden.sdimg"), imaging.GoldenOptions{CacheDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer golden.Close()
	data, err := golden.Data()
	if err != nil {
		t.Fatal(err)
	}
	f.Write("conf", func(w io.Writer) error { _, err := io.WriteString(w, content); return err })
	for _, p := range golden.Table().Partitions {
		if (p.Number == data.Number) != onData || !strings.HasPrefix(p.FileSystem, "ext") {
			continue
		}
		script := ""
		for _, dir := range dirs {
			script += "mkdir " + dir + "\n"
		}
		script += fmt.Sprintf("write %s %s\n", f.Path("conf"), path)
		cmd := exec.CommandContext(t.Context(), "debugfs", "-w", fmt.Sprintf("%s?offset=%d", f.Path("golden.sdimg"), p.Offset))
		cmd.Stdin = strings.NewReader(script)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return
	}
	t.Skip("the sample has no such partition")
}

// The image's DeviceTier and server.tier, each way; what the client wouldn't
// start with is refused.
func TestTierOfGolden(t *testing.T) {
	trial.NeedTools(t, "e2fsprogs", "debugfs")
	for name, tt := range map[string]struct {
		conf    string
		setting string
		warns   string // "" for nothing
		refused bool
	}{
		"agree on standard":     {`{"ServerURL":"https://x"}`, "standard", "", false},
		"said to be standard":   {`{"DeviceTier":"standard"}`, "standard", "", false},
		"system, but standard":  {`{"DeviceTier":"system"}`, "standard", "is system, but server.tier is standard", false},
		"micro, but system":     {`{"DeviceTier":"micro"}`, "system", "is micro, but server.tier is system", false},
		"agree on micro":        {`{"DeviceTier":"micro"}`, "micro", "", false},
		"none, but micro":       {`{}`, "micro", "no mender.conf in the image names a DeviceTier", false},
		"not one of the client": {`{"DeviceTier":"large"}`, "standard", "", true},
		"no JSON":               {`DeviceTier: large`, "standard", "", false},
	} {
		places := []string{"injected"}
		if strings.Contains(tt.conf, "system") || tt.refused {
			places = []string{"root file system", "data partition", "injected"}
		}
		for _, where := range places {
			t.Run(name+"/"+where, func(t *testing.T) {
				f := trial.New(t, 1, sandbox.Config{TierLimits: map[string]int{}})
				settings := map[string]any{"image.format": "pack", "server.tier": tt.setting}
				switch where {
				case "root file system":
					putFile(t, f, false, []string{"etc", "etc/mender"}, "etc/mender/mender.conf", tt.conf)
				case "data partition":
					putFile(t, f, true, []string{"mender"}, "mender/mender.conf", tt.conf)
				default:
					if err := os.WriteFile(f.Path("mender.conf"), []byte(tt.conf), 0o600); err != nil {
						t.Fatal(err)
					}
					settings["image.inject"] = []any{
						map[string]any{"path": "/data/mender/mender-agent.pem", "content": "private-key"},
						map[string]any{"path": "/data/mender/mender.conf", "file": f.Path("mender.conf")},
					}
				}
				got, err := station.EstimateLot(t.Context(), station.Options{Settings: f.Settings(settings)}, f.Path("manifest.csv"), "w47")
				if tt.refused {
					if fault.KindOf(err) != fault.Storage || !strings.Contains(fault.Hint(err), "daemon") {
						t.Errorf("%v, hint %q", err, fault.Hint(err))
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				var warned []string
				for _, c := range got.Concerns {
					if c.Kind == mender.ConcernTier {
						warned = append(warned, c.Text)
					}
				}
				if (tt.warns == "") != (len(warned) == 0) || !strings.Contains(strings.Join(warned, "\n"), tt.warns) {
					t.Errorf("warned of %q, want %q", warned, tt.warns)
				}
			})
		}
	}
}
