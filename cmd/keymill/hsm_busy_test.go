package main

import (
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"keymill/hsm"
	"keymill/pipeline/mender/sandbox"
)

// TestNoSessionIsIdleWhileDevicesWait: all sessions of a token are at work at
// the same moment, key after key, although this machine has fewer cores. The
// token itself counts how often they were.
func TestNoSessionIsIdleWhileDevicesWait(t *testing.T) {
	t.Parallel()
	const devices, sessions = 240, 12
	for _, keys := range []string{"hsm", "token"} {
		s := newBadStation(newFactory(t, devices, sandbox.Config{}))
		s.set("MEET", sessions)
		code, log := s.do(s.lot("--keys", keys, "--log-level", "debug"), "KEYMILL_KEYS_SESSIONS="+strconv.Itoa(sessions), "GOMAXPROCS=2")
		if code != 0 {
			t.Fatalf("exit %d: %s", code, log)
		}
		s.checkLot(devices)
		if met := s.get("MET"); met < devices/sessions/2 {
			t.Errorf("%s: all %d sessions were at work %d times, want %d", keys, sessions, met, devices/sessions)
		}
		if use := sessionUse.FindStringSubmatch(log); use == nil || use[1] != strconv.Itoa(sessions) || use[2] != strconv.Itoa(devices) {
			t.Errorf("%s: the run doesn't say how it used the token: %s", keys, log)
		}
	}
}

// sessionUse is what a run's log says of the token's sessions.
var sessionUse = regexp.MustCompile(`sessions" sessions=(\d+) keys=(\d+) span=(\S+) busy=(\S+)% starved=(\S+)%`)

// BenchmarkHSMStage is a lot of P-256 devices whose keys come from a token that
// takes 5 ms for every call, as over a network: how busy the run keeps its
// sessions, how long they stood free while devices waited, and how its keys a
// second compare with a loop that does nothing else with the same sessions.
func BenchmarkHSMStage(b *testing.B) {
	for _, sessions := range []int{4, 16} {
		b.Run(strconv.Itoa(sessions)+"-sessions", func(b *testing.B) { benchStage(b, sessions, 5000, 250*sessions) })
	}
}

// BenchmarkHSMLot is the same on a bare SoftHSM, which shares this machine's
// cores with everything else that a lot takes, the trial server included.
func BenchmarkHSMLot(b *testing.B) { benchStage(b, 4, 0, 4000) }

func benchStage(b *testing.B, sessions int, latencyUS uint32, devices int) {
	sum := map[string]float64{}
	for b.Loop() {
		s := newBadStation(newFactory(b, devices, sandbox.Config{}))
		s.set("LATENCY_US", latencyUS)
		start := time.Now()
		code, log := s.do(s.lot("--keys", "hsm", "--log-level", "debug"), "KEYMILL_KEYS_SESSIONS="+strconv.Itoa(sessions))
		took := time.Since(start)
		use := sessionUse.FindStringSubmatch(log)
		if code != 0 || use == nil {
			b.Fatalf("exit %d: %s", code, log)
		}
		span, err := time.ParseDuration(use[3])
		if err != nil {
			b.Fatal(err)
		}
		keys := float64(devices) / span.Seconds()
		sum["%busy"] += number(b, use[4])
		sum["%starved"] += number(b, use[5])
		sum["devices/s"] += float64(devices) / took.Seconds()
		sum["keys/s"] += keys
		sum["%of-loop"] += 100 * keys / s.loop(b, sessions)
	}
	for unit, n := range sum {
		b.ReportMetric(n/float64(b.N), unit)
	}
	b.ReportMetric(0, "ns/op")
}

func number(b *testing.B, s string) float64 {
	b.Helper()
	n, err := strconv.ParseFloat(s, 64)
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// loop returns the keys a second of whole cycles in the token, and nothing else.
func (s *hsmStation) loop(b *testing.B, sessions int) float64 {
	b.Helper()
	for _, setting := range s.env {
		name, value, _ := strings.Cut(setting, "=")
		b.Setenv(name, value)
	}
	report, err := hsm.Bench(b.Context(), hsm.Config{URI: s.uri}, hsm.BenchOptions{
		Algorithms: []hsm.Algorithm{hsm.ECDSAP256}, Sessions: []int{sessions}, Duration: 3 * time.Second,
	})
	if err != nil || len(report.Rows) != 1 || report.Rows[0].KeysPerSecond == 0 {
		b.Fatalf("%+v, %v", report, err)
	}
	return report.Rows[0].KeysPerSecond
}
