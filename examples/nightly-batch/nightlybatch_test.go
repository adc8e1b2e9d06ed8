// Package nightlybatch_test runs the example as its README says, and lets the
// tools that will read its files judge them.
package nightlybatch_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// needTools skips a test on a machine without the tools of a Debian package,
// and fails it in CI.
func needTools(t *testing.T, debian string, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err == nil {
			continue
		}
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is missing; .ci/setup installs Debian's %s", tool, debian)
		}
		t.Skipf("%s is missing; install Debian's %s", tool, debian)
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func build(t *testing.T) string {
	t.Helper()
	keymill := filepath.Join(t.TempDir(), "keymill")
	if out, err := exec.Command("go", "build", "-o", keymill, "keymill/cmd/keymill").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return keymill
}

// threeNights runs the example with further environment, and compares what it
// says with what the README shows.
func threeNights(t *testing.T, env ...string) {
	t.Helper()
	cmd := exec.Command("./run.sh")
	cmd.Env = append(append(os.Environ(), "KEYMILL="+build(t)), env...)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s%s", err, out, &errs)
	}
	if readme := read(t, "README.md"); !strings.Contains(readme, "$ examples/nightly-batch/run.sh\n"+string(out)) {
		t.Errorf("README.md does not show what run.sh says:\n%s", out)
	}
}

// TestThreeNights: run.sh ends well, says what the README shows, and leaves
// metrics that promtool takes and that dashboard and alerts ask for; a
// Prometheus that looked on has something to show in each panel.
func TestThreeNights(t *testing.T) {
	needTools(t, "jq", "jq")
	needTools(t, "e2fsprogs", "debugfs", "e2fsck")
	dir := t.TempDir()
	textfiles := filepath.Join(dir, "metrics")
	if err := os.Mkdir(textfiles, 0o700); err != nil {
		t.Fatal(err)
	}
	monitor := startMonitor(t, textfiles)
	threeNights(t, "KEEP="+dir)
	monitor.shown(t)
	metrics := read(t, filepath.Join(dir, "night.prom")) + read(t, filepath.Join(textfiles, "keymill-upkeep.prom"))
	known := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (\S+) (\S+)`).FindAllStringSubmatch(metrics, -1) {
		known[m[1]] = true
		if m[2] == "histogram" {
			known[m[1]+"_bucket"] = true
		}
	}
	for _, name := range []string{"monitoring/alerts.yml", "monitoring/grafana-dashboard.json"} {
		for _, metric := range regexp.MustCompile(`\bkeymill_[a-z_]+`).FindAllString(read(t, name), -1) {
			if !known[metric] {
				t.Errorf("%s asks for %s, which is no metric", name, metric)
			}
		}
	}
	documented := read(t, "README.md")
	for name := range known {
		if !strings.Contains(documented, strings.TrimSuffix(name, "_bucket")) {
			t.Errorf("README.md does not explain %s", name)
		}
	}
}

func TestAlerts(t *testing.T) {
	needTools(t, "prometheus", "promtool")
	for _, args := range [][]string{{"check", "rules", "alerts.yml"}, {"test", "rules", "alerts_test.yml"}} {
		cmd := exec.Command("promtool", args...)
		cmd.Dir = "monitoring"
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}
}

// TestDashboard: it has the form that Grafana imports, and Prometheus
// understands every query in it.
func TestDashboard(t *testing.T) {
	needTools(t, "prometheus", "promtool")
	var dashboard struct {
		UID, Title    string
		SchemaVersion int
		Panels        []struct {
			ID      int
			Title   string
			Type    string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ Expr, RefID string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, "monitoring/grafana-dashboard.json")), &dashboard); err != nil {
		t.Fatal(err)
	}
	if dashboard.UID == "" || dashboard.Title == "" || dashboard.SchemaVersion == 0 || len(dashboard.Panels) == 0 {
		t.Errorf("not a dashboard: %+v", dashboard)
	}
	var rules strings.Builder
	rules.WriteString("groups:\n- name: dashboard\n  rules:\n")
	ids := map[int]bool{}
	for _, panel := range dashboard.Panels {
		if ids[panel.ID] || panel.Title == "" || panel.Type == "" || panel.GridPos.W == 0 || panel.GridPos.X+panel.GridPos.W > 24 || len(panel.Targets) == 0 {
			t.Errorf("panel %+v", panel)
		}
		ids[panel.ID] = true
		for i, target := range panel.Targets {
			expr := strings.ReplaceAll(target.Expr, "$instance", ".*")
			fmt.Fprintf(&rules, "  - {record: 'panel:%d_%d', expr: '%s'}\n", panel.ID, i, expr)
		}
	}
	file := filepath.Join(t.TempDir(), "rules.yml")
	if err := os.WriteFile(file, []byte(rules.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("promtool", "check", "rules", file).CombinedOutput(); err != nil {
		t.Errorf("promtool check rules: %v\n%s", err, out)
	}
}

// TestUnits: systemd takes the units, with the program where this machine has
// one, and finds little to expose.
func TestUnits(t *testing.T) {
	needTools(t, "systemd", "systemd-analyze")
	dir := t.TempDir()
	keymill := build(t)
	put := func(name string) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		unit := strings.ReplaceAll(read(t, filepath.Join("systemd", name)), "/usr/bin/keymill", keymill)
		if err := os.WriteFile(path, []byte(unit), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	put("keymill-.service.d/station.conf")
	services := []string{put("keymill-batch.service"), put("keymill-upkeep.service")}
	timers := []string{put("keymill-batch.timer"), put("keymill-upkeep.timer")}
	out, err := systemdAnalyze(dir, slices.Concat([]string{"verify", "--man=no"}, services, timers)...)
	if err != nil || strings.Contains(out, dir) {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	for _, service := range services {
		if out, err := systemdAnalyze(dir, "security", "--offline=true", "--threshold=20", "--no-pager", service); err != nil {
			t.Errorf("systemd-analyze security: %v\n%s", err, out)
		}
	}
}

// systemdAnalyze finds drop-ins in dir, too.
func systemdAnalyze(dir string, args ...string) (string, error) {
	cmd := exec.Command("systemd-analyze", args...)
	cmd.Env = append(os.Environ(), "SYSTEMD_UNIT_PATH="+dir+":")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestService boots a Debian with systemd as its first process and lets the
// package's own units work there: .ci/service-inside says through what.
func TestService(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a machine")
	}
	if os.Geteuid() != 0 && os.Getenv("CI") != "" {
		t.Fatal("systemd-nspawn needs root")
	}
	if os.Geteuid() != 0 {
		t.Skip("systemd-nspawn needs root")
	}
	needTools(t, "mmdebstrap", "mmdebstrap")
	needTools(t, "systemd-container", "systemd-nspawn")
	needTools(t, "dpkg jq binutils", "dpkg-deb", "jq", "objdump")
	out, err := exec.CommandContext(t.Context(), "../../.ci/service").CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
}
