//go:build cgo

package hsm

import (
	"crypto/rsa"
	"errors"
	"fmt"
	"strings"

	"github.com/miekg/pkcs11"
)

// probeLabel marks what keymill makes in a token and means to destroy at once;
// gc knows leftovers by it.
const probeLabel = "keymill-temporary"

// exit is how keys of one algorithm leave a token, as it was found to work.
type exit struct {
	alg          Algorithm
	wrapping     wrapping
	tokenObjects bool // the module makes no session objects
	// Of the key that was tried.
	alwaysSensitive, neverExtractable bool
	// wrapsForbidden says that the module wraps keys marked as not extractable.
	wrapsForbidden bool
}

// way is how keys of one algorithm come out, and the wrapping key before them.
type way struct {
	transport
	exit    *exit
	reasons []error // why the transports before it don't work
	note    string  // of the kek that was tried
}

// warnings are what an auditor should know of the way.
func (w *way) warnings() []string {
	var all []string
	if len(w.reasons) > 0 && !w.clear {
		all = append(all, fmt.Sprintf("wrapping key: %s; better ways don't work with this token: %s", w.name, oneLine(w.reasons)))
	}
	if w.clear {
		all = append(all, fmt.Sprintf("the wrapping key was made on this host and imported in clear, as keys.kek_import allows; other ways don't work with this token: %s",
			oneLine(w.reasons)))
	}
	if w.note != "" {
		all = append(all, w.note)
	}
	return all
}

func oneLine(problems []error) string {
	return strings.ReplaceAll(explain(errors.Join(problems...).Error()), "\n", "; ")
}

// probeWay tries the transports in turn, and with each what probeExit tries,
// until a fresh key of alg makes the round trip. The wrapping key stays in s.
// strict: an error that may pass ends the probe, for another try in a new session.
func (s *session) probeWay(alg Algorithm, host *rsa.PrivateKey, ids *idMaker, importAllowed, strict bool, note func(check string, err error)) (*way, error) {
	var problems []error
	for _, t := range transports() {
		if t.clear && !importAllowed {
			problems = append(problems, fmt.Errorf("%s: not allowed", t.name))
			continue
		}
		k, err := t.make(s, host)
		note("wrapping key "+t.name, err)
		if err == nil {
			s.kek = k
			var found *exit
			if found, err = s.probeExit(alg, ids, note); err == nil {
				return &way{t, found, problems, k.note}, nil
			}
			s.kek = nil
			_ = s.DestroyObject(s.handle, k.object)
		}
		if _, isCode := errors.AsType[pkcs11.Error](err); strict && isCode && retryable(err) {
			return nil, err
		}
		problems = append(problems, fmt.Errorf("%s: %w", t.name, err))
	}
	return nil, errors.Join(problems...)
}

// probeExit finds a wrapping by which a fresh key of alg makes the round trip.
// s must hold a kek. ids tells the journal about token objects; nil where the
// caller doesn't allow them.
func (s *session) probeExit(alg Algorithm, ids *idMaker, note func(check string, err error)) (*exit, error) {
	found := &exit{alg: alg}
	p, done, err := s.generateAnywhere(found, ids)
	note(string(alg)+" generated, extractable", err)
	if err != nil {
		return nil, err
	}
	found.alwaysSensitive = s.flag(p.private, pkcs11.CKA_ALWAYS_SENSITIVE)
	found.neverExtractable = s.flag(p.private, pkcs11.CKA_NEVER_EXTRACTABLE)
	err = s.probeWrappings(found, p, note)
	if destroyErr := done(); err == nil {
		err = destroyErr
	}
	if err != nil {
		return nil, err
	}
	return found, nil
}

// probeWrappings tries every wrapping on p and takes the first that works.
func (s *session) probeWrappings(found *exit, p *pair, note func(check string, err error)) error {
	var problems []error
	for _, w := range wrappings() {
		if !w.fits(s.kek) {
			continue
		}
		parcel, err := s.wrap(&w, p)
		if err == nil {
			var der []byte
			der, err = parcel.open(&w, found.alg)
			Wipe(der)
		}
		note(fmt.Sprintf("%s round trip by %s", found.alg, w.name), err)
		if err == nil {
			found.wrapping = w
			return nil
		}
		problems = append(problems, err)
	}
	return fmt.Errorf("no way to take a key of kind %s out of the token: %w", found.alg, errors.Join(problems...))
}

// generateAnywhere makes an extractable key as a session object, or where the
// module has none as a token object. done destroys it.
func (s *session) generateAnywhere(found *exit, ids *idMaker) (p *pair, done func() error, err error) {
	p, err = s.generate(found.alg, traits{extractable: true})
	if err == nil && !s.flag(p.private, pkcs11.CKA_TOKEN) {
		if s.flag(p.private, pkcs11.CKA_EXTRACTABLE) {
			return p, func() error { return s.destroy(p) }, nil
		}
		err = fmt.Errorf("the token ignores CKA_EXTRACTABLE: %w", pkcs11.Error(pkcs11.CKR_KEY_UNEXTRACTABLE))
	}
	if p != nil { // not what was asked for
		_ = s.destroy(p)
	}
	if ids == nil {
		return nil, nil, fmt.Errorf("no extractable session keys: %w", err)
	}
	found.tokenObjects = true
	return ids.generate(s, found.alg)
}

// probeForbidden finds out whether the module wraps a key that is marked as
// not extractable. Where no such key can be made it reports false.
func (s *session) probeForbidden(w *wrapping, alg Algorithm, note func(check string, err error)) bool {
	const check = "refuses to wrap a key that is not extractable"
	for _, alg := range []Algorithm{ECDSAP256, alg} {
		p, err := s.generate(alg, traits{})
		if err != nil {
			continue
		}
		_, err = s.wrap(w, p)
		_ = s.destroy(p)
		if err != nil {
			note(check, nil)
			return false
		}
		note(check, errors.New("the module hands out keys that it should keep"))
		return true
	}
	return false
}
