//go:build cgo

package hsm

import (
	"fmt"

	"github.com/miekg/pkcs11"
)

// tokenKey is what lies in a token under one id.
type tokenKey struct {
	id      []byte
	label   string
	objects []pkcs11.ObjectHandle
	publics []pkcs11.ObjectHandle // those that are public keys
	private bool                  // one of them is a private key
}

// census is the keys that lie in a token for good, by id.
type census map[string]*tokenKey

// census reads names and kinds of all token objects, once for all questions:
// tokens search linearly.
func (s *session) census() (census, error) {
	all, err := s.find(pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true))
	if err != nil {
		return nil, err
	}
	keys := census{}
	for _, object := range all {
		values, err := s.attributes(object, pkcs11.CKA_ID, pkcs11.CKA_LABEL, pkcs11.CKA_CLASS)
		switch {
		case isCKR(err, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID, pkcs11.CKR_OBJECT_HANDLE_INVALID):
			continue // data and whatever else has no id is not ours
		case err != nil:
			return nil, fmt.Errorf("read an object's name: %w", err)
		case len(values[0]) == 0:
			continue
		}
		key := keys[string(values[0])]
		if key == nil {
			key = &tokenKey{id: values[0], label: string(values[1])}
			keys[string(values[0])] = key
		}
		key.objects = append(key.objects, object)
		if isClass(values[2], pkcs11.CKO_PUBLIC_KEY) {
			key.publics = append(key.publics, object)
		}
		key.private = key.private || isClass(values[2], pkcs11.CKO_PRIVATE_KEY)
	}
	return keys, nil
}

// isClass compares a CK_OBJECT_CLASS as modules give it: a CK_ULONG of the machine.
func isClass(value []byte, class uint) bool {
	return string(value) == string(pkcs11.NewAttribute(pkcs11.CKA_CLASS, class).Value)
}

// public returns the SPKI of a key, nil where its public half is missing or
// none that we know.
func (s *session) public(key *tokenKey) []byte {
	for _, half := range key.publics {
		if _, spki := s.identify(half); spki != nil {
			return spki
		}
	}
	return nil
}

// destroyKey destroys all objects of a key.
func (s *session) destroyKey(key *tokenKey) error {
	for _, object := range key.objects {
		if err := s.DestroyObject(s.handle, object); err != nil {
			return fmt.Errorf("destroy %s in the token: %w", key.label, err)
		}
	}
	return nil
}
