package main

import (
	"encoding/hex"
	"testing"

	"keymill/pipeline/mender/sandbox"
)

// TestTelemetryBatch: each lot of a batch is a trace of its own, and the
// figures are those of the textfile.
func TestTelemetryBatch(t *testing.T) {
	n := newNight(t, sandbox.Config{Seed: 3})
	r := newOTLPReceiver(t, nil)
	n.manifest("a.csv", 1, 7)
	n.manifest("b.csv", 100, 2)
	t.Setenv("KEYMILL_TELEMETRY_OTLP_ENDPOINT", r.endpoint)
	if code, log := n.batch(); code != 0 {
		t.Fatalf("exit %d:\n%s", code, log)
	}
	lots := map[string]string{}
	for _, s := range r.named("keymill batch") {
		lots[texts(s.Attributes)["keymill.lot"]] = hex.EncodeToString(s.TraceId)
	}
	if len(lots) != 2 || lots["a"] == lots["b"] || lots["a"] == "" {
		t.Errorf("traces by lot: %v", lots)
	}
	if r.value("keymill.devices", map[string]string{"state": "released"}) != 9 ||
		r.value("keymill.batch.lots", map[string]string{"outcome": "closed"}) != 2 ||
		r.value("keymill.batch.running", map[string]string{}) != 0 || r.value("keymill.batch.last_success", map[string]string{}) == 0 {
		t.Error("the figures are not the batch's last ones")
	}
}
