package mender

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"keymill/pipeline"
)

// inventoryLot is n devices on the server and what the inventory shall say.
func inventoryLot(t *testing.T, f *fake, n int) []InventoryItem {
	t.Helper()
	items := make([]InventoryItem, n)
	for i := range items {
		_, key := newKey(t)
		d := f.put(serial(i), StatusPreauthorized, fakeSet{PubKey: key, Status: StatusPreauthorized})
		d.born = time.Now()
		items[i] = InventoryItem{
			DeviceID: d.ID, Group: "line-3",
			Tags: []pipeline.Attr{{Name: TagName, Value: fmt.Sprintf("unit %d", i)}, {Name: "batch", Value: "B7"}},
		}
	}
	return items
}

// setAll calls SetInventory and counts what became of the items.
func setAll(ctx context.Context, c *Client, items []InventoryItem) (map[InventoryState]int, error) {
	counts := map[InventoryState]int{}
	for r, err := range c.SetInventory(ctx, each(items)) {
		if err != nil {
			return counts, err
		}
		if (r.State == InventoryFailed) != (r.Err != nil) {
			return counts, fmt.Errorf("%s with error %w", r.State, r.Err)
		}
		counts[r.State]++
	}
	return counts, nil
}

func (f *fake) checkInventory(items []InventoryItem) {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, item := range items {
		d := f.devices[item.DeviceID]
		if d.group != item.Group {
			f.t.Errorf("%s is in group %q", d.ID, d.group)
		}
		for _, tag := range item.Tags {
			if d.tags[tag.Name] != tag.Value {
				f.t.Errorf("%s has the tags %v", d.ID, d.tags)
			}
		}
	}
}

// The inventory is told what it doesn't say yet, in few requests, and keeps what
// others have set; devices that it doesn't know yet are told apart.
func TestSetInventory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.lag = 3 * time.Second
		items := inventoryLot(t, f, 1200)
		f.devices[items[7].DeviceID].tags = map[string]string{"theirs": "stays"}
		c := f.client(t)
		counts, err := setAll(t.Context(), c, items)
		if err != nil || counts[InventoryAbsent] != 1200 || len(f.requests) != 3 {
			t.Errorf("at once: %v, %v in %d requests", counts, err, len(f.requests))
		}
		time.Sleep(f.lag)
		f.requests = nil
		counts, err = setAll(t.Context(), c, items)
		if err != nil || counts[InventoryDone] != 1200 {
			t.Errorf("later: %v, %v", counts, err)
		}
		if want := InventoryRequests(1200, true, true); len(f.requests) != want {
			t.Errorf("%d requests, announced were %d", len(f.requests), want)
		}
		f.checkInventory(items)
		if f.devices[items[7].DeviceID].tags["theirs"] != "stays" {
			t.Error("a tag of somebody else is gone")
		}
		f.requests = nil
		counts, err = setAll(t.Context(), c, items)
		if err != nil || counts[InventoryDone] != 1200 || len(f.requests) != 3 {
			t.Errorf("again: %v, %v in %d requests", counts, err, len(f.requests))
		}
		f.devices[items[3].DeviceID].tags["batch"] = "other"
		f.devices[items[4].DeviceID].group = ""
		delete(f.devices, items[5].DeviceID)
		off := map[string]string{}
		for r, err := range c.CompareInventory(t.Context(), each(items)) {
			if err != nil {
				t.Fatal(err)
			}
			if r.State != InventoryDone {
				off[r.DeviceID] = fmt.Sprint(r.State, " ", r.Err)
			}
		}
		if len(off) != 3 || off[items[3].DeviceID] != `differs tag batch is "other"` ||
			off[items[4].DeviceID] != `differs group is ""` || !strings.HasPrefix(off[items[5].DeviceID], "absent") {
			t.Errorf("the comparison says %v", off)
		}
	})
}

// What the inventory would refuse, and what it refuses, is the device's own
// trouble; a server without one is nobody's.
func TestInventoryRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		items := inventoryLot(t, f, 5)
		items[0].Group = "line 3"
		items[1].Tags[0].Name = "a.b"
		for i := range maxTags {
			items[2].Tags = append(items[2].Tags, pipeline.Attr{Name: fmt.Sprint("t", i), Value: "x"})
		}
		f.fault = func(r *fakeRequest) (*http.Response, error) {
			if !r.after && strings.Contains(r.URL.Path, items[3].DeviceID+"/tags") {
				return failure(http.StatusBadRequest, "too many attributes"), nil
			}
			return nil, nil
		}
		c := f.client(t)
		counts, err := setAll(t.Context(), c, items)
		if err != nil || counts[InventoryFailed] != 4 || counts[InventoryDone] != 1 {
			t.Errorf("%v, %v", counts, err)
		}
		f.noInventory = true
		if _, err = setAll(t.Context(), c, items); !errors.Is(err, ErrNoInventory) || isOutage(err) || pipeline.Hint(err) == "" {
			t.Errorf("without an inventory: %v", err)
		}
		f.noInventory = false
		f.fault = func(r *fakeRequest) (*http.Response, error) {
			if strings.Contains(r.URL.Path, "inventory") {
				return reply(http.StatusBadGateway, htmlPage), nil
			}
			return nil, nil
		}
		began := time.Now()
		if _, err = setAll(t.Context(), c, items[4:]); err == nil || isOutage(err) || time.Since(began) > 2*time.Minute {
			t.Errorf("with an inventory that is down: %v after %s", err, time.Since(began))
		}
	})
}

// Every fault in every kind of request of the step, with the client alive and
// killed at that moment: when it has been called again, all is set.
func TestInventoryFaultMatrix(t *testing.T) {
	for _, fault := range matrixFaults {
		for _, op := range []string{"inventory-search", "inventory-tags", "inventory-group"} {
			for _, kill := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/killed %v", fault.name, op, kill), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { runInventoryCell(t, fault, op, kill) })
				})
			}
		}
	}
}

func runInventoryCell(t *testing.T, fault matrixFault, op string, kill bool) {
	l := &matrixLot{f: newFake(t)}
	l.f.latency = 3 * time.Millisecond
	items := inventoryLot(t, l.f, 8)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	hit := func() {}
	if kill {
		hit = func() { cancel() }
	}
	l.arm(fault, op, hit)
	err, rounds := errors.New("not begun"), 0
	for ; err != nil && rounds < 8; rounds++ {
		c := l.f.client(t)
		var counts map[InventoryState]int
		counts, err = setAll(ctx, c, items)
		switch {
		case err == nil && counts[InventoryDone] != len(items):
			err = fmt.Errorf("only %v", counts)
		case ctx.Err() != nil:
			ctx, cancel = context.WithCancel(t.Context())
			defer cancel()
		case err != nil && isOutage(err) && !fault.outage:
			t.Fatal(err)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	if l.fired == 0 && op != "inventory-group" { // there is but one of that
		t.Error("the fault never struck")
	}
	l.f.checkInventory(items)
}
