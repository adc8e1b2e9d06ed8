package mender

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"keymill/pipeline"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func serial(n int) pipeline.Identity {
	return pipeline.Identity{{Name: "serial", Value: fmt.Sprintf("%05d", n)}}
}

// One device of each kind, and what is said about it.
func TestVerifyCategories(t *testing.T) {
	spki, key := newKey(t)
	other, otherPEM := newKey(t)
	ours := func(status string) fakeSet { return fakeSet{PubKey: key, Status: status} }
	tests := []struct {
		want Category
		sets []fakeSet
		none bool // not on the server
		fp   []byte
	}{
		{want: CatPreauthorized, sets: []fakeSet{ours(StatusPreauthorized)}, fp: spki},
		{want: CatAccepted, sets: []fakeSet{ours(StatusAccepted)}, fp: spki},
		{want: CatPending, sets: []fakeSet{ours(StatusPending)}, fp: spki},
		{want: CatRejected, sets: []fakeSet{ours(StatusRejected)}, fp: spki},
		{want: CatMissing, none: true, fp: spki},
		{want: CatMissing, fp: spki}, // an orphan
		{want: CatOtherKey, sets: []fakeSet{{PubKey: otherPEM, Status: StatusPreauthorized}}, fp: other},
		{want: CatSecondKey, sets: []fakeSet{ours(StatusPreauthorized), {PubKey: otherPEM, Status: StatusPreauthorized}}, fp: other},
		{want: CatSecondKey, sets: []fakeSet{ours(StatusRejected), {PubKey: otherPEM, Status: StatusAccepted}}, fp: other},
		{want: CatKnocking, sets: []fakeSet{ours(StatusPreauthorized), {PubKey: otherPEM, Status: StatusPending}}, fp: other},
		{want: CatKnocking, sets: []fakeSet{{PubKey: otherPEM, Status: StatusPending}, ours(StatusAccepted)}, fp: other},
		{want: CatPending, sets: []fakeSet{ours(StatusPending), {PubKey: otherPEM, Status: StatusPending}}, fp: spki},
		{want: CatAccepted, sets: []fakeSet{ours(StatusAccepted), {PubKey: otherPEM, Status: StatusRejected}}, fp: spki},
	}
	for _, listing := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			f := newFake(t)
			var expected []Expected
			want := map[string]string{}
			for i, tt := range tests {
				e := Expected{Identity: serial(i), SPKI: spki, DeviceID: "dev-none"}
				want[serial(i).String()] = string(tt.want) + " " + pipeline.Fingerprint(tt.fp)
				if !tt.none {
					e.DeviceID = f.put(serial(i), StatusPreauthorized, tt.sets...).ID
				}
				expected = append(expected, e)
			}
			dying := f.put(serial(98), StatusPreauthorized, ours(StatusPreauthorized))
			dying.Decommissioning = true
			expected = append(expected, Expected{Identity: serial(98), SPKI: spki, DeviceID: dying.ID})
			want[serial(98).String()] = string(CatDeleting) + " " + pipeline.Fingerprint(spki)
			f.put(serial(99), StatusPreauthorized, ours(StatusPreauthorized))
			if listing {
				want[serial(99).String()] = string(CatUnexpected) + " "
			}
			got := map[string]string{}
			for finding, err := range f.client(t).Verify(t.Context(), each(expected), VerifyOptions{Unexpected: listing}) {
				if err != nil {
					t.Fatal(err)
				}
				got[finding.Identity.String()] = string(finding.Category) + " " + finding.Fingerprint
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			if !listing && len(f.requests) != 1 {
				t.Errorf("%d requests", len(f.requests))
			}
		})
	}
}

