// Package metrics counts what monitoring sees of runs and batches, and writes
// it for Prometheus.
package metrics

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/push"

	"keymill/cmd/keymill/internal/build"
	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/station"
	"keymill/pipeline"
	"keymill/pipeline/ledger"
	"keymill/pipeline/mender"
)

// Meter is what monitoring sees of a batch. What can be counted in the ledger
// is, so that it is right whatever was killed when; the rest counts from the
// start of the process. Its methods may be called by many goroutines at once.
type Meter struct {
	cfg     config.MetricsConfig
	station string
	Reg     *prometheus.Registry

	devices, keys, lots, lotDevices, Queue *prometheus.GaugeVec
	outcomes, server                       *prometheus.CounterVec
	took                                   *prometheus.HistogramVec
	rate                                   *prometheus.GaugeVec
	inFlight, waiting, Pending             prometheus.Gauge
	Running, ExitCode                      prometheus.Gauge
	started, heartbeat, Success, closed    prometheus.Gauge

	pushRest time.Time // after a push that failed; pushes come one after the other

	mu     sync.Mutex
	books  *ledger.Ledger             // guarded by mu; nil until there is one
	totals map[string]pipeline.Totals // guarded by mu; of all lots
	open   map[string]bool            // guarded by mu; lots that are not closed
	ours   map[string]bool            // guarded by mu; lots that this process worked on
	client *mender.Client             // guarded by mu; of the run under way, or the last one
	asked  mender.Stats               // guarded by mu; what of client is counted already
	lot    pace                       // guarded by mu

	steps map[pipeline.State]*atomic.Int64 // of the run under way; the map never changes
}

// pace counts the steps of the run under way.
type pace struct {
	name    string
	total   int
	began   time.Time
	stopped time.Duration // 0 while it runs
}

// Stages are the steps by the state that they lead to.
var Stages = map[pipeline.State]string{
	pipeline.Staged: "stage", pipeline.Preauthorized: "preauthorize", pipeline.Released: "release",
}

// counted are the server's counters, by metric label.
func counted(s mender.Stats) map[string]int64 {
	return map[string]int64{"sent": s.Requests, "retry": s.Retries, "failure": s.Failures, "quota": s.Refused}
}

