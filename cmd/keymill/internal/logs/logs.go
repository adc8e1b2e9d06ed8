// Package logs writes the log: as text or JSON, or with priorities where
// systemd's journal reads it.
package logs

import (
	"io"
	"log/slog"

	"keymill/cmd/keymill/internal/config"
)

// New returns a log that is written to w as the configuration says.
func New(c config.LogConfig, w io.Writer) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Level)); err != nil {
		level = slog.LevelInfo
	}
	options := &slog.HandlerOptions{Level: level}
	if to, ok := w.(journal); ok && c.Format == "text" {
		return slog.New(newJournalHandler(to, level))
	}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}
