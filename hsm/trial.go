//go:build cgo

package hsm

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
)

// Test tries on the token everything that sources of keys may need, for every
// of the algorithms (all, if none is given), and says which source works. What it
// makes in the token it destroys. Keys that would be token objects are tried only
// where cfg has a journal. RSA takes as long as the token takes for two keys of each length.
func Test(ctx context.Context, cfg Config, algorithms ...Algorithm) (*TestReport, error) {
	cfg.Limits.Sessions = 1
	p, err := openPool(ctx, &cfg)
	if err != nil {
		return nil, err
	}
	host, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		return nil, errors.Join(err, p.close())
	}
	if len(algorithms) == 0 {
		algorithms = Algorithms()
	}
	r := &TestReport{Origin: p.origin("", "")}
	p.mod.timeout *= 10 // which here bounds a third of the trial
	t := &trial{report: r, ctx: ctx, journal: cfg.Journal, token: tokenURI(p.token), algorithms: algorithms, importKEK: cfg.ImportKEK, progress: cfg.Progress}
	for _, part := range []func(*session){func(s *session) { t.export(s, host) }, t.random, t.kept} {
		before := *r
		if _, err = tryTwice(ctx, p, func(s *session) (struct{}, error) {
			*r = before // of a first try in which the session was lost
			part(s)
			return struct{}{}, s.ping(p.token)
		}); err != nil {
			break
		}
		p.renew(ctx) // a session's end frees what a TPM holds in its few slots
	}
	if err = errors.Join(err, p.close()); err != nil {
		return nil, asGone(err, p.uri)
	}
	r.Verdict = r.verdict()
	return r, nil
}

// trial collects what a session turns out to do.
type trial struct {
	report     *TestReport
	ctx        context.Context // of the call of Test
	journal    Journal
	token      string // URI
	algorithms []Algorithm
	importKEK  bool
	progress   func(string)
}

func (t *trial) note(check string, err error) {
	c := Check{Name: check, OK: err == nil}
	if err != nil {
		c.Detail = explain(err.Error())
	}
	t.report.Checks = append(t.report.Checks, c)
	if t.progress != nil {
		t.progress(check + ": " + yesNo(c.OK))
	}
}

func (t *trial) usable(mode Mode, alg Algorithm, how string, err error) {
	u := Usable{Mode: mode, Algorithm: alg, OK: err == nil, How: how}
	if err != nil {
		u.How = explain(err.Error())
	}
	t.report.Usable = append(t.report.Usable, u)
}

// export tries ModeHSM.
func (t *trial) export(s *session, host *rsa.PrivateKey) {
	var ids *idMaker
	if t.journal != nil {
		ids = &idMaker{ctx: t.ctx, journal: t.journal, token: t.token}
	}
	forbidden := false
	for _, alg := range t.algorithms {
		way, err := s.probeWay(alg, host, ids, t.importKEK, false, t.note)
		if err != nil {
			t.usable(ModeHSM, alg, "", err)
			continue
		}
		t.usable(ModeHSM, alg, way.exit.wrapping.name, nil)
		if t.report.Origin.Transport == "" {
			t.report.Origin.Transport = way.name
			t.report.Origin.Warnings = append(t.report.Origin.Warnings, way.warnings()...)
		}
		if !forbidden {
			forbidden = true
			if s.probeForbidden(&way.exit.wrapping, alg, t.note) {
				t.report.Origin.Warnings = append(t.report.Origin.Warnings, "the module also wraps keys that are marked as not extractable")
			}
		}
		_ = s.DestroyObject(s.handle, s.kek.object)
		s.kek = nil
	}
}

// random tries ModeEntropy.
func (t *trial) random(s *session) {
	portion, err := s.randomPortion()
	t.note(fmt.Sprintf("random numbers, %d bytes at once", portion), err)
	for _, alg := range t.algorithms {
		if alg.bits() > 0 {
			continue
		}
		t.usable(ModeEntropy, alg, "C_GenerateRandom", err)
	}
}

// kept tries ModeToken.
func (t *trial) kept(s *session) {
	if t.journal == nil {
		return
	}
	for _, alg := range t.algorithms {
		_, err := (&idMaker{ctx: t.ctx, journal: t.journal, token: t.token}).tryKept(s, alg, Origin{})
		t.note(string(alg)+" kept in the token, signs, not extractable", err)
		t.usable(ModeToken, alg, "generated in the token, not extractable", err)
	}
}