// A comparison asks for what it compares: nothing for nothing, and two requests
// for each hundred devices at the most, however many the server has.
func TestVerifyAsksOnlyForItsLot(t *testing.T) {
	for n, most := range map[int]int{0: 0, 1: 1, 45: 1, 1000: 2, 1001: 3} {
		synctest.Test(t, func(t *testing.T) {
			f := newFake(t)
			spki, key := newKey(t)
			var lot []Expected
			for i := range 3000 {
				d := f.put(serial(i), StatusPreauthorized, fakeSet{PubKey: key, Status: StatusPreauthorized})
				if i < n {
					lot = append(lot, Expected{Identity: serial(i), SPKI: spki, DeviceID: d.ID})
				}
			}
			c, seen := f.client(t), 0
			for finding, err := range c.Verify(t.Context(), each(lot), VerifyOptions{}) {
				if err != nil || finding.Category != CatPreauthorized || finding.DeviceID != lot[seen].DeviceID {
					t.Fatalf("%+v, %v", finding, err)
				}
				seen++
			}
			if seen != n || len(f.requests) != most || f.count1("GET /devices") > 0 {
				t.Errorf("%d devices: %d findings, %d requests, %d listings", n, seen, len(f.requests), f.count1("GET /devices"))
			}
			for u, err := range c.Undo(t.Context(), each(lot[:min(n, 45)])) {
				if err != nil || u.Removal != Removed {
					t.Fatalf("%+v, %v", u, err)
				}
			}
			if got := len(f.requests) - most; got != min(n, 1)+min(n, 45) {
				t.Errorf("undo of %d devices took %d requests", min(n, 45), got)
			}
		})
	}
}

// 45 devices at 60 requests a minute: preauthorizing takes 45 of them, and the
// comparison at the end one more.
func TestComparisonUnderAQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.obey(fixedWindow(60, time.Minute, 0, true))
		c := f.client(t)
		began := time.Now()
		var lot []Expected
		for i := range 45 {
			p := preauth(t, i)
			set, err := c.Preauthorize(t.Context(), p)
			if err != nil {
				t.Fatal(err)
			}
			lot = append(lot, Expected{Identity: p.Identity, SPKI: p.SPKI, DeviceID: set.DeviceID})
		}
		for finding, err := range c.Verify(t.Context(), each(lot), VerifyOptions{}) {
			if err != nil || !finding.Category.OK() {
				t.Fatalf("%+v, %v", finding, err)
			}
		}
		if took := time.Since(began); took > 55*time.Second {
			t.Errorf("took %s", took)
		}
	})
}

// Questions that are asked at the same time go out together, each is answered,
// and whoever leaves doesn't take the others along.
func TestLooksAreGathered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.latency = time.Second
		spki, key := newKey(t)
		var ids []string
		for i := range 700 {
			ids = append(ids, f.put(serial(i), StatusPreauthorized, fakeSet{PubKey: key, Status: StatusPreauthorized}).ID)
		}
		ids = append(ids, "dev-none")
		c := f.client(t)
		leaving, leave := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for i, id := range ids {
			wg.Go(func() {
				ctx := t.Context()
				if i%7 == 0 {
					ctx = leaving
				}
				dev, _, err := c.looks.device(ctx, id)
				switch {
				case i%7 == 0 && errors.Is(err, context.Canceled):
				case id == "dev-none" && errors.Is(err, ErrNotFound):
				case err != nil || dev.ID != id || !sameKey(dev.AuthSets[0].SPKI, spki):
					t.Errorf("%s: %+v, %v", id, dev, err)
				}
			})
		}
		synctest.Wait()
		leave()
		wg.Wait()
		if len(f.requests) > 6 {
			t.Errorf("%d requests for %d devices", len(f.requests), len(ids))
		}
	})
}

// A page that can't be read because of one device doesn't hold up the others.
func TestGatheredLookFallsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.latency = time.Second
		var ids []string
		for i := range 5 {
			ids = append(ids, f.put(serial(i), StatusPreauthorized).ID)
		}
		f.fault = func(r *fakeRequest) (*http.Response, error) {
			if r.after && strings.HasSuffix(r.URL.Path, "/search") {
				return failure(http.StatusUnprocessableEntity, "no"), nil
			}
			return nil, nil
		}
		c := f.client(t)
		var wg sync.WaitGroup
		for _, id := range ids {
			wg.Go(func() {
				if dev, _, err := c.looks.device(t.Context(), id); err != nil || dev.ID != id {
					t.Errorf("%s: %+v, %v", id, dev, err)
				}
			})
		}
		wg.Wait()
	})
}

