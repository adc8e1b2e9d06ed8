//go:build cgo

package hsm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/pkcs11"
)

// defaultSessions suits software tokens, which gain nothing from more; `hsm bench` finds a better number.
const defaultSessions = 4

// spareCallers wait for a session beside one caller for each. They make up for
// callers that are late on a busy machine.
const spareCallers = 4

// session is one open session of a token. One goroutine uses it at a time.
type session struct {
	*pkcs11.Ctx
	direct     *direct
	handle     pkcs11.SessionHandle
	generation int64
	kek        *kek         // the wrapping key that lives in this session; nil if the source needs none
	full       *atomic.Bool // of the library: its templates must be full ones
}

// pool hands out a bounded number of logged-in sessions. A session that saw an
// error isn't used again: closing it also destroys the session objects that a
// failed call may have left. A new one is opened in its place, after a
// re-initialisation of the module if it takes that.
type pool struct {
	mod     *module
	uri     *URI
	tell    func(string) // tells whoever stands at the token's PIN pad what to do
	log     *slog.Logger
	token   pkcs11.TokenInfo
	prepare func(*session) error // makes what a source needs in each session; may be nil

	// A permit stands for every session that may exist. It is in use, or in one
	// of these: with its session, or spare where none is open.
	idle   chan *session
	spare  chan struct{}
	jobs   chan *job    // where a session that has finished one job takes the next at once
	served atomic.Int64 // jobs done so far: the pool isn't stuck while this grows
	meter  meter
	failed atomic.Int64 // keys in a row that could not be made

	mu   sync.Mutex // guards most
	most int        // permits in circulation
}

// openPool loads the module, finds the token and logs one session in.
func openPool(ctx context.Context, cfg *Config) (*pool, error) {
	u, err := ParseURI(cfg.URI)
	if err != nil {
		return nil, &RefusedError{Err: err, Hint: "write pkcs11:token=LABEL?module-path=/path/to/module.so&pin-source=/path/to/pin"}
	}
	mod, err := openModule(ctx, u, cfg)
	if err != nil {
		return nil, err
	}
	p := &pool{mod: mod, uri: u, tell: cfg.tell(), log: cfg.log()}
	if err := p.start(ctx, cfg); err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

func (p *pool) start(ctx context.Context, cfg *Config) error {
	sessions := cfg.Limits.Sessions
	if sessions <= 0 {
		sessions = defaultSessions
	}
	find := func() (pkcs11.TokenInfo, error) {
		_, token, err := p.mod.findToken(p.uri)
		return token, err
	}
	token, err := invoke(ctx, p.mod, find, nil)
	if retryable(err) {
		token, err = invoke(ctx, p.mod, find, nil)
	}
	if err != nil {
		return asGone(err, p.uri)
	}
	p.token = token
	if most := told(token.MaxRwSessionCount); most != nil && *most > 0 {
		sessions = int(min(uint64(sessions), *most))
	}
	if err := p.mod.pinFor(ctx, cfg, p.uri, token); err != nil {
		return err
	}
	p.uri.PINValue = ""
	p.idle = make(chan *session, sessions)
	p.spare = make(chan struct{}, sessions)
	p.jobs = make(chan *job)
	p.most = sessions
	p.meter.allow(sessions)
	for range sessions {
		p.spare <- struct{}{}
	}
	_, err = use(ctx, p, func(*session) (struct{}, error) { return struct{}{}, nil })
	return err
}

// shrink gives a permit up for good, unless it is the last one.
func (p *pool) shrink() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.most < 2 {
		return false
	}
	p.most--
	p.meter.allow(p.most)
	return true
}

// atOnce is how many callers keep the sessions busy, each of which has another
// one waiting for it while a caller works on what it got.
func (p *pool) atOnce() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return 2*p.most + spareCallers
}

// collect takes a permit out of circulation, and closes its session.
func (p *pool) collect() {
	select {
	case s := <-p.idle:
		p.dismiss(s, false)
	case <-p.spare:
	}
}

// bound lowers the number of sessions. Nobody else may be using the pool.
func (p *pool) bound(sessions int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for ; p.most > sessions; p.most-- {
		p.collect()
	}
	p.meter.allow(p.most)
}

// renew replaces the pool's one session, so that the token frees what it held
// for it. The new one is opened first, if the token has room for it: a process
// whose last session ends is logged out. Nobody else may be using the pool.
func (p *pool) renew(ctx context.Context) {
	fresh, err := invoke(ctx, p.mod, p.openSession, func(s *session, err error) {
		if err == nil {
			_ = s.CloseSession(s.handle)
		}
	})
	p.collect()
	if err == nil {
		p.idle <- fresh
		return
	}
	p.spare <- struct{}{}
}

