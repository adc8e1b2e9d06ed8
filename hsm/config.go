package hsm

import (
	"context"
	"log/slog"
	"time"
)

// Config names a token and says how it may be used.
type Config struct {
	// URI names module and token as RFC 7512 has it. It needs module-path, and
	// token, serial, model or manufacturer where the module shows more than one
	// token.
	URI string
	// PIN is asked when the token wants one and the URI has neither pin-source
	// nor pin-value: once for each token. The buffer is wiped.
	PIN func(ctx context.Context, token string) ([]byte, error)
	// Modules are shared with other openings in this process, so that it logs in
	// once. nil: the opening has the module to itself.
	Modules *Modules
	// Tell tells whoever stands at the station what to do: to enter the PIN at a
	// token's own pad. nil: Log gets it as a warning.
	Tell func(message string)
	// ImportKEK allows that the wrapping key is made on this host and given to
	// the token in clear, where the token can't make one and give it out.
	ImportKEK bool
	// Limits bound what keymill takes of the token.
	Limits Limits
	// Timeout is how long one call of the module may take before the session is
	// given up. 0: DefaultTimeout.
	Timeout time.Duration
	// Journal takes the ids of token objects before they are made. It is needed
	// where a module has no session objects, and in ModeToken; elsewhere nil is fine.
	Journal Journal
	// Progress is told what Test has tried, one call a check. nil: nobody is.
	Progress func(string)
	// Log gets warnings and recoveries. nil: nothing is logged.
	Log *slog.Logger
}

// DefaultTimeout bounds a call of a module: an RSA-4096 key takes a smart card a minute.
const DefaultTimeout = 2 * time.Minute

// Limits bound what keymill takes of a token. 0 means the default.
type Limits struct {
	// Sessions is the most sessions that are open at once. Default: 4, or what
	// the token allows if that is less. `hsm bench` finds the best number.
	Sessions int
	// Objects is the most objects that may lie in the token at once, those of
	// others included, where keys are token objects. Default: no limit but the
	// token's own.
	Objects int
	// Keys is the most keys that this source may make (a lot's limit).
	// Default: no limit.
	Keys int
}

func (c *Config) timeout() time.Duration {
	if c.Timeout > 0 {
		return c.Timeout
	}
	return DefaultTimeout
}

func (c *Config) log() *slog.Logger {
	if c.Log != nil {
		return c.Log
	}
	return slog.New(slog.DiscardHandler)
}

func (c *Config) tell() func(string) {
	if c.Tell != nil {
		return c.Tell
	}
	return func(message string) { c.log().Warn(message) }
}

// Journal remembers the ids (CKA_ID) of token objects, so that what a crash
// leaves in a token can be found. Both methods may be called by many goroutines
// at once.
type Journal interface {
	// Intend is called before an object is made, and returns when that is durable.
	Intend(ctx context.Context, object JournalEntry) error
	// Done is called after the object was destroyed. A crash may forget it: GC
	// then looks for an object that isn't there.
	Done(ctx context.Context, id []byte) error
}

// JournalEntry is an object that was announced and not reported destroyed.
type JournalEntry struct {
	ID    []byte
	Label string
	Token string // PKCS#11 URI of the token; "" in entries of before it was written down
}

// Open returns the source of keys for a mode. Before it returns, what the mode
// needs was tried on the token for real; a *RefusedError says what can't be
// done and what would work, a *GoneError that the token can't be used at all.
// For ModeSoftware cfg is not looked at.
func Open(ctx context.Context, mode Mode, alg Algorithm, cfg Config) (Source, error) {
	if _, err := ParseAlgorithm(string(alg)); err != nil {
		return nil, err
	}
	switch mode {
	case ModeSoftware:
		return Software(alg)
	case ModeHSM, ModeEntropy, ModeToken:
		return openToken(ctx, mode, alg, cfg)
	}
	_, err := ParseMode(string(mode))
	return nil, err
}
