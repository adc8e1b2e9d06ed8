//go:build cgo

package hsm

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/miekg/pkcs11"
)

// idMaker makes token objects whose ids are journaled before they exist.
type idMaker struct {
	ctx     context.Context // of the call of Generate that made this
	journal Journal
	token   string // URI
}

// newID returns a CKA_ID of 16 bytes that the journal knows.
func (m *idMaker) newID(label string) ([]byte, error) {
	id, err := timedID(time.Now())
	if err != nil {
		return nil, err
	}
	if err := m.journal.Intend(m.ctx, JournalEntry{ID: id, Label: label, Token: m.token}); err != nil {
		return nil, fmt.Errorf("the key isn't made: %w", err)
	}
	return id, nil
}

// timedID returns an id that says when it was made, as a UUID of version 7 does
// (RFC 9562): milliseconds since 1970 in 6 bytes, then random ones. What another
// station is making in a shared token at this moment can so be told from what
// it left there.
func timedID(now time.Time) ([]byte, error) {
	id := make([]byte, 16)
	binary.BigEndian.PutUint64(id, uint64(now.UnixMilli())<<16)
	_, err := rand.Read(id[6:])
	return id, err
}

// idTime returns when an id was made. What it says of ids that others made means nothing.
func idTime(id []byte) time.Time {
	if len(id) != 16 {
		return time.Time{}
	}
	return time.UnixMilli(int64(binary.BigEndian.Uint64(id) >> 16))
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
