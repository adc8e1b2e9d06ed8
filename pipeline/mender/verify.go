package mender

import (
	"context"
	"crypto/sha256"
	"iter"
	"math/rand/v2"
	"time"

	"keymill/pipeline"
)

// Expected is one device as the ledger has it.
type Expected struct {
	Identity pipeline.Identity
	SPKI     []byte // DER
	DeviceID string // the server's; may be empty
}

// Category is what the server holds for an expected device.
type Category string

// The categories. The first two are as it should be, and so is CatKnocking:
// anybody can make the server list a pending key by one request, and it can't
// authenticate unless somebody accepts it.
const (
	CatPreauthorized Category = "preauthorized"   // our key waits for the device's first boot
	CatAccepted      Category = "accepted"        // our key is in use
	CatPending       Category = "pending"         // our key waits for somebody to accept it
	CatRejected      Category = "rejected"        // somebody has rejected our key
	CatMissing       Category = "missing"         // the server doesn't know the device, or no key for it
	CatDeleting      Category = "decommissioning" // it is being deleted
	CatOtherKey      Category = "other-key"       // it holds another key only
	CatSecondKey     Category = "second-key"      // it holds our key, and another that can authenticate, too
	CatKnocking      Category = "knocking"        // our key is as it should be; somebody also asks with another one
	CatUnexpected    Category = "unexpected"      // the server has a device that nobody expects
)

// Categories lists them in the order in which reports show them.
var Categories = []Category{CatPreauthorized, CatAccepted, CatPending, CatRejected,
	CatMissing, CatDeleting, CatOtherKey, CatSecondKey, CatKnocking, CatUnexpected}

// OK reports whether nothing needs to be done about it.
func (c Category) OK() bool { return c == CatPreauthorized || c == CatAccepted || c == CatKnocking }

// Gone reports whether a key that was taken back is off the server.
func (c Category) Gone() bool { return c == CatMissing || c == CatOtherKey }

// Finding is what the comparison says about one device.
type Finding struct {
	Category Category
	Identity pipeline.Identity // nil for a foreign device whose identity isn't all strings
	DeviceID string            // the server's; empty if it has none
	// Since is when the auth set in question last changed, by the server's
	// clock: for an accepted device, when it was accepted. Zero if unknown.
	Since time.Time
	// Fingerprint is that of the other key (other-key, second-key, knocking), else
	// of ours: SHA-256 of the SPKI, hexadecimal.
	Fingerprint string
	// Ours is the status of our own auth set, empty if the server has none: it
	// tells of a knocking device whether it has booted.
	Ours string
}

// VerifyOptions narrow a comparison.
type VerifyOptions struct {
	// Unexpected also yields the server's devices that nobody expects. On a
	// server that other lots share, those are all theirs.
	Unexpected bool
}

// Verify yields a finding for each expected device. It asks for them by their
// ids, many in one request, and asks for nothing else; with opts.Unexpected it
// goes through the server's whole listing instead. A device without an id can
// only be found in the listing, so one of those has it read, too.
//
// With a listing it goes through expected twice: at the beginning, and at the
// end for those that the listing hasn't shown as they should be, because a
// listing is no snapshot; and it keeps about 100 bytes a device.
func (c *Client) Verify(ctx context.Context, expected iter.Seq2[Expected, error], opts VerifyOptions) iter.Seq2[Finding, error] {
	if opts.Unexpected {
		return c.verifyListing(ctx, expected, opts)
	}
	return func(yield func(Finding, error) bool) {
		var lost []Expected
		for l, err := range c.lookAll(ctx, expected) {
			if err == nil && l.DeviceID == "" {
				lost = append(lost, l.Expected)
				continue
			}
			if !yield(Classify(l.Expected, l.dev), err) || err != nil {
				return
			}
		}
		if len(lost) == 0 {
			return
		}
		for f, err := range c.verifyListing(ctx, withoutErrors(lost), opts) {
			if !yield(f, err) || err != nil {
				return
			}
		}
	}
}

func withoutErrors[T any](all []T) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for _, item := range all {
			if !yield(item, nil) {
				return
			}
		}
	}
}

func (c *Client) verifyListing(ctx context.Context, expected iter.Seq2[Expected, error], opts VerifyOptions) iter.Seq2[Finding, error] {
	return func(yield func(Finding, error) bool) {
		v := &verification{known: map[pipeline.IdentitySum]lookup{}, ids: map[pipeline.IdentitySum]string{}, opts: opts}
		for e, err := range expected {
			if err != nil {
				yield(Finding{}, err)
				return
			}
			v.expect(e)
		}
		for dev, err := range c.Devices(ctx, "") {
			if err != nil {
				yield(Finding{}, err)
				return
			}
			if f, ok := v.listed(dev); ok && !yield(f, nil) {
				return
			}
		}
		for f, err := range c.VerifyEach(ctx, v.unsettled(expected)) {
			if !yield(f, err) || err != nil {
				return
			}
		}
	}
}

