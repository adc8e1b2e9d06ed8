package reports

import (
	"crypto/ed25519"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"
)

// TestEPCISDocument checks what EPCIS 2.0 asks of a document and its ObjectEvents,
// and that each released serial is commissioned once and an undone one decommissioned.
func TestEPCISDocument(t *testing.T) {
	l := newLedger(t)
	l.fill("lot-1", 60)
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "epcis")
	n, err := WriteEPCIS(t.Context(), l, "lot-1", dir, LabelOptions{GTIN: "4006381333931"}, ListSigning{Station: "line-3", Signer: key})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := VerifyList(t.Context(), dir, []PublicKey{{Key: key.Public()}}); err != nil {
		t.Error(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "epcis.jsonld"))
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Context       []string `json:"@context"`
		Type          string   `json:"type"`
		SchemaVersion string   `json:"schemaVersion"`
		CreationDate  string   `json:"creationDate"`
		Body          struct {
			EventList []map[string]any `json:"eventList"`
		} `json:"epcisBody"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	if _, err := time.Parse(time.RFC3339, doc.CreationDate); err != nil || doc.Type != "EPCISDocument" || doc.SchemaVersion != "2.0" ||
		len(doc.Context) != 1 || doc.Context[0] != "https://ref.gs1.org/standards/epcis/2.0.0/epcis-context.jsonld" {
		t.Errorf("head of the document: %v, %s", err, data[:300])
	}
	forms := map[string]string{"type": `^ObjectEvent$`, "eventTime": `^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$`, "eventTimeZoneOffset": `^\+00:00$`,
		"eventID": `^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`,
		"action":  `^(ADD|DELETE)$`, "bizStep": `^(de)?commissioning$`, "disposition": `^(in)?active$`}
	steps, added := map[any]int{}, map[any]int{}
	for _, e := range doc.Body.EventList {
		for name, form := range forms {
			if text, ok := e[name].(string); !ok || !regexp.MustCompile(form).MatchString(text) {
				t.Errorf("%s is %v", name, e[name])
			}
		}
		epcs, _ := e["epcList"].([]any)
		if len(epcs) != 1 || !regexp.MustCompile(`^https://id\.gs1\.org/01/04006381333931/21/SN\d{7}$`).MatchString(epcs[0].(string)) || len(e) != len(forms)+1 {
			t.Fatalf("event %v", e)
		}
		steps[e["bizStep"]]++
		want := map[any]any{"commissioning": "ADD active", "decommissioning": "DELETE inactive"}[e["bizStep"]]
		if got := e["action"].(string) + " " + e["disposition"].(string); got != want {
			t.Errorf("%v has %s", e["bizStep"], got)
		}
		if e["action"] == "ADD" {
			added[epcs[0]]++
		} else {
			added[epcs[0]]--
		}
	}
	if n != 60 || steps["commissioning"] != 59 || steps["decommissioning"] != 1 || len(added) != 59 || added["https://id.gs1.org/01/04006381333931/21/SN0000043"] != 0 {
		t.Errorf("%d events, %v, %d serials", n, steps, len(added))
	}
}

func TestEPCISRefuses(t *testing.T) {
	l := newLedger(t)
	l.fill("lot-1", 2)
	for name, opt := range map[string]LabelOptions{"no GTIN": {}, "wrong digit": {GTIN: "4006381333930"}, "no serial": {GTIN: "4006381333931", Serial: "colour"},
		"empty serials": {GTIN: "4006381333931", Serial: "note"}} {
		if _, _, err := epcisOf(t.Context(), l, "lot-1", opt); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	l.records["lot-1"][1].Attrs = l.records["lot-1"][0].Attrs
	if _, _, err := epcisOf(t.Context(), l, "lot-1", LabelOptions{GTIN: "4006381333931"}); err == nil {
		t.Error("a serial number of two devices was accepted")
	}
}
