// Package station works on lots: it opens golden image, keys, server, pack and
// ledger, and plans, carries, settles, verifies, undoes and rekeys. It takes
// options and hooks, returns outcomes, and prints nothing.
package station

import (
	"context"
	"io"
	"log/slog"
	"time"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/logs"
	"keymill/hsm"
	"keymill/pipeline"
	"keymill/pipeline/mender"
	"keymill/sources"
)

// Options say how lots are worked on. They are not changed once they are in use.
type Options struct {
	// Settings are where the configuration comes from. What a lot was planned
	// with is added when the lot is known.
	Settings config.Layers
	// ReplaceAccepted lets server.on_conflict replace reach accepted devices, too.
	ReplaceAccepted bool
	// Verify is how much of a lot is compared with the server before it is
	// closed: VerifyAll, VerifySample or VerifyNone. The zero value samples.
	Verify string
	// Drain returns a channel that is closed when no device may begin a new step.
	// It is called when devices begin to move; nil means never.
	Drain func() <-chan struct{}

	// Shared says that several stations work on the lots: products lie below this
	// station's own folder `out`, in a folder named after the lot, wherever the
	// station that planned the lot has them.
	Shared bool

	// Modules are the PKCS#11 modules that the process shares, so that it logs in
	// to an HSM token once. nil: each opening has them to itself.
	Modules *hsm.Modules

	Hooks Hooks
}

// Hooks are told what happens. Each may be nil.
type Hooks struct {
	// LogTo is where the log is written, as settings log say.
	LogTo io.Writer
	// Notice is told what a person should know now.
	Notice func(text string)
	// AskPIN asks a person for the PIN of an HSM token. It is nil where there is
	// nobody to ask.
	AskPIN func(ctx context.Context, token string) ([]byte, error)
	// Problem is told the first problems and warnings of a manifest, Unshown how
	// many more there are.
	Problem func(sources.Problem)
	Unshown func(n int, what string)
	// Progress begins to show how devices move. total is how many there are to
	// carry; left says how long the server thinks that so many devices will
	// take. reached is told each state change, by many goroutines; end ends it.
	Progress func(ctx context.Context, log *slog.Logger, total int, left func(devices int64) time.Duration) (reached func(from, to pipeline.State), end func())
	// Begun is told of each run before its devices move.
	Begun func(Begun)
	// Follow and FollowRequest are told what begins and ends, for traces.
	Follow        pipeline.Follower
	FollowRequest func(context.Context, mender.Attempt) func(mender.Answer)
}

// Begun is a run whose devices are about to move.
type Begun struct {
	Lot    pipeline.Lot
	Line   *pipeline.LineConfig // hooks may be added
	Server *mender.Client
}

// log returns the log that cfg asks for.
func (o *Options) log(cfg *config.Config) *slog.Logger {
	if o.Hooks.LogTo == nil {
		return slog.New(slog.DiscardHandler)
	}
	return logs.New(cfg.Log, o.Hooks.LogTo)
}

// notice tells a person something.
func (o *Options) notice(text string) {
	if o.Hooks.Notice != nil {
		o.Hooks.Notice(text)
	}
}

// policy is what happens to devices that the server knows under another key.
func (o *Options) policy(cfg *config.Config) pipeline.OnConflict {
	policy := pipeline.OnConflict(cfg.Server.OnConflict)
	if policy == pipeline.ConflictReplace && o.ReplaceAccepted {
		return pipeline.ConflictReplaceAccepted
	}
	return policy
}
