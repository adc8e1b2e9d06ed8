package config

// The protocols of OTLP.
const (
	OTLPHTTP = "http/protobuf"
	OTLPGRPC = "grpc"
)
