package mender

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"keymill/pipeline"
)

// The device tiers of hosted Mender and Mender Enterprise. There an auth set is
// identity, key and tier, and a device that asks with another tier than it was
// preauthorized with is pending. The open-source service knows no tiers.
const (
	TierStandard = "standard"
	TierMicro    = "micro"
	TierSystem   = "system"
)

// Tiers lists the tiers.
var Tiers = []string{TierStandard, TierMicro, TierSystem}

// CheckTier refuses what is no tier; "" stands for TierStandard. The client's
// daemon doesn't start with another value of DeviceTier, either.
func CheckTier(tier string) error {
	if tier == "" || slices.Contains(Tiers, tier) {
		return nil
	}
	return pipeline.WithHint(fmt.Errorf("%q is no device tier", tier), "Tiers are standard, micro and system.")
}

// tiers is what a conversation knows about the server's tiers.
type tiers struct {
	wanted string // immutable

	mu     sync.Mutex
	known  bool // guarded by mu; whether the server knows tiers is known
	spoken bool // guarded by mu; it does
}

func (c *Client) tierWanted() string { return c.tier.wanted }

// tierToSend returns the tier for the body of a preauthorization, "" for none.
// The default isn't sent, as it is what an absent one means; nor is anything to a
// server that is known to have no tiers.
func (c *Client) tierToSend() string {
	c.tier.mu.Lock()
	defer c.tier.mu.Unlock()
	if c.tier.wanted == TierStandard || (c.tier.known && !c.tier.spoken) {
		return ""
	}
	return c.tier.wanted
}

// learnTiers looks whether the server took the tier of the first device that was
// preauthorized with one, where that isn't known yet.
func (c *Client) learnTiers(ctx context.Context, id string) error {
	c.tier.mu.Lock()
	learn := c.tier.wanted != TierStandard && !c.tier.known
	c.tier.mu.Unlock()
	if !learn {
		return nil
	}
	dev, _, err := c.looks.device(ctx, id)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil // deleted meanwhile; the next device tells
	case err != nil:
		return err
	}
	c.seenTiers([]*Device{dev})
	return nil
}

// seenTiers concludes from devices whether the server knows tiers.
func (c *Client) seenTiers(devices []*Device) {
	for _, dev := range devices {
		if len(dev.AuthSets) == 0 {
			continue
		}
		c.tier.mu.Lock()
		defer c.tier.mu.Unlock()
		if !c.tier.known {
			c.tier.known, c.tier.spoken = true, dev.AuthSets[0].Tier != ""
		}
		return
	}
}

// tiersKnown returns whether the server knows tiers, and whether that is known.
func (c *Client) tiersKnown() (spoken, known bool) {
	c.tier.mu.Lock()
	defer c.tier.mu.Unlock()
	return c.tier.spoken, c.tier.known
}