// New returns a meter with every metric at zero.
func New(cfg config.MetricsConfig, station string, now time.Time) *Meter {
	m := &Meter{
		cfg: cfg, station: station, Reg: prometheus.NewRegistry(),
		totals: map[string]pipeline.Totals{}, open: map[string]bool{}, ours: map[string]bool{},
		steps: map[pipeline.State]*atomic.Int64{},
	}
	gauges := func(name, help string, labels ...string) *prometheus.GaugeVec {
		v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "keymill", Name: name, Help: help}, labels)
		m.Reg.MustRegister(v)
		return v
	}
	gauge := func(name, help string) prometheus.Gauge { return gauges(name, help).WithLabelValues() }
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "keymill", Name: name, Help: help}, labels)
		m.Reg.MustRegister(v)
		return v
	}
	m.devices = gauges("devices", "Devices of all lots in the ledger, by state.", "state")
	m.keys = gauges("keys", "Keys of all lots in the ledger: generated = released + destroyed + held.", "fate")
	m.lots = gauges("lots", "Lots in the ledger, by whether they are closed.", "state")
	m.lotDevices = gauges("lot_devices", "Devices of open lots and of this batch's, by state.", "lot", "state")
	m.Queue = gauges("queue_manifests", "Manifests in the drop folder: waiting in in/, unfinished in work/, lying in refused/.", "place")
	m.outcomes = counters("batch_lots_total", "Lots that this batch worked on, by outcome.", "outcome")
	m.server = counters("server_requests_total", "Requests to the Mender server, by what became of them; sent counts all.", "kind")
	m.took = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: "keymill", Name: "stage_duration_seconds", Help: "How long a device's steps took.",
		Buckets: prometheus.ExponentialBuckets(0.0005, 4, 10),
	}, []string{"stage"})
	m.Reg.MustRegister(m.took)
	m.rate = gauges("stage_devices_per_second", "Devices that passed a stage a second, over the run under way or the last one.", "stage")
	m.inFlight = gauge("server_requests_in_flight", "Requests to the Mender server under way.")
	m.waiting = gauge("server_requests_waiting", "Requests that wait for their turn.")
	m.Pending = gauge("notifications_pending", "Notifications that no receiver has taken yet.")
	m.Running = gauge("batch_running", "1 while a batch runs. With an old heartbeat: it was killed.")
	m.ExitCode = gauge("batch_exit_code", "Exit code of the batch, 0 while it runs.")
	m.started = gauge("batch_start_timestamp_seconds", "When the batch began.")
	m.heartbeat = gauge("batch_heartbeat_timestamp_seconds", "When these metrics were written.")
	m.Success = gauge("last_success_timestamp_seconds", "When a batch last ended with everything closed, 0 for never.")
	m.closed = gauge("last_closed_timestamp_seconds", "When a lot was last closed, 0 for never.")
	gauges("build_info", "The program.", "version").WithLabelValues(build.Version()).Set(1)
	m.started.Set(Seconds(now))
	for _, kind := range []string{Closed, Failed, Refused, Stopped} {
		m.outcomes.WithLabelValues(kind)
	}
	for kind := range counted(mender.Stats{}) {
		m.server.WithLabelValues(kind)
	}
	for state, stage := range Stages {
		m.took.WithLabelValues(stage)
		m.steps[state] = &atomic.Int64{}
	}
	return m
}

// Seconds is a time as Prometheus has it, 0 for the zero time.
func Seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}

// Begun hangs the meter into a run that begins.
func (m *Meter) Begun(r station.Begun) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.client, m.asked = r.Server, mender.Stats{}
	m.lot = pace{name: r.Lot.Name, total: r.Lot.Devices, began: time.Now()}
	m.ours[r.Lot.Name] = true
	for _, n := range m.steps {
		n.Store(0)
	}
	r.Line.Took = m.passed
}

// passed counts a step. It takes no lock of ours: it stands in every device's way.
func (m *Meter) passed(to pipeline.State, d time.Duration) {
	m.took.WithLabelValues(Stages[to]).Observe(d.Seconds())
	m.steps[to].Add(1)
}

// Ended stops the clock of the run under way.
func (m *Meter) Ended(outcome string) {
	m.outcomes.WithLabelValues(outcome).Inc()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.lot.name != "" && m.lot.stopped == 0 {
		m.lot.stopped = time.Since(m.lot.began)
	}
}

// Progress is the run under way in words.
func (m *Meter) Progress() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.lot.name == "" || m.lot.stopped > 0 {
		return "waiting for manifests"
	}
	return fmt.Sprintf("lot %s: %d of %d devices released", m.lot.name, m.totals[m.lot.name].Released, m.lot.total)
}

// Refresh reads the ledger at path. all looks at closed lots again, too.
func (m *Meter) Refresh(ctx context.Context, path string, all bool, now time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.readBooks(ctx, path, all); err != nil {
		return err
	}
	m.heartbeat.Set(Seconds(now))
	if m.client != nil {
		stats := m.client.Stats()
		before := counted(m.asked)
		for kind, n := range counted(stats) {
			m.server.WithLabelValues(kind).Add(float64(n - before[kind]))
		}
		m.asked = stats
		m.inFlight.Set(float64(stats.InFlight))
		m.waiting.Set(float64(stats.Waiting))
	}
	if m.lot.name == "" {
		return nil
	}
	took := m.lot.stopped
	if took == 0 {
		took = now.Sub(m.lot.began)
	}
	for state, n := range m.steps {
		m.rate.WithLabelValues(Stages[state]).Set(float64(n.Load()) / max(took, time.Millisecond).Seconds())
	}
	return nil
}

