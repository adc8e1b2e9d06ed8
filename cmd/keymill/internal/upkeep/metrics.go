package upkeep

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/metrics"
)

// Gauges say how an upkeep went, in a textfile and a Pushgateway's group
// of their own: a batch may be writing its own meanwhile.
type Gauges struct {
	cfg     config.MetricsConfig
	station string
	reg     *prometheus.Registry
}

// Metrics returns the gauges that say how an upkeep went.
func Metrics(cfg *config.Config, done Done, began time.Time, err error) *Gauges {
	m := &Gauges{cfg.Metrics, cfg.Audit.Station, prometheus.NewRegistry()}
	m.gauge("upkeep_timestamp_seconds", "When the last upkeep began.", metrics.Seconds(began))
	m.gauge("upkeep_exit_code", "Exit code of the last upkeep.", float64(fault.KindOf(err).ExitCode()))
	sound := 0.0
	if done.Health.OK {
		sound = 1
	}
	m.gauge("ledger_sound", "1 if the last upkeep found the ledger sound.", sound)
	m.gauge("upkeep_pruned_lots", "Lots of which the last upkeep destroyed the keys' last copies here.", float64(len(done.Pruned)))
	if cfg.Backup.Folder == "" {
		return m
	}
	if last, err := newCopies(cfg).newest(); err == nil {
		m.gauge("last_backup_timestamp_seconds", "When the newest backup of the ledger was made, 0 for never.", metrics.Seconds(last))
	}
	if done.Backup != nil {
		m.gauge("last_backup_bytes", "Size of the newest backup of the ledger.", float64(done.Backup.Bytes))
	}
	return m
}

func (m *Gauges) gauge(name, help string, value float64) {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "keymill", Name: name, Help: help})
	m.reg.MustRegister(g)
	g.Set(value)
}

// Put writes them to the textfile and the Pushgateway that are configured.
func (m *Gauges) Put(ctx context.Context) error {
	return errors.Join(metrics.WriteTextfile(m.textfile(), m.reg), metrics.Push(ctx, m.cfg.Pushgateway, "keymill-upkeep", m.station, m.reg))
}

// textfile is beside the batch's.
func (m *Gauges) textfile() string {
	if m.cfg.Textfile == "" {
		return ""
	}
	ext := filepath.Ext(m.cfg.Textfile)
	return strings.TrimSuffix(m.cfg.Textfile, ext) + "-upkeep" + ext
}
