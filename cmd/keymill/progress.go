package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"keymill/pipeline"
)

// progress shows how a run goes on: a bar with rate and time left on a
// terminal, a log line now and then elsewhere.
type progress struct {
	total   int
	done    atomic.Int64 // released
	failed  atomic.Int64 // failed or conflicting
	started time.Time
	bar     *progressbar.ProgressBar // nil when not on a terminal
	log     *slog.Logger
	left    func(devices int64) time.Duration // what the server thinks; may be nil

	stop context.CancelFunc
	idle sync.WaitGroup
}

// logEvery is how often a run that is not on a terminal says where it is.
const logEvery = 10 * time.Second

// showProgress implements the hook of that name.
func (a *app) showProgress(ctx context.Context, log *slog.Logger, total int, left func(int64) time.Duration) (func(from, to pipeline.State), func()) {
	p := startProgress(ctx, a.err, log, total, left)
	return p.reached, p.end
}

// startProgress begins to show a run that has total devices to carry.
func startProgress(ctx context.Context, w io.Writer, log *slog.Logger, total int, left func(int64) time.Duration) *progress {
	ctx, stop := context.WithCancel(ctx)
	p := &progress{total: total, started: time.Now(), log: log, left: left, stop: stop}
	every := logEvery
	if file, ok := w.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		every = 200 * time.Millisecond
		p.bar = progressbar.NewOptions(total,
			progressbar.OptionSetWriter(w), progressbar.OptionShowCount(), progressbar.OptionShowIts(),
			progressbar.OptionSetItsString("devices"), progressbar.OptionSetPredictTime(true),
			progressbar.OptionFullWidth(), progressbar.OptionClearOnFinish(),
			progressbar.OptionSetDescription("released"))
	}
	p.idle.Go(func() { p.loop(ctx, every) })
	return p
}

// reached counts a state change; it is called by many goroutines.
func (p *progress) reached(_, to pipeline.State) {
	switch to {
	case pipeline.Released:
		p.done.Add(1)
	case pipeline.Failed, pipeline.Conflicted:
		p.failed.Add(1)
	}
}

func (p *progress) loop(ctx context.Context, every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			p.show()
		}
	}
}

func (p *progress) show() {
	done, failed := p.done.Load(), p.failed.Load()
	if p.bar != nil {
		if failed > 0 {
			p.bar.Describe(fmt.Sprintf("released (%d failed)", failed))
		}
		p.bar.Set64(done + failed) //nolint:errcheck // a bar that cannot be drawn stops nothing
		return
	}
	rate := float64(done) / time.Since(p.started).Seconds()
	p.log.Info("progress", "released", done, "failed", failed, "of", p.total, "per_second", int(rate), "left", p.timeLeft(rate))
}

// timeLeft estimates by the run's own rate, or by what the server lets through
// where that is less: a quota that was met half-way is not in the average.
func (p *progress) timeLeft(rate float64) string {
	waiting := int64(p.total) - p.done.Load() - p.failed.Load()
	if rate == 0 {
		return "unknown"
	}
	left := time.Duration(float64(waiting) / rate * float64(time.Second))
	if p.left != nil {
		left = max(left, p.left(waiting))
	}
	return left.Round(time.Second).String()
}

// end stops showing. It leaves the terminal clean.
func (p *progress) end() {
	p.stop()
	p.idle.Wait()
	if p.bar != nil {
		p.bar.Finish() //nolint:errcheck // as above
	}
}