// readBooks sets what comes out of the ledger; m.mu is held.
func (m *Meter) readBooks(ctx context.Context, path string, all bool) error {
	if m.books == nil {
		var err error
		if m.books, err = station.OpenKnown(ctx, path); err != nil || m.books == nil {
			return err
		}
	}
	lots, err := m.books.Lots(ctx)
	if err != nil {
		return err
	}
	var open int
	var last time.Time
	for _, lot := range lots {
		closed := !lot.Closed.IsZero()
		if !closed {
			open++
		}
		if lot.Closed.After(last) {
			last = lot.Closed
		}
		if _, known := m.totals[lot.Name]; known && closed && !m.open[lot.Name] && !all {
			continue
		}
		if m.totals[lot.Name], err = m.books.Totals(ctx, lot.Name); err != nil {
			return err
		}
		m.open[lot.Name] = !closed
	}
	m.lots.WithLabelValues("open").Set(float64(open))
	m.lots.WithLabelValues("closed").Set(float64(len(lots) - open))
	m.closed.Set(Seconds(last))
	m.sum()
	return nil
}

// sum adds up the lots; m.mu is held.
func (m *Meter) sum() {
	states := map[pipeline.State]int{}
	var keys pipeline.KeyTotals
	m.lotDevices.Reset()
	for name, t := range m.totals {
		keys.Generated += t.Keys.Generated
		keys.Released += t.Keys.Released
		keys.Destroyed += t.Keys.Destroyed
		for _, state := range pipeline.States {
			n := *t.Count(state)
			states[state] += n
			if m.open[name] || m.ours[name] {
				m.lotDevices.WithLabelValues(name, string(state)).Set(float64(n))
			}
		}
	}
	for _, state := range pipeline.States {
		m.devices.WithLabelValues(string(state)).Set(float64(states[state]))
	}
	for fate, n := range map[string]int{
		"generated": keys.Generated, "released": keys.Released, "destroyed": keys.Destroyed,
		"held": keys.Generated - keys.Released - keys.Destroyed,
	} {
		m.keys.WithLabelValues(fate).Set(float64(n))
	}
}

// Write puts the metrics into the textfile, at once or not at all.
func (m *Meter) Write() error {
	return WriteTextfile(m.cfg.Textfile, m.Reg)
}

// WriteTextfile replaces a textfile; an empty path writes nothing.
func WriteTextfile(path string, reg *prometheus.Registry) error {
	if path == "" {
		return nil
	}
	if err := prometheus.WriteToTextfile(path, reg); err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	return nil
}

// Rest is how long a receiver that failed is left alone at first.
const Rest = time.Minute

// pushTimeout is the most time for a Pushgateway.
const pushTimeout = 5 * time.Second

// Push replaces what the Pushgateway holds of this station. One that does not
// answer is left alone for a while, unless these are the last figures: it would
// cost every lot the timeout.
func (m *Meter) Push(ctx context.Context, now time.Time, last bool) error {
	if now.Before(m.pushRest) && !last {
		return nil
	}
	err := Push(ctx, m.cfg.Pushgateway, "keymill", m.station, m.Reg)
	if err != nil {
		m.pushRest = now.Add(Rest)
	}
	return err
}

// Push replaces what a Pushgateway holds of a job; an empty URL pushes nothing.
func Push(ctx context.Context, url, job, station string, reg *prometheus.Registry) error {
	if url == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, pushTimeout)
	defer cancel()
	err := push.New(url, job).Grouping("instance", station).Gatherer(reg).PushContext(ctx)
	if err != nil {
		return fmt.Errorf("pushgateway: %w", err)
	}
	return nil
}

// Close closes the ledger that was read.
func (m *Meter) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.books == nil {
		return nil
	}
	return m.books.Close()
}
