package mender

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"keymill/pipeline"
)

const (
	// maxRounds bounds how often one device is asked for and repaired.
	maxRounds = 12
	// settleTime is how long a server is given to finish what an attempt of
	// ours, whose answer was lost, may have begun.
	settleTime = time.Second
	// The server deletes devices in its own time: how often it is asked
	// whether it is done, and for how long.
	deletePollFirst = 100 * time.Millisecond
	deletePollMost  = 5 * time.Second
	deletePatience  = 5 * time.Minute
)

// Preauthorize implements pipeline.Server.
//
// The server's answer to the POST is taken at its word only for a 201. It isn't
// atomic, and a 409 doesn't say whose key is there, so after a 409 the device
// is asked for, its keys are compared, and what an accident has left is
// repaired: force only ever heals a device without any auth set, or one whose
// only set is ours and waits for acceptance. Other keys are removed first, if
// the policy allows, and never is an accepted one without
// ConflictReplaceAccepted; so no identity is ever left with two valid keys. Keys
// that are pending beside ours are left alone: they can't authenticate.
func (c *Client) Preauthorize(ctx context.Context, req pipeline.Preauth) (pipeline.AuthSet, error) {
	p := &preauthorization{c: c, req: req, patience: deletePatience}
	for range maxRounds {
		set, done, err := p.round(ctx)
		if err != nil || done {
			return set, err
		}
	}
	return pipeline.AuthSet{}, pipeline.WithHint(
		fmt.Errorf("the server's answers about device %s contradict each other (%d requests)", p.id, p.attempts),
		"Look at the device in Mender; perhaps somebody else changes it at the same time. Then run again.")
}

// preauthorization is the work on one device.
type preauthorization struct {
	c        *Client
	req      pipeline.Preauth
	id       string   // the server's, from a 409
	attempts int      // HTTP requests so far
	removed  []string // what was removed, in words
	lost     bool     // the server may still be at work on an attempt of ours
	waited   bool     // settleTime has passed since
	patience time.Duration
}

// round is one POST and what follows from it; done says that the server holds
// exactly our key.
func (p *preauthorization) round(ctx context.Context) (pipeline.AuthSet, bool, error) {
	k, err := p.post(ctx, false)
	if err != nil {
		return pipeline.AuthSet{}, false, err
	}
	if k.status == http.StatusCreated {
		id := locationID(k.header)
		if err := p.c.learnTiers(ctx, id); err != nil {
			return pipeline.AuthSet{}, false, err
		}
		return pipeline.AuthSet{
			DeviceID: id, Status: StatusPreauthorized, Removed: strings.Join(p.removed, "; "),
			RequestID: k.requestID, HTTPStatus: k.status, Attempts: p.attempts,
		}, true, nil
	}
	dev, k, err := p.get(ctx)
	if errors.Is(err, ErrNotFound) {
		return pipeline.AuthSet{}, false, nil // deleted meanwhile
	}
	if err != nil {
		return pipeline.AuthSet{}, false, err
	}
	return p.settle(ctx, dev, k)
}

// settle decides about a device that exists.
func (p *preauthorization) settle(ctx context.Context, dev *Device, k *call) (pipeline.AuthSet, bool, error) {
	found := compareTier(dev, p.req.SPKI, p.c.tierWanted())
	switch {
	case dev.Decommissioning:
		return pipeline.AuthSet{}, false, p.awaitDeletion(ctx)
	case len(dev.AuthSets) == 0:
		return p.heal(ctx, "no auth set")
	case found.ours == nil:
		return pipeline.AuthSet{}, false, p.replace(ctx, dev, found, k)
	case !found.ours.Live() && found.ours.Status != StatusPending:
		return pipeline.AuthSet{}, false, pipeline.WithHint(
			fmt.Errorf("the server holds our key for device %s, but as %s", dev.ID, found.ours.Status),
			"Somebody decided so in Mender: accept or remove the device there, then run retry.")
	case found.rival() != nil:
		return pipeline.AuthSet{}, false, p.removeRivals(ctx, dev, found, k)
	case found.ours.Status == StatusPending:
		return p.heal(ctx, "our key is pending")
	}
	return p.result(dev, found.ours, k), true, nil
}

