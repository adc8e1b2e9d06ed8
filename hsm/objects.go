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

// keyPair is a private key object for which the public one was found.
type keyPair struct {
	private pkcs11.ObjectHandle
	alg     Algorithm
	id      []byte
	label   string
	spki    []byte
}

// onlyKey returns the one private key that u names.
func (s *session) onlyKey(u *URI) (*keyPair, error) {
	var template []*pkcs11.Attribute
	if u.Object != "" {
		template = append(template, pkcs11.NewAttribute(pkcs11.CKA_LABEL, u.Object))
	}
	if len(u.ID) > 0 {
		template = append(template, pkcs11.NewAttribute(pkcs11.CKA_ID, u.ID))
	}
	keys, err := s.keyPairs(template...)
	if err != nil {
		return nil, err
	}
	if len(keys) != 1 {
		return nil, refused("`keymill hsm list --objects` shows the keys; name one by object and id",
			"%d keys with a public half fit %s", len(keys), u)
	}
	return &keys[0], nil
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
		public, err := s.find(pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PUBLIC_KEY), pkcs11.NewAttribute(pkcs11.CKA_ID, key.id))
		if err != nil {
			return nil, err
		}
		for _, half := range public {
			if key.alg, key.spki = s.identify(half); key.spki != nil {
				keys = append(keys, key)
				break
			}
		}
	}
	return keys, nil
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
