//go:build cgo

package hsm

import (
	"context"
	"encoding/hex"
	"fmt"

	"github.com/miekg/pkcs11"
)

// GC finds what a crash left in the token: key pairs with the label of
// temporary ones, and those whose ids the journal has open. Don't run it while
// another keymill uses the token: its keys of this moment look the same.
// It reports everything first if opts.Destroy isn't set. Entries of the
// journal whose objects are gone, or are in use, are closed when destroying.
func GC(ctx context.Context, cfg Config, opts GCOptions) (*GCReport, error) {
	cfg.Limits.Sessions = 1
	p, err := openPool(ctx, &cfg)
	if err != nil {
		return nil, err
	}
	r, err := use(ctx, p, func(s *session) (*GCReport, error) {
		c := &collector{session: s, ctx: ctx, journal: cfg.Journal, opts: opts, report: &GCReport{DryRun: !opts.Destroy, Left: []Leftover{}}}
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
	report  *GCReport
}

func (c *collector) run() error {
	journaled := map[string]bool{}
	for _, entry := range c.opts.Journaled {
		journaled[string(entry.ID)] = true
		if err := c.collect(entry.ID, entry.Label, "journaled before it was made, and never reported destroyed"); err != nil {
			return err
		}
	}
	private, err := c.find(pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_LABEL, probeLabel))
	if err != nil {
		return err
	}
	for _, object := range private {
		values, err := c.attributes(object, pkcs11.CKA_ID)
		if err != nil {
			continue // its pair was destroyed with the first half
		}
		if id := values[0]; !journaled[string(id)] {
			journaled[string(id)] = true
			if err := c.collect(id, probeLabel, "bears the label of temporary keys"); err != nil {
				return err
			}
		}
	}
	return nil
}

// collect deals with all objects of one id.
func (c *collector) collect(id []byte, label, why string) error {
	objects, err := c.find(pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_ID, id))
	if err != nil {
		return err
	}
	if len(objects) == 0 {
		return c.done(id)
	}
	left := Leftover{Label: label, ID: hex.EncodeToString(id), Why: why}
	if label != probeLabel {
		inUse, reason, err := c.inUse(objects)
		if err != nil {
			return err
		}
		if inUse {
			return c.done(id) // a device's key: nothing is left over
		}
		left.Kept = reason
	}
	if c.opts.Destroy && left.Kept == "" {
		for _, object := range objects {
			if err := c.DestroyObject(c.handle, object); err != nil {
				return fmt.Errorf("destroy what was left in the token: %w", err)
			}
		}
		left.Destroyed = true
		if err := c.done(id); err != nil {
			return err
		}
	}
	c.report.Left = append(c.report.Left, left)
	return nil
}

// inUse asks whether a device is recorded with the key among objects. kept says
// why the objects must stay although nobody said that they are in use.
func (c *collector) inUse(objects []pkcs11.ObjectHandle) (inUse bool, kept string, err error) {
	if c.opts.InUse == nil {
		return false, "it may be a device's key: the ledger has to tell", nil
	}
	for _, object := range objects {
		if _, spki := c.identify(object); spki != nil {
			inUse, err := c.opts.InUse(c.ctx, spki)
			return inUse, "", err
		}
	}
	return false, "", nil // half a pair is nobody's key
}

func (c *collector) done(id []byte) error {
	if !c.opts.Destroy || c.journal == nil {
		return nil
	}
	return c.journal.Done(c.ctx, id)
}