func (p *preauthorization) result(dev *Device, ours *AuthSet, k *call) pipeline.AuthSet {
	return pipeline.AuthSet{
		DeviceID: dev.ID, AuthSetID: ours.ID, Status: ours.Status, Removed: strings.Join(p.removed, "; "),
		RequestID: k.requestID, HTTPStatus: k.status, Attempts: p.attempts,
	}
}

// heal gives a device its auth set by force, and looks whether that has worked:
// the server answers 201 in any case, and its Location lies.
func (p *preauthorization) heal(ctx context.Context, why string) (pipeline.AuthSet, bool, error) {
	if p.lost && !p.waited {
		p.waited = true
		return pipeline.AuthSet{}, false, sleep(ctx, settleTime)
	}
	if _, err := p.post(ctx, true); err != nil {
		return pipeline.AuthSet{}, false, err
	}
	dev, k, err := p.get(ctx)
	if errors.Is(err, ErrNotFound) {
		return pipeline.AuthSet{}, false, nil
	}
	if err != nil {
		return pipeline.AuthSet{}, false, err
	}
	found := compareTier(dev, p.req.SPKI, p.c.tierWanted())
	if dev.Decommissioning || found.ours == nil || !found.ours.Live() || found.rival() != nil {
		return pipeline.AuthSet{}, false, nil // another round
	}
	p.c.log.InfoContext(ctx, "healed a device on the server", "device_id", dev.ID, "why", why, "request_id", k.requestID)
	return p.result(dev, found.ours, k), true, nil
}

// replace removes a device that holds only other keys.
func (p *preauthorization) replace(ctx context.Context, dev *Device, found comparison, k *call) error {
	slices.SortStableFunc(found.others, func(a, b *AuthSet) int { return weight(b) - weight(a) })
	for _, s := range found.others {
		if !p.mayRemove(s) {
			return p.conflict(dev, s, k)
		}
	}
	p.noteRemoved(found.others)
	p.c.log.WarnContext(ctx, "replacing another key on the server", "device_id", dev.ID, "status", dev.Status,
		"fingerprint", pipeline.Fingerprint(found.others[0].SPKI))
	k, err := p.c.remove(ctx, devicePath(dev.ID), 0)
	p.attempts += k.attempts
	if err != nil {
		return err
	}
	return p.awaitDeletion(ctx)
}

// removeRivals removes the other keys that could authenticate beside ours.
func (p *preauthorization) removeRivals(ctx context.Context, dev *Device, found comparison, k *call) error {
	for _, s := range found.others {
		if s.Live() && !p.mayRemove(s) {
			return p.conflict(dev, s, k)
		}
	}
	for _, s := range found.others {
		if !s.Live() {
			continue
		}
		p.c.log.WarnContext(ctx, "removing a second key from the server", "device_id", dev.ID,
			"status", s.Status, "fingerprint", pipeline.Fingerprint(s.SPKI))
		p.noteRemoved([]*AuthSet{s})
		n, err := p.c.removeSet(ctx, dev.ID, s.ID)
		p.attempts += n
		if err != nil {
			return err
		}
	}
	return nil
}

// weight orders auth sets by how much they can do.
func weight(s *AuthSet) int {
	switch s.Status {
	case StatusAccepted:
		return 3
	case StatusPreauthorized:
		return 2
	case StatusRejected: // somebody's decision
		return 1
	}
	return 0
}

// noteRemoved notes in words which keys are removed from the server.
func (p *preauthorization) noteRemoved(sets []*AuthSet) {
	for _, s := range sets {
		note := fmt.Sprintf("removed the %s key sha256 %s from the server", s.Status, pipeline.Fingerprint(s.SPKI))
		if !slices.Contains(p.removed, note) {
			p.removed = append(p.removed, note)
		}
	}
}

// mayRemove reports whether another key's auth set may go.
func (p *preauthorization) mayRemove(s *AuthSet) bool {
	switch {
	case s.Status == StatusAccepted:
		return p.req.Policy == pipeline.ConflictReplaceAccepted
	case s.Status == StatusPending && p.req.Policy == pipeline.ConflictReplacePending:
		return true
	case sameKey(s.SPKI, p.req.SPKI): // ours, in another tier
		return true
	}
	return p.req.Policy == pipeline.ConflictReplace || p.req.Policy == pipeline.ConflictReplaceAccepted ||
		sameKey(s.SPKI, p.req.Replaces)
}

