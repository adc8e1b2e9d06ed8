//go:build cgo

package hsm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"
)

// idMaker makes token objects whose ids are journaled before they exist.
type idMaker struct {
	ctx     context.Context // of the call of Generate that made this
	journal Journal
}

// newID returns a random CKA_ID of 16 bytes that the journal knows.
func (m *idMaker) newID(label string) ([]byte, error) {
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return nil, err
	}
	if err := m.journal.Intend(m.ctx, id, label); err != nil {
		return nil, fmt.Errorf("the key isn't made: %w", err)
	}
	return id, nil
}

// generate makes an extractable token object, which done destroys.
func (m *idMaker) generate(s *session, alg Algorithm) (p *pair, done func() error, err error) {
	id, err := m.newID(probeLabel)
	if err != nil {
		return nil, nil, err
	}
	p, err = s.generate(alg, traits{token: true, extractable: true, id: id, label: probeLabel})
	if err != nil {
		return nil, nil, fmt.Errorf("no extractable keys, neither session nor token objects: %w", err)
	}
	done = func() error {
		if err := s.destroy(p); err != nil {
			return err // the journal keeps the id, for gc
		}
		return m.journal.Done(m.ctx, id)
	}
	if !s.flag(p.private, pkcs11.CKA_EXTRACTABLE) {
		return nil, nil, errors.Join(fmt.Errorf("the token's keys are never extractable: %w", pkcs11.Error(pkcs11.CKR_KEY_UNEXTRACTABLE)), done())
	}
	return p, done, nil
}