// verdict is what a key's outcome says of the token: one key that fails is its
// own matter, but when all do nobody will fare better before somebody acts.
func (p *pool) verdict(err error) error {
	_, isGone := errors.AsType[*GoneError](err)
	switch {
	case err == nil:
		p.failed.Store(0)
		return nil
	case isGone || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, errHung):
		return asGone(err, p.uri)
	}
	n := p.failed.Add(1)
	if n < int64(2*p.atOnce()) { // all that were under way may have been hit by the same
		return err
	}
	hint := "see the token's log, and what `keymill hsm test` says; then the same command goes on from here"
	if isCKR(err, pkcs11.CKR_DEVICE_MEMORY) {
		hint = "the token is full: remove objects that are no longer needed (`keymill hsm gc` finds leftovers); then the same command goes on from here"
	}
	return gone(hint, "the token failed to make %d keys in a row: %w", n, err)
}

// discard closes a session, if there is one.
func (p *pool) discard(s *session) {
	if s != nil && s.generation == p.mod.generation.Load() {
		_ = s.CloseSession(s.handle) // a dead session can't be closed
		s.kek.wipe()
	}
}

// dismiss closes a session that nobody uses, or parks it. It reports false
// where the module hangs.
func (p *pool) dismiss(s *session, park bool) bool {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if !p.mod.calls.TryAcquire(1) {
			return // the module is being finalised, with all sessions
		}
		defer p.mod.calls.Release(1)
		if !park || !p.park(s) {
			p.discard(s)
		}
	}()
	timer := time.NewTimer(min(farewell, p.mod.timeout))
	defer timer.Stop()
	select {
	case <-ended:
		return true
	case <-timer.C:
		return false
	}
}

// reopen opens a session, and re-initialises the module if it has to.
func (p *pool) reopen(ctx context.Context) (*session, error) {
	var err error
	for attempt := range 3 {
		seen := p.mod.generation.Load()
		var s *session
		s, err = invoke(ctx, p.mod, p.openSession, func(s *session, err error) {
			if err == nil {
				_ = s.CloseSession(s.handle)
			}
		})
		if err == nil || !errors.Is(err, errNoToken) && !retryable(err) || isCKR(err, pkcs11.CKR_SESSION_COUNT) {
			return s, err
		}
		p.log.Warn("the token's session is lost", "attempt", attempt+1, "error", err)
		if errors.Is(err, errHung) {
			break
		}
		if attempt == 0 {
			continue // a passing error is not worth everybody's sessions
		}
		if reinitErr := p.mod.reinitialise(ctx, seen); reinitErr != nil {
			return nil, fmt.Errorf("%w; starting the module again: %w", err, reinitErr)
		}
	}
	return nil, err
}

// openSession opens a session, logs in and prepares it.
func (p *pool) openSession() (*session, error) {
	s, token, err := p.loggedIn()
	if err != nil {
		return nil, err
	}
	if err = s.ping(token); err == nil {
		err = p.prepared(s)
	}
	if err != nil {
		_ = s.CloseSession(s.handle)
		return nil, err
	}
	return s, nil
}

// loggedIn opens a session and logs in, one caller after the other.
func (p *pool) loggedIn() (*session, pkcs11.TokenInfo, error) {
	p.mod.opening.Lock()
	defer p.mod.opening.Unlock()
	generation := p.mod.generation.Load()
	slot, token, err := p.mod.findToken(p.uri)
	if err != nil {
		return nil, token, err
	}
	name := tokenURI(token)
	if s := p.mod.parked[name]; s != nil {
		delete(p.mod.parked, name)
		if s.generation == generation && s.knowsUser() {
			return s, token, nil
		}
		p.discard(s)
	}
	flags := uint(pkcs11.CKF_SERIAL_SESSION | pkcs11.CKF_RW_SESSION)
	if token.Flags&flagWriteProtected != 0 {
		flags = pkcs11.CKF_SERIAL_SESSION
	}
	handle, err := p.mod.ctx.OpenSession(slot, flags)
	if err != nil {
		return nil, token, fmt.Errorf("open a session: %w", err)
	}
	s := &session{Ctx: p.mod.ctx, direct: p.mod.direct, handle: handle, generation: generation, full: &p.mod.full}
	if err = p.login(s, name, token); err != nil {
		_ = s.CloseSession(handle)
		return nil, token, err
	}
	return s, token, nil
}