// A server that takes 30 s to delete a device is waited for.
func TestAwaitDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.deleting = 30 * time.Second
		spki, key := newKey(t)
		var lot []Expected
		var ids []string
		for i := range 700 {
			d := f.put(serial(i), StatusPreauthorized, fakeSet{PubKey: key, Status: StatusPreauthorized})
			lot = append(lot, Expected{Identity: serial(i), SPKI: spki, DeviceID: d.ID})
			ids = append(ids, d.ID)
		}
		c := f.client(t)
		for u, err := range c.Undo(t.Context(), each(lot)) {
			if err != nil || u.Removal != Removed {
				t.Fatalf("%+v, %v", u, err)
			}
		}
		lingering := 0
		for finding, err := range c.Lingering(t.Context(), each(lot)) {
			if err != nil || finding.Category != CatDeleting {
				t.Fatalf("%+v, %v", finding, err)
			}
			lingering++
		}
		if left, err := c.AwaitDeleted(t.Context(), ids, 10*time.Second, nil); left != 700 || lingering != 700 || err != nil {
			t.Errorf("%d of %d left after 10 s, %v", left, lingering, err)
		}
		if left, err := c.AwaitDeleted(t.Context(), ids, time.Minute, nil); left != 0 || err != nil {
			t.Errorf("%d left, %v", left, err)
		}
		for finding, err := range c.Lingering(t.Context(), each(lot)) {
			t.Errorf("%+v, %v", finding, err)
		}
	})
}

// A large listing comes in pages of 500, several at once, none too many.
func TestVerifyPages(t *testing.T) {
	for _, n := range []int{0, 1, 500, 501, 2750} {
		synctest.Test(t, func(t *testing.T) {
			f := newFake(t)
			f.latency = 10 * time.Millisecond
			spki, key := newKey(t)
			var expected []Expected
			for i := range n {
				f.put(serial(i), StatusPreauthorized, fakeSet{PubKey: key, Status: StatusPreauthorized})
				expected = append(expected, Expected{Identity: serial(i), SPKI: spki})
			}
			seen := map[string]bool{}
			for finding, err := range f.client(t).Verify(t.Context(), each(expected), VerifyOptions{Unexpected: true}) {
				if err != nil || !finding.Category.OK() || seen[finding.Identity.String()] {
					t.Fatalf("%+v, %v", finding, err)
				}
				seen[finding.Identity.String()] = true
			}
			pages := max(1, (n+perPage-1)/perPage)
			if len(seen) != n || len(f.requests) != 1+pages {
				t.Errorf("%d devices: %d seen in %d requests", n, len(seen), len(f.requests))
			}
			if f.peak > pagesAhead || (pages > pagesAhead && f.peak < pagesAhead) {
				t.Errorf("%d pages at once", f.peak)
			}
		})
	}
}

// A device that slips through a listing, because the pages moved, is asked for
// before it is called missing; and pages that the count didn't promise are read.
func TestListingIsNoSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		spki, key := newKey(t)
		var expected []Expected
		for i := range 600 {
			d := f.put(serial(i), StatusPreauthorized, fakeSet{PubKey: key, Status: StatusPreauthorized})
			expected = append(expected, Expected{Identity: serial(i), SPKI: spki, DeviceID: d.ID})
		}
		f.fault = func(r *fakeRequest) (*http.Response, error) {
			if strings.HasSuffix(r.URL.Path, "/count") && !r.after {
				return reply(http.StatusOK, `{"count":10}`), nil // many are added after this
			}
			if r.op == "list" && r.after && r.URL.Query().Get("page") == "1" {
				resp := replyJSON(http.StatusOK, []any{}) // all of them have moved
				resp.Header = r.answer.Header
				return resp, nil
			}
			return nil, nil
		}
		counts := map[Category]int{}
		for finding, err := range f.client(t).Verify(t.Context(), each(expected), VerifyOptions{Unexpected: true}) {
			if err != nil {
				t.Fatal(err)
			}
			counts[finding.Category]++
		}
		if diff := cmp.Diff(map[Category]int{CatPreauthorized: 600}, counts); diff != "" {
			t.Error(diff)
		}
	})
}

