//go:build cgo

package hsm

import (
	"context"
	"errors"
	"time"

	"github.com/miekg/pkcs11"
)

// job is what a worker wants done with a session.
type job struct {
	ctx   context.Context // of the worker's call
	prove bool            // ping the session first
	run   func(*session) error
	lost  func(error) // told instead of run where the job couldn't be begun
}

// errStale says that a session died while it lay idle: another one is tried.
var errStale = errors.New("the session is lost")

// use runs f with a session. f's error retires the session. The session goes on
// by itself when f returns, also if the caller has left before.
func use[T any](ctx context.Context, p *pool, f func(*session) (T, error)) (T, error) {
	return useSession(ctx, p, false, f)
}

// useAgain is use after a failure: the session is made to prove that it lives,
// because what killed one session may have killed all.
func useAgain[T any](ctx context.Context, p *pool, f func(*session) (T, error)) (T, error) {
	return useSession(ctx, p, true, f)
}

func useSession[T any](ctx context.Context, p *pool, prove bool, f func(*session) (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	for {
		done := make(chan result, 1) // so that a session never waits for a worker that has left
		j := &job{ctx: ctx, prove: prove, lost: func(err error) { done <- result{err: err} }}
		j.run = func(s *session) error {
			value, err := f(s)
			done <- result{value, err}
			return err
		}
		if err := p.submit(ctx, j); err != nil {
			var zero T
			return zero, err
		}
		limited, cancel := p.mod.limit(ctx)
		var r result
		select {
		case r = <-done:
		case <-limited.Done():
			r.err = context.Cause(limited)
		}
		cancel()
		if !errors.Is(r.err, errStale) {
			return r.value, r.err
		}
	}
}

// submit waits until a session has taken the job: one that is idle, one that
// has just finished another job, or one that is opened for it.
func (p *pool) submit(ctx context.Context, j *job) error {
	p.meter.change(0, 1, 0)
	for {
		select { // an open session before a new one: a login is not to be spent lightly
		case s := <-p.idle:
			go p.serve(s, j)
			return nil
		default:
		}
		taken, err := p.await(ctx, j)
		if taken {
			return nil
		}
		if err != nil && !errors.Is(err, errShrunk) {
			p.meter.change(0, -1, 0)
			return err
		}
	}
}

// await waits for whatever comes first. It reports whether the job was taken.
func (p *pool) await(ctx context.Context, j *job) (taken bool, err error) {
	before := p.served.Load()
	timer := time.NewTimer(p.mod.timeout)
	defer timer.Stop()
	select {
	case p.jobs <- j:
		return true, nil
	case s := <-p.idle:
		go p.serve(s, j)
		return true, nil
	case <-p.spare:
		p.meter.change(1, 0, 0)
		s, err := p.open(ctx)
		p.meter.change(-1, 0, 0)
		if err != nil {
			return false, err
		}
		go p.serve(s, j)
		return true, nil
	case <-ctx.Done():
		return false, ctx.Err()
	case <-timer.C:
		if p.served.Load() == before {
			return false, asGone(errHung, p.uri)
		}
		return false, nil
	}
}

// errShrunk says that the token has fewer sessions than the pool has permits:
// this permit is gone, and the job waits for another.
var errShrunk = errors.New("the token has no more sessions")

// open opens a session for a permit. On failure the permit goes back.
func (p *pool) open(ctx context.Context) (*session, error) {
	s, err := p.reopen(ctx)
	if err == nil {
		return s, nil
	}
	if isCKR(err, pkcs11.CKR_SESSION_COUNT) && p.shrink() {
		p.log.Warn("the token has no more sessions; going on with those that are open")
		return nil, errShrunk
	}
	p.spare <- struct{}{}
	return nil, asGone(err, p.uri)
}

// serve does one job after the other while there are any, so that a session is
// never idle while workers wait, and then gives the session back.
func (p *pool) serve(s *session, j *job) {
	for j != nil {
		alive := p.serveOne(s, j)
		p.served.Add(1)
		if !alive {
			p.spare <- struct{}{}
			return
		}
		select {
		case j = <-p.jobs:
		default:
			j = nil
		}
	}
	p.idle <- s
}

// serveOne does one job, and reports whether the session can go on. Any error
// of the job retires the session.
func (p *pool) serveOne(s *session, j *job) bool {
	p.meter.change(1, -1, 0)
	defer p.meter.change(-1, 0, 0)
	if err := p.mod.enter(j.ctx, 1); err != nil {
		j.lost(err)
		return true
	}
	defer p.mod.calls.Release(1)
	if s.generation != p.mod.generation.Load() {
		j.lost(errStale)
		return false
	}
	if j.prove && s.ping(p.token) != nil {
		p.discard(s)
		j.lost(errStale)
		return false
	}
	if err := p.prepared(s); err != nil {
		p.discard(s)
		j.lost(err)
		return false
	}
	if err := j.run(s); err != nil {
		p.discard(s)
		return false
	}
	return true
}