func (p *preauthorization) conflict(dev *Device, s *AuthSet, k *call) error {
	return &pipeline.ConflictError{
		DeviceID: dev.ID, Status: s.Status, Fingerprint: pipeline.Fingerprint(s.SPKI),
		RequestID: k.requestID, HTTPStatus: k.status,
	}
}

// awaitDeletion waits until the server has finished deleting the device; until
// then it answers 409, or a 201 that is worth nothing.
func (p *preauthorization) awaitDeletion(ctx context.Context) error {
	for pause := deletePollFirst; p.patience > 0; pause = min(2*pause, deletePollMost) {
		if err := sleep(ctx, pause); err != nil {
			return err
		}
		p.patience -= pause
		dev, _, err := p.get(ctx)
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		if err != nil || !dev.Decommissioning {
			return err // the next round sees what became of it
		}
	}
	return pipeline.WithHint(fmt.Errorf("the server is still deleting device %s after %s", p.id, deletePatience),
		"Wait until it has finished, then run retry; if it never does, its workflows service needs a look.")
}

func (p *preauthorization) get(ctx context.Context) (*Device, *call, error) {
	dev, k, err := p.c.looks.device(ctx, p.id)
	p.attempts += k.attempts
	return dev, k, err
}

// post asks for the preauthorization. A 409 sets p.id.
func (p *preauthorization) post(ctx context.Context, force bool) (*call, error) {
	k := &call{
		method: http.MethodPost, path: apiPath + "/devices",
		send:    appendPreauth(make([]byte, 0, 512+len(p.req.SPKI)*2), p.req.Identity, p.req.SPKI, p.c.tierToSend(), force),
		settles: []int{http.StatusCreated, http.StatusConflict},
	}
	k.decode = func(a *answer) error {
		if a.status != http.StatusConflict {
			return nil
		}
		dev, err := parseDevice(a.body)
		if err == nil {
			p.id = dev.ID
		}
		return err
	}
	err := p.c.do(ctx, k)
	p.attempts += k.attempts
	p.lost = p.lost || k.lost
	return k, err
}

// comparison sorts a device's auth sets by key.
type comparison struct {
	ours   *AuthSet // nil if there is none
	others []*AuthSet
}

// compare finds a key whatever its tier.
func compare(dev *Device, spki []byte) comparison { return compareTier(dev, spki, "") }

// compareTier finds a key in a tier; "" is any tier, and so is that of a server
// that knows none.
func compareTier(dev *Device, spki []byte, tier string) comparison {
	var found comparison
	for i := range dev.AuthSets {
		s := &dev.AuthSets[i]
		if found.ours == nil && sameKey(s.SPKI, spki) && (tier == "" || s.Tier == "" || s.Tier == tier) {
			found.ours = s
		} else {
			found.others = append(found.others, s)
		}
	}
	return found
}

// rival returns another key that can authenticate, nil if there is none. Keys
// that are pending or rejected can't; anybody can make the server list one.
func (c comparison) rival() *AuthSet {
	for _, s := range c.others {
		if s.Live() {
			return s
		}
	}
	return nil
}

// appendPreauth appends the body of a preauthorization. The PEM is written
// straight into the JSON string: lines of 64 characters (RFC 7468), with \n
// escaped.
func appendPreauth(dst []byte, id pipeline.Identity, spki []byte, tier string, force bool) []byte {
	dst = append(dst, `{"identity_data":`...)
	dst = append(dst, id.JSON()...)
	dst = append(dst, `,"pubkey":"-----BEGIN PUBLIC KEY-----\n`...)
	for rest := spki; len(rest) > 0; {
		line := rest[:min(48, len(rest))]
		dst = base64.StdEncoding.AppendEncode(dst, line)
		dst = append(dst, `\n`...)
		rest = rest[len(line):]
	}
	dst = append(dst, `-----END PUBLIC KEY-----\n"`...)
	if tier != "" {
		dst = append(append(append(dst, `,"tier":"`...), tier...), '"')
	}
	if force {
		dst = append(dst, `,"force":true`...)
	}
	return append(dst, '}')
}

// locationID returns the device's id in "devices/<id>", "" if there is none.
func locationID(h http.Header) string {
	_, id, ok := strings.Cut(h.Get("Location"), "devices/")
	if !ok || strings.ContainsAny(id, "/?#") {
		return ""
	}
	return id
}

// sleep waits for d or until ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
