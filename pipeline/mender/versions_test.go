package mender

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"keymill/pipeline"
	"keymill/pipeline/mender/sandbox"
)

// What 0 and -1 mean is told from the server's age.
func TestLimitsAgainstSandbox(t *testing.T) { overVersions(t, testLimitsAgainstSandbox) }

func testLimitsAgainstSandbox(t *testing.T, v sandbox.Version) {
	for max, want := range map[int]LimitKind{0: LimitNone, 7: LimitMax} {
		_, cfg := trial(t, sandbox.Config{Version: v, MaxDevices: max})
		p, err := open(t, cfg).Probe(t.Context())
		if err != nil || p.Limit.Kind != want || p.MaxDevices != max || !p.Inventory || p.CAExpires.IsZero() {
			t.Errorf("max %d: %+v, %v", max, p, err)
		}
	}
}

// A lot's devices get the tier where the server has tiers; where it has none,
// nothing is sent after the first device has shown it.
func TestTiersAgainstSandbox(t *testing.T) {
	for name, cfg := range map[string]sandbox.Config{
		"none, 4.1": {Version: sandbox.Mender41},
		"none":      {},
		"tiers":     {TierLimits: map[string]int{TierMicro: 5, TierSystem: 0}},
	} {
		t.Run(name, func(t *testing.T) {
			s, client := trial(t, cfg)
			client.Tier = TierMicro
			c := open(t, client)
			for i := range 3 {
				if _, err := c.Preauthorize(t.Context(), preauth(t, i)); err != nil {
					t.Fatal(err)
				}
			}
			for d := range s.Devices() {
				want := ""
				if cfg.TierLimits != nil {
					want = TierMicro
				}
				if len(d.AuthSets) != 1 || d.AuthSets[0].Tier != want {
					t.Errorf("%+v", d)
				}
			}
			p, err := c.Probe(t.Context())
			if err != nil || p.Tiers != (cfg.TierLimits != nil) || !p.TiersKnown {
				t.Errorf("%+v, %v", p, err)
			}
			if cfg.TierLimits == nil {
				if got := c.tierToSend(); got != "" {
					t.Errorf("a server without tiers would be sent %q", got)
				}
				return
			}
			if p.Limit != (Limit{Name: "max_micro_devices", Kind: LimitMax, Max: 5}) {
				t.Errorf("%+v", p.Limit)
			}
			client.Tier = TierSystem
			p, err = open(t, client).Probe(t.Context())
			if err != nil || p.Limit.Kind != LimitMax || p.Limit.Max != 0 {
				t.Errorf("a plan without the tier: %+v, %v", p.Limit, err)
			}
			// The same key in another tier is another auth set: ours, so it goes.
			moved := preauth(t, 9)
			for _, tier := range []string{TierMicro, TierStandard} {
				client.Tier = tier
				if _, err := open(t, client).Preauthorize(t.Context(), moved); err != nil {
					t.Error(err)
				}
				d, _ := s.Find(moved.Identity.JSON())
				if len(d.AuthSets) != 1 || d.AuthSets[0].Tier != tier {
					t.Errorf("moved to %s: %+v", tier, d)
				}
			}
		})
	}
	if _, err := New(Config{URL: "https://mender.test", Token: TokenValue("x"), Tier: "large"}); err == nil || pipeline.Hint(err) == "" {
		t.Errorf("a tier that there is not: %v", err)
	}
}

// A lot's names, groups and tags come to the inventory in spite of faults, of an
// inventory that lags behind, and of clients that are cut off.
func TestInventoryAgainstSandbox(t *testing.T) { overVersions(t, testInventoryAgainstSandbox) }

func testInventoryAgainstSandbox(t *testing.T, v sandbox.Version) {
	const n = 400
	s, cfg := trial(t, sandbox.Config{
		Version: v, Seed: 3, InventoryLag: 300 * time.Millisecond,
		Faults: sandbox.Faults{Fail: 0.02, Reset: 0.02, Stored500: 0.01},
	})
	items := make([]InventoryItem, n)
	c := open(t, cfg)
	var workers sync.WaitGroup
	for w := range 16 {
		workers.Go(func() {
			for i := w; i < n; i += 16 {
				set, err := c.Preauthorize(t.Context(), preauth(t, i))
				if err != nil {
					t.Error(err)
				}
				items[i] = InventoryItem{DeviceID: set.DeviceID, Group: fmt.Sprint("line-", i%2), Tags: []pipeline.Attr{{Name: TagName, Value: fmt.Sprint("unit ", i)}}}
			}
		})
	}
	workers.Wait()
	done := 0
	for round := 0; done < n; round++ {
		ctx, cancel := context.WithCancel(t.Context())
		c := open(t, cfg)
		done = 0
		for r, err := range c.SetInventory(ctx, each(items)) {
			if err != nil {
				break
			}
			if r.State == InventoryDone {
				done++
			}
			if round < 2 && done > 100*(round+1) {
				cancel() // the process is gone
			}
		}
		cancel()
	}
	for i, item := range items {
		d, _ := s.Find(identity(i).JSON())
		if d.ID != item.DeviceID || d.Group != item.Group || d.Tags[TagName] != item.Tags[0].Value {
			t.Errorf("device %d is %+v", i, d)
		}
	}
}