func TestVerifyEachAsksOnlyForThese(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		spki, key := newKey(t)
		var all []Expected
		for i := range 1000 {
			d := f.put(serial(i), StatusPreauthorized, fakeSet{PubKey: key, Status: StatusPreauthorized})
			all = append(all, Expected{Identity: serial(i), SPKI: spki, DeviceID: d.ID})
		}
		sample, err := Sample(each(all), 50)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for finding, err := range f.client(t).VerifyEach(t.Context(), each(sample)) {
			if err != nil || !finding.Category.OK() {
				t.Fatalf("%+v, %v", finding, err)
			}
			n++
		}
		if n != 50 || len(f.requests) != 1 {
			t.Errorf("%d findings, %d requests", n, len(f.requests))
		}
	})
}

func TestSampleIsFairAndWithoutRepeats(t *testing.T) {
	var all []Expected
	for i := range 20 {
		all = append(all, Expected{DeviceID: fmt.Sprint(i)})
	}
	hits := map[string]int{}
	for range 2000 {
		picked, err := Sample(each(all), 5)
		if err != nil || len(picked) != 5 {
			t.Fatal(len(picked), err)
		}
		seen := map[string]bool{}
		for _, e := range picked {
			seen[e.DeviceID] = true
			hits[e.DeviceID]++
		}
		if len(seen) != 5 {
			t.Fatal("picked twice")
		}
	}
	for id, n := range hits {
		if n < 350 || n > 650 { // 500 expected, standard deviation 19
			t.Errorf("%s was picked %d times of 2000", id, n)
		}
	}
	if picked, _ := Sample(each(all), 50); len(picked) != 20 {
		t.Errorf("%d of 20", len(picked))
	}
}

// Undo removes our keys and nothing else, however often it is called.
func TestUndo(t *testing.T) {
	spki, key := newKey(t)
	_, otherPEM := newKey(t)
	ours, other := fakeSet{PubKey: key, Status: StatusPreauthorized}, fakeSet{PubKey: otherPEM, Status: StatusPreauthorized}
	tests := []struct {
		sets  []fakeSet
		none  bool
		noID  bool // the ledger doesn't know the server's id
		want  Removal
		again Removal
		left  int // auth sets
	}{
		{sets: []fakeSet{ours}, want: Removed, again: WasGone},
		{sets: []fakeSet{ours}, noID: true, want: Removed, again: Removed},
		{none: true, noID: true, want: Removed, again: Removed},
		{sets: []fakeSet{}, want: Removed, again: WasGone},
		{sets: []fakeSet{other}, want: KeptOther, again: KeptOther, left: 1},
		{sets: []fakeSet{other}, noID: true, want: KeptOther, again: KeptOther, left: 1},
		{sets: []fakeSet{ours, other}, want: Removed, again: KeptOther, left: 1},
		{sets: []fakeSet{{PubKey: key, Status: StatusAccepted}}, want: Removed, again: WasGone},
	}
	for i, tt := range tests {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t)
				e := Expected{Identity: serial(1), SPKI: spki, DeviceID: "dev-gone"}
				if !tt.none {
					e.DeviceID = f.put(serial(1), StatusPreauthorized, append([]fakeSet{}, tt.sets...)...).ID
				}
				if tt.noID {
					e.DeviceID = ""
				}
				c := f.client(t)
				for _, want := range []Removal{tt.want, tt.again} {
					for u, err := range c.Undo(t.Context(), each([]Expected{e})) {
						if err != nil || u.Err != nil || u.Removal != want {
							t.Errorf("%s (%v, %v), want %s", u.Removal, err, u.Err, want)
						}
					}
				}
				left := 0
				for _, d := range f.devices {
					left += len(d.AuthSets)
				}
				if left != tt.left {
					t.Errorf("%d auth sets left, want %d", left, tt.left)
				}
			})
		})
	}
}

