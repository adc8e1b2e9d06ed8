package config

import (
	"errors"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/say"
	"keymill/hsm"
	"keymill/pipeline"
	"keymill/pipeline/mender"
	"keymill/reports"
)

// Choice is a setting that can be a few words only.
type Choice struct {
	Name, value string
	Allowed     []string
}

// Choices lists the settings that can be a few words only, with what c has.
func (c *Config) Choices() []Choice {
	return []Choice{
		{"server.on_conflict", c.Server.OnConflict, []string{"fail", "replace-pending", "replace"}},
		{"server.over_limit", c.Server.OverLimit, []string{"refuse", "allow"}},
		{"server.tier", c.Server.Tier, mender.Tiers},
		{"keys.kek_import", c.Keys.KEKImport, []string{"refuse", "allow"}},
		{"keys.source", c.Keys.Source, []string{"software", "hsm", "hsm-entropy", "token", "files", "manifest"}},
		{"keys.algorithm", c.Keys.Algorithm, algorithms()},
		{"image.format", c.Image.Format, ImageFormats()},
		{"station.confirm", c.Station.Confirm, []string{"label", "operator"}},
		{"log.format", c.Log.Format, []string{"text", "json"}},
		{"log.level", c.Log.Level, []string{"debug", "info", "warn", "error"}},
	}
}

func algorithms() (names []string) {
	for _, algorithm := range hsm.Algorithms() {
		names = append(names, string(algorithm))
	}
	return names
}

// keywordValue is what libpq's connection strings look like.
var keywordValue = regexp.MustCompile(`(?i)(^|\s)(host|hostaddr|port|dbname|user|password|service)\s*=`)

// check refuses values that no verb can work with.
func (c *Config) check() error {
	for _, choice := range c.Choices() {
		if !slices.Contains(choice.Allowed, choice.value) {
			return fault.Usagef("%s is %q; it can be %s%s", choice.Name, choice.value, strings.Join(choice.Allowed, ", "),
				say.DidYouMean(say.Nearest(choice.value, choice.Allowed)))
		}
	}
	if !IsDatabaseURL(c.Ledger) && keywordValue.MatchString(c.Ledger) {
		// It may hold a password, so it is not repeated.
		return fault.As(fault.Usage, pipeline.WithHint(errors.New("the ledger is given as keywords of PostgreSQL; it must be a URL or a file"),
			"Write postgres://USER@HOST/DATABASE. The password belongs into a password file (PGPASSFILE), never into a setting."))
	}
	for _, format := range c.Report.Formats {
		if known := reports.FormatNames(); !slices.Contains(known, format) {
			return fault.Usagef("report.formats has %q; it can have %s%s", format, strings.Join(known, ", "), say.DidYouMean(say.Nearest(format, known)))
		}
	}
	if _, err := parseAge("retention.older_than", c.Retention.OlderThan); err != nil {
		return err
	}
	if _, err := parseAge("server.shelf_life", c.Server.ShelfLife); err != nil {
		return err
	}
	switch {
	case c.Audit.Station == "":
		return fault.Usagef("audit.station is empty; it names this machine in the evidence, and the log of its own that it has there")
	case c.Server.GiveUp < 0:
		return fault.Usagef("server.give_up is %v; it is how long the server may be down", c.Server.GiveUp)
	case c.Workers < 1 || c.Workers > 100_000:
		return fault.Usagef("workers is %d; it can be 1 to 100000", c.Workers)
	case c.Server.InFlight < 1 || c.Server.InFlight > 10_000:
		return fault.Usagef("server.in_flight is %d; it can be 1 to 10000", c.Server.InFlight)
	case c.Manifest.HeaderRow < 0:
		return fault.Usagef("manifest.header_row is %d; it is the number of a row", c.Manifest.HeaderRow)
	case c.Manifest.Expect < 0:
		return fault.Usagef("manifest.expect is %d; it is a number of devices", c.Manifest.Expect)
	case c.Batch.Settle < 0 || c.Batch.Poll < 100*time.Millisecond || c.Batch.Retry < time.Second:
		return fault.Usagef("batch.settle is %v, batch.poll %v, batch.retry %v; the least are 0s, 100ms and 1s", c.Batch.Settle, c.Batch.Poll, c.Batch.Retry)
	case c.Notify.Timeout < time.Second || c.Notify.Timeout > 10*time.Minute:
		return fault.Usagef("notify.timeout is %v; it can be 1s to 10m", c.Notify.Timeout)
	case !(c.Telemetry.Sample >= 0 && c.Telemetry.Sample <= 1):
		return fault.Usagef("telemetry.sample is %v; it is a share, 0 to 1", c.Telemetry.Sample)
	case c.Telemetry.Interval < time.Second:
		return fault.Usagef("telemetry.interval is %v; the least is 1s", c.Telemetry.Interval)
	case c.Metrics.Textfile != "" && filepath.Ext(c.Metrics.Textfile) != ".prom":
		return fault.Usagef("metrics.textfile is %s; node_exporter reads only names that end in .prom", c.Metrics.Textfile)
	case c.Allocate.SerialFirst < 0:
		return fault.Usagef("allocate.serial_first is %d; it is a sequence number", c.Allocate.SerialFirst)
	case c.Backup.Keep < 1:
		return fault.Usagef("backup.keep is %d; at least one copy must be kept", c.Backup.Keep)
	case IsDatabaseURL(c.Ledger) && !strings.HasPrefix(c.Ledger, "postgres://") && !strings.HasPrefix(c.Ledger, "postgresql://"):
		scheme, _, _ := strings.Cut(c.Ledger, "://") // the rest may hold a password
		return fault.Usagef("ledger is a URL of %s; it can be a file or postgres://USER@HOST/DATABASE", scheme)
	case c.Ledger == "":
		return fault.Usagef("ledger is empty; it is the path of the ledger file")
	}
	return nil
}
