//go:build cgo

package hsm

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"
)

// find returns all objects that have these attributes. Tokens search linearly:
// it is never done per device.
func (s *session) find(template ...*pkcs11.Attribute) ([]pkcs11.ObjectHandle, error) {
	if err := s.FindObjectsInit(s.handle, template); err != nil {
		return nil, fmt.Errorf("search the token: %w", err)
	}
	var all []pkcs11.ObjectHandle
	for {
		some, _, err := s.FindObjects(s.handle, 100)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("search the token: %w", err), s.FindObjectsFinal(s.handle))
		}
		if len(some) == 0 {
			return all, s.FindObjectsFinal(s.handle)
		}
		all = append(all, some...)
	}
}

// countObjects returns how many token objects there are.
func (s *session) countObjects() (int, error) {
	all, err := s.find(pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true))
	return len(all), err
}

// keyPair is a private key object with its public half.
type keyPair struct {
	private pkcs11.ObjectHandle
	alg     Algorithm
	id      []byte
	label   string
	spki    []byte // nil where there is none
}

// keyPairs returns the private keys with these attributes, of algorithms that
// we know, together with their public halves.
func (s *session) keyPairs(template ...*pkcs11.Attribute) ([]keyPair, error) {
	private, err := s.find(append(template, pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY))...)
	if err != nil {
		return nil, err
	}
	var keys []keyPair
	for _, object := range private {
		names, err := s.attributes(object, pkcs11.CKA_ID, pkcs11.CKA_LABEL)
		if isCKR(err, pkcs11.CKR_OBJECT_HANDLE_INVALID) {
			continue // another program has just destroyed it
		}
		if err != nil {
			return nil, fmt.Errorf("read a key's name: %w", err)
		}
		key := keyPair{private: object, id: names[0], label: string(names[1])}
		if err := s.half(&key); err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// half finds the public half of a key for a list. Where several halves bear its
// id, or it has none, a trial signature tells; where none can be told, spki stays nil.
func (s *session) half(key *keyPair) error {
	kind, err := s.attributes(key.private, pkcs11.CKA_KEY_TYPE)
	if err != nil {
		return nil //nolint:nilerr // a key without a type is listed without its public half
	}
	halves, err := s.publicHalves(key, kind[0])
	if err != nil {
		return err
	}
	if len(halves) == 1 && len(key.id) > 0 {
		key.alg, key.spki = s.identify(halves[0])
		return nil
	}
	if err := s.pair(&URI{Object: key.label}, key, halves); err != nil {
		key.alg, key.spki = "", nil // it can't sign, or its half isn't there
	}
	return nil
}

// identify returns algorithm and SPKI of a public key object, nil if it is of no
// algorithm that we know.
func (s *session) identify(public pkcs11.ObjectHandle) (Algorithm, []byte) {
	for _, alg := range Algorithms() {
		if alg.bits() == 0 {
			params, err := s.attributes(public, pkcs11.CKA_EC_PARAMS)
			if err != nil || !namesCurve(alg, params[0]) {
				continue
			}
		}
		if spki, err := s.readSPKI(alg, public); err == nil {
			return alg, spki
		}
	}
	return "", nil
}

func namesCurve(alg Algorithm, params []byte) bool {
	for _, way := range kinds(alg) {
		if bytes.Equal(way.public[0].Value, params) {
			return true
		}
	}
	return false
}