// Whoever stops looking leaves nothing running (goleak watches), and errors of
// the input come out.
func TestAheadStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.latency = time.Second
		for range 2000 {
			f.put(serial(f.nextID), StatusPreauthorized)
		}
		for _, err := range f.client(t).Devices(t.Context(), "") {
			if err != nil {
				t.Error(err)
			}
			break
		}
		var broken iter.Seq2[Expected, error] = func(yield func(Expected, error) bool) { yield(Expected{}, errReset) }
		for _, err := range f.client(t).Verify(t.Context(), broken, VerifyOptions{}) {
			if err != errReset { //nolint:errorlint // the very error
				t.Error(err)
			}
		}
		for _, err := range f.client(t).Undo(t.Context(), broken) {
			if err != errReset { //nolint:errorlint // the very error
				t.Error(err)
			}
		}
	})
}

func TestProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.limit, f.statistics, f.roles = 100, true, []string{"RBAC_ROLE_PERMIT_ALL"}
		for i := range 30 {
			f.put(serial(i), []string{StatusPreauthorized, StatusAccepted, StatusPending}[i%3])
		}
		p, err := f.client(t).Probe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if p.MaxDevices != 100 || p.Devices != 30 || p.Accepted != 10 || p.Preauth != 10 || p.TokenExpires.Unix() != 4102444800 || p.Skew.Abs() > time.Second {
			t.Errorf("%+v", p)
		}
		now := p.TokenExpires.Add(-time.Hour)
		year := 365 * 24 * time.Hour
		for name, tt := range map[string]struct {
			change func(p *Probe)
			lot    LotPlan
			want   string // in the text; "" for no concern
			fatal  bool
		}{
			"just enough":         {nil, LotPlan{Adds: 80, Takes: time.Minute}, "", false},
			"one too many":        {nil, LotPlan{Adds: 81}, "limit is 100 devices (max_devices): 10 are accepted, 10 preauthorized, the lot adds 81, which is 1 too many", true},
			"allowed":             {nil, LotPlan{Adds: 81, AllowOverLimit: true}, "limit is 100", false},
			"adds none":           {func(p *Probe) { p.Limit.Max = 1 }, LotPlan{}, "", false},
			"no limit":            {func(p *Probe) { p.Limit = Limit{Kind: LimitNone, Max: -1} }, LotPlan{Adds: 1e6}, "", false},
			"no such limit":       {func(p *Probe) { p.Limit = Limit{} }, LotPlan{Adds: 1e6}, "", false},
			"none of this tier":   {func(p *Probe) { p.Limit, p.Tier = Limit{Kind: LimitMax}, TierMicro }, LotPlan{Adds: 1}, "accepts no micro devices", true},
			"unclear":             {func(p *Probe) { p.Limit = Limit{Kind: LimitUnclear} }, LotPlan{Adds: 1}, `is 0, which is "no limit" on servers before spring 2026, and "none" on later ones`, true},
			"unclear but allowed": {func(p *Probe) { p.Limit = Limit{Kind: LimitUnclear} }, LotPlan{Adds: 1, AllowOverLimit: true}, "is 0, which", false},
			"token":               {nil, LotPlan{Adds: 1, Takes: 2 * time.Hour}, "token expires", false},
			"dead token":          {func(p *Probe) { p.TokenExpires = now.Add(-time.Hour) }, LotPlan{Adds: 1}, "token expires", false}, // the server has just taken it
			"clock":               {func(p *Probe) { p.Skew = -time.Hour }, LotPlan{Adds: 1}, "clock", false},
			"identity":            {nil, LotPlan{Identity: []string{"mac", "a=b"}}, `"a=b" holds an equals sign`, false},
			"certificate": {func(p *Probe) { p.CertExpires = now.Add(time.Minute) },
				LotPlan{Takes: time.Hour}, "before the lot is done", false},
			"certificate in the drawer": {func(p *Probe) { p.CertBegins, p.CertExpires = now.Add(-year), now.Add(year/2) },
				LotPlan{Drawer: year}, "may still wait for their first boot", false},
			"certificate that is renewed by itself": {func(p *Probe) { p.CertBegins, p.CertExpires = now.Add(-year/12), now.Add(year/12) },
				LotPlan{Drawer: year}, "", false},
			"CA in the drawer": {func(p *Probe) { p.CAExpires, p.CASubject = now.Add(year/2), "CN=factory CA" },
				LotPlan{Drawer: year}, "the CA of the server's certificate (CN=factory CA) expires", false},
			"no rights":        {func(p *Probe) { p.Roles = []string{"RBAC_ROLE_OBSERVER", "RBAC_ROLE_CI"} }, LotPlan{}, "RBAC_ROLE_OBSERVER, RBAC_ROLE_CI", false},
			"some rights":      {func(p *Probe) { p.Roles = []string{"RBAC_ROLE_OBSERVER", "ours"} }, LotPlan{}, "", false},
			"no tiers":         {func(p *Probe) { p.Tier, p.TiersKnown = TierSystem, true }, LotPlan{}, "knows no device tiers", false},
			"tiers":            {func(p *Probe) { p.Tier, p.TiersKnown, p.Tiers = TierSystem, true, true }, LotPlan{}, "", false},
			"unknown tiers":    {func(p *Probe) { p.Tier = TierSystem }, LotPlan{}, "", false},
			"no inventory":     {func(p *Probe) { p.Inventory = false }, LotPlan{Inventory: true}, "no inventory", false},
			"inventory unused": {func(p *Probe) { p.Inventory = false }, LotPlan{}, "", false},
		} {
			p := p
			if tt.change != nil {
				tt.change(&p)
			}
			found := p.Concerns(tt.lot, now)
			switch {
			case tt.want == "" && len(found) > 0:
				t.Errorf("%s: %+v", name, found)
			case tt.want == "":
			case len(found) != 1 || !strings.Contains(found[0].Text, tt.want) || found[0].Fatal != tt.fatal || found[0].Hint == "" || found[0].Kind == "":
				t.Errorf("%s: %+v, want %q, fatal %v", name, found, tt.want, tt.fatal)
			}
		}
	})
}