// knowsUser reports whether the session is logged in.
func (s *session) knowsUser() bool {
	info, err := s.GetSessionInfo(s.handle)
	return err == nil && (info.State == pkcs11.CKS_RW_USER_FUNCTIONS || info.State == pkcs11.CKS_RO_USER_FUNCTIONS)
}

// prepared makes what the source needs in the session, unless it is there.
func (p *pool) prepared(s *session) error {
	if p.prepare == nil || s.kek != nil {
		return nil
	}
	return p.prepare(s)
}

// ping makes the token do something: a module whose connection is lost may
// still open sessions.
func (s *session) ping(token pkcs11.TokenInfo) error {
	if token.Flags&flagRNG == 0 {
		return nil
	}
	if _, err := s.GenerateRandom(s.handle, 8); err != nil {
		return fmt.Errorf("the token doesn't answer: %w", err)
	}
	return nil
}

// login logs in, unless the token needs no login or knows us already. It calls
// C_Login once: any answer that may count as a try is final for the process.
// The caller holds opening.
func (p *pool) login(s *session, name string, token pkcs11.TokenInfo) error {
	if token.Flags&flagLoginRequired == 0 || s.knowsUser() {
		return nil
	}
	if last, refused := p.mod.refused[name]; refused {
		return last.err
	}
	if err := checkPIN(token); err != nil {
		return err
	}
	label := trimmed(token.Label)
	var err error
	if token.Flags&flagPINPad != 0 {
		p.tell(fmt.Sprintf("enter the PIN of the token %s on its own pad; it is waited for %v", label, p.mod.timeout))
		err = s.loginAtPad()
	} else {
		err = s.Login(s.handle, pkcs11.CKU_USER, string(p.mod.pins[name]))
	}
	if err = explainLogin(label, err); err != nil && !isCKR(err, uncounted...) {
		p.mod.refuse(name, err)
	}
	return err
}

// loginAtPad has the token ask for the PIN itself: C_Login with a null PIN.
func (s *session) loginAtPad() error {
	if s.direct != nil {
		if err := s.direct.login(s.handle); !isCKR(err, pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED) {
			return err
		}
		s.direct = nil // p11-kit's client is another instance for whoever asks for its functions again
	}
	return s.Login(s.handle, pkcs11.CKU_USER, "")
}

// asGone marks an error of opening sessions as the token's, with advice.
func asGone(err error, u *URI) error {
	if _, isGone := errors.AsType[*GoneError](err); isGone || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if _, isRefused := errors.AsType[*RefusedError](err); isRefused {
		return err
	}
	hint := "check that the token is connected and its service runs; then the same command goes on from here"
	switch {
	case isCKR(err, pkcs11.CKR_SESSION_COUNT):
		hint = "all sessions of the token are in use: end the other programs that use it"
	case errors.Is(err, errHung):
		hint = "restart the token's service or reconnect it; then the same command goes on from here"
	}
	return gone(hint, "the token %s can't be used: %w", u, err)
}

// farewell is how long close waits for sessions that are still in use. A call
// that takes longer ends with the process.
const farewell = 5 * time.Second

// close gives back what the pool holds. Where the module is shared, one session
// stays open, with which the process stays logged in.
func (p *pool) close() error {
	p.mu.Lock()
	most := p.most
	p.mu.Unlock()
	timer := time.NewTimer(min(farewell, p.mod.timeout))
	defer timer.Stop()
	for range most {
		select {
		case s := <-p.idle:
			if !p.dismiss(s, true) {
				return errors.Join(errHung, p.mod.close())
			}
		case <-p.spare:
		case <-timer.C:
			return errors.Join(errHung, p.mod.close())
		}
	}
	return p.mod.close()
}

// park keeps a session for the next user of the token, one for each token.
func (p *pool) park(s *session) bool {
	if !p.mod.modules.shared || s.generation != p.mod.generation.Load() || !p.mod.opening.TryLock() {
		return false
	}
	defer p.mod.opening.Unlock()
	name := tokenURI(p.token)
	if p.mod.parked[name] != nil {
		return false
	}
	if s.kek != nil {
		if s.DestroyObject(s.handle, s.kek.object) != nil {
			return false
		}
		s.kek.wipe()
		s.kek = nil
	}
	p.mod.parked[name] = s
	return true
}
