package notify

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/pipeline"
)

// Check looks at what tells people of a batch: whether the webhook's key and
// the hook's program are there, and metrics can be written. Nobody is called.
func Check(cfg *config.Config, env config.Environ) (string, error) {
	var told []string
	web, err := newWebhook(cfg.Notify, env)
	if err != nil {
		return "", err
	}
	if web != nil {
		told = append(told, "webhook")
	}
	command, err := newHook(cfg.Notify, "", env, io.Discard)
	if err != nil {
		return "", err
	}
	if command != nil {
		told = append(told, command.argv[0])
	}
	if file := cfg.Metrics.Textfile; file != "" {
		dir := filepath.Dir(file)
		if err := unix.Access(dir, unix.W_OK); err != nil {
			return "", fault.As(fault.Storage, pipeline.WithHint(fmt.Errorf("metrics.textfile: the folder %s cannot be written to: %w", dir, err),
				"Make it, and let keymill's user write there; node_exporter reads it with --collector.textfile.directory."))
		}
		told = append(told, file)
	}
	if cfg.Metrics.Pushgateway != "" {
		told = append(told, "Pushgateway")
	}
	if told == nil {
		return "a batch tells nobody; notify and metrics change that", nil
	}
	return "a batch tells " + strings.Join(told, ", "), nil
}