// What 0 means as a limit depends on the server's age, which its other calls
// tell, or don't.
func TestLimitZero(t *testing.T) {
	for name, tt := range map[string]struct {
		limit                   int
		statistics, noInventory bool
		accepted                int
		want                    LimitKind
	}{
		"4.1 without a limit":       {0, false, false, 0, LimitNone},
		"4.1 with a limit":          {7, false, false, 0, LimitMax},
		"main without a limit":      {-1, true, false, 0, LimitNone},
		"a plan without the tier":   {0, true, false, 0, LimitMax},
		"neither fish nor fowl":     {0, true, false, 3, LimitUnclear},
		"no inventory to ask":       {0, false, true, 0, LimitUnclear},
		"no inventory, but a limit": {3, false, true, 0, LimitMax},
	} {
		synctest.Test(t, func(t *testing.T) {
			f := newFake(t)
			f.limit, f.statistics, f.noInventory = tt.limit, tt.statistics, tt.noInventory
			for i := range tt.accepted {
				f.put(serial(i), StatusAccepted)
			}
			for _, probe := range []func(*Client) (Probe, error){
				func(c *Client) (Probe, error) { return c.Probe(t.Context()) },
				func(c *Client) (Probe, error) { return c.ProbeNow(t.Context()) },
			} {
				p, err := probe(f.client(t))
				if err != nil || p.Limit.Kind != tt.want || p.Inventory == tt.noInventory {
					t.Errorf("%s: %+v, %v", name, p, err)
				}
			}
		})
	}
}
