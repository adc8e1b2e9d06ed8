package logs

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"syscall"
)

// journal is a standard error that systemd's journal reads. It knows the time
// of each line, and takes its priority from <N> in front, see sd-daemon(3).
type journal struct{ io.Writer }

// Journaled returns stderr as a journal if it is the one that $JOURNAL_STREAM
// names, by device and inode: a child's may have been led elsewhere.
func Journaled(stderr *os.File, stream string) io.Writer {
	info, err := stderr.Stat()
	if err != nil {
		return stderr
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && stream == fmt.Sprintf("%d:%d", stat.Dev, stat.Ino) {
		return journal{stderr}
	}
	return stderr
}

// priorities are syslog's, by level of the log.
var priorities = map[slog.Level]string{
	slog.LevelDebug: "<7>", slog.LevelInfo: "<6>", slog.LevelWarn: "<4>", slog.LevelError: "<3>",
}

// ErrorPriority stands before the line that says what went wrong.
func ErrorPriority(w io.Writer) string {
	if _, ok := w.(journal); ok {
		return priorities[slog.LevelError]
	}
	return ""
}

// prefixed writes each record with the same words in front. A record is one
// Write, of one line.
type prefixed struct {
	w      io.Writer
	prefix string
}

func (p prefixed) Write(b []byte) (int, error) {
	if _, err := io.WriteString(p.w, p.prefix+string(b)); err != nil {
		return 0, err
	}
	return len(b), nil
}

// byPriority hands each record to its level's handler.
type byPriority map[slog.Level]slog.Handler

func newJournalHandler(w journal, least slog.Level) slog.Handler {
	handlers := byPriority{}
	for level, prefix := range priorities {
		if level >= least {
			handlers[level] = slog.NewTextHandler(prefixed{w, prefix}, &slog.HandlerOptions{Level: least, ReplaceAttr: withoutTimeAndLevel})
		}
	}
	return handlers
}

func withoutTimeAndLevel(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
		return slog.Attr{}
	}
	return a
}

func (h byPriority) Enabled(_ context.Context, level slog.Level) bool { return h[level] != nil }

func (h byPriority) Handle(ctx context.Context, r slog.Record) error {
	return h[r.Level].Handle(ctx, r)
}

func (h byPriority) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.each(func(to slog.Handler) slog.Handler { return to.WithAttrs(attrs) })
}

func (h byPriority) WithGroup(name string) slog.Handler {
	return h.each(func(to slog.Handler) slog.Handler { return to.WithGroup(name) })
}

func (h byPriority) each(with func(slog.Handler) slog.Handler) slog.Handler {
	all := byPriority{}
	for level, handler := range h {
		all[level] = with(handler)
	}
	return all
}
