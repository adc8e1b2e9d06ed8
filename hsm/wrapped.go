//go:build cgo

package hsm

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
)

// openToken returns the source of a mode that needs a token.
func openToken(ctx context.Context, mode Mode, alg Algorithm, cfg Config) (Source, error) {
	if mode == ModeEntropy && alg.bits() > 0 {
		return nil, refused("choose ed25519 or ecdsa-p256, or --keys hsm for RSA made in the token",
			"hsm-entropy can't make %s: Go's crypto/rsa takes no random numbers from outside since Go 1.26", alg)
	}
	p, err := openPool(ctx, &cfg)
	if err != nil {
		return nil, err
	}
	var source Source
	switch mode {
	case ModeHSM:
		source, err = openWrapped(ctx, p, alg, &cfg)
	case ModeEntropy:
		source, err = openEntropy(ctx, p, alg, &cfg)
	default:
		source, err = openDevice(ctx, p, alg, &cfg)
	}
	if err != nil {
		return nil, errors.Join(err, p.close())
	}
	return source, nil
}

// budget is a limit of keys that a source may make.
type budget struct {
	most int64 // 0: no limit
	full error // what take says beyond it
	made atomic.Int64
}

// limit sets how many keys may be made.
func (b *budget) limit(most int, full error) { b.most, b.full = int64(most), full }

func (b *budget) take() error {
	if n := b.made.Add(1); b.most > 0 && n > b.most {
		b.made.Add(-1)
		return b.full
	}
	return nil
}

// lotLimit is the budget of a lot.
func (b *budget) lotLimit(keys int) {
	b.limit(keys, gone("raise the limit of keys, or go on with another token", "the limit of %d keys from this token is reached", keys))
}

// wrapped is the source of ModeHSM.
type wrapped struct {
	pool    *pool
	host    *rsa.PrivateKey // under which wrapping keys leave the token; wiped by Close
	exit    *exit
	journal Journal
	budget  budget
	origin  Origin
}

// openWrapped tries out how keys leave the token. The host's RSA key, under which
// the wrapping keys come out, lives as long as the source.
func openWrapped(ctx context.Context, p *pool, alg Algorithm, cfg *Config) (Source, error) {
	host, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		return nil, err
	}
	w := &wrapped{pool: p, host: host, journal: cfg.Journal, origin: p.origin(ModeHSM, alg)}
	w.budget.lotLimit(cfg.Limits.Keys)
	strict := true
	way, err := tryTwice(ctx, p, func(s *session) (*way, error) {
		way, err := s.probeWay(alg, host, w.ids(ctx), cfg.ImportKEK, strict, ignore)
		strict = false
		if err == nil {
			way.exit.wrapsForbidden = s.probeForbidden(&way.exit.wrapping, alg, ignore)
		}
		return way, err
	})
	if err != nil {
		return nil, refuseWrapped(alg, err)
	}
	w.exit = way.exit
	w.describe(way)
	p.prepare = func(s *session) (err error) {
		s.kek, err = way.make(s, host)
		return err
	}
	if err := w.fit(ctx, cfg.Limits.Objects); err != nil {
		return nil, err
	}
	return w, nil
}

// fit bounds the sessions so that the keys of this moment, two objects each,
// don't fill the token beyond the limit.
func (w *wrapped) fit(ctx context.Context, most int) error {
	if most <= 0 || !w.exit.tokenObjects {
		return nil
	}
	there, err := use(ctx, w.pool, (*session).countObjects)
	if err != nil {
		return asGone(err, w.pool.uri)
	}
	room := (most - there) / 2
	if room < 1 {
		return refused("remove objects that are no longer needed (`keymill hsm gc` finds leftovers), or raise the limit of objects",
			"the token holds %d objects, and the limit is %d", there, most)
	}
	w.pool.bound(room)
	return nil
}

func ignore(string, error) {}

// tryTwice runs a probe, and once more in a new session where the first failure
// may have been a passing one.
func tryTwice[T any](ctx context.Context, p *pool, probe func(*session) (T, error)) (T, error) {
	value, err := use(ctx, p, probe)
	if err != nil && retryable(err) {
		value, err = useAgain(ctx, p, probe)
	}
	return value, err
}

func refuseWrapped(alg Algorithm, err error) error {
	if _, isGone := errors.AsType[*GoneError](err); isGone || errors.Is(err, context.Canceled) {
		return err
	}
	if errors.Is(err, errHung) {
		return gone("restart the token's service or reconnect it", "%w", err)
	}
	hint := "use --keys token to leave the keys in the device's own token, or --keys hsm-entropy to use this token's random numbers; `keymill hsm test` shows what works"
	if importForbidden(err) {
		hint = "set keys.kek_import: allow, if the wrapping key may be made on this host and given to the token in clear; the evidence says so. Else " + hint
	}
	if alg == Ed25519 {
		hint = "use --algorithm ecdsa-p256, or --keys hsm-entropy, which makes ed25519 from this token's random numbers"
	}
	return refused(hint, "this token can't make %s keys for export: %w", alg, err)
}

