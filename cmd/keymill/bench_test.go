package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"keymill/pipeline"
	"keymill/pipeline/mender/sandbox"
)

// BenchmarkLot is the main job as people meet it: 10,000 Ed25519 devices from
// the manifest to a pack and a report in a process of its own, the trial server on
// the same cores. Beside it, in the same run, the same bodies are posted to a
// fresh server by net/http alone, half before and half after. It reports devices/s
// of the whole command, its own CPU time a device, that of a bare POST for client
// and server together, and ratios, which a busy or slow machine changes least.
func BenchmarkLot(b *testing.B) {
	const devices = 10_000
	var lot, bare spent
	for b.Loop() {
		b.StopTimer()
		records := lotRecords(b, devices)
		f := newFactory(b, devices, sandbox.Config{})
		bare.add(barePosts(b, records[:devices/2]))
		cmd, log := f.process(f.args("--format", "pack")...)
		began := time.Now()
		b.StartTimer()
		err := cmd.Run()
		b.StopTimer()
		if err != nil {
			b.Fatalf("%v: %s", err, log)
		}
		lot.add(spent{time.Since(began), cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()})
		bare.add(barePosts(b, records[devices/2:]))
		b.StartTimer()
	}
	n := devices * float64(b.N)
	b.ReportMetric(n/lot.wall.Seconds(), "devices/s")
	b.ReportMetric(lot.cpu.Seconds()*1e6/n, "cpu-us/device")
	b.ReportMetric(bare.cpu.Seconds()*1e6/n, "cpu-us/POST")
	b.ReportMetric(bare.wall.Seconds()/lot.wall.Seconds(), "of-bare-rate")
	b.ReportMetric(lot.cpu.Seconds()/bare.cpu.Seconds(), "times-bare-CPU")
}

// spent is time on the clock, and CPU time of the whole process.
type spent struct{ wall, cpu time.Duration }

func (s *spent) add(more spent) { s.wall, s.cpu = s.wall+more.wall, s.cpu+more.cpu }

func (s spent) since(began spent) spent { return spent{s.wall - began.wall, s.cpu - began.cpu} }

// now is the clock and the CPU time until now.
func now(b *testing.B) spent {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return spent{time.Duration(time.Now().UnixNano()), time.Duration(u.Utime.Nano() + u.Stime.Nano())}
}

// lotRecords carries a lot of its own and returns its records: their identities and
// keys are what the bare POSTs send.
func lotRecords(b *testing.B, devices int) []*pipeline.Record {
	b.Helper()
	f := newFactory(b, devices, sandbox.Config{})
	if code, _, errs := f.call(f.args("--format", "pack")...); code != 0 {
		b.Fatalf("exit %d: %s", code, errs)
	}
	return f.records()
}

// barePosts preauthorizes devices at a fresh server with no more than net/http.
func barePosts(b *testing.B, records []*pipeline.Record) spent {
	b.Helper()
	f := newFactory(b, 1, sandbox.Config{})
	token, err := os.ReadFile(f.path("sb", "token"))
	if err != nil {
		b.Fatal(err)
	}
	ca, err := os.ReadFile(f.path("sb", "ca.crt"))
	if err != nil {
		b.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	const workers = 64
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, MaxIdleConnsPerHost: workers, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	bodies := make(chan []byte, len(records))
	for _, rec := range records {
		body, err := json.Marshal(map[string]any{
			"identity_data": json.RawMessage(rec.Identity.JSON()),
			"pubkey":        string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: rec.PublicKey})),
		})
		if err != nil {
			b.Fatal(err)
		}
		bodies <- body
	}
	close(bodies)
	began := now(b)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for body := range bodies {
				post(b, client, f.server, strings.TrimSpace(string(token)), body)
			}
		})
	}
	wg.Wait()
	return now(b).since(began)
}

func post(b *testing.B, client *http.Client, server, token string, body []byte) {
	req, err := http.NewRequestWithContext(b.Context(), http.MethodPost, server+"/api/management/v2/devauth/devices", bytes.NewReader(body))
	if err != nil {
		b.Error(err)
		return
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := client.Do(req)
	if err != nil {
		b.Error(err)
		return
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	if resp.Body.Close(); resp.StatusCode != http.StatusCreated {
		b.Errorf("answered %d", resp.StatusCode)
	}
}
