package operator

import (
	"github.com/prometheus/client_golang/prometheus"
)

// The station's metrics: gauges of what stands in the ledger, and counters of this
// process's shift.
func (st *Station) metrics() map[string]*prometheus.Desc {
	lot := []string{"lot"}
	return map[string]*prometheus.Desc{
		"units":   prometheus.NewDesc("keymill_station_units", "Units of the lot by state: remaining, live, confirmed, failed, scrapped.", append(lot, "state"), nil),
		"running": prometheus.NewDesc("keymill_station_line_running", "1 while the line runs, 0 while it is stopped.", lot, nil),
		"made":    prometheus.NewDesc("keymill_station_shift_made", "Units that were confirmed in this shift, by operator and slot.", append(lot, "by", "name"), nil),
		"failed":  prometheus.NewDesc("keymill_station_shift_failures", "Failures in this shift by code.", append(lot, "code"), nil),
		"reprint": prometheus.NewDesc("keymill_station_shift_reprints", "Labels that were printed again in this shift.", lot, nil),
		"yield":   prometheus.NewDesc("keymill_station_shift_first_pass_yield_ratio", "Share of finished units that passed at once.", lot, nil),
		"cycle":   prometheus.NewDesc("keymill_station_cycle_seconds", "From scan to confirmation.", lot, nil),
		"first":   prometheus.NewDesc("keymill_station_first_byte_seconds", "From scan to the first byte on the medium.", lot, nil),
		"slot":    prometheus.NewDesc("keymill_station_slot_percent", "How far a slot's unit is written and compared.", append(lot, "slot", "state"), nil),
	}
}

// Describe implements prometheus.Collector.
func (st *Station) Describe(out chan<- *prometheus.Desc) {
	for _, desc := range st.metrics() {
		out <- desc
	}
}

// Collect implements prometheus.Collector.
func (st *Station) Collect(out chan<- prometheus.Metric) {
	descs, lot := st.metrics(), st.opt.Lot.Name()
	gauge := func(name string, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(descs[name], prometheus.GaugeValue, value, append([]string{lot}, labels...)...)
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	c := st.counts
	for state, n := range map[string]int{"remaining": c.Remaining, "live": c.Live, "confirmed": c.Made, "failed": c.Failed, "scrapped": c.Scrapped} {
		gauge("units", float64(n), state)
	}
	running := 1.0
	if len(st.stopped) > 0 {
		running = 0
	}
	gauge("running", running)
	for name, t := range st.shift.by {
		gauge("made", float64(t.Made), "operator", name)
	}
	for name, t := range st.shift.slots {
		gauge("made", float64(t.Made), "slot", name)
	}
	for code, n := range st.shift.failed {
		gauge("failed", float64(n), code)
	}
	gauge("reprint", float64(st.shift.reprints))
	gauge("yield", st.shift.yield()/100)
	for _, s := range st.slots {
		gauge("slot", float64(s.percent), s.name, string(s.phase))
	}
	summary := func(name string, c *cycles) {
		out <- prometheus.MustNewConstSummary(descs[name], uint64(c.n), c.sum.Seconds(), //nolint:gosec // a count
			map[float64]float64{0.5: c.quantile(0.5).Seconds(), 0.95: c.quantile(0.95).Seconds()}, lot)
	}
	summary("cycle", st.shift.cycles)
	st.latency.mu.Lock()
	defer st.latency.mu.Unlock()
	summary("first", &st.latency.c)
}