// VerifyEach asks the server for each expected device by its id, many in one
// request. A device without an id counts as missing.
func (c *Client) VerifyEach(ctx context.Context, expected iter.Seq2[Expected, error]) iter.Seq2[Finding, error] {
	return func(yield func(Finding, error) bool) {
		for l, err := range c.lookAll(ctx, expected) {
			if !yield(Classify(l.Expected, l.dev), err) || err != nil {
				return
			}
		}
	}
}

// lookup is what is kept of an expected device while the listing goes by.
type lookup struct {
	key  [sha256.Size]byte // of the SPKI
	done bool              // its finding was yielded
}

// verification is the comparison of a listing with what is expected.
type verification struct {
	known map[pipeline.IdentitySum]lookup
	ids   map[pipeline.IdentitySum]string // of listed devices that weren't as they should be
	opts  VerifyOptions
}

func (v *verification) expect(e Expected) {
	v.known[e.Identity.Sum()] = lookup{key: sha256.Sum256(e.SPKI)}
}

// listed returns the finding for a device of the listing, if there is one now:
// only what is as it should be is believed at once.
func (v *verification) listed(dev *Device) (Finding, bool) {
	l, ok := v.known[dev.Sum]
	if !ok {
		return Finding{Category: CatUnexpected, Identity: dev.Identity, DeviceID: dev.ID, Since: dev.Updated}, v.opts.Unexpected
	}
	if l.done {
		return Finding{}, false
	}
	for i := range dev.AuthSets {
		if s := &dev.AuthSets[i]; sha256.Sum256(s.SPKI) == l.key {
			f := Classify(Expected{Identity: dev.Identity, SPKI: s.SPKI}, dev)
			if f.Category.OK() {
				v.settle(dev.Sum)
				return f, true
			}
		}
	}
	v.ids[dev.Sum] = dev.ID
	return Finding{}, false
}

func (v *verification) settle(sum pipeline.IdentitySum) {
	l := v.known[sum]
	l.done = true
	v.known[sum] = l
}

// unsettled yields the expected devices without a finding.
func (v *verification) unsettled(expected iter.Seq2[Expected, error]) iter.Seq2[Expected, error] {
	return func(yield func(Expected, error) bool) {
		for e, err := range expected {
			if err != nil {
				yield(e, err)
				return
			}
			sum := e.Identity.Sum()
			if l, ok := v.known[sum]; !ok || l.done {
				continue
			}
			v.settle(sum)
			if id, ok := v.ids[sum]; ok {
				e.DeviceID = id
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

// Classify says what the server's device means for the expected one; dev is nil
// where the server has none. A device of another identity counts as missing.
func Classify(e Expected, dev *Device) Finding {
	f := Finding{Category: CatMissing, Identity: e.Identity, Fingerprint: pipeline.Fingerprint(e.SPKI)}
	if dev == nil || dev.Sum != e.Identity.Sum() {
		return f
	}
	f.DeviceID = dev.ID
	found := compare(dev, e.SPKI)
	if found.ours != nil {
		f.Ours, f.Since = found.ours.Status, found.ours.Time
	}
	switch {
	case len(dev.AuthSets) == 0 && !dev.Decommissioning:
		return f
	case dev.Decommissioning:
		f.Category = CatDeleting
		return f
	case found.ours == nil:
		other := found.others[0]
		f.Category, f.Fingerprint, f.Since = CatOtherKey, pipeline.Fingerprint(other.SPKI), other.Time
		return f
	}
	switch found.ours.Status {
	case StatusAccepted:
		f.Category = CatAccepted
	case StatusPreauthorized:
		f.Category = CatPreauthorized
	case StatusRejected:
		f.Category = CatRejected
	default:
		f.Category = CatPending
	}
	if rival := found.rival(); rival != nil {
		f.Category, f.Fingerprint, f.Since = CatSecondKey, pipeline.Fingerprint(rival.SPKI), rival.Time
		return f
	}
	for _, s := range found.others {
		if s.Status != StatusRejected && f.Category.OK() {
			f.Category, f.Fingerprint, f.Since = CatKnocking, pipeline.Fingerprint(s.SPKI), s.Time
		}
	}
	return f
}

// Sample picks n of the expected devices at random, all if there are fewer.
func Sample(expected iter.Seq2[Expected, error], n int) ([]Expected, error) {
	var picked []Expected
	seen := 0
	for e, err := range expected {
		if err != nil {
			return nil, err
		}
		seen++
		if len(picked) < n {
			picked = append(picked, e)
		} else if i := rand.IntN(seen); i < n {
			picked[i] = e
		}
	}
	return picked, nil
}
