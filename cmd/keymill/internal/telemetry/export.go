package telemetry

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"google.golang.org/grpc/credentials"
)

// Tries of one batch: soon enough for the end of a run.
const (
	exportRetryFirst = 500 * time.Millisecond
	exportRetryMost  = 5 * time.Second
)

// httpClient follows no redirects: neither devices nor keys go where nobody
// has pointed.
func (c *collector) httpClient(heard *tally) (*http.Client, error) {
	transport, ok := http.DefaultTransport.(*http.Transport)
	if !ok {
		return nil, errors.New("the HTTP client has a foreign transport")
	}
	transport = transport.Clone()
	transport.TLSClientConfig = c.tls
	return &http.Client{
		Transport:     &heardTransport{transport, heard},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// tracesClient returns the client for spans; heard learns how it fares.
func (c *collector) tracesClient(heard *tally) (otlptrace.Client, error) {
	retry := otlptracehttp.RetryConfig{
		Enabled: true, InitialInterval: exportRetryFirst, MaxInterval: exportRetryMost, MaxElapsedTime: exportTimeout,
	}
	if c.grpc {
		options := []otlptracegrpc.Option{
			otlptracegrpc.WithEndpointURL(c.url), otlptracegrpc.WithTimeout(c.timeout),
			otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig(retry)),
		}
		if strings.HasPrefix(c.url, "https:") {
			options = append(options, otlptracegrpc.WithTLSCredentials(credentials.NewTLS(c.tls)))
		}
		if c.headers != nil {
			options = append(options, otlptracegrpc.WithHeaders(c.headers))
		}
		return otlptracegrpc.NewClient(options...), nil
	}
	client, err := c.httpClient(heard)
	if err != nil {
		return nil, err
	}
	options := []otlptracehttp.Option{
		otlptracehttp.WithEndpointURL(c.url), otlptracehttp.WithHTTPClient(client), otlptracehttp.WithRetry(retry),
	}
	if c.headers != nil {
		options = append(options, otlptracehttp.WithHeaders(c.headers))
	}
	return otlptracehttp.NewClient(options...), nil
}

// metricsExporter returns the exporter for metrics.
func (c *collector) metricsExporter(ctx context.Context, heard *tally) (sdkmetric.Exporter, error) {
	retry := otlpmetrichttp.RetryConfig{
		Enabled: true, InitialInterval: exportRetryFirst, MaxInterval: exportRetryMost, MaxElapsedTime: exportTimeout,
	}
	if c.grpc {
		options := []otlpmetricgrpc.Option{
			otlpmetricgrpc.WithEndpointURL(c.url), otlpmetricgrpc.WithTimeout(c.timeout),
			otlpmetricgrpc.WithRetry(otlpmetricgrpc.RetryConfig(retry)),
		}
		if strings.HasPrefix(c.url, "https:") {
			options = append(options, otlpmetricgrpc.WithTLSCredentials(credentials.NewTLS(c.tls)))
		}
		if c.headers != nil {
			options = append(options, otlpmetricgrpc.WithHeaders(c.headers))
		}
		return otlpmetricgrpc.New(ctx, options...)
	}
	client, err := c.httpClient(heard)
	if err != nil {
		return nil, err
	}
	options := []otlpmetrichttp.Option{
		otlpmetrichttp.WithEndpointURL(c.url), otlpmetrichttp.WithHTTPClient(client), otlpmetrichttp.WithRetry(retry),
	}
	if c.headers != nil {
		options = append(options, otlpmetrichttp.WithHeaders(c.headers))
	}
	return otlpmetrichttp.New(ctx, options...)
}
