//go:build cgo

package hsm

import (
	"crypto/rsa"
	"errors"
	"fmt"

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

// probeTransport tries the transports in turn until one gives s a wrapping key.
func (s *session) probeTransport(host *rsa.PrivateKey, note func(check string, err error)) (transport, error) {
	var problems []error
	for _, t := range transports() {
		k, err := t.make(s, host)
		note("wrapping key "+t.name, err)
		if err == nil {
			s.kek = k
			return t, nil
		}
		problems = append(problems, fmt.Errorf("%s: %w", t.name, err))
	}
	return transport{}, errors.Join(problems...)
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
