//go:build cgo

package hsm

import (
	"bytes"
	"context"
	"encoding/hex"
	"maps"
	"slices"
	"time"

	"github.com/miekg/pkcs11"
)

// settled is how old a temporary key must be before somebody else's is taken
// for left behind: another station may be making it at this moment.
const settled = time.Hour

// GC finds what a crash left in the token: key pairs with the label of
// temporary ones, and those whose ids the journal has open. The caller is alone
// with the journal (OpenJournalAlone), as the keys that another keymill makes at
// this moment look the same.
// It only reports if opts.Destroy isn't set. When destroying, entries of the
// journal whose objects are gone are closed; those of keys in use stay open, as
// the device may be taken back.
func GC(ctx context.Context, cfg Config, opts GCOptions) (*GCReport, error) {
	cfg.Limits.Sessions = 1
	p, err := openPool(ctx, &cfg)
	if err != nil {
		return nil, err
	}
	token := tokenURI(p.token)
	r, err := use(ctx, p, func(s *session) (*GCReport, error) {
		c := &collector{session: s, ctx: ctx, journal: cfg.Journal, opts: opts, token: token,
			report: &GCReport{DryRun: !opts.Destroy, Left: []Leftover{}}}
		return c.report, c.run()
	})
	if closeErr := p.close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return nil, asGone(err, p.uri)
	}
	return r, nil
}

type collector struct {
	*session
	ctx     context.Context // of the call of GC
	journal Journal
	opts    GCOptions
	token   string // URI
	report  *GCReport
}

func (c *collector) run() error {
	keys, err := c.census()
	if err != nil {
		return err
	}
	for _, entry := range c.opts.Journaled {
		key := keys[string(entry.ID)]
		delete(keys, string(entry.ID))
		switch {
		case key != nil:
			err = c.journaled(key, entry)
		case entry.Token == c.token || entry.Token == "":
			err = c.done(entry.ID)
		}
		if err != nil {
			return err
		}
	}
	if err := c.torn(keys); err != nil {
		return err
	}
	rest := slices.SortedFunc(maps.Values(keys), func(a, b *tokenKey) int { return bytes.Compare(a.id, b.id) })
	for _, key := range rest {
		if key.label != probeLabel {
			continue
		}
		left := Leftover{Label: key.label, Why: "bears the label of temporary keys"}
		if age := time.Since(idTime(key.id)); age.Abs() < settled { // clocks differ
			left.Kept = "made within the last hour: another station may be at work with it"
		}
		if err := c.collect(key, left); err != nil {
			return err
		}
	}
	return nil
}

// torn deals with halves of pairs, as a token leaves them that was killed while
// it made a pair: public keys whose private ones aren't there, and private keys
// without name and number for which no public key in the token speaks.
func (c *collector) torn(keys census) error {
	for id, key := range keys {
		if key.private || key.label == probeLabel || len(key.publics) != len(key.objects) {
			continue // whole, dealt with below, or something else of this id is there, such as a certificate
		}
		delete(keys, id)
		left := Leftover{Label: key.label, Why: "torn: a public key without its private one"}
		if !c.opts.Torn {
			left.Kept = tornKept
		}
		if err := c.collect(key, left); err != nil {
			return err
		}
	}
	all, err := c.find(pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true))
	if err != nil {
		return err
	}
	for _, object := range all {
		names, err := c.attributes(object, pkcs11.CKA_ID, pkcs11.CKA_LABEL)
		if err == nil && (len(names[0]) > 0 || len(names[1]) > 0) {
			continue
		}
		key := keyPair{private: object}
		if c.half(&key) == nil && key.spki != nil {
			continue // whole, although nameless
		}
		left := Leftover{Why: "torn: a private key without name, number and public half"}
		if !c.opts.Torn {
			left.Kept = tornKept
		}
		if err := c.collect(&tokenKey{objects: []pkcs11.ObjectHandle{object}}, left); err != nil {
			return err
		}
	}
	return nil
}

const tornKept = "another program may have a use for it: --torn destroys it"

// journaled deals with a key that the journal has open.
func (c *collector) journaled(key *tokenKey, entry JournalEntry) error {
	left := Leftover{Label: entry.Label, Why: "journaled before it was made, and never reported destroyed"}
	if entry.Label != probeLabel {
		inUse, reason, err := c.inUse(key)
		if err != nil || inUse {
			return err
		}
		left.Kept = reason
	}
	return c.collect(key, left)
}

// collect reports a key, and destroys it where that is asked for.
func (c *collector) collect(key *tokenKey, left Leftover) error {
	left.ID = hex.EncodeToString(key.id)
	if c.opts.Destroy && left.Kept == "" {
		if err := c.destroyKey(key); err != nil {
			return err
		}
		left.Destroyed = true
		if len(key.id) > 0 {
			if err := c.done(key.id); err != nil {
				return err
			}
		}
	}
	c.report.Left = append(c.report.Left, left)
	return nil
}

// inUse asks whether a device is recorded with the key. kept says why it must
// stay although nobody said that it is in use.
func (c *collector) inUse(key *tokenKey) (inUse bool, kept string, err error) {
	if c.opts.InUse == nil {
		return false, "it may be a device's key: the ledger has to tell", nil
	}
	if len(key.publics) == 0 {
		return false, "", nil // half a pair is nobody's key
	}
	spki := c.public(key)
	if spki == nil {
		return false, "its public key can't be read", nil
	}
	inUse, err = c.opts.InUse(c.ctx, spki)
	return inUse, "", err
}

func (c *collector) done(id []byte) error {
	if !c.opts.Destroy || c.journal == nil {
		return nil
	}
	return c.journal.Done(c.ctx, id)
}
