package reports

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"strings"
	"testing"
	"time"

	"keymill/pipeline"
)

func workOrder() *WorkOrder {
	return &WorkOrder{
		Order: "PO-17", Product: "gateway", Quantity: 100, NotAfter: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC),
		Golden: []string{strings.Repeat("ab", 32)}, Stations: []string{"line-3"}, Lots: []string{"lot", "lot-2"},
		MACs: []string{"02:00:00:00:00:10-02:00:00:00:00:ff"}, Serials: []string{"SN-0010-SN-0255"},
	}
}

func orderedLot() pipeline.Lot {
	return pipeline.Lot{Name: "lot", Devices: 60, GoldenSHA256: strings.Repeat("ab", 32)}
}

func orderedDevice(mac, serial string) *pipeline.Device {
	return &pipeline.Device{Row: 2, Identity: pipeline.Identity{{Name: "mac", Value: mac}}, Attrs: []pipeline.Attr{{Name: "serial", Value: serial}}}
}

func TestWorkOrderAllows(t *testing.T) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := SignWorkOrder(t.Context(), workOrder(), key)
	if err != nil {
		t.Fatal(err)
	}
	order, err := OpenWorkOrder(t.Context(), signed, key.Public())
	if err != nil {
		t.Fatal(err)
	}
	lot := orderedLot()
	if err := order.AllowsLot(&lot, "line-3", 40, time.Date(2029, 12, 31, 0, 0, 0, 0, time.UTC)); err != nil {
		t.Error(err)
	}
	for mac, serial := range map[string]string{"02:00:00:00:00:10": "SN-0010", "02:00:00:00:00:FF": "SN-0255", "02-00-00-00-00-7f": "SN-0100"} {
		if err := order.AllowsDevice(orderedDevice(mac, serial)); err != nil {
			t.Error(err)
		}
	}
}

// Ways to exceed an order.
func TestWorkOrderRefuses(t *testing.T) {
	now := time.Date(2029, 6, 1, 0, 0, 0, 0, time.UTC)
	lots := map[string]func(w *WorkOrder, lot *pipeline.Lot, station *string, made *int, at *time.Time){
		"more than the quantity":    func(_ *WorkOrder, l *pipeline.Lot, _ *string, _ *int, _ *time.Time) { l.Devices = 101 },
		"the rest is smaller":       func(_ *WorkOrder, _ *pipeline.Lot, _ *string, made *int, _ *time.Time) { *made = 41 },
		"all is used":               func(_ *WorkOrder, l *pipeline.Lot, _ *string, made *int, _ *time.Time) { *made, l.Devices = 100, 1 },
		"more is used than allowed": func(_ *WorkOrder, l *pipeline.Lot, _ *string, made *int, _ *time.Time) { *made, l.Devices = 500, 1 },
		"another golden image": func(_ *WorkOrder, l *pipeline.Lot, _ *string, _ *int, _ *time.Time) {
			l.GoldenSHA256 = strings.Repeat("ac", 32)
		},
		"golden in capitals": func(_ *WorkOrder, l *pipeline.Lot, _ *string, _ *int, _ *time.Time) {
			l.GoldenSHA256 = strings.ToUpper(l.GoldenSHA256)
		},
		"no golden image": func(_ *WorkOrder, l *pipeline.Lot, _ *string, _ *int, _ *time.Time) { l.GoldenSHA256 = "" },
		"expired":         func(_ *WorkOrder, _ *pipeline.Lot, _ *string, _ *int, at *time.Time) { *at = at.AddDate(1, 0, 0) },
		"expired by a second": func(w *WorkOrder, _ *pipeline.Lot, _ *string, _ *int, at *time.Time) {
			*at = w.NotAfter.Add(time.Second)
		},
		"another station":            func(_ *WorkOrder, _ *pipeline.Lot, s *string, _ *int, _ *time.Time) { *s = "line-4" },
		"a station's name begins so": func(_ *WorkOrder, _ *pipeline.Lot, s *string, _ *int, _ *time.Time) { *s = "line-33" },
		"no station":                 func(_ *WorkOrder, _ *pipeline.Lot, s *string, _ *int, _ *time.Time) { *s = "" },
		"another lot":                func(_ *WorkOrder, l *pipeline.Lot, _ *string, _ *int, _ *time.Time) { l.Name = "lot-3" },
	}
	for name, change := range lots {
		w, lot, station, made, at := workOrder(), orderedLot(), "line-3", 0, now
		change(w, &lot, &station, &made, &at)
		if err := w.AllowsLot(&lot, station, made, at); err == nil {
			t.Errorf("%s: passed", name)
		}
	}
	for name, dev := range map[string]*pipeline.Device{
		"MAC below":         orderedDevice("02:00:00:00:00:0f", "SN-0010"),
		"MAC above":         orderedDevice("02:00:00:00:01:00", "SN-0010"),
		"MAC is none":       orderedDevice("none", "SN-0010"),
		"MAC too long":      orderedDevice("02:00:00:00:00:10:00", "SN-0010"),
		"serial below":      orderedDevice("02:00:00:00:00:10", "SN-0009"),
		"serial above":      orderedDevice("02:00:00:00:00:10", "SN-0256"),
		"serial longer":     orderedDevice("02:00:00:00:00:10", "SN-00100"),
		"serial shorter":    orderedDevice("02:00:00:00:00:10", "SN-010"),
		"no serial":         orderedDevice("02:00:00:00:00:10", ""),
		"another prefix":    orderedDevice("02:00:00:00:00:10", "XN-0010"),
		"serial small case": orderedDevice("02:00:00:00:00:10", "sn-0010"),
	} {
		if err := workOrder().AllowsDevice(dev); err == nil {
			t.Errorf("%s: passed", name)
		}
	}
}

// An order that was edited, or signed by somebody else, is none.
func TestWorkOrderIsTheOwners(t *testing.T) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := SignWorkOrder(t.Context(), workOrder(), key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenWorkOrder(t.Context(), signed, other); err == nil {
		t.Error("took an order by another key")
	}
	for i := range signed {
		edited := bytes.Clone(signed)
		edited[i] ^= 1
		if _, err := OpenWorkOrder(t.Context(), edited, key.Public()); err == nil {
			t.Errorf("took an order with byte %d changed", i)
		}
	}
	for name, change := range map[string]func(*WorkOrder){
		"no number": func(w *WorkOrder) { w.Order = " " }, "no quantity": func(w *WorkOrder) { w.Quantity = 0 }, "no end": func(w *WorkOrder) { w.NotAfter = time.Time{} },
		"no hash": func(w *WorkOrder) { w.Golden = []string{"abc"} }, "no range": func(w *WorkOrder) { w.Serials = []string{"SN-1-SN-22"} },
		"range backwards": func(w *WorkOrder) { w.MACs = []string{"02:00:00:00:00:ff-02:00:00:00:00:10"} }, "no MACs": func(w *WorkOrder) { w.MACs = []string{"aaaa-bbbb"} },
	} {
		w := workOrder()
		change(w)
		if _, err := SignWorkOrder(t.Context(), w, key); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
}