// importForbidden reports whether only the consent to a clear import was missing:
// the token wrapped, or might have, but gives no wrapping key out.
func importForbidden(err error) bool {
	return strings.Contains(err.Error(), "take the wrapping key out") || strings.Contains(err.Error(), "make a wrapping key")
}

func (w *wrapped) describe(t *way) {
	o := &w.origin
	o.Mechanism, o.Transport = w.exit.wrapping.name, t.name
	o.AlwaysSensitive, o.NeverExtractable = w.exit.alwaysSensitive, w.exit.neverExtractable
	o.Warnings = append(o.Warnings, "the plain key passes through this host's memory on its way into the image")
	o.Warnings = append(o.Warnings, t.warnings()...)
	if w.exit.wrapsForbidden {
		o.Warnings = append(o.Warnings, "the module also wraps keys that are marked as not extractable")
	}
	if w.exit.tokenObjects {
		o.Warnings = append(o.Warnings, "the module has no session objects; keys lie in the token for a moment")
	}
}

// ids returns the maker of token objects, nil if there is no journal for them.
func (w *wrapped) ids(ctx context.Context) *idMaker {
	if w.journal == nil {
		return nil
	}
	return &idMaker{ctx: ctx, journal: w.journal, token: tokenURI(w.pool.token)}
}

// AtOnce implements Source.
func (w *wrapped) AtOnce() int { return w.pool.atOnce() }

// Load implements Source.
func (w *wrapped) Load() Load { return w.pool.meter.read() }

// Generate makes the key in the token, takes it out, destroys it there, and
// unwraps it here, the session being free again by then. A device whose session
// was lost is tried once more.
func (w *wrapped) Generate(ctx context.Context, _ string) (private, public []byte, err error) {
	w.pool.meter.change(0, 0, 1)
	defer w.pool.meter.change(0, 0, -1)
	if err := w.budget.take(); err != nil {
		return nil, nil, err
	}
	for attempt := 1; ; attempt++ {
		private, public, err = w.once(ctx, attempt)
		if err == nil || attempt == 2 || !retryable(err) {
			break
		}
		w.pool.log.Warn("making a key failed; trying once more in a new session", "error", err)
	}
	if err := w.pool.verdict(err); err != nil {
		return nil, nil, fmt.Errorf("make a key in the token: %w", err)
	}
	return private, public, nil
}

// once occupies a session for what is done in the token, and for nothing else:
// neither for the journal's disk nor for this host's part.
func (w *wrapped) once(ctx context.Context, attempt int) (private, public []byte, err error) {
	how := traits{extractable: true}
	if w.exit.tokenObjects {
		how.token, how.label = true, probeLabel
		if how.id, err = w.ids(ctx).newID(probeLabel); err != nil {
			return nil, nil, err
		}
	}
	out, err := useSession(ctx, w.pool, attempt > 1, func(s *session) (*parcel, error) { return w.cycle(s, how) })
	if err == nil && how.token {
		err = w.journal.Done(ctx, how.id) // where the key wasn't destroyed, the journal keeps the id, for gc
	}
	if err != nil {
		return nil, nil, err
	}
	der, err := out.open(&w.exit.wrapping, w.exit.alg)
	if err != nil {
		return nil, nil, err
	}
	return privatePEM(der), out.spki, nil
}

// cycle is what occupies a session: generate, wrap, destroy.
func (w *wrapped) cycle(s *session, how traits) (*parcel, error) {
	p, err := s.generate(w.exit.alg, how)
	if err != nil {
		return nil, err
	}
	out, err := s.wrap(&w.exit.wrapping, p)
	if destroyErr := s.destroy(p); err == nil {
		err = destroyErr
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Origin implements Source.
func (w *wrapped) Origin() Origin { return w.origin }

// Close closes the sessions, with which the wrapping keys in the token end.
func (w *wrapped) Close() error {
	err := w.pool.close()
	if err == nil { // else a call that hangs may still need it
		wipeRSA(w.host)
	}
	return err
}

// origin fills in what the token says of itself.
func (p *pool) origin(mode Mode, alg Algorithm) Origin {
	o := Origin{Mode: mode, Algorithm: alg}
	o.Module, o.ModuleVersion = p.mod.describe()
	o.ModulePath, o.ModuleSHA256 = p.mod.path, p.mod.digest
	o.TokenLabel, o.TokenSerial, o.TokenModel = trimmed(p.token.Label), trimmed(p.token.SerialNumber), trimmed(p.token.Model)
	o.Firmware = fmt.Sprintf("%d.%d", p.token.FirmwareVersion.Major, p.token.FirmwareVersion.Minor)
	return o
}

// MadeBy implements Maker.
func (w *wrapped) MadeBy([]byte) string { return w.origin.Name() }
