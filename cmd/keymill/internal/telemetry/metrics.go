package telemetry

import (
	"context"
	"time"

	bridge "go.opentelemetry.io/contrib/bridges/prometheus"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"keymill/cmd/keymill/internal/build"
	"keymill/cmd/keymill/internal/metrics"
	"keymill/cmd/keymill/internal/trace"
)

// booksProducer gives OTLP the figures that the textfile has: one meter counts,
// both show it.
type booksProducer struct {
	meter  *metrics.Meter
	bridge sdkmetric.Producer
	ledger string // path
	tally  *tally
	batch  bool // the verb is batch, whose own figures are sent, too
}

func newBooksProducer(m *metrics.Meter, ledger string, tally *tally, batch bool) *booksProducer {
	return &booksProducer{m, bridge.NewMetricProducer(bridge.WithGatherer(m.Reg)), ledger, tally, batch}
}

// otlpMetric is what OTLP calls a figure of the meter.
type otlpMetric struct {
	name, unit string
	batch      bool // only of the verb batch
}

// otlpMetrics are the figures by the names that the textfile has. Units are
// UCUM's, as the OpenTelemetry conventions want them.
func otlpMetrics() map[string]otlpMetric {
	return map[string]otlpMetric{
		"keymill_devices":                           {name: "keymill.devices", unit: "{device}"},
		"keymill_keys":                              {name: "keymill.keys", unit: "{key}"},
		"keymill_lots":                              {name: "keymill.lots", unit: "{lot}"},
		"keymill_lot_devices":                       {name: "keymill.lot.devices", unit: "{device}"},
		"keymill_last_closed_timestamp_seconds":     {name: "keymill.lot.last_closed", unit: "s"},
		"keymill_stage_duration_seconds":            {name: "keymill.stage.duration", unit: "s"},
		"keymill_stage_devices_per_second":          {name: "keymill.stage.rate", unit: "{device}/s"},
		"keymill_server_requests_total":             {name: "keymill.server.requests", unit: "{request}"},
		"keymill_server_requests_in_flight":         {name: "keymill.server.in_flight", unit: "{request}"},
		"keymill_server_requests_waiting":           {name: "keymill.server.waiting", unit: "{request}"},
		"keymill_batch_lots_total":                  {name: "keymill.batch.lots", unit: "{lot}", batch: true},
		"keymill_queue_manifests":                   {name: "keymill.batch.manifests", unit: "{manifest}", batch: true},
		"keymill_notifications_pending":             {name: "keymill.batch.notifications", unit: "{notification}", batch: true},
		"keymill_batch_running":                     {name: "keymill.batch.running", unit: "1", batch: true},
		"keymill_batch_exit_code":                   {name: "keymill.batch.exit_code", unit: "1", batch: true},
		"keymill_batch_start_timestamp_seconds":     {name: "keymill.batch.start", unit: "s", batch: true},
		"keymill_batch_heartbeat_timestamp_seconds": {name: "keymill.batch.heartbeat", unit: "s", batch: true},
		"keymill_last_success_timestamp_seconds":    {name: "keymill.batch.last_success", unit: "s", batch: true},
		"keymill_build_info":                        {}, // the resource has service.version
	}
}

// Produce implements sdkmetric.Producer.
func (p *booksProducer) Produce(ctx context.Context) ([]metricdata.ScopeMetrics, error) {
	if err := p.meter.Refresh(ctx, p.ledger, false, time.Now()); err != nil {
		p.tally.missed("the ledger could not be read: " + err.Error())
		return nil, err
	}
	scopes, err := p.bridge.Produce(ctx)
	if err != nil {
		return nil, err
	}
	names := otlpMetrics()
	for i := range scopes {
		scopes[i].Scope = instrumentation.Scope{Name: trace.Scope, Version: build.Version()}
		kept := scopes[i].Metrics[:0]
		for _, m := range scopes[i].Metrics {
			as := names[m.Name]
			if as.name == "" || as.batch && !p.batch {
				continue
			}
			m.Name, m.Unit = as.name, as.unit
			kept = append(kept, m)
		}
		scopes[i].Metrics = kept
	}
	return scopes, nil
}
