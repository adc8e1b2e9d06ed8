package nightlybatch_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// monitor is a Prometheus that looks at a textfile folder through node_exporter,
// each second, with the example's alert rules.
type monitor struct {
	url   string
	since time.Time
}

// startMonitor starts it; both programs end with the test.
func startMonitor(t *testing.T, textfiles string) *monitor {
	t.Helper()
	needTools(t, "prometheus", "prometheus")
	needTools(t, "prometheus-node-exporter", "prometheus-node-exporter")
	exporter, server := freeAddress(t), freeAddress(t)
	start(t, "Listening on", "prometheus-node-exporter", "--collector.disable-defaults", "--collector.textfile",
		"--collector.textfile.directory="+textfiles, "--web.listen-address="+exporter)
	rules, err := filepath.Abs("monitoring/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "prometheus.yml")
	text := fmt.Sprintf(`global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [%s]
scrape_configs:
- {job_name: node, static_configs: [{targets: [%q], labels: {instance: line-3}}]}
`, rules, exporter)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, "Server is ready", "prometheus", "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "tsdb"), "--web.listen-address="+server)
	return &monitor{"http://" + server + "/api/v1/", time.Now()}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// start starts a server and returns when its log says ready.
func start(t *testing.T, ready, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	var said strings.Builder
	for lines := bufio.NewScanner(log); lines.Scan(); {
		fmt.Fprintln(&said, lines.Text())
		if strings.Contains(lines.Text(), ready) {
			go func() { _, _ = io.Copy(io.Discard, log) }() // what it says later must not block it
			return
		}
	}
	t.Fatalf("%s did not start:\n%s", name, &said)
}

// ask calls Prometheus' API and decodes the data of its answer.
func (m *monitor) ask(t *testing.T, path string, query url.Values, data any) {
	t.Helper()
	response, err := http.Get(m.url + path + "?" + query.Encode())
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var answer struct {
		Status, Error string
		Data          json.RawMessage
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil || answer.Status != "success" {
		t.Fatalf("%s %v: %v %s", path, query, err, answer.Error)
	}
	if err := json.Unmarshal(answer.Data, data); err != nil {
		t.Fatal(err)
	}
}

// values returns how many numbers a query had since the monitor started.
func (m *monitor) values(t *testing.T, expr string) int {
	t.Helper()
	var data struct {
		Result []struct{ Values [][2]any }
	}
	m.ask(t, "query_range", url.Values{
		"query": {expr}, "step": {"1"}, "start": {m.since.Format(time.RFC3339)}, "end": {time.Now().Format(time.RFC3339)},
	}, &data)
	n := 0
	for _, series := range data.Result {
		for _, value := range series.Values {
			if value[1] != "NaN" {
				n++
			}
		}
	}
	return n
}

// await asks until a query has numbers: what was written is not seen at once.
func (m *monitor) await(t *testing.T, expr string) {
	t.Helper()
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	for range 600 {
		if m.values(t, expr) > 0 {
			return
		}
		<-ticker.C
	}
	t.Fatalf("after 600 looks: %s has no values", expr)
}

// variable is one of the dashboard's that Grafana fills in.
var variable = regexp.MustCompile(`"\$(instance)"`)

// queries returns the dashboard's queries by panel, for all stations.
func queries(t *testing.T) map[string][]string {
	t.Helper()
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, "monitoring/grafana-dashboard.json")), &dashboard); err != nil {
		t.Fatal(err)
	}
	all := map[string][]string{}
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			all[panel.Title] = append(all[panel.Title], variable.ReplaceAllString(target.Expr, `".*"`))
		}
	}
	return all
}

// shown fails the test for each query of the dashboard that shows nothing of
// the nights, and for alerts other than the one that three nights give cause for.
func (m *monitor) shown(t *testing.T) {
	t.Helper()
	m.await(t, "keymill_last_backup_timestamp_seconds") // written last
	for panel, exprs := range queries(t) {
		for _, expr := range exprs {
			if m.values(t, expr) == 0 {
				t.Errorf("panel %q shows nothing: %s", panel, expr)
			}
		}
	}
	m.await(t, `ALERTS{alertname="KeymillManifestRefused"}`)
	var rules struct {
		Groups []struct {
			Rules []struct{ Name, Health, LastError, State string }
		}
	}
	m.ask(t, "rules", nil, &rules)
	var raised []string
	for _, rule := range rules.Groups[0].Rules {
		if rule.Health != "ok" {
			t.Errorf("alert %s: %s %s", rule.Name, rule.Health, rule.LastError)
		}
		if rule.State != "inactive" {
			raised = append(raised, rule.Name)
		}
	}
	if !slices.Equal(raised, []string{"KeymillManifestRefused"}) {
		t.Errorf("alerts after three nights: %v", raised)
	}
}
