package telemetry

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/pipeline"
)

// Check sends nothing to the collector, and looks whether it takes it.
func Check(ctx context.Context, cfg *config.Config, env config.Environ) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, exportTimeout)
	defer cancel()
	said := "off; telemetry.otlp_endpoint turns it on"
	for _, signal := range []string{signalTraces, signalMetrics} {
		c, err := newCollector(cfg.Telemetry, env, signal)
		if err != nil {
			return "", err
		}
		if c == nil {
			continue
		}
		var heard tally
		if err := c.probe(ctx, signal, &heard); err != nil {
			return "", fault.As(fault.Server, pipeline.WithHint(fmt.Errorf("the collector takes no %s: %s", signal, cmp.Or(heard.trouble, "no answer")),
				"Check telemetry.otlp_endpoint, headers_file and ca_file. Lots run without it, too."))
		}
		said = "the collector takes what it is sent"
	}
	return said, nil
}

// probe sends an empty export.
func (c *collector) probe(ctx context.Context, signal string, heard *tally) error {
	otel.SetLogger(logr.Discard())
	if signal == signalMetrics {
		exporter, err := c.metricsExporter(ctx, heard)
		if err != nil {
			return telemetryFault(err, "Correct the endpoint or its certificates.")
		}
		err = exporter.Export(ctx, &metricdata.ResourceMetrics{})
		heard.exported(0, err)
		return errors.Join(err, exporter.Shutdown(context.WithoutCancel(ctx)))
	}
	client, err := c.tracesClient(heard)
	if err != nil {
		return err
	}
	if err := client.Start(ctx); err != nil {
		return telemetryFault(err, "Correct the endpoint or its certificates.")
	}
	err = client.UploadTraces(ctx, nil)
	heard.exported(0, err)
	return errors.Join(err, client.Stop(context.WithoutCancel(ctx)))
}
