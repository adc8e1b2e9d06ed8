//go:build cgo

package hsm

import (
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
