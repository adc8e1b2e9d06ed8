package main

import (
	_ "embed" // of the help's pages
	"strings"

	"github.com/spf13/cobra"
)

//go:embed move-a-lot.txt
var moveALot string

//go:embed telemetry.txt
var telemetryTopic string

//go:embed package.txt
var packageTopic string

// topics are pages of the help that belong to no verb.
func topics() []*cobra.Command {
	return []*cobra.Command{{
		Use:   "move-a-lot",
		Short: "How a lot, its pack and its key come onto another machine",
		Long:  strings.TrimSpace(moveALot),
	}, {
		Use:   "telemetry",
		Short: "Traces and metrics by OTLP: what is sent, how much, what beats what",
		Long:  strings.TrimSpace(telemetryTopic),
	}, {
		Use:   "package",
		Short: "The Debian package: how it is built, installed and started",
		Long:  strings.TrimSpace(packageTopic),
	}}
}
