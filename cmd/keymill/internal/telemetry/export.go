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

// grpcOptions are an exporter's options for gRPC. Each signal has the same
// functions, with a type of its own.
func grpcOptions[O any](c *collector, endpoint func(string) O, headers func(map[string]string) O,
	timeout func(time.Duration) O, tls func(credentials.TransportCredentials) O, retry O) []O {
	options := append(commonOptions(c, endpoint, headers), timeout(c.timeout), retry)
	if strings.HasPrefix(c.url, "https:") {
		options = append(options, tls(credentials.NewTLS(c.tls)))
	}
	return options
}

// httpOptions are an exporter's options for HTTP; heard learns how it fares.
func httpOptions[O any](c *collector, endpoint func(string) O, headers func(map[string]string) O,
	client func(*http.Client) O, retry O, heard *tally) ([]O, error) {
	own, err := c.httpClient(heard)
	if err != nil {
		return nil, err
	}
	return append(commonOptions(c, endpoint, headers), client(own), retry), nil
}

func commonOptions[O any](c *collector, endpoint func(string) O, headers func(map[string]string) O) []O {
	options := []O{endpoint(c.url)}
	if c.headers != nil {
		options = append(options, headers(c.headers))
	}
	return options
}

// exportRetry is how every exporter tries again: the exporters' types for it have
// the same fields.
var exportRetry = otlptracehttp.RetryConfig{
	Enabled: true, InitialInterval: exportRetryFirst, MaxInterval: exportRetryMost, MaxElapsedTime: exportTimeout,
}

// tracesClient returns the client for spans; heard learns how it fares.
func (c *collector) tracesClient(heard *tally) (otlptrace.Client, error) {
	if c.grpc {
		return otlptracegrpc.NewClient(grpcOptions(c, otlptracegrpc.WithEndpointURL, otlptracegrpc.WithHeaders, otlptracegrpc.WithTimeout,
			otlptracegrpc.WithTLSCredentials, otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig(exportRetry)))...), nil
	}
	options, err := httpOptions(c, otlptracehttp.WithEndpointURL, otlptracehttp.WithHeaders, otlptracehttp.WithHTTPClient,
		otlptracehttp.WithRetry(exportRetry), heard)
	if err != nil {
		return nil, err
	}
	return otlptracehttp.NewClient(options...), nil
}

// metricsExporter returns the exporter for metrics; heard learns how it fares.
func (c *collector) metricsExporter(ctx context.Context, heard *tally) (sdkmetric.Exporter, error) {
	if c.grpc {
		return otlpmetricgrpc.New(ctx, grpcOptions(c, otlpmetricgrpc.WithEndpointURL, otlpmetricgrpc.WithHeaders, otlpmetricgrpc.WithTimeout,
			otlpmetricgrpc.WithTLSCredentials, otlpmetricgrpc.WithRetry(otlpmetricgrpc.RetryConfig(exportRetry)))...)
	}
	options, err := httpOptions(c, otlpmetrichttp.WithEndpointURL, otlpmetrichttp.WithHeaders, otlpmetrichttp.WithHTTPClient,
		otlpmetrichttp.WithRetry(otlpmetrichttp.RetryConfig(exportRetry)), heard)
	if err != nil {
		return nil, err
	}
	return otlpmetrichttp.New(ctx, options...)
}
